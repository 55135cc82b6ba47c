//! The chains that can be served: the CA in use, and during a rotation those before it.
//!
//! A client's word chooses. Who names a fingerprint gets that CA's chain while its time lasts. Who
//! names none was set up at some time in the past, so gets the eldest chain that still counts: the
//! new root is handed out together with the old one, so whoever came later trusts both.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::authority::{Authority, Earlier, Health};
use super::leaves::Leaves;
use super::word::Word;
use super::{Error, Why};
use crate::metrics::Counter;
use crate::target::Name;

/// One CA, and the leaves that it signed.
pub(super) struct Chain {
    pub authority: Authority,
    pub leaves: Leaves,
    /// The end of the overlap; nothing for the CA in use.
    pub until: Option<SystemTime>,
}

/// The chains, the one in use first, then from the latest to the eldest.
pub(super) struct Chains(Vec<Arc<Chain>>);

impl Chains {
    /// Loads what is in the folder; nothing, if there is no CA. What is wrong with an earlier one comes
    /// beside: it is no reason to do without the one in use.
    pub(super) fn load(
        dir: &Path,
        now: SystemTime,
        signed: &Counter,
    ) -> Result<Option<(Chains, Option<Error>)>, Error> {
        let Some(authority) = Authority::load(dir)? else { return Ok(None) };
        let (earlier, broken) = match Authority::earlier(dir, now) {
            Ok(earlier) => (earlier, None),
            Err(why) => (Vec::new(), Some(why)),
        };
        Ok(Some((Chains::of(authority, earlier, signed), broken)))
    }

    /// These chains, with no leaf signed yet.
    pub(super) fn of(current: Authority, earlier: Vec<Earlier>, signed: &Counter) -> Chains {
        let chain = |authority, until| Arc::new(Chain { authority, leaves: Leaves::new(signed.clone()), until });
        let before = earlier.into_iter().map(|one| chain(one.authority, Some(one.until)));
        Chains([chain(current, None)].into_iter().chain(before).collect())
    }

    /// The CA in use.
    pub(super) fn current(&self) -> &Authority {
        &self.0[0].authority
    }

    /// Those before it.
    pub(super) fn earlier(&self) -> &[Arc<Chain>] {
        &self.0[1..]
    }

    /// All roots, the one in use first.
    pub(super) fn roots(&self) -> impl Iterator<Item = &Authority> {
        self.0.iter().map(|chain| &chain.authority)
    }

    /// The chain for a client at a host, or why there is none.
    pub(super) fn choose(&self, word: &Word<'_>, host: &Name, now: SystemTime) -> Result<&Arc<Chain>, Why> {
        let chain = match word {
            Word::Named(fingerprint) => self.named(fingerprint, now).ok_or(Why::OtherCa)?,
            Word::Ours | Word::Nothing => self.eldest(now),
        };
        match chain.authority.health(now) {
            Health::Expired => Err(Why::Expired),
            Health::ClockBehind => Err(Why::ClockBehind),
            Health::Good | Health::NearEnd if !chain.authority.covers(host) => Err(Why::NotCovered),
            Health::Good | Health::NearEnd => Ok(chain),
        }
    }

    fn named(&self, fingerprint: &str, now: SystemTime) -> Option<&Arc<Chain>> {
        self.in_time(now).find(|chain| chain.authority.fingerprint().eq_ignore_ascii_case(fingerprint))
    }

    fn eldest(&self, now: SystemTime) -> &Arc<Chain> {
        let counts = |chain: &&Arc<Chain>| matches!(chain.authority.health(now), Health::Good | Health::NearEnd);
        self.in_time(now).filter(counts).last().unwrap_or(&self.0[0])
    }

    fn in_time(&self, now: SystemTime) -> impl Iterator<Item = &Arc<Chain>> {
        self.0.iter().filter(move |chain| chain.until.is_none_or(|until| now < until))
    }
}

#[cfg(test)]
mod tests {
    use super::super::authority::{IfThere, Making};
    use super::*;
    use std::time::Duration;

    const DAY: Duration = Duration::from_secs(86_400);

    /// A CA for goproxy.cn, and a day later the next one, for athens.example too.
    fn rotated(now: SystemTime) -> Chains {
        let dir = tempfile::tempdir().unwrap();
        let hosts = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>();
        Authority::create(dir.path(), &hosts(&["goproxy.cn"]), now, Making::default()).unwrap();
        let making = Making { if_there: IfThere::Overlap(30 * DAY), keep_root: None };
        Authority::create(dir.path(), &hosts(&["athens.example"]), now + DAY, making).unwrap();
        let (chains, broken) = Chains::load(dir.path(), now + DAY, &Counter::default()).unwrap().unwrap();
        assert!(broken.is_none());
        chains
    }

    #[test]
    fn the_word_chooses_the_chain_until_the_overlap_ends() {
        let now = SystemTime::now();
        let chains = rotated(now);
        let (new, old) = (chains.current().fingerprint(), chains.earlier()[0].authority.fingerprint());
        let (mirror, athens) = (Name::parse("goproxy.cn").unwrap(), Name::parse("athens.example").unwrap());
        let chosen = |word: &Word<'_>, host, at| chains.choose(word, host, at).map(|one| one.authority.fingerprint());
        let (during, after) = (now + 2 * DAY, now + 31 * DAY);
        let upper = old.to_ascii_uppercase();
        let table = [
            (Word::Named(new), &mirror, during, Ok(new)),
            (Word::Named(old), &mirror, during, Ok(old)),
            (Word::Named(&upper), &mirror, during, Ok(old)),
            (Word::Named("00000000"), &mirror, during, Err(Why::OtherCa)),
            (Word::Ours, &mirror, during, Ok(old)),
            (Word::Nothing, &mirror, during, Ok(old)),
            (Word::Named(new), &athens, during, Ok(new)),
            (Word::Named(old), &athens, during, Err(Why::NotCovered)),
            (Word::Ours, &athens, during, Err(Why::NotCovered)),
            (Word::Named(new), &mirror, after, Ok(new)),
            (Word::Named(old), &mirror, after, Err(Why::OtherCa)),
            (Word::Ours, &mirror, after, Ok(new)),
            (Word::Ours, &athens, after, Ok(new)),
            (Word::Ours, &mirror, now + 366 * DAY, Err(Why::Expired)),
        ];
        for (word, host, at, expected) in table {
            assert_eq!(chosen(&word, host, at), expected, "{word:?} {host}");
        }
    }

    #[test]
    fn an_earlier_ca_that_is_broken_does_not_take_the_one_in_use_along() {
        let dir = tempfile::tempdir().unwrap();
        let (now, hosts) = (SystemTime::now(), ["goproxy.cn".parse().unwrap()]);
        let old = Authority::create(dir.path(), &hosts, now, Making::default()).unwrap();
        let making = Making { if_there: IfThere::Overlap(DAY), keep_root: None };
        Authority::create(dir.path(), &hosts, now, making).unwrap();
        let place = dir.path().join("earlier").join(old.fingerprint());
        std::fs::write(place.join("issuer.key"), "broken").unwrap();
        let (chains, broken) = Chains::load(dir.path(), now, &Counter::default()).unwrap().unwrap();
        assert!(chains.earlier().is_empty());
        assert!(broken.unwrap().to_string().contains("issuer.key: wanted a private key"));
    }
}
