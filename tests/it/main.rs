//! The chapters: what the product promises, told against in-process origins and scripted servers.

mod support;

mod cli;
mod forward;
mod goproxy;
mod hostile;
mod intercept;
mod resolve;
mod tunnel;
