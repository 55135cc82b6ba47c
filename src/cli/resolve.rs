//! `goanyway resolve NAME...`: what every name server says about a name, which one is believed and
//! why, what go alone would have printed, and what to do about it.
//!
//! Only what is typed and what is printed; whom to ask is the [`Resolver`]'s configuration. A table
//! for people, one JSON object a line for programs (`--json`). Exit code 0 if every name resolved,
//! 1 if one is absent or blocked, 3 if it could not be found out; the highest counts.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;

use crate::metrics::Label;
use crate::resolve::{Attempt, Explanation, Family, Inquiry, Kind, Outcome, Resolver};
use crate::target::{Host, Name};

/// Longest cell of the table before it is cut; a screen is 80 columns wide or more.
const WIDEST_SERVER: usize = 44;
const WIDEST_ANSWER: usize = 60;
const SECOND: Duration = Duration::from_secs(1);

/// Resolve as the proxy would, and show every server's answer
#[derive(Clone, Debug, ClapArgs)]
pub struct Args {
    /// Names to look up
    #[arg(required = true, value_name = "NAME", value_parser = parse_name)]
    pub names: Vec<Name>,
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Stop as the proxy would, instead of asking every server
    #[arg(long)]
    pub quick: bool,
    /// Which addresses to ask for
    #[arg(long = "type", value_name = "TYPE", default_value = "both")]
    pub kind: Type,
}

/// Which addresses to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Type {
    A,
    Aaaa,
    Both,
}

impl Args {
    fn inquiry(&self) -> Inquiry {
        let families = match self.kind {
            Type::A => vec![Family::V4],
            Type::Aaaa => vec![Family::V6],
            Type::Both => Family::BOTH.to_vec(),
        };
        Inquiry { quick: self.quick, families }
    }
}

fn parse_name(text: &str) -> Result<Name, String> {
    match Host::parse(text) {
        Ok(Host::Name(name)) => Ok(name),
        Ok(Host::Addr(address)) => Err(format!("{address} is an address already")),
        Err(why) => Err(name_within(text).map_or(why.to_string(), |name| format!("only the name is wanted: {name}"))),
    }
}

/// The host of what looks like a URL, a module path or a target.
fn name_within(text: &str) -> Option<Name> {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let authority = rest.split('/').next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    Host::parse(host).ok()?.name().cloned()
}

/// Looks all names up at once and prints them in the order given. Returns the exit code.
pub async fn run(args: &Args, resolver: &Resolver, out: &mut impl Write) -> io::Result<u8> {
    let inquiry = args.inquiry();
    let mut coming: FuturesOrdered<_> = args.names.iter().map(|name| resolver.explain(name, &inquiry)).collect();
    let mut terminal = Some(io::stderr()).filter(io::IsTerminal::is_terminal);
    let mut names = args.names.iter();
    let mut code = 0;
    while let Some(name) = names.next() {
        let what = waited_for(name, names.len());
        let Some(explanation) = watched(coming.next(), &what, terminal.as_mut()).await? else { break };
        code = code.max(exit_code(&explanation));
        let text = if args.json { json_line(&explanation)? } else { render(&explanation) };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader like head has seen enough: the code tells of what it was given.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(code)
}

fn waited_for(name: &Name, more: usize) -> String {
    let name = cut(&name.to_string(), WIDEST_SERVER);
    if more == 0 { format!("resolving {name}") } else { format!("resolving {name} and {more} more") }
}

/// Waits; whoever watches a terminal meanwhile is told once a second that something happens, in a line
/// that is gone afterwards.
async fn watched<T>(coming: impl Future<Output = T>, what: &str, terminal: Option<&mut impl Write>) -> io::Result<T> {
    let Some(terminal) = terminal else { return Ok(coming.await) };
    let mut coming = pin!(coming);
    let mut line = String::new();
    for seconds in 1u32.. {
        if let Ok(come) = tokio::time::timeout(SECOND, &mut coming).await {
            write!(terminal, "{}", erased(&line))?;
            terminal.flush()?;
            return Ok(come);
        }
        line = format!("\r{what}: {seconds} s");
        write!(terminal, "{line}")?;
        terminal.flush()?;
    }
    Ok(coming.await)
}

/// Blanks over a line, for terminals of every age.
fn erased(line: &str) -> String {
    if line.is_empty() { String::new() } else { format!("\r{}\r", " ".repeat(line.chars().count())) }
}

/// What a name's verdict means to a script.
pub fn exit_code(explanation: &Explanation) -> u8 {
    match explanation.verdict {
        "resolved" => 0,
        "absent" | "blocked" => 1,
        _ => 3,
    }
}

/// The explanation as one line of JSON.
pub fn json_line(explanation: &Explanation) -> io::Result<String> {
    let mut line = serde_json::to_string(explanation)?;
    line.push('\n');
    Ok(line)
}

/// The explanation as a person reads it: verdict, table, and what to make of it.
pub fn render(explanation: &Explanation) -> String {
    let mut text = headline(explanation);
    text.push_str(&table(&explanation.attempts));
    let mut note = |label: &str, words: &str| {
        if !words.is_empty() {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{label:<9} {words}");
        }
    };
    note("because:", &explanation.reason);
    note("go alone:", &explanation.would_go);
    note("advice:", &explanation.advice);
    text.push('\n');
    text
}

fn headline(explanation: &Explanation) -> String {
    let Explanation { name, kind, verdict, confirmed, freshness, elapsed_ms, .. } = explanation;
    let addresses = join(&explanation.addresses);
    let verdict = match (*verdict, freshness) {
        ("resolved", Some(freshness)) => format!("{addresses} ({})", freshness.label()),
        // A private name's servers have the last word on it.
        ("absent", _) if !confirmed && *kind != Kind::Private => "absent (unconfirmed)".to_owned(),
        (verdict, _) => verdict.to_owned(),
    };
    format!("{name} ({} name): {verdict}, {elapsed_ms} ms\n", kind.label())
}

/// One line of the table: both families of a server over one transport.
struct Row<'a> {
    server: &'a str,
    tier: &'static str,
    transport: &'static str,
    attempts: Vec<&'a Attempt>,
}

impl Row<'_> {
    /// The outcome, or where the families differ the better one; the other stands in the answer.
    fn verdict(&self) -> Outcome {
        self.attempts.iter().map(|attempt| attempt.outcome).min().unwrap_or(Outcome::NotAsked)
    }

    fn answer(&self) -> String {
        let verdict = self.verdict();
        let addresses: Vec<IpAddr> = self.attempts.iter().flat_map(|attempt| &attempt.addresses).copied().collect();
        let mut parts = if addresses.is_empty() { Vec::new() } else { vec![join(&addresses)] };
        for attempt in self.attempts.iter().filter(|attempt| attempt.outcome != verdict) {
            parts.push(format!("{}: {}", attempt.family.label(), attempt.outcome));
        }
        let mut reasons: Vec<&str> = self.attempts.iter().filter_map(|attempt| attempt.ede.as_deref()).collect();
        reasons.dedup();
        parts.extend(reasons.into_iter().map(str::to_owned));
        parts.join("; ")
    }

    fn elapsed(&self) -> u64 {
        let of_verdict = self.attempts.iter().filter(|attempt| attempt.outcome == self.verdict());
        of_verdict.map(|attempt| attempt.elapsed_ms).max().unwrap_or(0)
    }
}

fn table(attempts: &[Attempt]) -> String {
    let (asked, left_out): (Vec<&Attempt>, _) =
        attempts.iter().partition(|attempt| attempt.outcome != Outcome::NotAsked);
    let mut rows: Vec<[String; 6]> = Vec::new();
    if !asked.is_empty() {
        rows.push(["SERVER", "TIER", "VIA", "VERDICT", "ANSWER", "MS"].map(str::to_owned));
    }
    rows.extend(merge(&asked).iter().map(|row| {
        let (server, answer) = (cut(row.server, WIDEST_SERVER), cut(&row.answer(), WIDEST_ANSWER));
        let verdict = row.verdict().to_string();
        [server, row.tier.to_owned(), row.transport.to_owned(), verdict, answer, row.elapsed().to_string()]
    }));
    let mut text = align(&rows);
    let mut servers: Vec<&str> = left_out.iter().map(|attempt: &&Attempt| attempt.server.as_str()).collect();
    servers.dedup();
    if !servers.is_empty() {
        let _ = writeln!(text, "  not asked: {} more (they do not serve this kind of name)", servers.len());
    }
    text
}

fn merge<'a>(attempts: &[&'a Attempt]) -> Vec<Row<'a>> {
    let mut rows: Vec<Row<'a>> = Vec::new();
    for attempt in attempts {
        let (tier, transport) = (attempt.tier.label(), attempt.transport.label());
        let same = |row: &&mut Row<'_>| row.server == attempt.server && row.tier == tier && row.transport == transport;
        match rows.iter_mut().find(same) {
            Some(row) => row.attempts.push(attempt),
            None => rows.push(Row { server: &attempt.server, tier, transport, attempts: vec![attempt] }),
        }
    }
    rows
}

fn align(rows: &[[String; 6]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            5 => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        let _ = writeln!(text, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(most - 1).collect();
    cut.push('…');
    cut
}

fn join(addresses: &[IpAddr]) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::{ExplainedSource, Freshness, Tier, Transport};
    use clap::Parser;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: Args,
    }

    fn typed(words: &[&str]) -> Result<Args, clap::Error> {
        Typed::try_parse_from([&["resolve"], words].concat()).map(|typed| typed.args)
    }

    fn attempt(server: &str, tier: Tier, family: Family, outcome: Outcome, ms: u64) -> Attempt {
        let answered = outcome == Outcome::Answer;
        Attempt {
            server: server.to_owned(),
            tier,
            transport: Transport::Udp,
            family,
            outcome,
            addresses: if answered { vec!["36.156.94.41".parse().unwrap()] } else { Vec::new() },
            ttl_s: answered.then_some(60),
            ede: (outcome == Outcome::Servfail).then(|| "Network Error (23): upstream".to_owned()),
            elapsed_ms: ms,
        }
    }

    fn explanation() -> Explanation {
        Explanation {
            name: Name::parse("goproxy.cn").unwrap(),
            kind: Kind::Known { built_in: true },
            verdict: "resolved",
            confirmed: true,
            addresses: vec!["36.156.94.41".parse().unwrap()],
            freshness: Some(Freshness::Fresh),
            ttl_s: Some(60),
            source: Some(ExplainedSource {
                server: "223.5.5.5".to_owned(),
                tier: Tier::Plain,
                transport: Transport::Udp,
            }),
            reason: "223.5.5.5 found it over udp and overrules 192.168.1.1 (nxdomain)".to_owned(),
            elapsed_ms: 31,
            attempts: vec![
                attempt("192.168.1.1", Tier::System, Family::V4, Outcome::Nxdomain, 2),
                attempt("192.168.1.1", Tier::System, Family::V6, Outcome::Nxdomain, 3),
                attempt("223.5.5.5", Tier::Plain, Family::V4, Outcome::Answer, 28),
                attempt("223.5.5.5", Tier::Plain, Family::V6, Outcome::Nodata, 29),
                attempt("1.1.1.1", Tier::Plain, Family::V4, Outcome::Servfail, 9),
                attempt("8.8.8.8", Tier::Plain, Family::V4, Outcome::NotAsked, 0),
            ],
            would_go: "lookup goproxy.cn on 192.168.1.1:53: no such host".to_owned(),
            advice: "replace the line \"nameserver 192.168.1.1\" in /etc/resolv.conf".to_owned(),
        }
    }

    #[test]
    fn the_table_reads_from_left_to_right() {
        let expected = "\
goproxy.cn (known name): 36.156.94.41 (fresh), 31 ms
  SERVER       TIER    VIA  VERDICT   ANSWER                        MS
  192.168.1.1  system  udp  nxdomain                                 3
  223.5.5.5    plain   udp  answer    36.156.94.41; aaaa: nodata    28
  1.1.1.1      plain   udp  servfail  Network Error (23): upstream   9
  not asked: 1 more (they do not serve this kind of name)
because:  223.5.5.5 found it over udp and overrules 192.168.1.1 (nxdomain)
go alone: lookup goproxy.cn on 192.168.1.1:53: no such host
advice:   replace the line \"nameserver 192.168.1.1\" in /etc/resolv.conf

";
        assert_eq!(render(&explanation()), expected);
    }

    #[test]
    fn json_has_the_fields_of_the_design_in_their_order() {
        let line = json_line(&explanation()).unwrap();
        let keys = |fields: &[&str]| {
            let places: Vec<usize> = fields.iter().map(|field| line.find(&format!("\"{field}\":")).unwrap()).collect();
            assert!(places.is_sorted(), "{fields:?}: {line}");
        };
        keys(&["name", "kind", "verdict", "confirmed", "addresses", "freshness", "ttl_s", "source", "reason"]);
        keys(&["reason", "elapsed_ms", "attempts", "would_go", "advice"]);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["source"]["tier"], "plain");
        assert_eq!(value["attempts"][5]["outcome"], "not-asked");
        assert_eq!(value["attempts"][0]["family"], "a");
        assert_eq!(value["attempts"][0]["ede"], serde_json::Value::Null);
        assert_eq!(line.matches('\n').count(), 1);
    }

    #[test]
    fn the_verdict_is_the_exit_code() {
        for (verdict, code) in [("resolved", 0), ("absent", 1), ("blocked", 1), ("unknown", 3)] {
            assert_eq!(exit_code(&Explanation { verdict, ..explanation() }), code);
        }
    }

    #[test]
    fn what_is_no_name_is_refused_before_anything_is_sent() {
        assert_eq!(typed(&["goproxy.cn", "GitHub.com", "--type", "a"]).unwrap().inquiry().families, [Family::V4]);
        let long = "a.".repeat(150);
        for bad in [long.as_str(), "a\0b", "1.2.3.4", "", "a b"] {
            assert!(typed(&[bad]).is_err(), "{bad:?}");
        }
        assert!(typed(&[]).is_err());
    }

    /// A URL pasted out of go's error was answered with "an IPv6 address stands in brackets".
    #[test]
    fn a_url_or_a_target_is_told_which_name_is_meant() {
        let pasted = [
            "https://goproxy.cn/",
            "goproxy.cn:443",
            "goproxy.cn/golang.org/x/net/@v/list",
            "http://user:word@goproxy.cn:80/x",
            "https://goproxy.cn",
        ];
        for text in pasted {
            let said = typed(&[text]).unwrap_err().to_string();
            assert!(said.contains("only the name is wanted: goproxy.cn\n"), "{text}: {said}");
        }
        for text in ["https://[::1]/", "https://127.0.0.1/", "://", "2001:db8::1"] {
            let said = typed(&[text]).unwrap_err().to_string();
            assert!(!said.contains("only the name"), "{text}: {said}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminal_sees_that_something_happens_and_nothing_of_it_stays() {
        let after = |millis| tokio::time::sleep(Duration::from_millis(millis));
        let mut terminal = Vec::new();
        watched(after(900), "resolving a.example", Some(&mut terminal)).await.unwrap();
        assert_eq!(terminal, b"");
        watched(after(2500), "resolving a.example", Some(&mut terminal)).await.unwrap();
        let blank = " ".repeat(25);
        let expected = format!("\rresolving a.example: 1 s\rresolving a.example: 2 s\r{blank}\r");
        assert_eq!(String::from_utf8(terminal).unwrap(), expected);
        watched(after(2500), "resolving a.example", None::<&mut Vec<u8>>).await.unwrap();
        assert_eq!(waited_for(&Name::parse("a.example").unwrap(), 2), "resolving a.example and 2 more");
    }
}
