//! The chapters: what the product promises, told against in-process origins and scripted servers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

#[allow(dead_code, reason = "two test binaries share one vocabulary, and each speaks a part of it")]
mod support;

mod admission;
mod cache;
mod cli;
mod clients;
#[cfg(target_os = "linux")]
mod deployed;
mod dns;
mod doctor;
mod errors;
#[cfg(target_os = "linux")]
mod failing;
mod forward;
mod frames;
#[cfg(target_os = "linux")]
mod gateway;
mod goproxy;
mod hostile;
mod intercept;
mod json;
mod listener;
mod logs;
mod metrics;
mod nonsense;
mod otlp;
mod parents;
mod privacy;
mod programs;
mod proxy;
mod refusals;
mod resolve;
mod run;
mod service;
mod settings;
mod shells;
mod siege;
mod status;
#[cfg(target_os = "linux")]
mod strangers;
mod subnet;
mod trust;
mod tunnel;
mod warm;
