//! Throws bytes at the parsers that strangers can reach, and holds each to a law.
//!
//! The pure core is compiled in by path, at the place where it calls itself `crate::…`, and nothing
//! else of the proxy is: that is what makes it pure. To add a law: the file under `laws/`, its line
//! in [`laws::find`], the module it is about below, its seeds under `seeds/`. `fuzz/run` does the rest.
//!
//! One program for all laws, chosen by `LAW`, so that the core is built and linked once.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

mod laws;
#[allow(dead_code)] // the proxy uses all of it
#[path = "../../src/target.rs"]
mod target;

static LAW: LazyLock<laws::Law> = LazyLock::new(|| {
    let name = std::env::var("LAW").unwrap_or_default();
    laws::find(&name).unwrap_or_else(|| panic!("LAW names no law: {name:?}"))
});

fuzz_target!(|bytes: &[u8]| LAW(bytes));
