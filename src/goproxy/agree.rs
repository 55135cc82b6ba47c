//! Whether the `.info` of a release is true: no checksum database has it, so it is heard twice.
//!
//! A pseudo-version carries its time in its name, and a wrong `Version` shows; the `Time` of a tag shows
//! nowhere. (And where every mirror gives a pseudo-version another time than its name, that is kept, in
//! doubt: real mirrors do, and go does not mind.) So such an `.info` is compared, behind the answers that it gives meanwhile: with the other
//! mirrors that were named, as soon as it is kept; where there is one mirror alone, with what that says when
//! it is next asked for after `goproxy.fresh`. What most mirrors say is kept, and of one mirror what it says
//! now. Once two tellings agree it is asked for again a day later, and not before: two mirrors that were wrong
//! alike (one copied from the other) may be right by then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::sleep;

use super::answer::{House, facts_of};
use super::mirrors::{Manner, Mirror, Pool, Small, Walk};
use super::path::ModuleRequest;
use super::pools::Ground;
use super::store::{AGREED, CHECKED, DOUBT, MIRROR, checked_ms};
use super::{policy, verify, version};
use crate::cache::{Key, Note};

/// No `.info` is longer.
const LONGEST: usize = 64 << 10;
/// How many are compared at once.
pub const AT_ONCE: usize = 4;
/// How often mirrors that contradict each other are asked, and how long apart.
const ROUNDS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// What an `.info` says, however it is written: its version and its time.
type Meaning = (String, Option<i128>);

/// Who says what.
#[derive(Default)]
struct Tellings {
    by: BTreeMap<Meaning, BTreeSet<String>>,
    /// One text for each meaning, and whose it was.
    texts: BTreeMap<Meaning, (Bytes, Option<Arc<Mirror>>)>,
}

impl House {
    /// Compares one that has just been kept, where there is somebody to compare it with.
    pub fn compare_new_info(self: &Arc<Self>, request: &ModuleRequest, ground: &Ground, now: SystemTime) {
        let is_many = ground.pool.manner == Manner::Named && ground.pool.mirrors.len() > 1;
        if is_many && is_unprovable(request) {
            self.begin_comparing(request, ground, now);
        }
    }

    /// Compares one that is held, and was not compared for long: for `fresh`, or for a day where two agreed.
    pub fn recheck_info(self: &Arc<Self>, request: &ModuleRequest, note: &Note, ground: &Ground, now: SystemTime) {
        if self.is_info_due(request, note, now) && !ground.pool.is_unwell() {
            self.begin_comparing(request, ground, now);
        }
    }

    /// Whether a kept `.info` is to be compared with what is told today.
    pub fn is_info_due(&self, request: &ModuleRequest, note: &Note, now: SystemTime) -> bool {
        let rest = if note.facts.contains_key(AGREED) { policy::RECHECK } else { self.config.fresh };
        // Asked with every hit: what costs least comes first.
        policy::age(checked_ms(note), now) >= rest && (note.facts.contains_key(DOUBT) || is_unprovable(request))
    }

    fn begin_comparing(self: &Arc<Self>, request: &ModuleRequest, ground: &Ground, now: SystemTime) {
        let Some(key) = ground.key(request) else { return };
        let (house, request, ground) = (Arc::clone(self), request.clone(), ground.clone());
        self.runtime.spawn(async move {
            // Whoever waits for a file comes first; a day's first build asks for hundreds of these.
            let Ok(_turn) = house.comparing.acquire().await else { return };
            if house.compare(&request, &ground, &key, now).await.is_none() {
                tracing::debug!(%request, "nobody to compare it with for now");
            }
        });
    }

    /// Nothing where what is held is gone, or nobody answers.
    async fn compare(&self, request: &ModuleRequest, ground: &Ground, key: &Key, now: SystemTime) -> Option<()> {
        // It may be on its way to the disk.
        let held = self.store.cache.get_shared(key).await?;
        let mut note = Note::clone(&held.note);
        let text = held.content.bytes(LONGEST).await.ok()?;
        let meant = meaning(&text)?;
        if note.facts.contains_key(CHECKED) && !self.is_info_due(request, &note, now) {
            // Somebody was quicker.
            return None;
        }
        // Noted first, so that the next request does not begin the same.
        note.facts.insert(CHECKED.to_owned(), policy::millis(now).to_string());
        let _ = self.store.cache.annotate(key, note.at_ms, note.facts.clone()).await;
        let giver = note.facts.get(MIRROR).cloned().unwrap_or_default();
        let mut tellings = Tellings::default();
        tellings.add(meant.clone(), giver.clone(), text, None);
        let mut is_same_again = false;
        for round in 0..ROUNDS {
            let skipped = (round == 0).then_some(giver.as_str());
            for told in self.tell(request, &ground.pool, skipped).await {
                let Some(meaning) = meaning(&told.bytes) else { continue };
                let teller = told.mirror.base.to_string();
                is_same_again |= teller == giver && meaning == meant;
                tellings.add(meaning, teller, told.bytes, Some(told.mirror));
            }
            if tellings.is_decided() || tellings.tellers() == 1 {
                break;
            }
            sleep(PAUSE * (round + 1)).await;
        }
        let is_alone = tellings.tellers() == 1;
        // One mirror alone is believed in what it says last, and for a day once it has said it twice.
        let (winner, is_settled) = match tellings.proven(request) {
            Some(proven) => (proven, true),
            None if is_alone && is_same_again => (meant.clone(), true),
            None if is_alone => (tellings.by.keys().find(|other| **other != meant)?.clone(), false),
            None => tellings.most(&meant),
        };
        self.keep_winner(request, key, note, &meant, winner, is_settled, tellings, now).await;
        Some(())
    }

    #[expect(clippy::too_many_arguments, reason = "the end of one comparison, in one place")]
    async fn keep_winner(
        &self,
        request: &ModuleRequest,
        key: &Key,
        mut note: Note,
        meant: &Meaning,
        winner: Meaning,
        is_settled: bool,
        tellings: Tellings,
        now: SystemTime,
    ) {
        let agreed = is_settled.then(|| (AGREED.to_owned(), "yes".to_owned()));
        // It may have been agreed on a day ago.
        note.facts.remove(AGREED);
        if winner == *meant {
            note.facts.extend(agreed);
            let _ = self.store.cache.annotate(key, note.at_ms, note.facts).await;
            return;
        }
        let Some((text, Some(mirror))) = tellings.texts.get(&winner) else { return };
        tracing::warn!(%request, by = %mirror.name(), "mirrors contradict each other; what most of them say is kept");
        let mut facts = facts_of(mirror);
        facts.insert(CHECKED.to_owned(), policy::millis(now).to_string());
        facts.extend(agreed);
        if let Err(why) = self.store.cache.put(key, text.clone(), policy::millis(now), facts).await {
            tracing::warn!(%request, %why, "the right one could not be kept");
        }
    }

    /// What mirrors say: all that were named and are awake, but for the one that is skipped; else whoever answers.
    async fn tell(&self, request: &ModuleRequest, pool: &Pool, skipped: Option<&str>) -> Vec<Small> {
        let ModuleRequest::Info { version, .. } = request else { return Vec::new() };
        let judge = |text: &Bytes| verify::judge_info_loosely(text, version);
        if pool.manner == Manner::OnFault || pool.mirrors.len() == 1 {
            return Walk::new(&self.asker, pool, request.wire()).small(LONGEST, judge).await.into_iter().collect();
        }
        let awake = pool.mirrors.iter().filter(|mirror| !mirror.rests());
        let asked = awake.filter(|mirror| skipped != Some(mirror.base.to_string().as_str())).map(|mirror| {
            let alone = Pool { mirrors: vec![Arc::clone(mirror)], manner: pool.manner, hedge: pool.hedge };
            Walk::new(&self.asker, &alone, request.wire()).small(LONGEST, judge)
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

impl Tellings {
    fn add(&mut self, meaning: Meaning, teller: String, text: Bytes, mirror: Option<Arc<Mirror>>) {
        self.by.entry(meaning.clone()).or_default().insert(teller);
        let slot = self.texts.entry(meaning).or_insert_with(|| (text, None));
        slot.1 = slot.1.take().or(mirror);
    }

    fn tellers(&self) -> usize {
        self.by.values().flatten().collect::<BTreeSet<_>>().len()
    }

    /// Whether one meaning is ahead of all others.
    fn is_decided(&self) -> bool {
        let mut counts: Vec<usize> = self.by.values().map(BTreeSet::len).collect();
        counts.sort_unstable();
        match counts[..] {
            [.., second, first] => first > second,
            _ => true,
        }
    }

    /// The one that is as the version's name has it, where that has a time.
    fn proven(&self, request: &ModuleRequest) -> Option<Meaning> {
        let ModuleRequest::Info { version, .. } = request else { return None };
        version::pseudo_time(version.as_str())?;
        let is_right = |(text, _): &(Bytes, _)| verify::judge_info(text, Some(version)).is_ok();
        self.texts.iter().find(|(_, text)| is_right(text)).map(|(meaning, _)| meaning.clone())
    }

    /// What most say, and whether that is more than one of them; of two that are said by as many, the one that
    /// is held.
    fn most(&self, held: &Meaning) -> (Meaning, bool) {
        let ranked = self.by.iter().max_by_key(|(meaning, by)| (by.len(), *meaning == held));
        ranked.map_or((held.clone(), false), |(meaning, by)| (meaning.clone(), by.len() > 1 && self.is_decided()))
    }
}

/// Whether nothing in it can be checked against its name.
fn is_unprovable(request: &ModuleRequest) -> bool {
    matches!(request, ModuleRequest::Info { version, .. }
        if version.is_canonical() && version::pseudo_time(version.as_str()).is_none())
}

fn meaning(text: &[u8]) -> Option<Meaning> {
    let info: serde_json::Value = serde_json::from_slice(text).ok()?;
    let time = info.get("Time").and_then(|time| time.as_str()?.parse::<jiff::Timestamp>().ok());
    Some((info.get("Version")?.as_str()?.to_owned(), time.map(jiff::Timestamp::as_nanosecond)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(tellings: &[(&str, i128)]) -> Tellings {
        let mut all = Tellings::default();
        for (teller, time) in tellings {
            all.add(("v1".to_owned(), Some(*time)), (*teller).to_owned(), Bytes::new(), None);
        }
        all
    }

    fn most(tellings: &[(&str, i128)], held: i128) -> (i128, bool) {
        let (meaning, is_settled) = told(tellings).most(&("v1".to_owned(), Some(held)));
        (meaning.1.unwrap(), is_settled)
    }

    #[test]
    fn what_most_mirrors_say_wins() {
        assert_eq!(most(&[("a", 1), ("b", 1)], 1), (1, true));
        assert_eq!(most(&[("a", 1), ("b", 2), ("b", 1)], 2), (1, true));
        assert_eq!(most(&[("a", 1), ("b", 2)], 2), (2, false), "nobody knows");
        assert_eq!(most(&[("a", 1), ("b", 2), ("c", 1)], 2), (1, true));
    }

    #[test]
    fn a_time_means_the_same_in_every_zone() {
        let zulu = meaning(br#"{"Version":"v1.0.0","Time":"2019-05-10T10:41:15Z"}"#).unwrap();
        assert_eq!(meaning(br#"{"Time":"2019-05-10T12:41:15+02:00", "Version":"v1.0.0"}"#), Some(zulu.clone()));
        assert_ne!(meaning(br#"{"Version":"v1.0.0"}"#), Some(zulu));
        assert_eq!(meaning(b"<html>"), None);
    }
}
