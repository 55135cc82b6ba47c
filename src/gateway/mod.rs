//! Before the door: the nftables rules by which a gateway sends the traffic of a build subnet to us.
//!
//! [`Plan::new`] judges what is wished for; a [`Plan`] is [written](Plan::ruleset) as a ruleset, purely,
//! on a machine that has neither nft nor root. [`apply`] and [`check`], [`plan_removal`] and [`carry_out`]
//! go to the machine by its own `nft` and `ip`, and nothing else does.
//!
//! It promises: one table of its own, replaced whole in one transaction; hooks before routing alone, which
//! what this machine sends never passes, the proxy's own connections included; nothing left behind by
//! `remove`. It leaves out: forwarding, masquerading, and whatever else makes a machine a gateway.

mod compare;
mod machine;
mod plan;
mod recall;
mod routing;
mod ruleset;

pub use compare::{Comparison, Difference};
pub use machine::{Error, Step, advise, apply, carry_out, check, in_place, plan_apply, plan_removal};
pub use plan::{Family, Mode, Plan, Servers, Unfit, Wish};
