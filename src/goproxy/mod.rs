//! goproxy
mod defaults;
mod path;
mod policy;
mod version;
