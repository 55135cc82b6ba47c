//! The rules by which a build subnet is sent here, where there are any, or are to be: whether they are as they were
//! made, and lead to somebody.
//!
//! What they should be is what `gateway.env` says, by which the service that ships with goanyway lays them; else
//! what the rules themselves still tell of how they were made, sent to the listeners of the settings. Only root
//! may see them: to anybody else they are no finding.

use std::net::SocketAddr;

use super::finding::{Finding, Mend};
use super::ports;
use super::surroundings::Surroundings;
use crate::cli::gateway::wish_of;
use crate::gateway::{self, Comparison, Error, Plan, Wish};

const CHECK: &str = "gateway";
/// deploy/systemd/goanyway-gateway.service.
const OPTIONS: &str = "etc/goanyway/gateway.env";

/// All that there is to say about them.
pub(super) fn check(around: &Surroundings) -> Vec<Finding> {
    let options = read_options(&around.root.join(OPTIONS));
    let found = match gateway::in_place() {
        Ok(found) => found,
        Err(error) if options.is_some() => return vec![unseen(&error)],
        // No nft, no rights, no such kernel: then nothing leads here.
        Err(_) => return Vec::new(),
    };
    let (wish, again) = match (&options, found) {
        (None, None) => return Vec::new(),
        (None, Some(found)) => (led_to(found, around), None),
        (Some(words), found) => match wish_of(words) {
            Ok(_) if found.is_none() => return vec![absent(words)],
            Ok(wish) => (wish, Some(apply(words))),
            Err(failure) => {
                let ask =
                    Mend::Ask(format!("you: put it right in /{OPTIONS}, then: systemctl restart goanyway-gateway"));
                let told = failure.to_string();
                let told = told.lines().next().unwrap_or_default().trim_start_matches("error: ");
                return vec![Finding::fault(CHECK, "", format!("/{OPTIONS}: {told}"), ask)];
            }
        },
    };
    if wish.subnets.is_empty() {
        let saw = "a table of goanyway's rules is in place, and has no subnet any more";
        return vec![Finding::fault(CHECK, "", saw, Mend::Type("goanyway gateway remove".to_owned()))];
    }
    let plan = match Plan::new(&wish) {
        Ok(plan) => plan,
        Err(unfit) => {
            let saw = format!("rules of a gateway are in place that would not be made today: {unfit}");
            let ask = "you: make them anew (goanyway gateway apply), or take them out (goanyway gateway remove)";
            return vec![Finding::fault(CHECK, "", saw, Mend::Ask(ask.to_owned()))];
        }
    };
    let again = again.unwrap_or_else(|| format!("goanyway gateway apply{}{}", plan.flags(), admitting(&plan, around)));
    let compared = match gateway::check(&plan) {
        Ok(comparison) => judge(&comparison, &plan, again),
        Err(error) => unseen(&error),
    };
    std::iter::once(compared).chain(find_deserted(&plan)).collect()
}

/// The words of `OPTIONS=`, as the service gives them to `goanyway gateway apply`.
fn read_options(path: &std::path::Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().rev().find_map(|line| line.trim().strip_prefix("OPTIONS="))?;
    Some(line.trim_matches(['"', '\'']).split_whitespace().map(str::to_owned).collect())
}

fn apply(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| super::finding::quote(word)).collect();
    format!("goanyway gateway apply {}", quoted.join(" "))
}

/// What the settings of that command would lack: a listener for others wants to be told for whom.
fn admitting(plan: &Plan, around: &Surroundings) -> String {
    match around.settings.admit.clients.as_slice() {
        [] => plan.admitting(),
        _ => around.typed.again(&["admit.clients"]).iter().map(|word| format!(" {word}")).collect(),
    }
}

fn unseen(error: &Error) -> Finding {
    Finding::ok(CHECK, "", format!("could not be looked at: {error}"))
}

fn absent(words: &[String]) -> Finding {
    let saw = format!("/{OPTIONS} has a build subnet sent here, and no rule that does so is in place");
    Finding::fault(CHECK, "", saw, Mend::Type(apply(words)))
}

/// Where the settings name listeners, rules lead to those.
fn led_to(found: Wish, around: &Surroundings) -> Wish {
    let settings = &around.settings;
    let chosen = |own: &[SocketAddr], found: Vec<SocketAddr>| match own {
        _ if found.is_empty() => found,
        [] => found,
        own => own.to_vec(),
    };
    Wish {
        transparent: chosen(&settings.transparent, found.transparent),
        dns: chosen(&settings.dns, found.dns),
        ..found
    }
}

fn judge(comparison: &Comparison, plan: &Plan, again: String) -> Finding {
    let clients: Vec<String> = plan.clients().map(ToString::to_string).collect();
    let clients = clients.join(", ");
    match comparison.differences.as_slice() {
        [] => Finding::ok(CHECK, "", format!("the rules that send {clients} here are as they were made")),
        [first, others @ ..] => {
            let more = if others.is_empty() { String::new() } else { format!(", and {} more", others.len()) };
            let saw = format!("the rules that send {clients} here are not as they were made ({first}{more})");
            Finding::fault(CHECK, "", saw, Mend::Type(again))
        }
    }
}

/// A rule that leads to nobody cuts the subnet off.
fn find_deserted(plan: &Plan) -> Vec<Finding> {
    let deserted = plan.listeners().filter(|(_, at)| ports::is_free(*at).is_ok());
    let told = |(flag, at): (&str, SocketAddr)| {
        let saw = "rules send a build subnet there, and nobody listens: its connections are refused";
        let ask = format!("you: start goanyway serve with --{flag} {at}; until then: goanyway gateway remove");
        Finding::fault(CHECK, at.to_string(), saw, Mend::Ask(ask))
    };
    deserted.map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_services_options_are_read_as_it_reads_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gateway.env");
        assert_eq!(read_options(&path), None);
        for text in [
            "# mine\nOPTIONS=--subnet 10.7.0.0/16  --dns 10.7.0.1:53\n",
            "OPTIONS=\"--subnet 10.7.0.0/16 --dns 10.7.0.1:53\"\n",
        ] {
            std::fs::write(&path, text).unwrap();
            let words = read_options(&path).unwrap();
            assert_eq!(words, ["--subnet", "10.7.0.0/16", "--dns", "10.7.0.1:53"]);
            assert_eq!(apply(&words), "goanyway gateway apply --subnet 10.7.0.0/16 --dns 10.7.0.1:53");
        }
        std::fs::write(&path, "#OPTIONS=--subnet 10.7.0.0/16\n").unwrap();
        assert_eq!(read_options(&path), None);
    }
}
