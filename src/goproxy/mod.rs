//! goproxy
