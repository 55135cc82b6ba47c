//! How the servers are, for a person and for a scraper: one row a server, with the reason.
//!
//! What is said follows from `health` and from nothing else; nobody is asked for it. A server that was
//! never needed has no health, and says so.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::Tier;
use super::health::{State, Vital};
use super::reply::Outcome;
use super::server::{Server, Transport};
use super::shared::Shared;
use crate::metrics::{Condition, Label, Labels, Live, Registry};

/// One name server, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerReport {
    pub server: String,
    /// `system`, `plain` or `encrypted`.
    pub tier: &'static str,
    pub condition: Condition,
    /// How long an answer takes, once there was one.
    pub mean_ms: Option<u64>,
    /// Why it is said to be so.
    pub words: String,
}

impl Shared {
    pub(super) fn report(&self, now: Instant) -> Vec<ServerReport> {
        let inside = self.inside(None);
        let outside = self.outside(&inside);
        // As they are now, after a reload too; a server of several zones is one server.
        let written = self.written();
        let zones = written.rules.zones.iter().map(|(_, server)| server).filter(|server| **server != Server::System);
        let mut rows: Vec<(Tier, &Server)> = Vec::new();
        for server in inside.iter().chain(zones) {
            if !rows.contains(&(Tier::System, server)) {
                rows.push((Tier::System, server));
            }
        }
        rows.extend(outside.iter().map(|server| (server.outside_tier(), server)));
        rows.into_iter().map(|(tier, server)| self.describe_server(tier, server, now)).collect()
    }

    fn describe_server(&self, tier: Tier, server: &Server, now: Instant) -> ServerReport {
        let first = server.transport();
        // A plain server is asked over TCP where UDP does not do.
        let others = if first == Transport::Udp { vec![Transport::Tcp] } else { Vec::new() };
        let vital = |transport| Some((transport, self.health.vital(server, transport, now)?));
        let known: Vec<(Transport, Vital)> = [first].into_iter().chain(others).filter_map(vital).collect();
        let best = known.iter().min_by_key(|(_, vital)| vital.state);
        let (condition, mut words) = match best {
            None => (Condition::Unused, "not needed yet".to_owned()),
            Some((transport, vital)) => (condition(vital.state), describe(*transport, vital)),
        };
        if let [(_, udp), (_, tcp)] = &known[..]
            && udp.state >= State::HalfOpen
            && tcp.state < State::HalfOpen
        {
            words = format!("udp does not get through ({}); {words}", why(udp));
        }
        let lied = self.health.lied_about(server, now);
        if !lied.is_empty() {
            words.push_str(&format!("; denied or forged names under {}, so asked last for those", lied.join(", ")));
        }
        let mean_ms = best.and_then(|(_, vital)| vital.mean).map(|mean| mean.as_millis() as u64);
        ServerReport { server: server.to_string(), tier: tier.label(), condition, mean_ms, words }
    }

    /// Lets scrapers see which servers are up. The label is bounded by the configuration and resolv.conf.
    pub(super) fn show(self: &Arc<Self>, registry: &Registry) {
        let shared = Arc::downgrade(self);
        let read = move || {
            let report = shared.upgrade().map(|shared| shared.report(Instant::now())).unwrap_or_default();
            report.into_iter().filter_map(|row| Some((labels(&row), row.condition.reading()?))).collect()
        };
        let help = "Whether a name server that was asked is worth asking (1) or down (0)";
        registry.room("resolve", |families| families.register_collector(Live::gauge("server_up", help, read)));
    }
}

fn labels(row: &ServerReport) -> Labels {
    vec![("server", row.server.clone()), ("tier", row.tier.to_owned())]
}

fn condition(state: State) -> Condition {
    match state {
        State::Healthy => Condition::Up,
        State::Suspect => Condition::Suspect,
        State::HalfOpen | State::Down => Condition::Down,
    }
}

fn describe(transport: Transport, vital: &Vital) -> String {
    let over = transport.label();
    match (vital.state, vital.mean, vital.last) {
        (State::Healthy, Some(mean), Some(last)) if last.is_alive() => match last {
            Outcome::Answer | Outcome::Nxdomain | Outcome::Nodata => format!("answers over {over} in {}", spell(mean)),
            last => format!("answers over {over} in {}; its last word was {}", spell(mean), last.label()),
        },
        (State::Healthy | State::Suspect, ..) => format!("{} over {over}; asked on", why(vital)),
        (State::HalfOpen, ..) => format!("{} over {over}; its next trial is due", why(vital)),
        (State::Down, ..) => {
            let again = vital.trial_in.map(|left| format!("; tried again in {}", spell(left))).unwrap_or_default();
            format!("{} over {over}{again}", why(vital))
        }
    }
}

/// What is wrong with it.
fn why(vital: &Vital) -> String {
    match vital.last {
        Some(Outcome::Unreachable) => format!("unreachable, {} in a row", times(vital.refusals)),
        Some(Outcome::Tls) => format!("its certificate or TLS is not right, {} in a row", times(vital.refusals)),
        Some(Outcome::Malformed) => format!("what it says makes no sense, {} in a row", times(vital.timeouts)),
        _ => format!("no answer, {} in a row", times(vital.timeouts)),
    }
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn spell(time: Duration) -> String {
    match time.as_millis() {
        0 => "under a millisecond".to_owned(),
        ms if ms < 1000 => format!("{ms} ms"),
        ms => format!("{:.0} s", ms as f64 / 1000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(state: State, last: Outcome, count: u32) -> String {
        let trial_in = (state == State::Down).then_some(Duration::from_secs(4));
        let mean = last.is_alive().then_some(Duration::from_millis(12));
        describe(Transport::Udp, &Vital { state, mean, trial_in, timeouts: count, refusals: count, last: Some(last) })
    }

    #[test]
    fn each_condition_has_its_reason() {
        assert_eq!(said(State::Healthy, Outcome::Answer, 0), "answers over udp in 12 ms");
        assert_eq!(said(State::Healthy, Outcome::Servfail, 0), "answers over udp in 12 ms; its last word was servfail");
        assert_eq!(said(State::Suspect, Outcome::Timeout, 2), "no answer, 2 times in a row over udp; asked on");
        assert_eq!(
            said(State::Down, Outcome::Unreachable, 2),
            "unreachable, 2 times in a row over udp; tried again in 4 s"
        );
        assert_eq!(
            said(State::HalfOpen, Outcome::Timeout, 4),
            "no answer, 4 times in a row over udp; its next trial is due"
        );
    }
}
