//! How a redirected connection compares with a CONNECT.
//!
//!     cargo build --release && cargo run --release --example subnet_speed -- [ROUNDS [SECONDS [MODE [PROGRAM]]]]
//!
//! As root: a client, a gateway and an origin in namespaces, rules laid by `goanyway gateway apply --mode MODE`
//! (redirect). In each round (5) both ways take turns, each for so many seconds (2): one connection that reads all it
//! can, sixteen, and sixteen that are opened, used once and closed as fast as they can. What counts is
//! the median of the rounds' ratios: above 1 the redirected way is the faster one.

use std::io::Read;
use std::path::PathBuf;
use std::time::{Duration, Instant};

mod support;

use support::subnet::{Subnet, ask, dial, hello, load, origin};
use support::{Outcome, beside_us};

/// What one thread of the client does, and how much of it was done.
type Work = fn(&[u8], bool, Duration) -> Outcome<u64>;

const KINDS: [(&str, &str); 3] = [("bulk 1", "MB/s"), ("bulk 16", "MB/s"), ("set-ups 16", "/s")];

#[tokio::main]
async fn main() -> Outcome<()> {
    let argument = |nth: usize| std::env::args().nth(nth);
    match argument(1).as_deref() {
        Some("origin") => return origin().await,
        Some("client") => return client(&argument(2).unwrap_or_default(), argument(3).as_deref(), argument(4)),
        _ => {}
    }
    let number = |nth, default| argument(nth).map_or(Ok(default), |text| text.parse::<u64>());
    let (rounds, seconds) = (number(1, 5)?, number(2, 2)?.to_string());
    let mode = argument(3).unwrap_or_else(|| "redirect".to_owned());
    let program = argument(4).map_or_else(beside_us, PathBuf::from);
    let folder = tempfile::tempdir()?;
    let subnet = Subnet::new()?;
    let _origin = subnet.start_origin()?;
    let _proxy = subnet.start(&program, folder.path(), &mode)?;
    println!("{mode}, {rounds} rounds of {seconds} s; load before: {}", load());
    println!("{:<12} {:>14} {:>14} {:>8}   each round's ratio", "", "redirected", "CONNECT", "ratio");
    for (kind, unit) in KINDS {
        let measure =
            |way: &str| -> Outcome<f64> { Ok(subnet.run_client(&["client", kind, way, &seconds])?.trim().parse()?) };
        // The first of each way pays for what is made once.
        let (_, _) = (measure("straight")?, measure("connect")?);
        let mut pairs = Vec::new();
        for round in 0..rounds {
            // Turn by turn who is first.
            let pair = if round % 2 == 0 {
                let redirected = measure("straight")?;
                (redirected, measure("connect")?)
            } else {
                let connected = measure("connect")?;
                (measure("straight")?, connected)
            };
            pairs.push(pair);
        }
        let ratios: Vec<f64> = pairs.iter().map(|(redirected, connected)| redirected / connected).collect();
        let told: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
        println!(
            "{kind:<12} {:>9.0} {unit:<4} {:>9.0} {unit:<4} {:>8.2}   {}",
            median(pairs.iter().map(|pair| pair.0)),
            median(pairs.iter().map(|pair| pair.1)),
            median(ratios.iter().copied()),
            told.join(" ")
        );
    }
    println!("load after: {}", load());
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One measurement, on the client's machine: prints a number.
fn client(kind: &str, way: Option<&str>, seconds: Option<String>) -> Outcome<()> {
    let (hello, connect) = (hello()?, way == Some("connect"));
    let length = Duration::from_secs(seconds.unwrap_or_default().parse()?);
    let (work, threads): (Work, usize) = match kind {
        "bulk 1" => (read_all, 1),
        "bulk 16" => (read_all, 16),
        _ => (come_and_go, 16),
    };
    let begun = Instant::now();
    let done: Vec<Outcome<u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&hello, connect, length))).collect();
        workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| Err("a client fell over".into()))).collect()
    });
    let done: u64 = done.into_iter().sum::<Outcome<u64>>()?;
    let unit = if kind.starts_with("bulk") { 1e6 } else { 1.0 };
    println!("{}", done as f64 / unit / begun.elapsed().as_secs_f64());
    Ok(())
}

/// Bytes that came over one connection.
fn read_all(hello: &[u8], connect: bool, length: Duration) -> Outcome<u64> {
    let mut stream = dial(connect)?;
    ask(&mut stream, hello, u64::MAX)?;
    let (mut buffer, mut done, end) = (vec![0; 1 << 20], 0, Instant::now() + length);
    while Instant::now() < end {
        done += stream.read(&mut buffer)? as u64;
    }
    Ok(done)
}

/// Connections, one after the other, each used once.
fn come_and_go(hello: &[u8], connect: bool, length: Duration) -> Outcome<u64> {
    let (mut done, end) = (0, Instant::now() + length);
    while Instant::now() < end {
        let mut stream = dial(connect)?;
        ask(&mut stream, hello, 1)?;
        stream.read_exact(&mut [0])?;
        done += 1;
    }
    Ok(done)
}
