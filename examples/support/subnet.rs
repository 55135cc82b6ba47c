//! A build subnet for examples that measure one: a client, a gateway with goanyway and the rules that `gateway apply`
//! lays, and an origin, each in a network namespace of its own. Root, `ip` and `nft`; nothing leaves the machine.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use goanyway::socket::raise_file_limit;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Outcome, Process};

/// Where the origin is, and where a CONNECT goes.
pub const ORIGIN: &str = "9.9.9.9:443";
pub const PROXY: &str = "10.7.0.1:3128";
/// What the origin sends.
static FILLER: [u8; 1 << 18] = [0; 1 << 18];

/// Three machines and two cables.
pub struct Subnet {
    names: [String; 3],
}

/// One of the machines.
#[derive(Clone, Copy)]
pub enum Place {
    Client,
    Gateway,
    Origin,
}

impl Subnet {
    /// All cables plugged in, nobody serving.
    pub fn new() -> Outcome<Subnet> {
        let subnet = Subnet {
            names: ["client", "gateway", "origin"].map(|name| format!("goanyway-{name}-{}", std::process::id())),
        };
        for name in &subnet.names {
            ip(&["netns", "add", name])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        let [client, gateway, origin] = &subnet.names;
        let ends = [
            (client, "eth0", "10.7.0.2/16"),
            (gateway, "lan0", "10.7.0.1/16"),
            (gateway, "wan", "9.9.9.254/24"),
            (origin, "eth0", "9.9.9.9/24"),
        ];
        ip(&["-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "lan0", "netns", gateway])?;
        ip(&["-n", gateway, "link", "add", "wan", "type", "veth", "peer", "name", "eth0", "netns", origin])?;
        for (name, plug, address) in ends {
            ip(&["-n", name, "address", "add", address, "dev", plug])?;
            ip(&["-n", name, "link", "set", plug, "up"])?;
        }
        for name in [client, gateway] {
            // Whoever closes first keeps the port for a minute, and there are 28,000: connections a minute, and no more.
            let roomy = "cd /proc/sys/net/ipv4 && echo 1 > tcp_tw_reuse && echo 1024 65535 > ip_local_port_range";
            ip(&["netns", "exec", name, "sh", "-c", roomy])?;
        }
        ip(&["-n", client, "route", "add", "default", "via", "10.7.0.1"])?;
        ip(&["-n", origin, "route", "add", "default", "via", "9.9.9.254"])?;
        Ok(subnet)
    }

    /// A command that will run there.
    pub fn command(&self, place: Place, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[place as usize]]).arg(program).env_clear();
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.envs([("GOANYWAY_FALLBACK", "none"), ("GOANYWAY_NAMESERVER", "udp://127.0.0.1:9")]);
        command
    }

    /// Starts goanyway on the gateway, by redirection and as a proxy, and lays the rules.
    pub fn start(&self, program: &Path, folder: &Path, mode: &str) -> Outcome<Process> {
        let at = |name: &str| folder.join(name).display().to_string();
        let (cache, state, ready) = (at("cache"), at("state"), at("ready"));
        let mut command = self.command(Place::Gateway, program);
        command.args(["serve", "--listen", PROXY, "--transparent", "0.0.0.0:3129", "--client", "10.7.0.0/16"]);
        command.args(["--admin", "none", "--parent", "none", "--no-intercept", "--log-level", "error"]);
        command.args(["--cache-dir", &cache, "--state-dir", &state, "--ready-file", &ready]);
        // All connections here are one client's.
        let process = Process(command.env("GOANYWAY_ADMIT_PER_CLIENT", "100000").stderr(Stdio::null()).spawn()?);
        for _ in 0..600 {
            if std::fs::read_to_string(&ready).is_ok_and(|told| told.contains("transparent=")) {
                self.apply(program, mode)?;
                return Ok(process);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err("it did not start within half a minute".into())
    }

    fn apply(&self, program: &Path, mode: &str) -> Outcome<()> {
        let mut command = self.command(Place::Gateway, program);
        command.args(["gateway", "apply", "--mode", mode, "--subnet", "10.7.0.0/16", "--interface", "lan0"]);
        let output = command.args(["--client", "10.7.0.0/16", "--transparent", "0.0.0.0:3129"]).output()?;
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into()) }
    }

    /// Starts this program again as the origin, and returns once it listens.
    pub fn start_origin(&self) -> Outcome<Process> {
        let mut command = self.command(Place::Origin, &std::env::current_exe()?);
        let mut child = command.arg("origin").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().ok_or("the origin has no output")?;
        BufReader::new(out).read_line(&mut String::new())?;
        Ok(Process(child))
    }

    /// Starts this program again as a client, with these words, and hands over what it printed.
    pub fn run_client(&self, words: &[&str]) -> Outcome<String> {
        let mut command = self.command(Place::Client, &std::env::current_exe()?);
        let output = command.args(words).stderr(Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err("the client failed".into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Subnet {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

fn ip(arguments: &[&str]) -> Outcome<()> {
    let status = Command::new("ip").args(arguments).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {arguments:?}: {status}; is this root?").into()) }
}

/// The origin, until its standard input ends: reads one TLS record, then numbers, and sends as many bytes as each says.
pub async fn origin() -> Outcome<()> {
    raise_file_limit();
    let listener = TcpListener::bind(ORIGIN).await?;
    println!("listening");
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream))),
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await??;
    Ok(())
}

async fn answer(mut stream: tokio::net::TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    stream.read_exact(&mut vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))]).await?;
    loop {
        let mut left = stream.read_u64().await?;
        while left > 0 {
            let some = left.min(FILLER.len() as u64);
            stream.write_all(&FILLER[..some as usize]).await?;
            left -= some;
        }
    }
}

/// A ClientHello for a host that is no module mirror.
pub fn hello() -> Outcome<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(Arc::new(config), "files.example.com".try_into()?)?.write_tls(&mut bytes)?;
    Ok(bytes)
}

/// A connection to the origin: redirected, or through a CONNECT.
pub fn dial(connect: bool) -> Outcome<TcpStream> {
    if !connect {
        let stream = TcpStream::connect(ORIGIN)?;
        stream.set_nodelay(true)?;
        return Ok(stream);
    }
    let mut stream = TcpStream::connect(PROXY)?;
    stream.set_nodelay(true)?;
    stream.write_all(format!("CONNECT {ORIGIN} HTTP/1.1\r\nHost: {ORIGIN}\r\n\r\n").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut some = [0; 512];
        let read = stream.read(&mut some)?;
        if read == 0 {
            return Err("no answer to CONNECT".into());
        }
        head.extend_from_slice(&some[..read]);
    }
    if head.starts_with(b"HTTP/1.1 200") { Ok(stream) } else { Err(String::from_utf8_lossy(&head).into()) }
}

/// Asks the origin for so many bytes; with the hello before, where it is the first time.
pub fn ask(stream: &mut TcpStream, hello: &[u8], bytes: u64) -> Outcome<()> {
    stream.write_all(&[hello, &bytes.to_be_bytes()].concat())?;
    Ok(())
}

/// What else the machine is doing.
pub fn load() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}
