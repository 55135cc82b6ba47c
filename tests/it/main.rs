//! The integration tests: one binary, a chapter a room, and the scripted peers under `support`.

mod resolve;
mod support;
