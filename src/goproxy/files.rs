//! go.mod files and zips: fetched, held while they are small, verified, and only then kept.
//!
//! go makes one request for a file and then no other. So a file is held back until it is whole and
//! right, as long as it is small and comes fast: whatever goes wrong until then is mended from any
//! mirror. A larger or slower one is let go to all who wait while it grows; a cut is then continued
//! by `Range` on the same mirror, or by a whole answer of any mirror that begins with just what went
//! out already: some zip the same files differently. A file that turns out wrong at its end breaks off
//! and is not kept. The checksum database is asked at the same time as the mirror.

use std::io::{Read, SeekFrom};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED, RANGE};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::answer::{House, facts_of, keep, tree_key};
use super::failure::{Complaint, Failure, Said};
use super::log::Sums;
use super::mirrors::{Found, Mirror, STALL, Trouble, Walk, read_error};
use super::path::ModuleRequest;
use super::policy;
use super::pools::Ground;
use super::store::{CHECKED, Facts, VERIFIED, checked_ms, is_verified};
use super::sumdb::{News, Sumdb, Word};
use super::tally::Verified;
use super::verify::{self, Checked};
use crate::cache::{self, Draft, Key, Note, Verdict};
use crate::fetch::{Body, Patience};
use crate::trace::{self, Phase};

/// A file that is held and comes slower than this, in bytes a second, is asked of another mirror.
const DRIP: u64 = 16 << 10;
/// How often the mirror that cut a file which is out already is asked for the rest, where there is no other.
const RESUMES: u32 = 4;

/// What is read back at once, in bytes.
const PIECE: usize = 64 << 10;

/// Sums that are on their way while the file is.
struct Vouching {
    asked: Option<JoinHandle<Word>>,
    sums: Option<Sums>,
    /// Whether they were forged: what came beside them is not to last.
    is_forged: bool,
}

/// What a whole file is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Worth {
    /// The database vouches for it, whatever its shape.
    Vouched,
    /// Nobody vouches for it, but it is what such files look like.
    Sound,
    /// Nobody vouches for it, and it is not.
    Malformed(String),
    /// The database names another sum.
    Wrong(String),
}

/// What is held back, and how long.
#[derive(Clone, Copy)]
struct Holding {
    /// A zip of more bytes than this is let go at once.
    bytes: u64,
    /// How many mirrors may still be left because they drip: the last one is taken as it is.
    leaves_slow: usize,
    /// How often a mirror is asked for the rest before anyone is asked for all of it.
    resumes: u32,
}

/// What came from one mirror.
struct Answer<'a> {
    mirror: &'a Arc<Mirror>,
    response: Response<Body>,
    /// How much of the file comes before it.
    from: u64,
}

/// The part of a whole answer that went out already, from somebody else. It has to be the same.
struct Overlap {
    left: u64,
    heard: Sha256,
    /// The digest of what went out.
    out: JoinHandle<Option<[u8; 32]>>,
}

/// What became of one mirror's file.
enum Tried {
    Right {
        is_vouched: bool,
    },
    /// Gone out, but not held, so that it could not be weighed.
    Unread,
    /// Whole and malformed, and nobody says what is right.
    Odd(Said),
    /// Not what the database has.
    Bad(Said),
    Cut(Said),
    /// Not the file whose beginning went out already.
    Another(Said),
    /// The store could not take it.
    NoRoom(Failure),
}

/// How the pouring of one body ended.
enum Poured {
    Whole,
    Cut(Said),
    Another(Said),
    /// The store cannot take it.
    NoRoom(Failure),
}

impl Overlap {
    /// What of a draft that is out lies after `from`, `left` bytes of it.
    fn of(draft: &Draft, from: u64, left: u64) -> Result<Overlap, cache::Error> {
        let mut out = draft.reading()?;
        let out = tokio::task::spawn_blocking(move || {
            out.seek(SeekFrom::Start(from)).ok()?;
            let (mut out, mut digest) = (out.take(left), Sha256::new());
            let mut piece = vec![0; PIECE];
            loop {
                match out.read(&mut piece).ok()? {
                    0 => return (out.limit() == 0).then(|| digest.finalize().into()),
                    read => digest.update(&piece[..read]),
                }
            }
        });
        Ok(Overlap { left, heard: Sha256::new(), out })
    }

    /// Takes what belongs to it off the front of a piece.
    fn hear(&mut self, piece: &mut Bytes) {
        let ours = usize::try_from(self.left).map_or(piece.len(), |left| left.min(piece.len()));
        self.heard.update(piece.split_to(ours));
        self.left -= ours as u64;
    }

    /// Whether all that was heard is what went out.
    async fn agrees(self) -> bool {
        let out = self.out.await.ok().flatten();
        out.is_some_and(|out| out[..] == self.heard.finalize()[..])
    }
}

impl House {
    /// Produces a `.mod` or `.zip`.
    pub async fn produce_file(
        self: &Arc<Self>,
        mut draft: Draft,
        request: &ModuleRequest,
        ground: &Ground,
        sums: Option<Sums>,
        now: SystemTime,
    ) -> Result<(Draft, Verdict), Failure> {
        let mut vouching = self.vouch(request, sums);
        let mut walk = Walk::new(&self.asker, &ground.pool, request.wire());
        if matches!(request, ModuleRequest::Mod { .. }) {
            walk = walk.for_small();
        }
        let mut is_odd = false;
        let others = ground.pool.mirrors.len() - 1;
        let resumes = if others == 0 { RESUMES } else { 1 };
        let mut holding = Holding { bytes: self.config.hold, leaves_slow: others, resumes };
        let mut broken: Option<(Arc<Mirror>, Said)> = None;
        loop {
            let found = match (walk.next().await, broken.take()) {
                (Ok(found), last) => {
                    broken = last;
                    found
                }
                (Err(_), Some((mirror, said))) => return Err(cut_off(request, &mirror, said)),
                (Err(trouble), None) => return self.give_up(draft, trouble, is_odd, request, ground).await,
            };
            if std::mem::take(&mut is_odd) {
                draft.restart();
            }
            let (seated, mirror) = (found.seated(), walk.mirror(&found.seated()));
            match self.try_file(&mut draft, found, &mirror, request, &mut vouching, holding).await? {
                // There is no room to hold it: once more, and let go from the first byte.
                Tried::NoRoom(failure) if holding.bytes == 0 || draft.is_released() => return Err(failure),
                Tried::NoRoom(_) => {
                    draft.restart();
                    holding.bytes = 0;
                }
                Tried::Right { is_vouched } => {
                    walk.praise_found(&seated);
                    if vouching.is_forged {
                        tracing::error!(%request, mirror = %mirror.name(), "passed on and not kept: its sums were forged");
                        return Ok((draft, Verdict::PassOn { facts: Facts::new() }));
                    }
                    self.vouch_late(request, ground, vouching, now);
                    return Ok((draft, keep(now, file_facts(&mirror, is_vouched, now))));
                }
                Tried::Unread => return Ok((draft, Verdict::PassOn { facts: Facts::new() })),
                Tried::Odd(said) | Tried::Bad(said) if draft.is_released() => {
                    walk.complain_of(&seated, said.clone());
                    return Err(cut_off(request, &mirror, said));
                }
                // Somebody may have the rest of it.
                Tried::Cut(said) if draft.is_released() => {
                    walk.complain_of(&seated, said.clone());
                    broken = Some((mirror, said));
                }
                Tried::Another(said) => walk.set_aside(&seated, said),
                Tried::Odd(said) => {
                    // Held until another mirror has a better one; go has its own words for it.
                    is_odd = true;
                    walk.complain_of(&seated, said);
                }
                Tried::Bad(said) | Tried::Cut(said) => {
                    draft.restart();
                    if matches!(said, Said::Silent(_)) {
                        holding.leaves_slow = holding.leaves_slow.saturating_sub(1);
                    }
                    walk.complain_of(&seated, said);
                }
            }
        }
    }

    async fn give_up(
        &self,
        draft: Draft,
        trouble: Trouble,
        is_odd: bool,
        request: &ModuleRequest,
        ground: &Ground,
    ) -> Result<(Draft, Verdict), Failure> {
        if is_odd && trouble.absent.is_none() {
            tracing::info!(%request, "malformed on every mirror; passed on as it came, and kept apart");
            self.keep_odd_draft(request, ground, &draft).await;
            return Ok((draft, Verdict::PassOn { facts: Facts::new() }));
        }
        self.replay_odd(request, ground, draft, trouble.of(request)).await
    }

    /// One mirror's file, poured and weighed.
    async fn try_file(
        &self,
        draft: &mut Draft,
        found: Found,
        mirror: &Arc<Mirror>,
        request: &ModuleRequest,
        vouching: &mut Vouching,
        holding: Holding,
    ) -> Result<Tried, Failure> {
        match self.pour(draft, found, mirror, request, holding).await {
            Poured::Whole => {}
            Poured::NoRoom(failure) => return Ok(Tried::NoRoom(failure)),
            Poured::Cut(said) => return Ok(Tried::Cut(said)),
            Poured::Another(said) => return Ok(Tried::Another(said)),
        }
        let sums = vouching.wait(self.judge()).await;
        let worth = match weigh(draft, request, sums.as_ref()).await {
            Ok(worth) => worth,
            // Some of it was passed on without being held: nobody can say whether it is right.
            Err(_) if draft.is_released() => return Ok(Tried::Unread),
            Err(why) => return Err(why),
        };
        self.note_worth(request, mirror, &worth);
        Ok(match worth {
            Worth::Vouched => Tried::Right { is_vouched: true },
            Worth::Sound => Tried::Right { is_vouched: false },
            Worth::Malformed(why) if why == verify::PAGE => Tried::Bad(Said::Wrong(why)),
            Worth::Malformed(why) => Tried::Odd(Said::Wrong(why)),
            Worth::Wrong(why) => Tried::Bad(Said::Wrong(why)),
        })
    }

    /// What the database says about a file, however long that takes it.
    async fn ask_sums(&self, request: &ModuleRequest) -> Word {
        match (request, self.judge()) {
            (ModuleRequest::Mod { module, version } | ModuleRequest::Zip { module, version }, Some(judge))
                if !self.is_unjudged(module) =>
            {
                judge.sums(module, version).await
            }
            _ => Word::Nothing,
        }
    }

    /// What the database says about this very file, in the time that a client may be held up.
    pub async fn sums_in_time(&self, request: &ModuleRequest) -> Option<Sums> {
        let database = self.judge()?;
        match timeout(database.patience(), self.ask_sums(request)).await {
            Ok(Word::Sums(sums)) => Some(sums).filter(|sums| !wanted(request, Some(sums)).is_empty()),
            Ok(_) => None,
            Err(_) => {
                database.note_late();
                None
            }
        }
    }

    /// Begins to ask the database.
    fn vouch(self: &Arc<Self>, request: &ModuleRequest, sums: Option<Sums>) -> Vouching {
        let (house, request) = (Arc::clone(self), request.clone());
        let asked = match sums {
            Some(_) => None,
            None => Some(self.runtime.spawn(async move { house.ask_sums(&request).await })),
        };
        Vouching { asked, sums, is_forged: false }
    }

    /// Puts a file that went out unverified to the database when that answers at last.
    fn vouch_late(self: &Arc<Self>, request: &ModuleRequest, ground: &Ground, vouching: Vouching, now: SystemTime) {
        let (Some(asked), Some(key)) = (vouching.asked, ground.key(request)) else { return };
        let (house, request) = (Arc::clone(self), request.clone());
        self.runtime.spawn(async move {
            let Ok(Word::Sums(sums)) = asked.await else { return };
            if let Some(found) = house.store.cache.get(&key).await {
                house.settle_kept(&request, &key, Note::clone(&found.note), &sums, now).await;
            }
        });
    }

    /// Writes a body into the draft; a cut after its release is mended from the same mirror. Where the draft is out
    /// already, and somebody else broke off, this goes on from there.
    async fn pour(
        &self,
        draft: &mut Draft,
        found: Found,
        mirror: &Arc<Mirror>,
        request: &ModuleRequest,
        holding: Holding,
    ) -> Poured {
        let length = found.length();
        if length.is_some_and(|length| length > longest(request)) {
            return Poured::Cut(Said::Wrong(format!("longer than {} bytes", longest(request))));
        }
        let out = if draft.is_released() { draft.written() } else { 0 };
        if out > 0 && draft.promised() != length {
            return Poured::Another(Said::Wrong("not as long as the zip that broke off".to_owned()));
        }
        let validator = validator(&found.response);
        let mut answer = Answer { mirror, response: found.response, from: 0 };
        let mut resumes = 0;
        loop {
            let running = trace::start(Phase::Body, || mirror.name());
            let poured = self.pour_once(draft, answer, length, request, holding).await;
            running.end(&if matches!(poured, Poured::Whole) { Ok(()) } else { Err(()) });
            let said = match poured {
                Poured::Cut(said) => said,
                other => return other,
            };
            // Before it was found to be the same file, its rest is no use.
            let is_same = out == 0 || draft.written() > out;
            if !draft.is_released() || !is_same || matches!(said, Said::Wrong(_)) || resumes == holding.resumes {
                return Poured::Cut(said);
            }
            self.tally.fault(&said);
            answer = loop {
                resumes += 1;
                sleep(policy::pause(resumes)).await;
                match self.resume(draft.written(), mirror, request, validator.as_ref()).await {
                    Some(rest) => break rest,
                    None if resumes == holding.resumes => return Poured::Cut(said),
                    None => {}
                }
            };
            // A whole one has to begin with the same first.
            if answer.from > 0 {
                tracing::info!(%request, mirror = %mirror.name(), at = draft.written(), "a cut answer is continued");
            }
        }
    }

    /// One body, to its end or to its cut. It is let go when it is larger or slower than what is held.
    async fn pour_once(
        &self,
        draft: &mut Draft,
        answer: Answer<'_>,
        length: Option<u64>,
        request: &ModuleRequest,
        holding: Holding,
    ) -> Poured {
        let Answer { mirror, response, from } = answer;
        let mut overlap = match draft.written().saturating_sub(from) {
            0 => None,
            left => match Overlap::of(draft, from, left) {
                Ok(overlap) => Some(overlap),
                // Some of it was passed on without being held.
                Err(why) => return Poured::NoRoom(why.into()),
            },
        };
        let mut body = response.into_body();
        let begun = Instant::now();
        while let Some(frame) = body.frame().await {
            let piece = match frame {
                Ok(frame) => frame.into_data(),
                Err(why) => return Poured::Cut(read_error(why)),
            };
            let Ok(mut piece) = piece else { continue };
            if let Some(mut same) = overlap.take() {
                same.hear(&mut piece);
                if same.left > 0 {
                    overlap = Some(same);
                    continue;
                }
                if !same.agrees().await {
                    return Poured::Another(Said::Wrong("another zip than the one that broke off".to_owned()));
                }
                tracing::info!(%request, mirror = %mirror.name(), at = draft.written(), "a cut answer is continued");
            }
            if piece.is_empty() {
                continue;
            }
            if draft.written() + piece.len() as u64 > longest(request) {
                return Poured::Cut(Said::Wrong(format!("longer than {} bytes", longest(request))));
            }
            if let Err(why) = draft.write(piece).await {
                return Poured::NoRoom(why.into());
            }
            if draft.is_released() || length == Some(draft.written()) {
                continue;
            }
            let is_late = begun.elapsed() >= self.config.hold_for;
            if is_late && holding.leaves_slow > 0 && drips(draft.written(), begun.elapsed()) {
                return Poured::Cut(Said::Silent(format!("{} bytes in {:?}", draft.written(), begun.elapsed())));
            }
            // A go.mod is always held.
            let is_large = length.unwrap_or(0).max(draft.written()) > holding.bytes;
            if (is_large || is_late) && matches!(request, ModuleRequest::Zip { .. }) {
                draft.release(length, facts_of(mirror));
            }
        }
        match length {
            _ if overlap.is_some() => Poured::Another(Said::Wrong("shorter than the zip that broke off".to_owned())),
            Some(length) if draft.written() != length => {
                Poured::Cut(Said::Broke(format!("{} of {length} bytes came", draft.written())))
            }
            _ => Poured::Whole,
        }
    }

    /// Asks the same mirror for the rest (RFC 9110 section 14.2). One that knows no ranges gives all of it again.
    async fn resume<'a>(
        &self,
        from: u64,
        mirror: &'a Arc<Mirror>,
        request: &ModuleRequest,
        validator: Option<&HeaderValue>,
    ) -> Option<Answer<'a>> {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, HeaderValue::try_from(format!("bytes={from}-")).ok()?);
        if let Some(validator) = validator {
            headers.insert(IF_RANGE, validator.clone());
        }
        let patience = Patience { first_byte: STALL, stall: STALL };
        let wire = request.wire();
        let asked = self.asker.upstream.ask(mirror.standing, &mirror.base, &wire, &headers, patience);
        let response = timeout(STALL, asked).await.ok()?.ok()?;
        let starts =
            |range: &HeaderValue| range.to_str().is_ok_and(|range| range.starts_with(&format!("bytes {from}-")));
        let from = match response.status() {
            StatusCode::PARTIAL_CONTENT if response.headers().get(CONTENT_RANGE).is_some_and(starts) => from,
            StatusCode::OK => 0,
            _ => return None,
        };
        Some(Answer { mirror, response, from })
    }

    fn note_worth(&self, request: &ModuleRequest, mirror: &Mirror, worth: &Worth) {
        self.tally.verify(match worth {
            Worth::Vouched => Verified::Right,
            Worth::Sound | Worth::Malformed(_) => Verified::Unverified,
            Worth::Wrong(_) => Verified::Wrong,
        });
        if let Worth::Wrong(why) = worth {
            mirror.note_lie();
            tracing::error!(%request, mirror = %mirror.name(), "{why}; not kept, and this mirror is asked last from now on");
        }
    }

    /// Puts a file that nobody vouched for to the database again, once a day, behind its answer.
    pub fn recheck_file(self: &Arc<Self>, request: &ModuleRequest, note: &Note, ground: &Ground, now: SystemTime) {
        if !self.is_file_due(request, note, now) {
            return;
        }
        let Some(key) = ground.key(request) else { return };
        let (house, request, note) = (Arc::clone(self), request.clone(), note.clone());
        self.runtime.spawn(async move { house.recheck_now(&request, &key, note, now).await });
    }

    /// Whether a kept file that nobody vouched for is to be weighed again.
    pub fn is_file_due(&self, request: &ModuleRequest, note: &Note, now: SystemTime) -> bool {
        let is_file = matches!(request, ModuleRequest::Mod { .. } | ModuleRequest::Zip { .. });
        if !is_file || is_verified(note) || self.judge().is_none() {
            return false;
        }
        policy::age(checked_ms(note), now) >= policy::RECHECK
    }

    async fn recheck_now(self: &Arc<Self>, request: &ModuleRequest, key: &Key, mut note: Note, now: SystemTime) {
        // Noted first, so that the next request does not begin the same.
        note.facts.insert(CHECKED.to_owned(), policy::millis(now).to_string());
        if let Err(why) = self.store.cache.annotate(key, note.at_ms, note.facts.clone()).await {
            tracing::warn!(%request, %why, "its note could not be written");
        }
        if let Word::Sums(sums) = self.ask_sums(request).await {
            self.settle_kept(request, key, note, &sums, now).await;
        }
    }

    /// Weighs what was kept without the database's word, now that it has come.
    pub async fn heed(self: &Arc<Self>, news: News) {
        let News { database, module, version, sums } = news;
        if self.judge().is_none_or(|judge| judge.name != database) {
            return;
        }
        let go_mod = ModuleRequest::Mod { module: module.clone(), version: version.clone() };
        for request in [go_mod, ModuleRequest::Zip { module, version }] {
            let Some(key) = tree_key(&request).filter(|_| !wanted(&request, Some(&sums)).is_empty()) else { continue };
            if let Some(found) = self.store.cache.get(&key).await.filter(|found| !is_verified(&found.note)) {
                self.settle_kept(&request, &key, Note::clone(&found.note), &sums, SystemTime::now()).await;
            }
        }
    }

    /// Weighs a kept file by sums that came late: noted as verified, or removed.
    async fn settle_kept(&self, request: &ModuleRequest, key: &Key, note: Note, sums: &Sums, now: SystemTime) {
        let outcome = match self.weigh_kept(request, key, sums).await {
            Some(Worth::Vouched) => {
                self.tally.verify(Verified::Right);
                let mut facts = note.facts;
                facts.insert(VERIFIED.to_owned(), "yes".to_owned());
                facts.insert(CHECKED.to_owned(), policy::millis(now).to_string());
                self.store.cache.annotate(key, note.at_ms, facts).await
            }
            Some(Worth::Wrong(why)) => {
                self.tally.verify(Verified::Wrong);
                tracing::error!(%request, "served without the checksum database's word, and now it says: {why}; removed");
                self.store.cache.remove(key).await
            }
            _ => return,
        };
        if let Err(why) = outcome {
            tracing::warn!(%request, %why, "verified late, but the cache could not be told");
        }
    }

    /// Weighs a kept file where it lies.
    async fn weigh_kept(&self, request: &ModuleRequest, key: &Key, sums: &Sums) -> Option<Worth> {
        let content = self.store.cache.get(key).await?.content;
        let (length, kept) = (content.length()?, content.reading()?);
        let (request, wanted) = (request.clone(), wanted(request, Some(sums)).to_vec());
        let checked = tokio::task::spawn_blocking(move || check(kept, length, &request));
        Some(compare(checked.await.ok()??, &wanted))
    }
}

impl Vouching {
    /// What the database says, if it says it in time. What it says later is not lost: see `vouch_late`.
    async fn wait(&mut self, database: Option<&Arc<Sumdb>>) -> Option<Sums> {
        if let (Some(database), Some(asked)) = (database, &mut self.asked) {
            match timeout(database.patience(), asked).await {
                Ok(word) => {
                    self.asked = None;
                    match word {
                        Ok(Word::Sums(sums)) => self.sums = Some(sums),
                        Ok(Word::Refuted) => self.is_forged = true,
                        Ok(Word::Nothing) | Err(_) => {}
                    }
                }
                Err(_) => database.note_late(),
            }
        }
        self.sums.clone()
    }
}

/// Hashes what was written and says what it is worth.
async fn weigh(draft: &Draft, request: &ModuleRequest, sums: Option<&Sums>) -> Result<Worth, Failure> {
    let (reader, length, request_of) = (draft.reading()?, draft.written(), request.clone());
    let checked = tokio::task::spawn_blocking(move || check(reader, length, &request_of)).await;
    let checked =
        checked.ok().flatten().ok_or_else(|| Failure::fault(format!("{request} could not be read back"), ""))?;
    Ok(compare(checked, wanted(request, sums)))
}

/// The sums that the database has for this very file.
fn wanted<'a>(request: &ModuleRequest, sums: Option<&'a Sums>) -> &'a [String] {
    match (request, sums) {
        (ModuleRequest::Mod { .. }, Some(sums)) => &sums.go_mod,
        (ModuleRequest::Zip { .. }, Some(sums)) => &sums.zip,
        _ => &[],
    }
}

/// The sum of a go.mod or zip, and what is wrong with its shape. Blocks.
pub fn check(mut reader: Box<dyn cache::ReadSeek>, length: u64, request: &ModuleRequest) -> Option<Checked> {
    match request {
        ModuleRequest::Zip { module, version } => Some(verify::check_zip(reader, length, module, version)),
        _ => {
            let mut text = Vec::new();
            reader.read_to_end(&mut text).ok()?;
            Some(Checked { sum: Some(verify::hash_mod(&text)), fault: verify::judge_mod(&text).err() })
        }
    }
}

/// The database's word counts before the shape: go itself judges that.
fn compare(checked: Checked, wanted: &[String]) -> Worth {
    match (checked.sum, checked.fault) {
        (Some(sum), _) if wanted.contains(&sum) => Worth::Vouched,
        (Some(sum), _) if !wanted.is_empty() => {
            Worth::Wrong(format!("its sum is {sum}, and the checksum database has {}", wanted.join(" or ")))
        }
        (None, fault) if !wanted.is_empty() => Worth::Wrong(fault.unwrap_or_else(|| "it cannot be read".to_owned())),
        (_, Some(fault)) => Worth::Malformed(fault),
        (_, None) => Worth::Sound,
    }
}

fn drips(written: u64, elapsed: Duration) -> bool {
    (written as f64) < DRIP as f64 * elapsed.as_secs_f64()
}

/// A file that readers have a part of already, and will not have the rest.
fn cut_off(request: &ModuleRequest, mirror: &Mirror, said: Said) -> Failure {
    tracing::error!(%request, mirror = %mirror.name(), %said, "broken off after its first bytes had gone out; nothing kept");
    Failure::asked(request, vec![Complaint { upstream: mirror.name(), said }])
}

fn file_facts(mirror: &Mirror, is_verified: bool, now: SystemTime) -> Facts {
    let mut facts = facts_of(mirror);
    facts.insert(VERIFIED.to_owned(), if is_verified { "yes" } else { "no" }.to_owned());
    facts.insert(CHECKED.to_owned(), policy::millis(now).to_string());
    facts
}

/// A strong validator (RFC 9110 section 13.1.5).
fn validator(response: &Response<Body>) -> Option<HeaderValue> {
    let strong = |etag: &&HeaderValue| !etag.as_bytes().starts_with(b"W/");
    let headers = response.headers();
    headers.get(ETAG).filter(strong).or_else(|| headers.get(LAST_MODIFIED)).cloned()
}

fn longest(request: &ModuleRequest) -> u64 {
    match request {
        ModuleRequest::Zip { .. } => verify::MAX_ZIP,
        _ => verify::MAX_GO_MOD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_databases_word_counts_before_the_shape() {
        let checked = |sum: Option<&str>, fault: Option<&str>| Checked {
            sum: sum.map(str::to_owned),
            fault: fault.map(str::to_owned),
        };
        let has = |sum: &str| vec![sum.to_owned()];
        assert_eq!(compare(checked(Some("h1:a"), None), &has("h1:a")), Worth::Vouched);
        assert_eq!(compare(checked(Some("h1:a"), Some("odd")), &has("h1:a")), Worth::Vouched);
        assert!(matches!(compare(checked(Some("h1:b"), None), &has("h1:a")), Worth::Wrong(_)));
        assert!(matches!(compare(checked(None, Some("not a zip")), &has("h1:a")), Worth::Wrong(_)));
        assert_eq!(compare(checked(Some("h1:a"), None), &[]), Worth::Sound);
        assert_eq!(compare(checked(None, Some("not a zip")), &[]), Worth::Malformed("not a zip".to_owned()));
    }
}
