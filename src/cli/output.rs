//! Standard output, which is for data: what a command hands out goes this way, and what could not be written is told.
//!
//! A reader that has seen enough, as `head`, closes the pipe, which is no fault. A full disk is one: whoever redirects
//! us has half a file, and would take it for the whole. `run` leaves the output to its command.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use super::Failure;

/// Hands out text, without colours where nobody sees them. With it a command is done.
pub(super) fn print(text: &str) -> Result<ExitCode, Failure> {
    settle(write(anstream::stdout(), text.as_bytes()))
}

/// Hands out bytes as they are.
pub(super) fn print_bytes(bytes: &[u8]) -> Result<ExitCode, Failure> {
    settle(write(io::stdout(), bytes))
}

/// What came of writing to standard output.
pub(super) fn settle(written: io::Result<()>) -> Result<ExitCode, Failure> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Steps, a line each, of something that is done whether or not anybody can be told.
#[derive(Default)]
pub(super) struct Steps {
    failed: Option<Failure>,
}

impl Steps {
    /// Says one.
    pub(super) fn say(&mut self, step: &impl Display) {
        if self.failed.is_none() {
            self.failed = print(&format!("{step}\n")).err();
        }
    }

    /// Whether all were said.
    pub(super) fn end(self) -> Result<ExitCode, Failure> {
        self.failed.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}

/// Flushed: what a buffer holds at the exit is written by nobody who could tell.
fn write(mut output: impl Write, bytes: &[u8]) -> io::Result<()> {
    output.write_all(bytes)?;
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_seen_enough_is_no_fault_and_a_full_disk_is_one() {
        assert!(settle(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        let told = settle(Err(io::ErrorKind::StorageFull.into())).unwrap_err().to_string();
        assert!(told.starts_with("cannot write to standard output: "), "{told}");
    }
}
