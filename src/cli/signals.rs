//! The signals that mean stop, and the one that may also mean something else.

/// Listening from the moment it is made, so that none is missed between two waits.
pub(super) struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    hangup: Option<tokio::signal::unix::Signal>,
    /// What means something to a command alone.
    #[cfg(unix)]
    meant: Vec<(Told, tokio::signal::unix::Signal)>,
}

impl Signals {
    /// Starts listening, on the runtime that this is called in.
    #[cfg(unix)]
    pub(super) fn listen() -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Signals { terminate, interrupt, hangup: None, meant: Vec::new() })
    }

    /// Listens for the end of a terminal too, unless somebody (nohup) has seen to it that we live on.
    #[cfg(unix)]
    pub(super) fn and_hangup(self) -> std::io::Result<Signals> {
        if ignores_hangup() { Ok(self) } else { self.and_reload() }
    }

    /// Listens for SIGHUP as a daemon does, to which it is a word of its operator's.
    #[cfg(unix)]
    pub(super) fn and_reload(mut self) -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        self.hangup = Some(signal(SignalKind::hangup())?);
        Ok(self)
    }

    /// Listens for what would end us and is meant for the command: go prints its goroutines at SIGQUIT.
    #[cfg(unix)]
    pub(super) fn and_meant(mut self) -> std::io::Result<Signals> {
        use tokio::signal::unix::{SignalKind, signal};
        let meant = [
            (Told::Quit, SignalKind::quit()),
            (Told::User1, SignalKind::user_defined1()),
            (Told::User2, SignalKind::user_defined2()),
        ];
        for (told, kind) in meant {
            self.meant.push((told, signal(kind)?));
        }
        Ok(self)
    }

    /// The next of them.
    #[cfg(unix)]
    pub(super) async fn next(&mut self) -> Told {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        let meant = std::future::poll_fn(|cx| {
            let heard =
                self.meant.iter_mut().find_map(|(told, signal)| signal.poll_recv(cx).is_ready().then_some(*told));
            heard.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
        });
        tokio::select! {
            _ = self.terminate.recv() => Told::Terminate,
            _ = self.interrupt.recv() => Told::Interrupt,
            _ = hangup => Told::Hangup,
            told = meant => told,
        }
    }

    #[cfg(not(unix))]
    pub(super) fn listen() -> std::io::Result<Signals> {
        Ok(Signals {})
    }

    #[cfg(not(unix))]
    pub(super) fn and_hangup(self) -> std::io::Result<Signals> {
        Ok(self)
    }

    #[cfg(not(unix))]
    pub(super) fn and_reload(self) -> std::io::Result<Signals> {
        Ok(self)
    }

    #[cfg(not(unix))]
    pub(super) fn and_meant(self) -> std::io::Result<Signals> {
        Ok(self)
    }

    #[cfg(not(unix))]
    pub(super) async fn next(&mut self) -> Told {
        // Without a handler for it there is nothing to wait for.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
        Told::Interrupt
    }
}

/// What we were told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// SIGTERM: by a supervisor, to us alone.
    Terminate,
    /// SIGINT: by a terminal, to everybody in the foreground.
    Interrupt,
    /// SIGHUP: the terminal went, or, to a daemon, the settings are to be read again.
    Hangup,
    /// SIGQUIT: by a terminal, to everybody in the foreground.
    Quit,
    User1,
    User2,
}

impl Told {
    /// Whether a terminal says it to everybody in the foreground.
    pub(super) fn is_typed(self) -> bool {
        matches!(self, Told::Interrupt | Told::Quit)
    }
}

/// The terminal that we began on, if its end is to be ours.
pub(super) struct Terminal {
    binding: bool,
}

impl Terminal {
    /// The one that we are on now. Where SIGHUP was to be ignored (nohup), its end is nothing to us.
    pub(super) fn ours() -> Terminal {
        Terminal { binding: has_terminal() && !ignores_hangup() }
    }

    /// Whether it is gone, so that a SIGHUP was to tell us that.
    pub(super) fn is_gone(&self) -> bool {
        self.binding && !has_terminal()
    }
}

/// This name is whatever terminal the process belongs to (tty(4)).
fn has_terminal() -> bool {
    std::fs::File::open("/dev/tty").is_ok()
}

#[cfg(not(unix))]
fn ignores_hangup() -> bool {
    false
}

/// Whether SIGHUP was set to be ignored before we began; where that cannot be told, it was not.
#[cfg(unix)]
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
