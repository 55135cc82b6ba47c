//! Peers that do as they are told.

pub mod nameserver;
