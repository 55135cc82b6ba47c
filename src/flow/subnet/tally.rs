//! What is counted of redirected connections: how each went on, and what name it showed.

use crate::intercept::Why;
use crate::metrics::{By, Counter, Family, Label, Registry};

/// Counts of what was brought here.
#[derive(Clone, Default)]
pub struct Subnet {
    went: Family<By<Went>, Counter>,
    shown: Family<By<Shown>, Counter>,
}

impl Subnet {
    /// Nothing yet.
    pub fn new(registry: &Registry) -> Subnet {
        let subnet = Subnet::default();
        registry.room("subnet", |families| {
            families.register("connections", "Redirected connections, by how they went on", subnet.went.clone());
            families.register("names", "Redirected connections, by the name they showed", subnet.shown.clone());
        });
        subnet
    }

    pub(super) fn count(&self, went: Went) {
        self.went.get_or_create(&By(went)).inc();
    }

    pub(super) fn count_shown(&self, shown: Shown) {
        self.shown.get_or_create(&By(shown)).inc();
    }
}

/// How a redirected connection went on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Went {
    /// Its TLS was ended here.
    Intercepted,
    /// Its plain http was answered here.
    Served,
    /// To where it was going.
    Straight,
    /// To the ladder's address for its name, where it was going being dead.
    Rescued,
    /// Nowhere: no address answered.
    Dead,
    /// Nowhere: the client refused our certificate, or left.
    Broken,
    /// Closed: the rules do not let this client go there.
    Refused,
    /// Closed: its client is none of ours.
    Stranger,
    /// Closed: its client has as many connections as one may have.
    TooMany,
    /// Closed: it was made to us, so nobody knows where it was going.
    Direct,
    /// Closed: it is our own.
    Loop,
}

impl Label for Went {
    fn label(&self) -> &'static str {
        match self {
            Went::Intercepted => "intercepted",
            Went::Served => "served",
            Went::Straight => "straight",
            Went::Rescued => "rescued",
            Went::Dead => "dead",
            Went::Broken => "broken",
            Went::Refused => "refused",
            Went::Stranger => "stranger",
            Went::TooMany => "too_many",
            Went::Direct => "direct",
            Went::Loop => "loop",
        }
    }
}

/// What name a redirected connection showed, and whether it was honoured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Shown {
    /// Honoured: our name server gave this client that address for it.
    Given,
    /// Honoured: our own answer for it has that address.
    Ours,
    /// Not honoured: our own answer for it has other addresses.
    Foreign,
    /// Not honoured: we have no answer for it.
    Unsure,
    /// A name that nothing depends on: it is tunnelled anyway.
    Unasked,
    /// None that could be read.
    Unread(Why),
}

impl Label for Shown {
    const KEY: &'static str = "name";

    fn label(&self) -> &'static str {
        match self {
            Shown::Given => "given",
            Shown::Ours => "ours",
            Shown::Foreign => "foreign",
            Shown::Unsure => "unsure",
            Shown::Unasked => "unasked",
            Shown::Unread(why) => why.label(),
        }
    }
}
