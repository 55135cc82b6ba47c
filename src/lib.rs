//! goanyway: Go builds go through, anyway.
//!
//! A DNS-resilient forward proxy, TLS interceptor and module cache. The rooms stand below in the
//! order a request meets them: `cli` reads what was typed, `config` gives it meaning, `daemon`
//! builds the rooms and opens the doors. A client walks down `flow`, the corridor: `accept` takes
//! its socket, `classify` tells what it wants, `admit` whether it may, and then one of four things
//! happens. `intercept` ends its TLS; `goproxy` answers for modules, out of `cache` where it can;
//! `forward` passes a request on; `tunnel` carries bytes. Who needs the network asks `fetch`, which
//! asks `connect`, which asks `resolve`. Whatever goes wrong on the way, `respond` puts it into
//! words; what a request went through, `otlp` tells a collector. `gateway` is before the door: the rules that
//! send a subnet's traffic here. `target`, `metrics`, `socket`, `kept`, `service` and `trace` are what
//! everything is made of.
//!
//! A room imports only what is deeper in the house, never its neighbours; `tests/house.rs` holds it.
//! docs/architecture.md follows one request through the real files.

pub mod cli;
pub mod config;
pub mod daemon;
pub mod flow;
pub mod dns;
pub mod admin;
pub mod gateway;
pub mod accept;
pub mod classify;
pub mod admit;
pub mod intercept;
pub mod goproxy;
pub mod cache;
pub mod forward;
pub mod otlp;
pub mod fetch;
pub mod tunnel;
pub mod connect;
pub mod resolve;
pub mod respond;
pub mod target;
pub mod metrics;
pub mod socket;
pub mod kept;
pub mod service;
pub mod trace;
