//! Throws bytes at the parsers that strangers can reach, and holds each to a law.
//!
//! The pure core is compiled in by path, at the place where it calls itself `crate::…`, and nothing
//! else of the proxy is: that is what makes it pure. To add a law: the file under `laws/`, its line
//! in [`laws::find`], the module it is about below, its seeds under `seeds/`. `fuzz/run` does the rest.
//!
//! One program for all laws, chosen by `LAW`, so that the core is built and linked once.

#![no_main]
#![allow(dead_code, unused_imports, reason = "the core is compiled in whole, and the laws are about a part of it")]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

mod laws;
#[path = "../../src/target.rs"]
mod target;

#[path = "../../src/accept"]
mod accept {
    pub mod announce;
}

#[path = "../../src/classify"]
mod classify {
    pub mod chunks;
    pub mod guard;
    pub mod head;
    pub mod keeper;
}

#[path = "../../src/intercept"]
mod intercept {
    pub mod offer;
}

#[path = "../../src/cache"]
mod cache {
    pub mod key;
}

#[path = "../../src/goproxy"]
mod goproxy {
    pub mod log;
    pub mod path;
    pub mod version;
}

#[path = "../../src/resolve"]
mod resolve {
    // In here because what they are about is told to nobody else.
    #[path = "../../fuzz/src/laws/dns_reply.rs"]
    pub mod dns_reply;
    #[path = "../../fuzz/src/laws/ladder.rs"]
    pub mod ladder_law;

    pub mod defaults;
    pub mod kind;
    pub mod ladder;
    pub mod reply;
    pub mod server;

    // Of the room's door, the two nouns that the ladder speaks in.

    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Tier {
        Static,
        System,
        Plain,
        Encrypted,
    }

    #[derive(Default)]
    pub struct Tally(usize);

    impl Tally {
        fn add(&mut self, _: reply::Outcome) {
            self.0 += 1;
        }

        fn servers(&self) -> usize {
            self.0
        }
    }
}

/// Of the room that all others count in, the one trait that the core implements.
mod metrics {
    pub trait Label {
        const KEY: &'static str = "outcome";
        fn label(&self) -> &'static str;
    }
}

static LAW: LazyLock<laws::Law> = LazyLock::new(|| {
    let name = std::env::var("LAW").unwrap_or_default();
    laws::find(&name).unwrap_or_else(|| panic!("LAW names no law: {name:?}"))
});

fuzz_target!(|bytes: &[u8]| LAW(bytes));
