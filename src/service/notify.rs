//! A word to whoever supervises us (`NOTIFY_SOCKET`, `WATCHDOG_USEC`: sd_notify(3)).
//!
//! One datagram a message, to a socket in the file system or the abstract name space. A supervisor
//! that does not listen is its own affair: nothing is tried again, and nothing waits for it.

use std::time::Duration;

/// Whoever supervises us, if anybody does.
#[derive(Debug, Default)]
pub struct Supervisor {
    #[cfg(unix)]
    ear: Option<(std::os::unix::net::UnixDatagram, std::os::unix::net::SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// Whom the environment names, and what else has to be said at the start.
    pub fn find(around: &dyn Fn(&str) -> Option<String>) -> (Supervisor, Option<String>) {
        let set = |name: &str| around(name).filter(|text| !text.is_empty());
        let Some(place) = set("NOTIFY_SOCKET") else { return (Supervisor::default(), None) };
        match Supervisor::at(&place, watchdog(&set)) {
            Ok(supervisor) => (supervisor, None),
            Err(error) => {
                let notice = format!("NOTIFY_SOCKET={place}: {error}; whoever set it will not hear from us");
                (Supervisor::default(), Some(notice))
            }
        }
    }

    /// Says that we serve, and what is to be seen of it.
    pub fn ready(&self, status: &str) {
        self.say(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Says that the settings are being read again. [`Supervisor::ready`] says that they were.
    pub fn reloading(&self) {
        // The clock by which a supervisor tells an answer to this reload from one to another.
        let clock = monotonic_micros().map(|now| format!("\nMONOTONIC_USEC={now}")).unwrap_or_default();
        self.say(&format!("RELOADING=1{clock}\nSTATUS=reading the settings again"));
    }

    /// Says that nobody further is served.
    pub fn stopping(&self, status: &str) {
        self.say(&format!("STOPPING=1\nSTATUS={}", one_line(status)));
    }

    /// How often a sign of life is due, if one is: half of the time after which we are given up.
    pub fn beat_every(&self) -> Option<Duration> {
        self.watchdog.map(|given| given / 2)
    }

    /// The sign of life.
    pub fn alive(&self) {
        self.say("WATCHDOG=1");
    }
}

#[cfg(unix)]
impl Supervisor {
    fn at(place: &str, watchdog: Option<Duration>) -> std::io::Result<Supervisor> {
        let socket = std::os::unix::net::UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Supervisor { ear: Some((socket, address(place)?)), watchdog })
    }

    fn say(&self, message: &str) {
        let Some((socket, address)) = &self.ear else { return };
        if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
            tracing::debug!(%error, message, "the supervisor does not hear");
        }
    }
}

#[cfg(not(unix))]
impl Supervisor {
    fn at(_: &str, _: Option<Duration>) -> std::io::Result<Supervisor> {
        Ok(Supervisor::default())
    }

    fn say(&self, _: &str) {}
}

#[cfg(unix)]
fn address(place: &str) -> std::io::Result<std::os::unix::net::SocketAddr> {
    use std::os::unix::net::SocketAddr;
    if place.starts_with('/') {
        return SocketAddr::from_pathname(place);
    }
    #[cfg(target_os = "linux")]
    if let Some(name) = place.strip_prefix('@') {
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name.as_bytes());
    }
    Err(std::io::Error::other("expected a path, or @ and a name"))
}

/// The time after which we are given up, where it is us who are meant.
fn watchdog(set: &dyn Fn(&str) -> Option<String>) -> Option<Duration> {
    let is_us = set("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
    let micros = set("WATCHDOG_USEC").filter(|_| is_us)?.parse().ok()?;
    Some(Duration::from_micros(micros)).filter(|given| !given.is_zero())
}

/// A message is read by lines.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(unix)]
fn monotonic_micros() -> Option<i64> {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.checked_mul(1_000_000)?.checked_add(now.tv_nsec / 1000)
}

#[cfg(not(unix))]
fn monotonic_micros() -> Option<i64> {
    None
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use super::*;

    fn heard(ear: &UnixDatagram) -> String {
        let mut bytes = [0; 512];
        let read = ear.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..read].to_vec()).unwrap()
    }

    #[test]
    fn both_kinds_of_socket_are_spoken_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("goanyway-test-{}", std::process::id());
        let ears = [
            (UnixDatagram::bind(&path).unwrap(), path.display().to_string()),
            (UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap(), format!("@{name}")),
        ];
        for (ear, place) in ears {
            let (supervisor, said) = Supervisor::find(&|name| (name == "NOTIFY_SOCKET").then(|| place.clone()));
            assert_eq!((supervisor.beat_every(), said), (None, None));
            supervisor.ready("serving\non two lines");
            assert_eq!(heard(&ear), "READY=1\nSTATUS=serving on two lines");
            supervisor.reloading();
            let text = heard(&ear);
            let clock = text.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).unwrap();
            assert!(text.starts_with("RELOADING=1\n") && clock.parse::<u64>().unwrap() > 0, "{text}");
        }
    }

    #[test]
    fn the_watchdog_is_ours_only_where_it_says_so() {
        let own = std::process::id().to_string();
        let table = [("20000000", None, Some(10)), ("20000000", Some("1"), None), ("0", None, None), ("x", None, None)];
        for (micros, pid, every) in table {
            let around = |name: &str| match name {
                "NOTIFY_SOCKET" => Some("@nobody".to_owned()),
                "WATCHDOG_USEC" => Some(micros.to_owned()),
                "WATCHDOG_PID" => Some(pid.unwrap_or(&own).to_owned()),
                _ => None,
            };
            let (supervisor, _) = Supervisor::find(&around);
            assert_eq!(supervisor.beat_every(), every.map(Duration::from_secs), "{micros} {pid:?}");
        }
    }

    #[test]
    fn a_place_that_is_none_is_said() {
        let (supervisor, said) = Supervisor::find(&|name| (name == "NOTIFY_SOCKET").then(|| "vsock:2:1".to_owned()));
        assert!(said.unwrap().contains("NOTIFY_SOCKET=vsock:2:1"));
        supervisor.ready("into the void");
    }
}
