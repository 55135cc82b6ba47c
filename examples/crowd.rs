//! Many connections through one gateway, and what each costs.
//!
//!     cargo build --release && cargo run --release --example crowd -- [CONNECTIONS [MODE [PROGRAM]]]
//!
//! As root: a client, a gateway and an origin in namespaces, rules laid by `goanyway gateway apply --mode MODE`
//! (redirect), and so many connections (10,000) of one client to port 443, each with a ClientHello and an
//! answer. All are kept, then each is used once more. Ends with 1 where one of them failed. A connection takes two open
//! files of the proxy's and one of the client's; where the limit is lower there are fewer, and it says so.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use goanyway::socket::raise_file_limit;

mod support;

use support::subnet::{Place, Subnet, ask, dial, hello, load, origin};
use support::{Outcome, Process, beside_us, memory};

/// The house has a place for every two files, but for one in a hundred (`src/accept`); some are spared.
const FILES_EACH: u64 = 2;
const RESERVED_SHARE: u64 = 100;
const SPARE: u64 = 20;
/// Against hangs alone.
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Outcome<()> {
    let argument = |nth: usize| std::env::args().nth(nth);
    match argument(1).as_deref() {
        Some("origin") => return origin().await,
        Some("client") => return client(argument(2).unwrap_or_default().parse()?),
        _ => {}
    }
    let wanted = argument(1).map_or(Ok(10_000), |text| text.parse::<u64>())?;
    let mode = argument(2).unwrap_or_else(|| "redirect".to_owned());
    let program = argument(3).map_or_else(beside_us, PathBuf::from);
    let afforded = raise_file_limit().map_or(wanted, |files| (files - files / RESERVED_SHARE) / FILES_EACH - SPARE);
    let many = wanted.min(afforded);
    if many < wanted {
        println!("the limit of open files allows for {many} connections, not {wanted}");
    }
    let folder = tempfile::tempdir()?;
    let subnet = Subnet::new()?;
    let _origin = subnet.start_origin()?;
    let proxy = subnet.start(&program, folder.path(), &mode)?;

    // What it needs to have any at all.
    subnet.run_client(&["client", "100"])?;
    let before = Cost::of(&proxy);
    let mut child = subnet.command(Place::Client, &std::env::current_exe()?);
    let mut child = Process(
        child
            .args(["client", &many.to_string(), "wait"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()?,
    );
    let mut out = std::io::BufReader::new(child.0.stdout.take().ok_or("the client has no output")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut out, &mut line)?;
    let each = Cost::of(&proxy).since(&before, many);
    drop(child.0.stdin.take());
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    println!("{mode}: {many} connections at once, {}", line.trim());
    println!(
        "each: {:.2} files, {:.2} KiB resident and {:.0} us of CPU in the proxy",
        each.files,
        each.room / 1024.0,
        each.took
    );
    println!("{}", rest.trim());
    println!("load: {}", load());
    if child.0.wait()?.success() { Ok(()) } else { Err("not as it should be".into()) }
}

/// What the proxy has taken.
struct Cost {
    files: f64,
    room: f64,
    /// In microseconds; a tick has 10 ms (proc(5)).
    took: f64,
}

impl Cost {
    fn of(proxy: &Process) -> Cost {
        let id = proxy.0.id();
        let files = std::fs::read_dir(format!("/proc/{id}/fd")).map_or(0, |files| files.count());
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.filter_map(|field| field.parse::<u64>().ok()).sum();
        Cost { files: files as f64, room: memory(id, "VmRSS").unwrap_or(0) as f64, took: ticks as f64 * 1e4 }
    }

    fn since(&self, before: &Cost, many: u64) -> Cost {
        let each = |now: f64, then: f64| (now - then) / many.max(1) as f64;
        Cost {
            files: each(self.files, before.files),
            room: each(self.room, before.room),
            took: each(self.took, before.took),
        }
    }
}

/// Opens them one after the other and says how long it took; once its input has ended, uses each again.
fn client(many: u64) -> Outcome<()> {
    raise_file_limit();
    let (hello, begun) = (hello()?, Instant::now());
    let mut held = Vec::new();
    for _ in 0..many {
        let mut stream = dial(false)?;
        stream.set_read_timeout(Some(LIMIT))?;
        ask(&mut stream, &hello, 1)?;
        stream.read_exact(&mut [0])?;
        held.push(stream);
    }
    println!(
        "opened in {:.1} s, {:.0} a second",
        begun.elapsed().as_secs_f64(),
        many as f64 / begun.elapsed().as_secs_f64()
    );
    if std::env::args().nth(3).is_some() {
        std::io::stdin().read_to_end(&mut Vec::new())?;
    }
    for stream in &mut held {
        ask(stream, &[], 1000)?;
        stream.read_exact(&mut [0; 1000])?;
    }
    println!("and {} of them answered again", held.len());
    Ok(())
}
