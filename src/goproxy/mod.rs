//! goproxy
mod defaults;
mod failure;
mod mirrors;
mod path;
mod policy;
mod verify;
mod version;
