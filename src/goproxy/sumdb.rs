//! A checksum database, mirrored and verified: one pinned head, and records and tiles apart from it.
//!
//! A lookup's answer is a record and the tree head of the day it was fetched. Replaying such answers
//! fails as soon as the database is away, because heads of different age need tiles that nobody
//! asked for (`reference/goproxy-servers.md` section 2.7). So the two are kept apart: every record is
//! answered with the one head that is pinned, and whatever Go's client needs to believe it is held:
//!
//! - a record is kept when its tiles prove it under the pinned head;
//! - a record beyond the head moves the head: the newer tree must contain the older one, and the
//!   tiles of the older tree's right edge, as they are in the newer, are fetched before the switch
//!   ([`Claim::Contains`]). By induction every record held can then be proven under the new head;
//! - tiles are kept when a proof used them, never before.
//!
//! Nothing that is not proven is kept. A database is asked through the mirrors' `/sumdb/NAME/` and on
//! its own host, whichever answers first without fault.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use signed_note::StandardVerifier;
use tlog_tiles::Tile;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout};

use super::failure::{Complaint, Failure, Said};
use super::joined::Joined;
use super::log::{Bad, Claim, Head, Outcome, Record, Sums, Tiles, whole, widen};
use super::mirrors::{Asker, Manner, Mirror, Pool, Small, Trouble, Walk};
use super::path::{Database, Module, NotOurs, Version};
use super::store::Store;
use super::{defaults, policy};
use crate::admit::Standing;
use crate::cache::{Draft, Key, Verdict};
use crate::target::Base;

/// A record has a few lines; nobody's is longer.
const ANSWER: usize = 1 << 20;
/// A whole tile: 256 hashes.
const TILE: usize = 256 * 32;
/// The next source joins when one is this slow; answers are small and come from memory.
const HEDGE: Duration = Duration::from_secs(1);
/// A proof misses tiles at most once for each level of the tree, and once more.
const ROUNDS: usize = 8;
/// How long a file that is whole waits for the database before it goes out unverified.
const VOUCHING: Duration = Duration::from_secs(3);
/// The same, while the database struggles: what is held is found in this time.
const SHORT_VOUCHING: Duration = Duration::from_millis(20);
/// How long a first head may take.
const REACH: Duration = Duration::from_secs(8);
/// How long the tiles that prove a first head may take, where clients ask whether we have one.
const PROVING: Duration = Duration::from_secs(25);
/// A newer head is asked for when somebody wants the latest, at most this often.
const LATEST: Duration = Duration::from_secs(60);

/// Which checksum database to use: GOSUMDB, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SumdbConfig {
    pub name: Database,
    /// Its verifier key, `NAME+ID+KEY`.
    pub key: String,
    /// Its own URL, where that is not `https://NAME`.
    pub url: Option<Base>,
}

/// What is wrong with a `--sumdb`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSumdb {
    #[error("a checksum database is NAME[+KEY] and perhaps a URL, as in GOSUMDB; {0:?} is not")]
    Shape(String),
    #[error(transparent)]
    Name(#[from] NotOurs),
    #[error("the key of checksum database {0} is not known; write it as NAME+ID+KEY")]
    NoKey(String),
    #[error("{0:?} is no verifier key: {1}")]
    Key(String, String),
    #[error("{0:?} is no URL of a checksum database: {1}")]
    Url(String, crate::target::BadTarget),
}

impl Default for SumdbConfig {
    fn default() -> SumdbConfig {
        let name = Database::new(defaults::sumdb_name()).expect("the built-in name is one, its test says");
        SumdbConfig { name, key: defaults::SUMDB.to_owned(), url: None }
    }
}

impl SumdbConfig {
    /// Reads `NAME[+ID+KEY] [URL]` (cmd/go/internal/modfetch/sumdb.go, dbDial). `off` is none.
    pub fn parse(text: &str) -> Result<Option<SumdbConfig>, BadSumdb> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (key, url) = match words[..] {
            ["off"] => return Ok(None),
            // An alias of the default database, reachable from mainland China.
            [alias] if alias == defaults::SUMDB_HOSTS[1] => (defaults::sumdb_name(), Some(format!("https://{alias}"))),
            [key] => (key, None),
            [key, url] => (key, Some(url.to_owned())),
            _ => return Err(BadSumdb::Shape(text.to_owned())),
        };
        let key = if key == defaults::sumdb_name() { defaults::SUMDB } else { key };
        let (name, _) = key.split_once('+').ok_or_else(|| BadSumdb::NoKey(key.to_owned()))?;
        let name = Database::new(name)?;
        StandardVerifier::new(key).map_err(|why| BadSumdb::Key(key.to_owned(), why.to_string()))?;
        let url = url.map(|url| Base::parse(&url).map_err(|why| BadSumdb::Url(url, why))).transpose()?;
        Ok(Some(SumdbConfig { name, key: key.to_owned(), url }))
    }

    /// Where it answers itself.
    pub fn own_base(&self) -> Option<Base> {
        self.url.clone().or_else(|| Base::parse(&format!("https://{}", self.name)).ok())
    }
}

/// One database whose key is known.
pub struct Sumdb {
    pub name: Database,
    key: StandardVerifier,
    store: Store,
    /// Where it is set out for a go command without a server.
    joined: Option<Joined>,
    asker: Asker,
    /// The ways to it: the mirrors that pass it on, and its own host.
    sources: Vec<Arc<Mirror>>,
    /// Its own host among them, which is asked in its configured place.
    own: Option<Arc<Mirror>>,
    // The pinned head once it is loaded; locked for a look or the switch, never across an await.
    pinned: Mutex<Option<Head>>,
    // Held by whoever loads the head or moves it, so that heads move one after another.
    moving: tokio::sync::Mutex<()>,
    /// When the newest head was last asked for.
    asked_latest: Mutex<Option<Instant>>,
    /// Until when nobody seeks a first head of it, because one was just sought in vain, and why.
    unreached: Mutex<Option<(Instant, Failure)>>,
    /// Nobody waits long for it, because it did not answer last time.
    struggles: AtomicBool,
    news: UnboundedSender<News>,
}

/// What a database says about a module version.
pub enum Word {
    Sums(Sums),
    /// It does not know it, or did not answer.
    Nothing,
    /// Whoever answered in its name said what its tree does not prove.
    Refuted,
}

/// A record that was not known before.
pub struct News {
    pub database: Database,
    pub module: Module,
    pub version: Version,
    pub sums: Sums,
}

/// Why a claim could not be proven.
enum Unproven {
    /// Tiles could not be had.
    Trouble(Failure),
    /// What was said is not so.
    Refuted,
}

impl Sumdb {
    pub(super) fn new(
        config: &SumdbConfig,
        mirrors: &[Base],
        store: Store,
        asker: Asker,
        news: UnboundedSender<News>,
    ) -> Option<Sumdb> {
        let key = StandardVerifier::new(&config.key).ok()?;
        let own = config.own_base().map(|base| Arc::new(Mirror::new(base, Standing::Configured)));
        let passed_on = |mirror: &Base| Arc::new(Mirror::unproven(below(mirror, &config.name), Standing::Configured));
        let mut sources: Vec<Arc<Mirror>> = mirrors.iter().map(passed_on).collect();
        // A URL that somebody wrote is asked first, the default one after the first mirror.
        let place = if config.url.is_some() { 0 } else { sources.len().min(1) };
        sources.splice(place..place, own.clone());
        Some(Sumdb {
            name: config.name.clone(),
            key,
            joined: store.cache.folder().map(|folder| Joined::new(folder, config.name.clone())),
            store,
            asker,
            sources,
            own,
            pinned: Mutex::new(None),
            moving: tokio::sync::Mutex::new(()),
            asked_latest: Mutex::new(None),
            unreached: Mutex::new(None),
            struggles: AtomicBool::new(false),
            news,
        })
    }

    /// Its own host, as it is now.
    pub fn own_source(&self) -> Option<&Arc<Mirror>> {
        self.own.as_ref()
    }

    /// Whether clients may ask us for this database: it was reached, or a head of it is held. A refusal or
    /// fault that everyone who answered told alike is told again, as go's own tests want it.
    pub async fn is_supported(&self) -> Result<bool, Failure> {
        match timeout(REACH + PROVING, self.pinned_head()).await {
            Ok(Ok(_)) => Ok(true),
            Ok(Err(why)) => why.told_alike().map_or(Ok(false), Err),
            Err(_) => Ok(false),
        }
    }

    /// The pinned head, as `/latest` answers it; a newer one is asked for first, now and then.
    pub async fn latest(&self) -> Result<Bytes, Failure> {
        let head = self.pinned_head().await?;
        if self.is_due() {
            // The pinned head is an answer, so whatever goes wrong here is only told to the log.
            if let Err(why) = timeout(policy::GRACE, self.follow()).await.unwrap_or(Ok(())) {
                tracing::debug!(database = %self.name, %why, "no newer tree head");
            }
        }
        Ok(self.pin().unwrap_or(head).note)
    }

    /// A record with the pinned head, as `/lookup/` answers it.
    pub async fn lookup(self: &Arc<Self>, module: &Module, version: &Version) -> Result<Bytes, Failure> {
        let record = self.record(module, version).await?;
        let head = self.pinned_head().await?;
        Ok([record.text, head.note].concat().into())
    }

    /// What the files of a module version hash to, if the database says so.
    pub async fn sums(self: &Arc<Self>, module: &Module, version: &Version) -> Word {
        match self.record(module, version).await {
            Ok(record) => Word::Sums(record.sums(module, version)),
            Err(why) if why.as_absent().is_some() => Word::Nothing,
            Err(why) => {
                tracing::debug!(database = %self.name, %module, %version, %why, "no sums");
                self.note_late();
                if why.is_refuted() { Word::Refuted } else { Word::Nothing }
            }
        }
    }

    /// How long a file that is whole waits for its sums.
    pub fn patience(&self) -> Duration {
        if self.struggles.load(Ordering::Relaxed) { SHORT_VOUCHING } else { VOUCHING }
    }

    /// Says that it did not answer in time: nobody waits long for it until it has answered again.
    pub fn note_late(&self) {
        self.struggles.store(true, Ordering::Relaxed);
    }

    /// A tile, as wide as it was asked for; whether it may be kept by the client is not ours to say.
    pub async fn tile(&self, asked: &Tile) -> Result<Bytes, Failure> {
        if let Some(data) = self.held_tile(asked).await {
            return Ok(data);
        }
        let wide = self.pin().and_then(|head| widen(asked, &head).map(|wide| (head, wide)));
        let Some((head, wide)) = wide else { return self.pass_tile(asked).await };
        let tiles = self.prove(&head, &[Claim::Tile(wide)]).await.map_err(|why| self.tell(why, asked.path()))?;
        let data = tiles.data(&wide).map(|data| Bytes::copy_from_slice(&data[..asked.width() as usize * 32]));
        data.ok_or_else(|| Failure::fault(format!("{} of {} is not proven", asked.path(), self.name), HINT))
    }

    async fn record(self: &Arc<Self>, module: &Module, version: &Version) -> Result<Record, Failure> {
        let what = format!("the sums of {module}@{version} in {}", self.name);
        let path = format!("lookup/{}@{}", module.escaped(), version.escaped());
        let key = self.place(&path)?;
        if let Some(held) = self.store.small(&key, ANSWER).await
            && let Ok((record, _)) = Record::split(&held)
            && self.covering_head(&record).await.is_some()
        {
            return Ok(record);
        }
        let (database, module, version) = (Arc::clone(self), module.clone(), version.clone());
        let fetch = move |mut draft: Draft| async move {
            // Another module's record is kept apart, and told again where nobody answers.
            let apart = format!("odd/lookup/{}@{}", module.escaped(), version.escaped());
            let record = match database.fetch_record(&module, &version).await {
                Err(why) if why.is_unanswered() => database.held_apart(&apart).await.ok_or(why)?,
                fetched => fetched?,
            };
            let is_theirs = record.judge(&module, &version).is_ok();
            match is_theirs {
                true => {
                    database.set_out_record(&module, &version, &record).await;
                    let sums = record.sums(&module, &version);
                    // Nobody listens any more where the house is being closed.
                    let _ = database.news.send(News { database: database.name.clone(), module, version, sums });
                }
                false => database.put(&apart, record.text.clone()).await,
            }
            draft.write(record.text).await?;
            let (at_ms, facts) = (policy::millis(SystemTime::now()), Default::default());
            Ok((draft, if is_theirs { Verdict::Keep { at_ms, facts } } else { Verdict::PassOn { facts } }))
        };
        let found = self.store.cache.fill(&key, fetch).await?;
        let bytes = found.content.bytes(ANSWER).await.map_err(|why| Failure::fault(format!("{what}: {why}"), HINT))?;
        Record::split(&bytes).map(|(record, _)| record).map_err(|why| Failure::fault(format!("{what}: {why}"), HINT))
    }

    /// Asks for a record until one source gives one that is proven. Where all that can be had is the record
    /// of another module, it is that: go has its own words for it.
    async fn fetch_record(&self, module: &Module, version: &Version) -> Result<Record, Failure> {
        let path = format!("/lookup/{}@{}", module.escaped(), version.escaped());
        let judge = |answer: &Bytes| self.read_lookup(answer, module, version).map(drop).map_err(|why| why.to_string());
        let what = format!("the sums of {module}@{version} in {}", self.name);
        let mut complaints = Vec::new();
        for skip in 0..=self.sources.len() {
            let (answer, mirror) = match self.walk(skip, &path).small(ANSWER, judge).await {
                Ok(Small { bytes, mirror, .. }) => (bytes, Some(mirror)),
                Err((trouble, Some(odd))) if trouble.absent.is_none() && self.open_lookup(&odd).is_ok() => (odd, None),
                Err((trouble, _)) => return Err(self.settle(trouble, complaints, &what)),
            };
            let Ok((record, head)) = self.open_lookup(&answer) else { continue };
            match self.admit(&record, head).await {
                Ok(()) => {
                    self.struggles.store(false, Ordering::Relaxed);
                    return Ok(record);
                }
                Err(Unproven::Trouble(why)) => return Err(why),
                Err(Unproven::Refuted) => match mirror {
                    Some(mirror) => complaints.push(self.denounce(&mirror, &what)),
                    None => return Err(Failure::asked(what, complaints)),
                },
            }
        }
        Err(Failure::asked(what, complaints))
    }

    fn read_lookup(&self, answer: &Bytes, module: &Module, version: &Version) -> Result<(Record, Head), Bad> {
        let (record, head) = self.open_lookup(answer)?;
        record.judge(module, version)?;
        Ok((record, head))
    }

    fn open_lookup(&self, answer: &Bytes) -> Result<(Record, Head), Bad> {
        let (record, note) = Record::split(answer)?;
        let head = Head::open(&note, &self.key).inspect_err(|why| self.alarm(why))?;
        Ok((record, head))
    }

    fn alarm(&self, why: &Bad) {
        if *why == Bad::Forged {
            tracing::error!(database = %self.name, "{why}; refused, and nothing of it is kept. somebody on the way answers in its name");
        }
    }

    fn denounce(&self, mirror: &Mirror, what: &str) -> Complaint {
        tracing::error!(
            database = %self.name, source = %mirror.name(),
            "{what}: the tree does not prove what was answered (a fork, or a forged record); refused, and nothing of it is kept"
        );
        Complaint { upstream: mirror.name(), said: Said::Refuted }
    }

    /// Proves a record under the pinned head, moving the head if the record is beyond it.
    async fn admit(&self, record: &Record, offered: Head) -> Result<(), Unproven> {
        let pinned = match self.first_head(Some(&offered)).await {
            Ok(head) => head,
            Err(why) => return Err(Unproven::Trouble(why)),
        };
        if record.id < pinned.size {
            return self.prove(&pinned, &[Claim::Record(record)]).await.map(drop);
        }
        self.advance(offered, Some(record)).await
    }

    /// Moves the pinned head to a newer one that contains it (and proves `record`, if one is beyond it).
    async fn advance(&self, offered: Head, record: Option<&Record>) -> Result<(), Unproven> {
        let _moving = self.moving.lock().await;
        let pinned = self.reload_head().await.ok_or(Unproven::Refuted)?;
        if let Some(record) = record.filter(|record| record.id < pinned.size) {
            return self.prove(&pinned, &[Claim::Record(record)]).await.map(drop);
        }
        if offered.size <= pinned.size {
            // Only a record that its own head does not cover comes here: it cannot be true.
            return if record.is_some() { Err(Unproven::Refuted) } else { Ok(()) };
        }
        let mut claims = vec![Claim::Contains(&pinned)];
        claims.extend(record.map(Claim::Record));
        self.prove(&offered, &claims).await?;
        self.switch(offered).await;
        Ok(())
    }

    async fn switch(&self, head: Head) {
        // Another process may have been quicker, and further.
        if self.stored_head().await.is_none_or(|stored| stored.size < head.size) {
            self.put("head", head.note.clone()).await;
            let note = head.note.clone();
            self.set_out("the tree head", move |joined| joined.set_head(&note)).await;
        }
        tracing::debug!(database = %self.name, size = head.size, "tree head pinned");
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
    }

    /// Keeps something proven. Without room for it clients are still served while the database answers.
    async fn put(&self, rest: &str, bytes: Bytes) {
        let kept = match self.place(rest) {
            Ok(key) => self.store.put(&key, bytes).await,
            Err(why) => Err(why),
        };
        if let Err(why) = kept {
            tracing::warn!(database = %self.name, %why, "{rest} is proven, but could not be kept");
        }
    }

    /// Sets out a proven record with the head that proves it, unless the head could not be kept.
    async fn set_out_record(&self, module: &Module, version: &Version, record: &Record) {
        let Some(head) = self.covering_head(record).await else { return };
        let (module, version, record) = (module.clone(), version.clone(), record.clone());
        self.set_out("a record", move |joined| joined.set_record(&module, &version, &record, &head)).await;
    }

    /// Nobody waits for it to last, and nobody is worse off without it than with a folder that is full.
    async fn set_out(&self, what: &str, write: impl FnOnce(&Joined) -> std::io::Result<()> + Send + 'static) {
        let Some(joined) = self.joined.clone() else { return };
        let written = tokio::task::spawn_blocking(move || write(&joined)).await;
        if let Ok(Err(why)) = written {
            tracing::debug!(database = %self.name, %why, "{what} is kept, but not set out for file:// readers");
        }
    }

    async fn held_apart(&self, rest: &str) -> Option<Record> {
        let held = self.store.small(&self.place(rest).ok()?, ANSWER).await?;
        Record::split(&held).ok().map(|(record, _)| record)
    }

    fn pin(&self) -> Option<Head> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The pinned head, from memory or from the store.
    async fn loaded_head(&self) -> Option<Head> {
        if let Some(head) = self.pin() {
            return Some(head);
        }
        let _moving = self.moving.lock().await;
        self.load_head().await
    }

    /// As `loaded_head`, for whoever moves the head.
    async fn load_head(&self) -> Option<Head> {
        if let Some(head) = self.pin() {
            return Some(head);
        }
        let note = self.store.small(&self.place("head").ok()?, ANSWER).await?;
        let head = Head::open(&note, &self.key).ok()?;
        *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = Some(head.clone());
        Some(head)
    }

    /// The newest of the heads in memory and in the store, which another process may have moved.
    async fn reload_head(&self) -> Option<Head> {
        let pinned = self.load_head().await?;
        match self.stored_head().await {
            Some(stored) if stored.size > pinned.size => {
                *self.pinned.lock().unwrap_or_else(PoisonError::into_inner) = Some(stored.clone());
                Some(stored)
            }
            _ => Some(pinned),
        }
    }

    async fn stored_head(&self) -> Option<Head> {
        let note = self.store.small_shared(&self.place("head").ok()?, ANSWER).await?;
        Head::open(&note, &self.key).ok()
    }

    /// A head that covers this record, if one is held.
    async fn covering_head(&self, record: &Record) -> Option<Head> {
        if let Some(head) = self.loaded_head().await.filter(|head| record.id < head.size) {
            return Some(head);
        }
        let _moving = self.moving.lock().await;
        self.reload_head().await.filter(|head| record.id < head.size)
    }

    async fn pinned_head(&self) -> Result<Head, Failure> {
        self.first_head(None).await
    }

    /// The pinned head; at first use the newest that the database gives, else the one that came with
    /// the first lookup.
    async fn first_head(&self, offered: Option<&Head>) -> Result<Head, Failure> {
        if let Some(head) = self.pin() {
            return Ok(head);
        }
        let _moving = self.moving.lock().await;
        if let Some(head) = self.load_head().await {
            return Ok(head);
        }
        let latest = match (self.unreached(), offered) {
            (Some(why), None) => return Err(why),
            _ => self.seek_latest().await,
        };
        let newest = match (latest, offered) {
            (Ok(head), Some(offered)) if head.size < offered.size => offered.clone(),
            (Ok(head), _) => head,
            (Err(_), Some(offered)) => offered.clone(),
            (Err(why), None) => return Err(why),
        };
        // Its own tiles make its hash: the right edge of the tree, primed.
        let what = format!("the tree head of {}", self.name);
        self.prove(&newest, &[Claim::Contains(&newest)]).await.map_err(|why| self.tell(why, what))?;
        self.switch(newest.clone()).await;
        Ok(newest)
    }

    /// The newest head that the database gives in time. That it gives none is remembered for as long as the
    /// search took: those who waited for it do not search in turn, and half of the time somebody does.
    async fn seek_latest(&self) -> Result<Head, Failure> {
        let begun = Instant::now();
        let sought = match timeout(REACH, self.ask_latest()).await {
            Ok(latest) => latest,
            Err(_) => Err(Failure::fault(format!("no tree head of {} within {REACH:?}", self.name), HINT)),
        };
        let unreached = sought.as_ref().err().map(|why| (Instant::now() + begun.elapsed(), why.clone()));
        *self.unreached.lock().unwrap_or_else(PoisonError::into_inner) = unreached;
        sought
    }

    fn unreached(&self) -> Option<Failure> {
        let unreached = self.unreached.lock().unwrap_or_else(PoisonError::into_inner);
        unreached.as_ref().filter(|(until, _)| Instant::now() < *until).map(|(_, why)| why.clone())
    }

    async fn ask_latest(&self) -> Result<Head, Failure> {
        *self.asked_latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        let judge = |note: &Bytes| {
            Head::open(note, &self.key).inspect_err(|why| self.alarm(why)).map(drop).map_err(|why| why.to_string())
        };
        let what = format!("the tree head of {}", self.name);
        match self.walk(0, "/latest").small(ANSWER, judge).await {
            Ok(Small { bytes, .. }) => {
                Head::open(&bytes, &self.key).map_err(|why| Failure::fault(format!("{what}: {why}"), HINT))
            }
            Err((trouble, _)) => Err(Failure::asked(what, trouble.complaints)),
        }
    }

    fn is_due(&self) -> bool {
        let asked = *self.asked_latest.lock().unwrap_or_else(PoisonError::into_inner);
        asked.is_none_or(|asked| asked.elapsed() >= LATEST)
    }

    /// Follows the database to its newest head.
    async fn follow(&self) -> Result<(), Failure> {
        let head = self.ask_latest().await?;
        let what = format!("tree head {} of {}", head.size, self.name);
        self.advance(head, None).await.map_err(|why| self.tell(why, what))
    }

    fn tell(&self, why: Unproven, what: String) -> Failure {
        match why {
            Unproven::Trouble(why) => why,
            Unproven::Refuted => {
                tracing::error!(database = %self.name, "{what}: not proven by the signed tree; refused");
                Failure::fault(format!("{what}: the signed tree of {} does not prove it", self.name), HINT)
            }
        }
    }

    /// Proves claims under a head, fetching the tiles that are missing; those that a proof used are
    /// kept. Tiles that do not fit are fetched anew: once more without the store, whose files may have
    /// been altered behind our back, then from the other sources in turn.
    async fn prove(&self, head: &Head, claims: &[Claim<'_>]) -> Result<Tiles, Unproven> {
        for attempt in 0..self.sources.len() + 2 {
            if let Some(tiles) = self.try_prove(head, claims, attempt).await? {
                return Ok(tiles);
            }
            tracing::info!(database = %self.name, size = head.size, "tiles do not fit the tree head; fetched anew");
        }
        Err(Unproven::Refuted)
    }

    /// Nothing where the tiles at hand are wrong.
    async fn try_prove(&self, head: &Head, claims: &[Claim<'_>], attempt: usize) -> Result<Option<Tiles>, Unproven> {
        let mut tiles = Tiles::default();
        let (mut fetched, mut proven) = (Vec::new(), Vec::new());
        for claim in claims {
            let mut rounds = 0;
            loop {
                match tiles.prove(head, claim) {
                    Outcome::Proven(used) => break proven.extend(used),
                    Outcome::Missing(missing) if rounds < ROUNDS => {
                        rounds += 1;
                        fetched.extend(self.gather(&missing, attempt, &mut tiles).await.map_err(Unproven::Trouble)?);
                    }
                    Outcome::Refuted | Outcome::Missing(_) => return Err(Unproven::Refuted),
                    Outcome::WrongTiles => {
                        blame(&fetched);
                        return Ok(None);
                    }
                }
            }
        }
        for (tile, _) in fetched.iter().filter(|(tile, _)| proven.contains(tile)) {
            let Some(data) = tiles.data(tile) else { continue };
            let path = tile.path();
            self.put(&path, Bytes::copy_from_slice(data)).await;
            self.set_out("a tile", move |joined| joined.set_tile(&path)).await;
        }
        Ok(Some(tiles))
    }

    /// Adds these tiles, from the store or from upstream; which came from upstream is told, and from whom.
    async fn gather(
        &self,
        missing: &[Tile],
        attempt: usize,
        tiles: &mut Tiles,
    ) -> Result<Vec<(Tile, Arc<Mirror>)>, Failure> {
        let find = |tile: Tile| async move {
            let held = if attempt == 0 { self.held_tile(&tile).await } else { None };
            let found = match held {
                Some(data) => Ok((data, None)),
                None => self.fetch_tile(&tile, attempt.saturating_sub(1)).await.map(|(data, from)| (data, Some(from))),
            };
            (tile, found)
        };
        let mut fetched = Vec::new();
        for (tile, found) in join_all(missing.iter().copied().map(find)).await {
            let (data, from) = found?;
            tiles.add(tile, data.to_vec());
            fetched.extend(from.map(|mirror| (tile, mirror)));
        }
        Ok(fetched)
    }

    /// A kept tile, cut from the whole one if need be: the bytes of a partial tile begin it.
    async fn held_tile(&self, tile: &Tile) -> Option<Bytes> {
        let wanted = tile.width() as usize * 32;
        for place in [*tile, whole(tile)] {
            let held = self.store.small(&self.place(&place.path()).ok()?, TILE).await;
            if let Some(data) = held.filter(|data| data.len() == place.width() as usize * 32) {
                return Some(data.slice(..wanted));
            }
        }
        None
    }

    /// A tile from upstream; where the partial one is gone, the whole one has grown over it.
    async fn fetch_tile(&self, tile: &Tile, skip: usize) -> Result<(Bytes, Arc<Mirror>), Failure> {
        let what = format!("{} of {}", tile.path(), self.name);
        match self.ask_tile(tile, skip).await {
            Ok(found) => Ok(found),
            Err(trouble) if *tile != whole(tile) && trouble.absent.is_some() => {
                let (data, mirror) = self.ask_tile(&whole(tile), skip).await.map_err(|trouble| trouble.of(&what))?;
                Ok((data.slice(..tile.width() as usize * 32), mirror))
            }
            Err(trouble) => Err(Failure::asked(what, trouble.complaints)),
        }
    }

    async fn ask_tile(&self, tile: &Tile, skip: usize) -> Result<(Bytes, Arc<Mirror>), Trouble> {
        let wanted = tile.width() as usize * 32;
        let judge = |data: &Bytes| match data.len() == wanted {
            true => Ok(()),
            false => Err(format!("a tile of {wanted} bytes has {}", data.len())),
        };
        let asked = self.walk(skip, &format!("/{}", tile.path())).small(TILE, judge).await;
        asked.map(|small| (small.bytes, small.mirror)).map_err(|(trouble, _)| trouble)
    }

    /// A tile that our head does not reach (the client is ahead of us), or of another kind: as it comes.
    async fn pass_tile(&self, tile: &Tile) -> Result<Bytes, Failure> {
        let what = format!("{} of {}", tile.path(), self.name);
        let asked = self.walk(0, &format!("/{}", tile.path())).small(ANSWER, |_| Ok(())).await;
        asked.map(|small| small.bytes).map_err(|(trouble, _)| self.settle(trouble, Vec::new(), &what))
    }

    /// A failure of this request, with what was complained of before it.
    fn settle(&self, trouble: Trouble, mut complaints: Vec<Complaint>, what: &str) -> Failure {
        if complaints.is_empty() {
            return trouble.of(what);
        }
        complaints.extend(trouble.complaints);
        Failure::asked(what, complaints)
    }

    /// A walk over all sources. Mirrors that are known to pass the database on come first; until one
    /// is known, the configured order holds. A walk with `skip` begins that much further on in it.
    fn walk(&self, skip: usize, path: &str) -> Walk {
        let mut mirrors = self.sources.clone();
        let is_own = |mirror: &Arc<Mirror>| self.own.as_ref().is_some_and(|own| Arc::ptr_eq(own, mirror));
        match skip.checked_sub(1) {
            None if mirrors.iter().any(|mirror| mirror.is_proven() && !is_own(mirror)) => {
                mirrors.sort_by_key(|mirror| !mirror.is_proven());
            }
            None => {}
            Some(skip) => {
                let turn = skip % mirrors.len().max(1);
                mirrors.rotate_left(turn);
            }
        }
        let pool = Pool { mirrors, manner: Manner::Named, hedge: HEDGE };
        Walk::new(&self.asker, &pool, super::path::encode(path))
    }

    fn place(&self, rest: &str) -> Result<Key, Failure> {
        let path = format!("sumdb/{}/{rest}", self.name);
        Key::new(&path).ok_or_else(|| Failure::fault(format!("{path:?} is no place in the cache"), HINT))
    }
}

/// Whoever gave all of the tiles that do not fit is asked last from then on.
fn blame(fetched: &[(Tile, Arc<Mirror>)]) {
    if let Some((_, first)) = fetched.first()
        && fetched.iter().all(|(_, mirror)| Arc::ptr_eq(mirror, first))
    {
        first.note_lie();
    }
}

/// Where a mirror answers for a database.
pub fn below(mirror: &Base, database: &Database) -> Base {
    Base { path: format!("{}/sumdb/{database}", mirror.path), ..mirror.clone() }
}

const HINT: &str = "hint: --sumdb off serves modules without the database, unverified";
