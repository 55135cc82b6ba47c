//! `goanyway gateway`: the rules that send a build subnet's traffic here; printed, applied, checked, removed.
//!
//! The rules go to standard output, and what is worth knowing about them to standard error. `check` answers
//! 1 where something differs, and 3 where it could not find out.

use std::process::ExitCode;

use clap::{Args, FromArgMatches, Subcommand};
use ipnet::IpNet;

use super::Failure;
use super::output::{Steps, print};
use super::sources::{self, Sources};
use crate::config::Settings;
use crate::gateway::{self, Comparison, Mode, Plan, Servers, Wish};
use crate::service::Inherited;
use crate::target::Scope;

/// The nftables rules that send a build subnet's 80, 443 and 53 to goanyway on this machine
#[derive(Args, Clone, Debug)]
pub struct GatewayArgs {
    #[command(subcommand)]
    command: GatewayCommand,
}

#[derive(Subcommand, Clone, Debug)]
enum GatewayCommand {
    /// Print the rules, each with its reason (needs neither root nor nft)
    Print(Subnet),
    /// Put them in place, instead of what was applied before
    Apply(Apply),
    /// Say whether what is in place is what would be, and what differs
    Check(Check),
    /// Take out everything that apply put in place
    Remove(Remove),
}

#[derive(Args, Clone, Debug)]
struct Subnet {
    /// A network of builds, IPv4 or IPv6
    #[arg(long, value_name = "CIDR", required = true, value_parser = read_network)]
    subnet: Vec<IpNet>,
    /// Where its traffic comes in (default: anywhere)
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// How connections come to the transparent listener
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// A name server that clients may still ask themselves: a directory's, a cluster's
    #[arg(long, value_name = "ADDR")]
    keep_dns: Vec<Servers>,
    /// Redirect connections to private addresses, too
    #[arg(long)]
    include_private: bool,
}

#[derive(Args, Clone, Debug)]
struct Apply {
    #[command(flatten)]
    subnet: Subnet,
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
struct Check {
    #[command(flatten)]
    subnet: Subnet,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
struct Remove {
    /// Print what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

pub(super) fn tend(settings: &Settings, args: &GatewayArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        GatewayCommand::Print(args) => print(&plan(settings, args)?.ruleset()),
        GatewayCommand::Apply(args) => apply(settings, args),
        GatewayCommand::Check(args) => check(settings, args),
        GatewayCommand::Remove(args) => remove(args),
    }
}

fn read_network(text: &str) -> Result<IpNet, &'static str> {
    text.parse().map_err(|_| "expected a network such as 10.7.0.0/16 or fd07::/64")
}

fn apply(settings: &Settings, args: &Apply) -> Result<ExitCode, Failure> {
    let plan = plan(settings, &args.subnet)?;
    gateway::advise(&plan).iter().for_each(|advice| warn(advice));
    let mut steps = Steps::default();
    if args.dry_run {
        gateway::plan_apply(&plan)?.iter().for_each(|step| steps.say(step));
    } else {
        gateway::apply(&plan, &mut |step| steps.say(step))?;
    }
    steps.end()
}

fn remove(args: &Remove) -> Result<ExitCode, Failure> {
    let (removal, mut steps) = (gateway::plan_removal()?, Steps::default());
    if removal.is_empty() {
        anstream::eprintln!("nothing of goanyway is in place");
    } else if args.dry_run {
        removal.iter().for_each(|step| steps.say(step));
    } else {
        gateway::carry_out(&removal, &mut |step| steps.say(step))?;
    }
    steps.end()
}

fn check(settings: &Settings, args: &Check) -> Result<ExitCode, Failure> {
    let plan = plan(settings, &args.subnet)?;
    let comparison = match gateway::check(&plan) {
        Ok(comparison) => comparison,
        Err(error) => {
            Failure::from(error).report();
            return Ok(ExitCode::from(3));
        }
    };
    print(&describe(&comparison, args.json))?;
    Ok(ExitCode::from(u8::from(!comparison.is_same())))
}

fn describe(comparison: &Comparison, json: bool) -> String {
    if json {
        let value = serde_json::json!({ "same": comparison.is_same(), "differences": comparison.differences });
        return format!("{value}\n");
    }
    if comparison.is_same() {
        return "what is in place is what would be\n".to_owned();
    }
    comparison.differences.iter().map(|difference| format!("{difference}\n")).collect()
}

/// What is wished for by whoever types these words after `goanyway gateway apply`.
pub(super) fn wish_of(words: &[String]) -> Result<Wish, Failure> {
    let line = ["goanyway", "gateway", "apply"].into_iter().chain(words.iter().map(String::as_str));
    let matches = super::command().try_get_matches_from(line)?;
    let Some(("gateway", matches)) = matches.subcommand() else { unreachable!("clap has read that word") };
    let GatewayArgs { command: GatewayCommand::Apply(args) } = GatewayArgs::from_arg_matches(matches)? else {
        unreachable!("clap has read that word, too");
    };
    let settings = sources::understand(&Sources::of(matches, &Inherited::default()).read()?)?;
    Ok(wish(&settings, &args.subnet))
}

fn wish(settings: &Settings, args: &Subnet) -> Wish {
    Wish {
        subnets: args.subnet.clone(),
        interfaces: args.interface.clone(),
        mode: args.mode,
        transparent: settings.transparent.clone(),
        dns: settings.dns.clone(),
        keep_dns: args.keep_dns.clone(),
        include_private: args.include_private,
    }
}

/// The plan of these settings, and what is worth knowing about it said.
fn plan(settings: &Settings, args: &Subnet) -> Result<Plan, Failure> {
    let wish = wish(settings, args);
    let plan = Plan::new(&wish)?;
    notice(&plan, &wish, settings).iter().for_each(|notice| warn(notice));
    Ok(plan)
}

/// What a plan that can be carried out may still lack.
fn notice(plan: &Plan, wish: &Wish, settings: &Settings) -> Vec<String> {
    let mut notices = Vec::new();
    let admitted = IpNet::aggregate(&settings.admit.clients);
    for subnet in plan.clients().filter(|subnet| !admitted.iter().any(|network| network.contains(*subnet))) {
        notices.push(format!("goanyway itself will refuse {subnet}: serve with --client {subnet}, too"));
    }
    if !plan.takes_web() {
        notices.push("80 and 443 are left alone: no --transparent ADDR is given".to_owned());
    }
    if !plan.takes_names() {
        notices.push("53 is left alone: no --dns ADDR is given".to_owned());
        if !wish.keep_dns.is_empty() {
            notices.push("--keep-dns has no effect without --dns".to_owned());
        }
    }
    let opens = |network: &IpNet| Scope::of(network.addr()) == Scope::Private;
    if wish.include_private && !settings.admit.allow.iter().any(opens) {
        notices.push(
            "private destinations are redirected, and goanyway opens none to clients: serve with --allow-target CIDR"
                .to_owned(),
        );
    }
    notices
}

fn warn(sentence: &str) {
    anstream::eprintln!("goanyway: {sentence}");
}
