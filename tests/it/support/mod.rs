//! The vocabulary: what the chapters are told in. Everything listens on loopback, port 0.

pub mod authority;
pub mod client;
pub mod daemon;
pub mod mirror;
pub mod origin;
