//! The vocabulary: what the chapters are told in. Everything listens on loopback, port 0.

pub mod authority;
pub mod binary;
pub mod book;
pub mod client;
pub mod clients;
pub mod daemon;
pub mod golden;
pub mod gopher;
pub mod mirror;
pub mod nameserver;
pub mod needs;
pub mod netns;
pub mod origin;
#[path = "../../../src/resolve/scenarios/says.rs"]
pub mod says;
pub mod subnet;
