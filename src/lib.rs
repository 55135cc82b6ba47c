//! goanyway: Go builds go through, anyway. The rooms of the house, in the order a request meets them.

pub mod admit;
pub mod intercept;
pub mod goproxy;
#[allow(clippy::unimplemented)] // a door, still to be filled
pub mod cache;
#[allow(clippy::unimplemented)] // a door, still to be filled
pub mod fetch;
pub mod connect;
pub mod resolve;

pub mod target;
pub mod metrics;
pub mod socket;
