//! What was read from files, and is read again once they change: certificates, users.
//!
//! Nobody watches. Whoever wants the thing looks, at most once a second, whether a file has another
//! date, length or inode than when it was read. What cannot be read then is said once, and what was
//! read before stands: an operator who replaces two files is between them for a moment.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Something read from files.
pub struct Kept<T, E> {
    what: &'static str,
    files: Vec<PathBuf>,
    read: Box<dyn Fn() -> Result<T, E> + Send + Sync>,
    // Held for a look-up, and about once a year for the reading.
    held: Mutex<Held<T>>,
}

struct Held<T> {
    now: Arc<T>,
    looked: Instant,
    stamps: Vec<Stamp>,
}

/// By which a file is told from what it was.
type Stamp = Option<(SystemTime, u64, u64)>;

impl<T, E: Display> Kept<T, E> {
    /// Reads for the first time. `what` is what a log calls it.
    pub fn open(
        what: &'static str,
        files: Vec<PathBuf>,
        read: impl Fn() -> Result<T, E> + Send + Sync + 'static,
    ) -> Result<Kept<T, E>, E> {
        // Before it is read: what changes meanwhile is read again.
        let stamps = files.iter().map(stamp).collect();
        let now = Arc::new(read()?);
        let held = Mutex::new(Held { now, looked: Instant::now(), stamps });
        Ok(Kept { what, files, read: Box::new(read), held })
    }

    /// What the files say, as of a second ago at most.
    pub fn current(&self, now: Instant) -> Arc<T> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(held.looked) < LOOK {
            return Arc::clone(&held.now);
        }
        held.looked = now;
        let stamps: Vec<_> = self.files.iter().map(stamp).collect();
        if stamps != held.stamps {
            held.stamps = stamps;
            match (self.read)() {
                Ok(fresh) => {
                    tracing::info!("{}: read again", self.what);
                    held.now = Arc::new(fresh);
                }
                Err(error) => {
                    tracing::error!(%error, "{}: cannot be read again; what was read before stands", self.what)
                }
            }
        }
        Arc::clone(&held.now)
    }
}

fn stamp(file: &PathBuf) -> Stamp {
    let about = std::fs::metadata(file).ok()?;
    Some((about.modified().ok()?, about.len(), inode(&about)))
}

#[cfg(unix)]
fn inode(about: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(about)
}

#[cfg(not(unix))]
fn inode(_: &std::fs::Metadata) -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_is_read_again_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("1");
        let path = file.clone();
        let read = move || std::fs::read_to_string(&path).unwrap().parse::<u32>();
        let kept = Kept::open("the number", vec![file.clone()], read).unwrap();
        let begun = Instant::now();
        write("22");
        assert_eq!(*kept.current(begun), 1, "not looked at yet");
        assert_eq!(*kept.current(begun + LOOK), 22);
        write("nonsense");
        assert_eq!(*kept.current(begun + 2 * LOOK), 22);
        write("4444");
        assert_eq!(*kept.current(begun + 3 * LOOK), 4444);
    }
}
