//! The commands: what people type, and what they read.

pub mod ca;
pub mod env;
