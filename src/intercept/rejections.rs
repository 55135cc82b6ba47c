//! What was learnt of clients and origins: who refused our certificate is tunnelled to that host for an
//! hour, and a host that asks for client certificates is tunnelled for everybody, for a week.
//!
//! Some refuse without a word, which is no proof: a client that opens more connections than it needs
//! leaves in the same way. So what is only suspected is withdrawn when another of its connections speaks, and
//! not suspected at all of a client that spoke a moment ago.
//!
//! go does not retry a failed handshake, so the second one must not fail, after a restart either: what
//! was learnt is kept in the state folder, in one file of JSON lines that is written aside and renamed,
//! at most every second. Several processes may share it. While we run, ends are on tokio's clock: the
//! wall clock may jump, the hour does not. Bounded in entries and in text.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use lru::LruCache;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::Why;
use crate::target::Name;

/// Who is tunnelled where: one client at one host, where two builds behind one address are told apart by
/// the user of their proxy URL; or, without a client, everybody at that host.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct Case {
    client: Option<IpAddr>,
    user: Box<str>,
    host: Name,
}

/// Until when, on both clocks.
#[derive(Clone, Copy, Debug)]
struct Until {
    here: Instant,
    wall: SystemTime,
    /// Nobody said so: it is inferred from a silence.
    suspected: bool,
}

/// What is known of cases.
struct Learnt {
    until: LruCache<Case, Until>,
    /// When a client last spoke in TLS of ours: it takes our certificate.
    spoke: LruCache<Case, Instant>,
}

/// What was learnt and still counts. Cloning gives another handle to the same memory.
#[derive(Clone)]
pub(super) struct Rejections {
    inner: Arc<Inner>,
}

struct Inner {
    // Locked for one look or one entry; the file is written from a copy.
    learnt: Mutex<Learnt>,
    path: Option<PathBuf>,
    /// Whether the file lacks something.
    dirty: AtomicBool,
    /// Whether somebody is at writing it.
    saving: AtomicBool,
}

impl Rejections {
    /// Reads what an earlier process left in the folder. A file that cannot be read is said and done without.
    pub(super) fn open(folder: Option<&Path>, now: SystemTime) -> Rejections {
        let path = folder.map(|folder| folder.join(FILE));
        let mut until = LruCache::new(CAPACITY);
        match path.as_deref().map(read) {
            None => {}
            Some(Ok(lines)) => join(&mut until, lines, now),
            Some(Err(error)) => tracing::warn!(%error, "learnt rejections cannot be read; they are learnt anew"),
        }
        let (dirty, saving) = (AtomicBool::new(false), AtomicBool::new(false));
        let learnt = Mutex::new(Learnt { until, spoke: LruCache::new(SPEAKERS) });
        Rejections { inner: Arc::new(Inner { learnt, path, dirty, saving }) }
    }

    /// This client refused our certificate for this host.
    pub(super) fn remember(&self, client: IpAddr, user: Option<&str>, host: &Name, now: SystemTime) {
        let until = Until { here: Instant::now() + REMEMBERED, wall: now + REMEMBERED, suspected: false };
        self.inner.lock().until.put(case(client, user, host), until);
        self.save();
    }

    /// This client left without a word on our certificate. False where that means nothing: another of its
    /// connections spoke, while this one was made or a moment before.
    pub(super) fn suspect(&self, client: IpAddr, user: Option<&str>, host: &Name, now: SystemTime) -> bool {
        let (case, here) = (case(client, user, host), Instant::now());
        let mut learnt = self.inner.lock();
        if learnt.spoke.peek(&case).is_some_and(|spoke| here < *spoke + AT_ONCE) {
            return false;
        }
        learnt.until.put(case, Until { here: here + REMEMBERED, wall: now + REMEMBERED, suspected: true });
        drop(learnt);
        self.save();
        true
    }

    /// This client speaks in TLS of ours. What was suspected of it meanwhile was no refusal.
    pub(super) fn trust(&self, client: IpAddr, user: Option<&str>, host: &Name, now: SystemTime) {
        let (case, here) = (case(client, user, host), Instant::now());
        let mut learnt = self.inner.lock();
        let suspected = learnt.until.peek_mut(&case).filter(|until| until.suspected && here < until.here);
        let is_withdrawn = suspected.is_some();
        if let Some(until) = suspected {
            // Not taken out: the file may have it already, and is to hear of this.
            (until.here, until.wall) = (here, now);
        }
        learnt.spoke.put(case, here);
        drop(learnt);
        if is_withdrawn {
            self.save();
        }
    }

    /// This host asks its clients for certificates, which nobody but they can show.
    pub(super) fn remember_host(&self, host: &Name, now: SystemTime) {
        let case = Case { client: None, user: "".into(), host: host.clone() };
        let until = Until { here: Instant::now() + HOST_REMEMBERED, wall: now + HOST_REMEMBERED, suspected: false };
        self.inner.lock().until.put(case, until);
        self.save();
    }

    /// What was learnt that speaks against intercepting this client at this host.
    pub(super) fn object(&self, client: IpAddr, user: Option<&str>, host: &Name) -> Option<Why> {
        let mut learnt = self.inner.lock();
        let until = &mut learnt.until;
        if until.is_empty() {
            return None;
        }
        let everybody = Case { client: None, user: "".into(), host: host.clone() };
        if counts(until, &everybody) {
            return Some(Why::ClientCertificate);
        }
        counts(until, &case(client, user, host)).then_some(Why::Rejected)
    }

    fn save(&self) {
        self.inner.dirty.store(true, Ordering::Release);
        self.save_soon();
    }

    /// Writes the file off the worker, at once, and what is learnt meanwhile a second later.
    fn save_soon(&self) {
        let Ok(runtime) = Handle::try_current() else { return };
        if self.inner.path.is_none() || self.inner.saving.swap(true, Ordering::AcqRel) {
            return;
        }
        // Not held: the last handle that goes writes what is left.
        let held = Arc::downgrade(&self.inner);
        runtime.spawn(async move {
            while let Some(inner) = held.upgrade() {
                if !inner.dirty.load(Ordering::Acquire) {
                    inner.saving.store(false, Ordering::Release);
                    return;
                }
                let _ = tokio::task::spawn_blocking(move || inner.save()).await;
                tokio::time::sleep(PAUSE).await;
            }
        });
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins what the file has by now and replaces it.
    fn save(&self) {
        let Some(path) = &self.path else { return };
        self.dirty.store(false, Ordering::Release);
        let held = self.lock().until.iter().map(|(case, until)| Line::new(case, until.wall)).collect();
        if let Err(error) = replace(path, held) {
            // Nothing is lost but after a restart.
            tracing::debug!(%error, "learnt rejections were not written");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if *self.dirty.get_mut() {
            self.save();
        }
    }
}

/// One entry, as the file has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    case: Case,
    /// Seconds since 1970.
    until: u64,
}

impl Line {
    fn new(case: &Case, wall: SystemTime) -> Line {
        let until = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        Line { case: case.clone(), until }
    }
}

/// What has lapsed stays until it is pushed out: the file is to hear of it, too.
fn counts(until: &mut LruCache<Case, Until>, case: &Case) -> bool {
    until.get(case).is_some_and(|end| Instant::now() < end.here)
}

/// The user is a stranger's text: only its beginning is kept. Two that share it share a tunnel.
fn case(client: IpAddr, user: Option<&str>, host: &Name) -> Case {
    let user = user.unwrap_or("").chars().take(USER_LENGTH).collect::<String>().into();
    Case { client: Some(client), user, host: host.clone() }
}

/// Takes over what still counts. A clock that was set back makes nothing count for longer than it did.
fn join(until: &mut LruCache<Case, Until>, lines: Vec<Line>, now: SystemTime) {
    for line in lines {
        let span = if line.case.client.is_some() { REMEMBERED } else { HOST_REMEMBERED };
        let wall = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(line.until)).unwrap_or(now).min(now + span);
        let Ok(left) = wall.duration_since(now) else { continue };
        if !left.is_zero() {
            until.put(line.case, Until { here: Instant::now() + left, wall, suspected: false });
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<Line>> {
    let mut text = String::new();
    match File::open(path) {
        Ok(file) => file.take(LONGEST).read_to_string(&mut text)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // What a newer version wrote, or a half line, is not worth a word: it lapses by itself.
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

fn replace(path: &Path, held: Vec<Line>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let lock = fs::OpenOptions::new().create(true).write(true).truncate(false).open(path.with_extension("lock"))?;
    lock.lock()?;
    let there = read(path).unwrap_or_default().into_iter();
    let theirs = there.filter(|line| !held.iter().any(|own| own.case == line.case));
    let mut all: Vec<Line> = held.iter().cloned().chain(theirs).collect();
    all.sort_by_key(|line| std::cmp::Reverse(line.until));
    all.truncate(CAPACITY.get());
    let mut aside = tempfile::NamedTempFile::new_in(folder)?;
    for line in &all {
        aside.write_all((serde_json::to_string(line)? + "\n").as_bytes())?;
    }
    aside.persist(path).map_err(|failed| failed.error)?;
    Ok(())
}

/// How long a refusal counts (DESIGN.md section 7).
const REMEMBERED: Duration = Duration::from_secs(3600);
/// A host seldom changes its mind, and finding out costs a build: but it may.
const HOST_REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);
/// Connections that a client opens at once are made within so long of each other, through a busy worker, too: as
/// long as a handshake may take.
const AT_ONCE: Duration = Duration::from_secs(10);
/// About 200 bytes each: under 1 MiB in all.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(4096).unwrap();
/// Those that spoke last, for as long as [`AT_ONCE`].
const SPEAKERS: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const USER_LENGTH: usize = 64;
const FILE: &str = "rejections.jsonl";
/// 4096 lines of a name (253), a user (64 characters of up to 6 bytes in JSON) and an address.
const LONGEST: u64 = 4 << 20;
const PAUSE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 7, 0, 1));

    fn host(text: &str) -> Name {
        Name::parse(text).unwrap()
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn in_memory() -> Rejections {
        Rejections::open(None, now())
    }

    fn refused(rejections: &Rejections, user: Option<&str>) -> bool {
        rejections.object(CLIENT, user, &host("goproxy.cn")) == Some(Why::Rejected)
    }

    /// Two `Rejections` over one folder, as before and after a restart.
    fn restarted(folder: &Path, later: Duration) -> Rejections {
        let before = Rejections::open(Some(folder), now());
        before.remember(CLIENT, Some("alice"), &host("goproxy.cn"), now());
        before.remember_host(&host("athens.example"), now());
        drop(before);
        Rejections::open(Some(folder), now() + later)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_counts_for_an_hour() {
        let rejections = in_memory();
        rejections.remember(CLIENT, None, &host("goproxy.cn"), now());
        tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
        assert!(refused(&rejections, None));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!refused(&rejections, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_is_of_one_client_one_user_and_one_host() {
        let rejections = in_memory();
        rejections.remember(CLIENT, Some("ca"), &host("goproxy.cn"), now());
        assert!(refused(&rejections, Some("ca")));
        assert!(!refused(&rejections, None));
        assert_eq!(rejections.object("10.7.0.2".parse().unwrap(), Some("ca"), &host("goproxy.cn")), None);
        assert_eq!(rejections.object(CLIENT, Some("ca"), &host("mirror.example")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_asks_for_certificates_is_everybodys_for_a_week() {
        let rejections = in_memory();
        rejections.remember_host(&host("goproxy.cn"), now());
        tokio::time::advance(HOST_REMEMBERED - Duration::from_secs(1)).await;
        assert_eq!(rejections.object(CLIENT, None, &host("goproxy.cn")), Some(Why::ClientCertificate));
        assert_eq!(rejections.object(CLIENT, None, &host("mirror.example")), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(rejections.object(CLIENT, None, &host("goproxy.cn")), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_is_bounded_in_entries_and_in_text() {
        let rejections = in_memory();
        rejections.remember(CLIENT, Some(&"x".repeat(60_000)), &host("goproxy.cn"), now());
        assert!(rejections.inner.lock().until.iter().all(|(case, _)| case.user.len() == USER_LENGTH));
        for number in 0..CAPACITY.get() {
            rejections.remember(CLIENT, Some(&number.to_string()), &host("goproxy.cn"), now());
        }
        assert_eq!(rejections.inner.lock().until.len(), CAPACITY.get());
        assert!(!refused(&rejections, Some(&"x".repeat(60_000))));
    }

    /// go dials for every request that it has, and closes all but one once that one speaks HTTP/2.
    #[tokio::test(start_paused = true)]
    async fn a_silence_is_a_refusal_unless_the_client_speaks_elsewhere_at_that_time() {
        let (rejections, host) = (in_memory(), host("goproxy.cn"));
        assert!(rejections.suspect(CLIENT, Some("alice"), &host, now()));
        assert!(refused(&rejections, Some("alice")));
        rejections.trust(CLIENT, Some("bob"), &host, now());
        assert!(refused(&rejections, Some("alice")), "somebody else spoke");
        rejections.trust(CLIENT, Some("alice"), &host, now());
        assert!(!refused(&rejections, Some("alice")), "it speaks");
        tokio::time::advance(AT_ONCE - Duration::from_millis(1)).await;
        assert!(!rejections.suspect(CLIENT, Some("alice"), &host, now()) && !refused(&rejections, Some("alice")));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(rejections.suspect(CLIENT, Some("alice"), &host, now()) && refused(&rejections, Some("alice")));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_is_not_withdrawn_by_another_that_speaks() {
        let rejections = in_memory();
        rejections.remember(CLIENT, None, &host("goproxy.cn"), now());
        rejections.trust(CLIENT, None, &host("goproxy.cn"), now());
        assert!(refused(&rejections, None));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_withdrawn_does_not_come_back_with_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let before = Rejections::open(Some(dir.path()), now());
        before.suspect(CLIENT, None, &host("goproxy.cn"), now());
        before.inner.save();
        assert!(refused(&Rejections::open(Some(dir.path()), now()), None), "the file has it");
        before.trust(CLIENT, None, &host("goproxy.cn"), now());
        drop(before);
        assert!(!refused(&Rejections::open(Some(dir.path()), now()), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_forgets_nothing_and_the_hour_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let minute = Duration::from_secs(60);
        let after = restarted(dir.path(), 59 * minute);
        assert!(refused(&after, Some("alice")) && !refused(&after, Some("bob")));
        tokio::time::advance(minute).await;
        assert!(!refused(&after, Some("alice")));
        assert_eq!(after.object(CLIENT, None, &host("athens.example")), Some(Why::ClientCertificate));
        assert!(!refused(&restarted(dir.path(), 60 * minute), Some("alice")), "lapsed while nobody ran");
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_back_keeps_nobody_tunnelled_for_longer() {
        let dir = tempfile::tempdir().unwrap();
        drop(restarted(dir.path(), Duration::ZERO));
        let after = Rejections::open(Some(dir.path()), now() - Duration::from_secs(30 * 86_400));
        assert!(refused(&after, Some("alice")));
        tokio::time::advance(REMEMBERED).await;
        assert!(!refused(&after, Some("alice")));
    }

    #[tokio::test(start_paused = true)]
    async fn processes_share_a_folder_and_nonsense_in_it_is_stepped_over() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (Rejections::open(Some(dir.path()), now()), Rejections::open(Some(dir.path()), now()));
        one.remember(CLIENT, Some("one"), &host("goproxy.cn"), now());
        two.remember(CLIENT, Some("two"), &host("goproxy.cn"), now());
        drop((one, two));
        let path = dir.path().join(FILE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("nonsense\n{{\"layout\":9}}\n{text}{{\"client\":\"10.7")).unwrap();
        let both = Rejections::open(Some(dir.path()), now());
        assert!(refused(&both, Some("one")) && refused(&both, Some("two")));
    }

    #[tokio::test]
    async fn what_is_learnt_is_on_disk_before_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let living = Rejections::open(Some(dir.path()), now());
        living.remember(CLIENT, None, &host("goproxy.cn"), now());
        while !refused(&Rejections::open(Some(dir.path()), now()), None) {
            tokio::task::yield_now().await;
        }
        assert!(refused(&living, None));
    }
}
