//! The CA, and which programs of this machine trust it: a real handshake of each, as it stands here.
//!
//! Who does not trust the CA is tunnelled, and well. It is a fault only where this environment says
//! that its programs do (`ca-…` in the proxy's URL), or an operator says so for them: then go's first
//! handshake fails, and go does not try again.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::clients::Client;
use super::finding::{Finding, Mend, Verdict, quote};
use super::surroundings::{FOR_CA, Surroundings};
use crate::cli::{env, stores};
use crate::intercept::{self, Authority, Error, Health, Interceptor, Mode, Terminated, write_date};
use crate::metrics::Registry;
use crate::target::Name;

/// How long a program may take until it has made up its mind; a Java compiles first.
const PATIENCE: Duration = Duration::from_secs(12);
/// How long it may take in all where it is asked again, so that it is told of before this check is left behind.
const BOTH: Duration = Duration::from_secs(14);
const _: () = assert!(PATIENCE.as_secs() < BOTH.as_secs() && BOTH.as_secs() < super::PATIENCE.as_secs());
/// How long what a program sent last takes over loopback, on a machine that is busy.
const LAST_WORD: Duration = Duration::from_millis(500);
/// The most of a CONNECT.
const HEAD: usize = 8 * 1024;

/// The clock says whether a CA has ended, and dates the next one: while it is wrong, that comes first. A CA that was made
/// under a clock that is ahead counts for nobody once the clock is right.
pub(super) fn heed_clock(ca: &mut [Finding], others: &[Finding]) {
    let wrong = others.iter().find(|finding| finding.check == "clock" && finding.verdict == Verdict::Fault);
    let Some(clock) = wrong.and_then(|finding| finding.mend.clone()) else { return };
    let makes_one = |finding: &&mut Finding| matches!(&finding.mend, Some(Mend::Run(words)) if words[0] == "goanyway");
    for finding in ca.iter_mut().filter(makes_one) {
        finding.saw.push_str("; the clock first, which is wrong");
        finding.mend = Some(clock.clone());
    }
}

/// The CA's own state: made, in time, covering, closed.
pub(super) fn check_ca(around: &Surroundings) -> Vec<Finding> {
    let config = &around.settings.intercept;
    let ours = |words: &[&str]| Mend::ours(words, around.typed.again(FOR_CA));
    if config.mode == Mode::Off {
        return vec![Finding::ok("ca", "", "not needed: interception is off")];
    }
    let authority = match Authority::load(&config.ca_dir) {
        Ok(Some(authority)) => authority,
        Ok(None) => {
            let saw = "none is made yet, so nobody can trust it beforehand (serve makes one when it starts)";
            return vec![Finding::warning("ca", "", saw, ours(&["ca", "init"]))];
        }
        Err(why @ Error::Newer { .. }) => {
            let ask = Mend::Ask("you: use the goanyway that made it, or --ca-dir DIR".to_owned());
            return vec![Finding::fault("ca", "", why.to_string(), ask)];
        }
        Err(why @ Error::Folder { .. }) => {
            let ask = Mend::Ask("whoever owns that folder; or another one: --ca-dir DIR".to_owned());
            return vec![Finding::fault("ca", "", why.to_string(), ask)];
        }
        Err(why) => {
            // Clients must trust the new one: not without being asked for.
            let command = ours(&["ca", "init", "--force"]).command().unwrap_or_default();
            return vec![Finding::fault("ca", "", why.to_string(), Mend::Type(command))];
        }
    };
    let ends = write_date(authority.ends());
    let (print, dir) = (authority.fingerprint(), config.ca_dir.display());
    let mut findings = vec![match authority.health(around.now) {
        Health::Good => Finding::ok("ca", "", format!("{print} in {dir}, until {ends}")),
        Health::NearEnd => Finding::warning("ca", "", format!("{print} ends on {ends}"), ours(&["ca", "rotate"])),
        Health::Expired => Finding::fault(
            "ca",
            "",
            format!("{print} ended on {ends}, so all TLS is tunnelled"),
            ours(&["ca", "rotate"]),
        ),
        Health::ClockBehind => {
            let begins = write_date(authority.begins());
            let ask = Mend::Ask("you: set the clock, as above".to_owned());
            Finding::fault("ca", "", format!("{print} is valid from {begins}, and the clock stands before that"), ask)
        }
    }];
    if authority.key_is_open() {
        let key = config.ca_dir.join("issuer.key").display().to_string();
        let mend = Mend::Run(vec!["chmod".to_owned(), "600".to_owned(), key]);
        findings.push(Finding::warning("ca", "key", "others than its owner can read it", mend));
    }
    let uncovered: Vec<String> =
        config.hosts.iter().filter(|host| !authority.covers(host.base())).map(ToString::to_string).collect();
    if !uncovered.is_empty() {
        let saw = format!("it does not cover {}, so that is tunnelled", uncovered.join(", "));
        findings.push(Finding::warning("ca", "hosts", saw, ours(&["ca", "rotate"])));
    }
    findings
}

/// A handshake of every program that is here.
pub(super) async fn check(around: &Arc<Surroundings>) -> Vec<Finding> {
    let Some(trial) = Trial::prepare(around) else { return Vec::new() };
    let path = around.environment.get("PATH").map_or("", String::as_str);
    let here = Client::ALL.into_iter().filter(|client| stores::is_here(path.as_ref(), client.program()));
    join_all(here.map(|client| trial.judge(client, around))).await
}

/// What all handshakes have in common.
struct Trial {
    interceptor: Interceptor,
    host: Name,
    fingerprint: String,
    /// The roots as `goanyway env` would give them.
    bundle: Option<env::Trust>,
    folder: tempfile::TempDir,
}

/// What a program made of our certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Word {
    Trusts,
    Refuses(String),
    /// It came through the handshake and said no more: GnuTLS is asked about certificates after that.
    Unsaid,
    /// It did not come so far.
    Nothing(String),
}

impl Trial {
    /// None where there is no CA that could be shown.
    fn prepare(around: &Surroundings) -> Option<Trial> {
        let config = around.settings.intercept.clone();
        let authority = Authority::load(&config.ca_dir).ok().flatten()?;
        let in_time = matches!(authority.health(around.now), Health::Good | Health::NearEnd);
        let covered = config.hosts.iter().map(|host| host.base()).find(|host| authority.covers(host));
        let host = covered.filter(|_| in_time && config.mode != Mode::Off)?.clone();
        let folder = tempfile::tempdir().ok()?;
        let bundle = env::find_trust(&around.environment, authority.root(), folder.path()).ok().flatten();
        let config = intercept::Config { state_dir: None, ..config };
        let (interceptor, _) = Interceptor::open(config, around.now, &Registry::default()).ok()?;
        Some(Trial { interceptor, host, fingerprint: authority.fingerprint().to_owned(), bundle, folder })
    }

    async fn judge(&self, client: Client, around: &Surroundings) -> Finding {
        let (subject, print) = (client.program(), &self.fingerprint);
        let begun = Instant::now();
        match self.shake(client, None, PATIENCE).await {
            Word::Trusts => Finding::ok("trust", subject, format!("trusts the CA {print} (a handshake was made)")),
            Word::Unsaid => Finding::ok("trust", subject, "could not be tried: it did not end"),
            Word::Nothing(why) => Finding::ok("trust", subject, format!("could not be tried: {why}")),
            Word::Refuses(_) if !is_needed(client, around) => {
                let saw = "does not trust the CA, and nothing says that it does: its TLS is tunnelled";
                Finding::ok("trust", subject, saw)
            }
            Word::Refuses(why) => {
                let by_file = match &self.bundle {
                    Some(trust) => {
                        let left = BOTH.saturating_sub(begun.elapsed());
                        self.shake(client, Some(&trust.bundle), left).await == Word::Trusts
                    }
                    None => false,
                };
                let saw = format!("refuses the CA {print}, which this environment says it trusts ({why})");
                let mend = mend(client, by_file, around);
                match client {
                    Client::Go => Finding::fault("trust", subject, saw, mend),
                    _ => Finding::warning("trust", subject, saw, mend),
                }
            }
        }
    }

    /// Has the program shake hands, with its own roots or with these.
    async fn shake(&self, client: Client, roots: Option<&Path>, patience: Duration) -> Word {
        let shaking = async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let port = listener.local_addr()?.port();
            let folder = tempfile::tempdir_in(self.folder.path())?;
            let mut command = client.command(self.host.as_str(), port, folder.path())?;
            if let Some(roots) = roots {
                command.env("SSL_CERT_FILE", roots);
            }
            let mut serving = std::pin::pin!(self.serve(listener, client));
            let mut running = std::pin::pin!(command.output());
            let (word, ended) = tokio::select! {
                word = &mut serving => (Some(word), None),
                // Its end may be heard of before its last word is.
                ended = &mut running => (tokio::time::timeout(LAST_WORD, serving).await.ok(), Some(ended?)),
            };
            match word {
                Some(Word::Unsaid) | None => {}
                Some(word) => return Ok(word),
            }
            let ended = match ended {
                Some(ended) => ended,
                None => running.await?,
            };
            let said = last_line(&ended.stderr);
            Ok(match word {
                None => Word::Nothing(said),
                _ if ended.status.success() => Word::Trusts,
                _ => Word::Refuses(said),
            })
        };
        match tokio::time::timeout(patience, shaking).await {
            Ok(Ok(word)) => word,
            Ok(Err(error)) => Word::Nothing(std::io::Error::to_string(&error)),
            Err(_) => Word::Nothing(format!("it said nothing within {} s", patience.as_secs())),
        }
    }

    /// Ends the TLS of the first who comes as far as that.
    async fn serve(&self, listener: TcpListener, program: Client) -> Word {
        // Each is a client of its own: what another says is no word of this one.
        let user = format!("{}+ca", program.program());
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            if open_tunnel(&mut stream).await.is_err() {
                continue;
            }
            let client = IpAddr::V4(Ipv4Addr::LOCALHOST);
            match self.interceptor.terminate(stream, &self.host, client, Some(&user), SystemTime::now()).await {
                Ok(Terminated::Tls { mut stream, .. }) => {
                    let asked = tokio::time::timeout(LAST_WORD, stream.read_u8()).await;
                    return if matches!(asked, Ok(Ok(_))) { Word::Trusts } else { Word::Unsaid };
                }
                Ok(Terminated::Passed { .. }) => return Word::Nothing("it does not begin with TLS for us".to_owned()),
                Err(Error::Rejected { said, .. } | Error::Handshake { said, .. }) => return Word::Refuses(said),
                Err(Error::Wordless { .. } | Error::Spare { .. }) => return Word::Unsaid,
                Err(_) => {}
            }
        }
    }
}

/// Answers a CONNECT, if that is how it begins; TLS begins with 22 (RFC 8446 section 5.1).
async fn open_tunnel(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    if first == [22] {
        return Ok(());
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD {
        head.push(stream.read_u8().await?);
    }
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await
}

/// Whether this program is shown the CA's certificates as things stand.
fn is_needed(client: Client, around: &Surroundings) -> bool {
    let config = &around.settings.intercept;
    let by_operator = config.mode == Mode::Always
        || config.trusted_by.iter().any(|net| net.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let user = around.proxy.as_ref().and_then(|proxy| proxy.user.as_deref());
    let says_so = intercept::Word::of(user) != intercept::Word::Nothing;
    // What others than go ask for is not where modules are.
    by_operator || says_so && client == Client::Go
}

fn mend(client: Client, by_file: bool, around: &Surroundings) -> Mend {
    if by_file {
        return around.take_env();
    }
    let flags = around.typed.again(FOR_CA);
    match client {
        Client::Node => {
            let root = around.settings.intercept.ca_dir.join("ca.pem").display().to_string();
            Mend::Type(format!("export NODE_EXTRA_CA_CERTS={}", quote(&root)))
        }
        Client::Java => Mend::ours(&["ca", "install", "--java"], flags),
        _ => Mend::ours(&["ca", "install"], flags),
    }
}

fn last_line(said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    said.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or("it ended without a word").to_owned()
}
