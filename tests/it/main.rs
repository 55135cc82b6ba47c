//! The chapters: what the product promises, told against in-process origins and scripted servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[allow(dead_code, reason = "two test binaries share one vocabulary, and each speaks a part of it")]
mod support;

mod cli;
mod clients;
mod forward;
mod goproxy;
mod hostile;
mod intercept;
mod resolve;
mod tunnel;
mod warm;
