//! `goanyway resolve NAME...`: what every name server says about a name, which one is believed and
//! why, what go alone would have printed, and what to do about it.
//!
//! Only what is typed and what is printed; whom to ask is the [`Resolver`]'s configuration. A table
//! for people, which fits 80 columns where its words do, one JSON object a line for programs
//! (`--json`). Exit code 0 if every name resolved, 1 if one is absent or blocked, 3 if it could not be
//! found out; the highest counts.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;

use clap::{Args as ClapArgs, ValueEnum};
use futures_util::{StreamExt, stream};

use crate::metrics::Label;
use crate::resolve::{Attempt, Explanation, Family, Inquiry, Kind, Outcome, Resolver, Server};
use crate::target::{Host, Name};

/// How wide the output is, unless it goes to a terminal that is narrower; below the least, lines break.
const WIDTH: usize = 80;
const LEAST_WIDTH: usize = 40;
/// The most of a name that a line about waiting has room for.
const WIDEST_WAIT: usize = 44;
/// Names that are looked up at once; each is some twenty sockets while servers are silent.
const AT_ONCE: usize = 32;
/// Servers that were not asked and are told by name; the others are counted.
const MOST_NAMED: usize = 3;
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

/// Looks the names up side by side and prints them in the order given. Returns the exit code.
pub async fn run(args: &Args, resolver: &Resolver, out: &mut impl Write) -> io::Result<u8> {
    let (inquiry, width) = (args.inquiry(), width());
    let explain = |name| resolver.explain(name, &inquiry);
    let mut coming = pin!(stream::iter(&args.names).map(explain).buffered(AT_ONCE));
    let mut terminal = Some(io::stderr()).filter(io::IsTerminal::is_terminal);
    let mut names = args.names.iter();
    let mut code = 0;
    let mut between = "";
    while let Some(name) = names.next() {
        let what = waited_for(name, names.len());
        let Some(explanation) = watched(coming.next(), &what, terminal.as_mut()).await? else { break };
        code = code.max(exit_code(&explanation));
        let text = match args.json {
            true => json_line(&explanation)?,
            false => std::mem::replace(&mut between, "\n").to_owned() + &render_within(&explanation, width),
        };
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // A reader like head has seen enough: the code tells of what it was given.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    Ok(code)
}

fn waited_for(name: &Name, more: usize) -> String {
    let name = cut(&name.to_string(), WIDEST_WAIT);
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
    render_within(explanation, WIDTH)
}

fn render_within(explanation: &Explanation, screen: usize) -> String {
    let mut text = headline(explanation, screen);
    text.push_str(&table(&explanation.attempts, screen));
    let mut note = |label: &str, words: &str, width: usize| {
        if !words.is_empty() {
            text.push_str(&wrap(words, &format!("{label:<9} "), &" ".repeat(10), width));
        }
    };
    note("because:", &explanation.reason, screen);
    // Word for word, so that it can be compared with what a log says.
    note("go alone:", &explanation.would_go, usize::MAX);
    note("advice:", &explanation.advice, screen);
    text
}

/// How wide it may be: whoever reads it from a pipe gets what fits most terminals.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(io::stdout()).map(|size| usize::from(size.ws_col));
    size.ok().filter(|&columns| columns > 0).map_or(WIDTH, |columns| columns.clamp(LEAST_WIDTH, WIDTH))
}

fn headline(explanation: &Explanation, width: usize) -> String {
    let Explanation { name, kind, verdict, confirmed, freshness, elapsed_ms, .. } = explanation;
    let verdict = match (*verdict, freshness) {
        ("resolved", Some(freshness)) => format!("{} ({})", join(&explanation.addresses), freshness.label()),
        // A private name's servers have the last word on it.
        ("absent", _) if !confirmed && *kind != Kind::Private => "absent (unconfirmed)".to_owned(),
        (verdict, _) => verdict.to_owned(),
    };
    wrap(&format!("{name} ({} name): {verdict}, {elapsed_ms} ms", kind.label()), "", "    ", width)
}

/// One line of the table: both families of a server over one transport.
struct Row<'a> {
    server: &'a str,
    tier: &'static str,
    transport: &'static str,
    attempts: Vec<&'a Attempt>,
}

impl Row<'_> {
    /// The outcome, or where the families differ the one that says more; the other stands in the answer.
    fn verdict(&self) -> Outcome {
        let is_telling = |outcome: &Outcome| matches!(outcome, Outcome::Bogus | Outcome::Forged | Outcome::Blocked);
        let rank = |outcome: &Outcome| (*outcome != Outcome::Answer, !is_telling(outcome), *outcome);
        self.attempts.iter().map(|attempt| attempt.outcome).min_by_key(rank).unwrap_or(Outcome::NotAsked)
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

fn table(attempts: &[Attempt], width: usize) -> String {
    let (asked, left_out): (Vec<&Attempt>, Vec<&Attempt>) =
        attempts.iter().partition(|attempt| attempt.outcome != Outcome::NotAsked);
    let mut rows: Vec<[String; 6]> = Vec::new();
    if !asked.is_empty() {
        rows.push(["SERVER", "TIER", "VIA", "VERDICT", "MS", "ANSWER"].map(str::to_owned));
    }
    rows.extend(merge(&asked).iter().map(|row| {
        let (server, verdict, elapsed) = (address(row.server), row.verdict().to_string(), row.elapsed().to_string());
        [server, row.tier.to_owned(), row.transport.to_owned(), verdict, elapsed, row.answer()]
    }));
    align(&rows, width) + &not_asked(&left_out, width)
}

/// Where a server is; over what it is asked stands in a column of its own.
fn address(server: &str) -> String {
    let place = server.parse::<Server>().ok().and_then(|server| Some((server.address()?, server.transport())));
    match place {
        Some((address, transport)) if address.port() == transport.port() => address.ip().to_string(),
        Some((address, _)) => address.to_string(),
        None => server.to_owned(),
    }
}

/// A line for each reason: the first few servers by name.
fn not_asked(attempts: &[&Attempt], width: usize) -> String {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for attempt in attempts {
        let why = attempt.ede.as_deref().unwrap_or_default();
        match reasons.iter_mut().find(|(reason, _)| *reason == why) {
            Some((_, servers)) => servers.push(&attempt.server),
            None => reasons.push((why, vec![&attempt.server])),
        }
    }
    let line = |(why, mut servers): (&str, Vec<&str>)| {
        servers.dedup();
        let named: Vec<String> = servers.iter().take(MOST_NAMED).map(|server| address(server)).collect();
        let more = servers.len().saturating_sub(MOST_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        wrap(&format!("{}{more}: not-asked ({why})", named.join(", ")), "  ", "      ", width)
    };
    reasons.into_iter().map(line).collect()
}

/// A row for each server and transport, the transports of one server below each other.
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
    let first = |row: &Row<'_>| attempts.iter().position(|attempt| attempt.server == row.server);
    rows.sort_by_key(first);
    rows
}

/// Columns side by side; an answer that has no room at the end of its row stands below it.
fn align(rows: &[[String; 6]], screen: usize) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    let mut text = String::new();
    for [server, tier, transport, verdict, elapsed, answer] in rows {
        let [w0, w1, w2, w3, w4] = widths;
        let row = format!("  {server:<w0$}  {tier:<w1$}  {transport:<w2$}  {verdict:<w3$}  {elapsed:>w4$}");
        if row.chars().count() + 2 + answer.chars().count() <= screen {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{}", format!("{row}  {answer}").trim_end());
        } else {
            let _ = writeln!(text, "{row}");
            text.push_str(&wrap(answer, "      ", "      ", screen));
        }
    }
    text
}

/// Words in lines of this width, the first after `first` and the others after `rest`. A word that is
/// longer stays whole, so that it can be copied.
fn wrap(words: &str, first: &str, rest: &str, width: usize) -> String {
    let mut text = String::new();
    let mut line = first.to_owned();
    let mut is_fresh = true;
    for word in words.split(' ') {
        let longer = line.chars().count() + usize::from(!is_fresh) + word.chars().count();
        if !is_fresh && longer > width {
            text.push_str(&line);
            text.push('\n');
            line = rest.to_owned();
            is_fresh = true;
        }
        if !is_fresh {
            line.push(' ');
        }
        line.push_str(word);
        is_fresh = false;
    }
    text + &line + "\n"
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
            ede: match outcome {
                Outcome::NotAsked => Some("not needed".to_owned()),
                Outcome::Servfail => Some("Network Error (23): upstream".to_owned()),
                _ => None,
            },
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
  SERVER       TIER    VIA  VERDICT   MS  ANSWER
  192.168.1.1  system  udp  nxdomain   3
  223.5.5.5    plain   udp  answer    28  36.156.94.41; aaaa: nodata
  1.1.1.1      plain   udp  servfail   9  Network Error (23): upstream
  8.8.8.8: not-asked (not needed)
because:  223.5.5.5 found it over udp and overrules 192.168.1.1 (nxdomain)
go alone: lookup goproxy.cn on 192.168.1.1:53: no such host
advice:   replace the line \"nameserver 192.168.1.1\" in /etc/resolv.conf
";
        assert_eq!(render(&explanation()), expected);
    }

    #[test]
    fn what_is_long_is_wrapped_and_nothing_is_cut() {
        let mut long = explanation();
        long.name = Name::parse(&["a".repeat(60).as_str(); 4].join(".")).unwrap();
        let server = "https://[2001:4860:4860::8888]/dns-query#dns.google";
        let addresses: Vec<IpAddr> = (0..9).map(|last| format!("2606:4700:4700::{last}").parse().unwrap()).collect();
        let answer = Attempt { addresses, ..attempt(server, Tier::Encrypted, Family::V6, Outcome::Answer, 12) };
        let mut stay = |server: &str| {
            let why = Some("private names stay inside".to_owned());
            long.attempts.push(Attempt { ede: why, ..attempt(server, Tier::Plain, Family::V4, Outcome::NotAsked, 0) });
        };
        ["8.8.4.4", "8.8.8.9", "1.0.0.1", "tls://1.1.1.1#one.one.one.one"].into_iter().for_each(&mut stay);
        long.attempts.push(answer);
        long.reason = "no answer that counts, ".repeat(8);
        let text = render(&long);
        for line in text.lines().filter(|line| !line.contains("aaaaa") && !line.starts_with("go alone:")) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        assert!(text.contains(long.name.as_str()) && text.contains("2606:4700:4700::8"), "{text}");
        assert!(text.contains("  2001:4860:4860::8888  encrypted  udp  answer"), "{text}");
        assert!(
            text.contains("  8.8.4.4, 8.8.8.9, 1.0.0.1 and 1 more: not-asked (private names stay inside)"),
            "{text}"
        );
    }

    #[test]
    fn a_narrow_terminal_gets_narrow_lines() {
        let text = render_within(&explanation(), 48);
        let is_prose = |line: &&str| !line.starts_with("  1") && !line.starts_with("  2") && !line.contains("go alone");
        for line in text.lines().filter(is_prose) {
            assert!(line.chars().count() <= 60, "{line}");
        }
        assert!(text.contains("\n      36.156.94.41; aaaa: nodata\n"), "{text}");
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
