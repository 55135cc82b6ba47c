pub mod admit;
pub mod cache;
pub mod connect;
pub mod fetch;
pub mod goproxy;
pub mod intercept;
pub mod metrics;
pub mod resolve;
pub mod socket;
pub mod target;

pub mod cli {
    pub mod resolve;
}
