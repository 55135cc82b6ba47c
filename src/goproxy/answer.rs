//! From a request to an answer: what is held, how old it is, and whether upstream is asked first,
//! behind it, or not at all.
//!
//! A file that never changes is answered from the store once it is there. Of what changes, and of
//! every absence, the younger of the two kept answers counts: fresh ones as they stand, then for a
//! while at once with upstream asked behind, after that with a second's grace for upstream, and for
//! days where no upstream answers. Producers run inside `cache.fill`, so a question is asked once
//! however many wait for it, and goes on when they leave.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::StatusCode;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until, timeout};

use super::early::{Asked, Early};
use super::failure::Failure;
use super::frozen::Frozen;
use super::mirrors::{Asker, Manner, Mirror, Pool, Small, Trouble, Upstream, Walk};
use super::path::{Database, Module, ModuleRequest, Version};
use super::policy::{self, Freshness, Patterns};
use super::pools::{Ground, Pools};
use super::readings::Reading;
use super::store::{Absence, DOUBT, Facts, Known, MIRROR, Store, is_verified};
use super::sumdb::{Sumdb, below};
use super::tally::{Served, Tally};
use super::{Body, Config, Place, Reply, SumdbConfig, defaults, joined, verify, version};
use crate::admit::Standing;
use crate::cache::{Content, Draft, Folder, Found, Key, Verdict};
use crate::metrics::Registry;
use crate::target::Base;
use crate::trace::{self, Context, Id, Trace};

/// `.info` and the like are read whole.
const SMALL: usize = 16 << 20;
/// Lists are compared line by line; the longest real ones have a few thousand.
const LIST: usize = 4 << 20;
const HINT_PRIVATE: &str = "hint: GOPROXY=...,direct lets go fetch it itself; goproxy.private says what is private";

/// Everything that requests share.
pub struct House {
    pub config: Config,
    pub store: Store,
    pub asker: Asker,
    pub runtime: Handle,
    pub tally: Tally,
    /// What is fetched before anybody asks for it.
    pub early: Early,
    /// Turns at comparing what mirrors say of an `.info`.
    pub comparing: Semaphore,
    pools: Pools,
    databases: Vec<Arc<Sumdb>>,
    /// Where the databases answer themselves.
    database_hosts: Vec<(Base, Database)>,
    private: Patterns,
    unjudged: Patterns,
}

/// What a fill came to, and whether it was this request that led it.
struct Filled {
    leads: bool,
    found: Result<Found, Failure>,
}

/// What is held for a request: an answer, or the absence of one.
enum Held {
    There(Found),
    Absent(Absence),
}

impl House {
    pub(super) fn new(
        config: Config,
        store: Store,
        upstream: Arc<dyn Upstream>,
        runtime: Handle,
        registry: &Registry,
    ) -> Arc<House> {
        let (pools, tally) = (Pools::new(&config.upstreams), Tally::new(registry));
        let asker = Asker { upstream, tally: tally.clone(), is_closed: config.offline };
        let mirrors = pools.origin_bases();
        let (news, mut heard) = mpsc::unbounded_channel();
        let database = |sumdb| Sumdb::new(sumdb, &mirrors, store.clone(), asker.clone(), news.clone()).map(Arc::new);
        let databases = config.sumdb.iter().filter_map(database).collect();
        let (private, unjudged) = (Patterns::new(&config.private), Patterns::new(&config.unjudged));
        let database_hosts = config.sumdb.iter().flat_map(database_hosts).collect();
        let early = Early::default();
        if let Some(folder) = store.cache.folder() {
            catch_up(&runtime, folder, &config.sumdb);
        }
        let house = Arc::new(House {
            config,
            store,
            asker,
            runtime,
            tally,
            early,
            comparing: Semaphore::new(super::agree::AT_ONCE),
            pools,
            databases,
            database_hosts,
            private,
            unjudged,
        });
        let listener = Arc::downgrade(&house);
        house.runtime.spawn(async move {
            while let Some(news) = heard.recv().await {
                let Some(house) = listener.upgrade() else { return };
                house.heed(news).await;
            }
        });
        house
    }

    /// The database whose own host a place is.
    pub fn database_at(&self, place: &Place) -> Option<&Database> {
        let Place::Host { base, .. } = place else { return None };
        self.database_hosts.iter().find(|(own, _)| own == base).map(|(_, name)| name)
    }

    pub(super) fn listed<'a>(&self, base: &Base, path: &'a str) -> Option<(Base, &'a str)> {
        self.pools.listed(base, path, self.database_hosts.iter().map(|(own, _)| own))
    }

    pub(super) async fn settled(&self) {
        self.store.cache.settled().await;
    }

    /// Counts what came of a request that was begun then, and tells it if it needed more than the cache.
    pub(super) fn count(
        &self,
        request: &ModuleRequest,
        place: &Place,
        served: &Result<Reply, Failure>,
        begun: Instant,
    ) {
        if let Some(ledger) = &self.config.ledger {
            ledger.served(request, self.own_key(request, place), served);
        }
        let reply = match served {
            Ok(reply) => reply,
            Err(failure) => return self.tally.refuse(failure),
        };
        self.tally.serve(reply.served, reply.length());
        match reply.served {
            Served::Hit => {}
            // Older than what is served so while the mirrors are well.
            Served::Stale if reply.age.is_some_and(|age| age > policy::SOON) => self.tally.outlive(request, reply.age),
            Served::Stale => {}
            served => self.tally.tell(request, served, reply.length(), begun.elapsed()),
        }
    }

    /// The pool that origin form is served from.
    pub(super) fn origin(&self) -> &Pool {
        self.pools.origin()
    }

    /// The databases whose keys are known.
    pub(super) fn databases(&self) -> &[Arc<Sumdb>] {
        &self.databases
    }

    pub(super) async fn serve(
        self: &Arc<Self>,
        request: &ModuleRequest,
        place: &Place,
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        match request {
            ModuleRequest::SumSupported { database }
            | ModuleRequest::SumLatest { database }
            | ModuleRequest::SumLookup { database, .. }
            | ModuleRequest::SumTile { database, .. } => self.serve_sumdb(request, database, place).await,
            _ => match self.ground(request, place) {
                Some(ground) => self.serve_module(request, &ground, now).await,
                None => Ok(private_reply(request)),
            },
        }
    }

    /// The answer that lies in memory for a file that never changes, where nothing is left to be found out
    /// about it.
    pub(super) fn serve_ready(self: &Arc<Self>, reading: &Reading, place: &Place, now: SystemTime) -> Option<Reply> {
        // What a summary holds is compared with it each time.
        if self.config.frozen.is_some() {
            return None;
        }
        let request = &reading.request;
        let found = self.store.cache.at_hand(reading.key.as_ref()?, |note| {
            !self.is_file_due(request, note, now) && !self.is_info_due(request, note, now)
        })?;
        self.follow_hit(request, || self.ground(request, place), now);
        Some(Held::There(found).reply(request, now, Served::Hit))
    }

    /// What was served before, as it was, and nothing else.
    pub(super) async fn serve_frozen(
        self: &Arc<Self>,
        frozen: &Frozen,
        request: &ModuleRequest,
        place: &Place,
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        frozen.admit(request)?;
        let reply = self.serve(request, place, now).await?;
        self.thaw(frozen, request, self.own_key(request, place), reply).await
    }

    /// Where what is served at this place is kept.
    pub(super) fn own_key(&self, request: &ModuleRequest, place: &Place) -> Option<Key> {
        self.ground(request, place)?.key(request)
    }

    fn ground(&self, request: &ModuleRequest, place: &Place) -> Option<Ground> {
        self.pools.ground(place, request.module().is_some_and(|module| self.is_private(module)))
    }

    pub(super) fn is_private(&self, module: &Module) -> bool {
        self.private.cover(module)
    }

    /// Whether no database is told of this module.
    pub(super) fn is_unjudged(&self, module: &Module) -> bool {
        self.is_private(module) || self.unjudged.cover(module)
    }

    /// The database that says what is right.
    pub fn judge(&self) -> Option<&Arc<Sumdb>> {
        self.databases.first()
    }

    async fn serve_module(
        self: &Arc<Self>,
        request: &ModuleRequest,
        ground: &Ground,
        now: SystemTime,
    ) -> Result<Reply, Failure> {
        let held = self.held(request, ground).await;
        let Some(held) = held else { return self.ask(request, ground, now, Served::Miss).await };
        match held.freshness(request, now, self.config.fresh) {
            Freshness::Fresh => {
                self.recheck(request, &held, ground, now);
                self.follow_hit(request, || Some(ground.clone()), now);
                Ok(held.reply(request, now, Served::Hit))
            }
            Freshness::Soon => {
                self.renew(request, ground, now);
                Ok(held.reply(request, now, Served::Stale))
            }
            // Every breaker is open: who would be asked is known to be down, and a trial has no client wait.
            Freshness::Old if ground.pool.is_unwell() => {
                if !ground.pool.is_dark() {
                    self.renew(request, ground, now);
                }
                Ok(held.reply(request, now, Served::Stale))
            }
            Freshness::Old => {
                let asked = timeout(policy::GRACE, self.ask(request, ground, now, Served::Revalidated)).await;
                match asked {
                    Ok(Ok(reply)) => Ok(reply),
                    Ok(Err(_)) | Err(_) => Ok(held.reply(request, now, Served::Stale)),
                }
            }
            // Nobody can be asked for a younger one.
            Freshness::Gone if self.config.offline => Ok(held.reply(request, now, Served::Stale)),
            Freshness::Gone => self.ask(request, ground, now, Served::Miss).await,
        }
    }

    /// What is held: a file that never changes, else the younger of answer and absence. A verified
    /// file of the tree answers for every place.
    async fn held(&self, request: &ModuleRequest, ground: &Ground) -> Option<Held> {
        let there = match ground.key(request) {
            Some(key) => self.store.cache.get(&key).await,
            None => None,
        };
        if request.is_immutable() {
            if there.is_some() {
                return there.map(Held::There);
            }
            if let Some(found) = self.held_by_all(request, ground).await {
                return Some(Held::There(found));
            }
        }
        let absent = match ground.absent_key(request) {
            Some(key) => self.store.absence(&key).await,
            None => None,
        };
        match (there, absent) {
            (Some(there), Some(absent)) if there.note.at_ms < absent.at_ms => Some(Held::Absent(absent)),
            (Some(there), _) => Some(Held::There(there)),
            (None, absent) => absent.map(Held::Absent),
        }
    }

    /// Whether anything is held for a request.
    pub async fn is_held(&self, request: &ModuleRequest, ground: &Ground) -> bool {
        self.held(request, ground).await.is_some()
    }

    async fn held_by_all(&self, request: &ModuleRequest, ground: &Ground) -> Option<Found> {
        if ground.is_origin() || !matches!(request, ModuleRequest::Mod { .. } | ModuleRequest::Zip { .. }) {
            return None;
        }
        let found = self.store.cache.get(&tree_key(request)?).await?;
        is_verified(&found.note).then_some(found)
    }

    /// Asks upstream behind an answer that was given already.
    fn renew(self: &Arc<Self>, request: &ModuleRequest, ground: &Ground, now: SystemTime) {
        let (house, request, ground) = (Arc::clone(self), request.clone(), ground.clone());
        self.runtime.spawn(async move {
            if let Err(why) = house.ask(&request, &ground, now, Served::Revalidated).await {
                tracing::debug!(%request, %why, "not renewed");
            }
        });
    }

    /// Asks upstream for a client.
    async fn ask(
        self: &Arc<Self>,
        request: &ModuleRequest,
        ground: &Ground,
        now: SystemTime,
        served: Served,
    ) -> Result<Reply, Failure> {
        self.fetch(request, ground, now, served, Asked::Client).await
    }

    /// Asks upstream, once however many ask for the same.
    pub async fn fetch(
        self: &Arc<Self>,
        request: &ModuleRequest,
        ground: &Ground,
        now: SystemTime,
        served: Served,
        asked: Asked,
    ) -> Result<Reply, Failure> {
        let no_place = || Failure::fault(format!("{request} has no place in the cache"), "");
        let own = ground.key(request).ok_or_else(no_place)?;
        let sums = if ground.is_origin() { None } else { self.sums_in_time(request).await };
        let key = if sums.is_some() { tree_key(request).ok_or_else(no_place)? } else { own.clone() };
        let mut filled = self.fill(request, ground, &key, sums.clone(), now, asked).await;
        if !filled.is_for(ground, key == own) {
            filled = self.fill(request, ground, &own, sums, now, asked).await;
        }
        filled.reply(request, served)
    }

    /// Fills a place, once however many ask.
    async fn fill(
        self: &Arc<Self>,
        request: &ModuleRequest,
        ground: &Ground,
        key: &Key,
        sums: Option<super::log::Sums>,
        now: SystemTime,
        by: Asked,
    ) -> Filled {
        // Whoever joins what was begun early waits no less for it.
        let _place = if by == Asked::Client { self.early.make_way() } else { None };
        let leads = Arc::new(AtomicBool::new(false));
        let (house, asked, place, leading) = (Arc::clone(self), request.clone(), ground.clone(), Arc::clone(&leads));
        let under = key.clone();
        let produce = move |draft| async move {
            // Whoever looked just before another's fill landed, and came here just after, finds it there.
            if asked.is_immutable()
                && let Some(found) = house.store.cache.get(&under).await
                && (sums.is_none() || is_verified(&found.note))
            {
                return super::store::hand_on(found, draft).await;
            }
            leading.store(true, Ordering::Relaxed);
            house.booked(&asked.clone(), house.clone().produce(draft, asked, place, sums, now, by)).await
        };
        // What is fetched early has no request, but a ledger wants to know from whom it came.
        let begin = || self.config.ledger.is_some().then(|| Trace::begin(Id::draw(), Context::root()));
        let trace = trace::current().or_else(begin);
        let found = self.store.cache.fill(key, move |draft| trace::along(trace, produce(draft))).await;
        let leads = leads.load(Ordering::Relaxed);
        if leads && found.is_ok() {
            self.compare_new_info(request, ground, now);
        }
        Filled { leads, found }
    }

    async fn produce(
        self: Arc<Self>,
        draft: Draft,
        request: ModuleRequest,
        ground: Ground,
        sums: Option<super::log::Sums>,
        now: SystemTime,
        by: Asked,
    ) -> Result<(Draft, Verdict), Failure> {
        let is_wanted = self.begin_early(&request, &ground, by, now).await;
        let produced = match &request {
            ModuleRequest::Mod { .. } | ModuleRequest::Zip { .. } => {
                self.produce_file(draft, &request, &ground, sums, now).await
            }
            ModuleRequest::List { module } => self.produce_list(draft, &request, module, &ground, now).await,
            ModuleRequest::Info { version, .. } => {
                self.produce_small(draft, &request, &ground, now, |text| verify::judge_info(text, Some(version))).await
            }
            _ => self.produce_small(draft, &request, &ground, now, |text| verify::judge_info(text, None)).await,
        };
        if let Err(failure) = &produced
            && let Some(key) = ground.absent_key(&request)
        {
            self.store.put_absence(&key, failure, policy::millis(now)).await;
        }
        if let (ModuleRequest::Mod { .. }, Ok((draft, Verdict::Keep { .. }))) = (&request, &produced) {
            self.follow_requires(draft, &ground, by, is_wanted, now);
        }
        produced
    }

    /// A small answer: kept where it is what it should be, passed on where no mirror has a better one.
    async fn produce_small(
        &self,
        mut draft: Draft,
        request: &ModuleRequest,
        ground: &Ground,
        now: SystemTime,
        judge: impl Fn(&Bytes) -> Result<(), String>,
    ) -> Result<(Draft, Verdict), Failure> {
        let known = self.known(request, ground, SMALL).await;
        match Walk::new(&self.asker, &ground.pool, request.wire()).knowing(known).small(SMALL, judge).await {
            Ok(Small { bytes, mirror, mut validators, .. }) => {
                draft.write(bytes).await?;
                validators.extend(facts_of(&mirror));
                Ok((draft, keep(now, validators)))
            }
            Err((trouble, Some(doubtful))) if trouble.absent.is_none() && is_doubtful(request, &doubtful) => {
                tracing::debug!(%request, "no mirror has another time; kept as it came, to be asked for again");
                draft.write(doubtful).await?;
                Ok((draft, keep(now, Facts::from([(DOUBT.to_owned(), "time".to_owned())]))))
            }
            Err((trouble, Some(odd))) if is_of_another(request, &odd) => Err(trouble.of(request)),
            Err((trouble, Some(odd))) if trouble.absent.is_none() => {
                tracing::debug!(%request, "no mirror has an answer that parses; passed on as it came");
                self.keep_odd(request, ground, &odd).await;
                draft.write(odd).await?;
                Ok((draft, Verdict::PassOn { facts: Facts::new() }))
            }
            Err((trouble, _)) => self.replay_odd(request, ground, draft, trouble.of(request)).await,
        }
    }

    /// What is held of an answer that changes.
    async fn known(&self, request: &ModuleRequest, ground: &Ground, limit: usize) -> Option<Known> {
        let key = ground.key(request).filter(|_| !request.is_immutable())?;
        self.store.known(&key, limit).await
    }

    /// The union of the lists of all named mirrors, and of the versions listed before that are held
    /// and verified: a version does not vanish because one mirror forgot it.
    async fn produce_list(
        &self,
        mut draft: Draft,
        request: &ModuleRequest,
        module: &Module,
        ground: &Ground,
        now: SystemTime,
    ) -> Result<(Draft, Verdict), Failure> {
        let (lists, odd) = match self.ask_lists(request, ground).await {
            Ok(lists) => (lists, None),
            Err((trouble, Some(odd))) if trouble.absent.is_none() => (Vec::new(), Some(odd)),
            Err((trouble, _)) => return self.replay_odd(request, ground, draft, trouble.of(request)).await,
        };
        if let Some(odd) = odd {
            self.keep_odd(request, ground, &odd).await;
            draft.write(odd).await?;
            return Ok((draft, Verdict::PassOn { facts: Facts::new() }));
        }
        let facts = lists.iter().flat_map(|list| list.validators.clone()).collect();
        if lists.iter().all(|list| list.is_same) {
            draft.write(lists.into_iter().next().map(|list| list.bytes).unwrap_or_default()).await?;
            return Ok((draft, keep(now, facts)));
        }
        let lists: Vec<Bytes> = lists.into_iter().map(|list| list.bytes).collect();
        let kept = self.kept_versions(request, module, ground, &lists).await;
        draft.write(unite(&lists, &kept)).await?;
        Ok((draft, keep(now, facts)))
    }

    /// Every named mirror's list, as far as they come within the time that the first one leaves them: either all
    /// are as they were, or none of them is only said to be.
    async fn ask_lists(
        &self,
        request: &ModuleRequest,
        ground: &Ground,
    ) -> Result<Vec<Small>, (Trouble, Option<Bytes>)> {
        let (pool, known) = (&ground.pool, self.known(request, ground, LIST).await);
        let awake: Vec<Arc<Mirror>> = pool.mirrors.iter().filter(|mirror| !mirror.rests()).cloned().collect();
        if pool.manner == Manner::OnFault || awake.len() < 2 {
            let walk = Walk::new(&self.asker, pool, request.wire()).knowing(known);
            return walk.small(LIST, judge_list).await.map(|list| vec![list]);
        }
        let mut lists = collect_lists(self.each_list(request, pool, awake, known)).await?;
        if lists.iter().all(|list| list.is_same) {
            return Ok(lists);
        }
        // What is held is the union of all; of whoever has nothing new, its own list is wanted beside the new one.
        let same: Vec<Arc<Mirror>> = lists.extract_if(.., |list| list.is_same).map(|list| list.mirror).collect();
        if !same.is_empty() {
            lists.extend(collect_lists(self.each_list(request, pool, same, None)).await.unwrap_or_default());
        }
        Ok(lists)
    }

    /// Asks each of these mirrors for itself.
    fn each_list(
        &self,
        request: &ModuleRequest,
        pool: &Pool,
        mirrors: Vec<Arc<Mirror>>,
        known: Option<Known>,
    ) -> FuturesUnordered<impl Future<Output = Result<Small, (Trouble, Option<Bytes>)>>> {
        let alone = |mirror| {
            let pool = Pool { mirrors: vec![mirror], manner: pool.manner, hedge: policy::CONTRADICT };
            Walk::new(&self.asker, &pool, request.wire()).knowing(known.clone()).small(LIST, judge_list)
        };
        mirrors.into_iter().map(alone).collect()
    }

    /// Versions that were listed before, are in none of the new lists, and of which we hold a verified go.mod.
    async fn kept_versions(
        &self,
        request: &ModuleRequest,
        module: &Module,
        ground: &Ground,
        lists: &[Bytes],
    ) -> Vec<String> {
        let Some(key) = ground.key(request) else { return Vec::new() };
        let Some(before) = self.store.small(&key, LIST).await else { return Vec::new() };
        let now: std::collections::HashSet<&str> = lists.iter().flat_map(versions).collect();
        let mut kept = Vec::new();
        for version in versions(&before).filter(|version| !now.contains(version)) {
            if self.holds_verified(module, version).await {
                kept.push(version.to_owned());
            }
        }
        kept
    }

    async fn holds_verified(&self, module: &Module, version: &str) -> bool {
        let Ok(version) = Version::new(version) else { return false };
        let Some(key) = tree_key(&ModuleRequest::Mod { module: module.clone(), version }) else { return false };
        self.store.cache.get(&key).await.is_some_and(|found| is_verified(&found.note))
    }

    async fn serve_sumdb(
        self: &Arc<Self>,
        request: &ModuleRequest,
        name: &Database,
        place: &Place,
    ) -> Result<Reply, Failure> {
        if request.module().is_some_and(|module| self.is_unjudged(module)) {
            return Err(Failure::policy(format!("{request}: the module is private here"), HINT_PRIVATE));
        }
        let Some(database) = self.databases.iter().find(|database| database.name == *name) else {
            return self.pass_sumdb(request, name, place).await;
        };
        let answered = match request {
            ModuleRequest::SumLookup { module, version, .. } => database.lookup(module, version).await,
            ModuleRequest::SumTile { tile, .. } => database.tile(tile).await,
            ModuleRequest::SumLatest { .. } => database.latest().await,
            _ if database.is_supported().await? => Ok(Bytes::new()),
            _ => return Ok(unsupported(request, name)),
        };
        sum_reply(request, answered, Served::Hit)
    }

    /// A database whose key is not known: passed on, and only whole tiles are kept.
    async fn pass_sumdb(
        self: &Arc<Self>,
        request: &ModuleRequest,
        name: &Database,
        place: &Place,
    ) -> Result<Reply, Failure> {
        let pool = self.unknown_pool(name, place);
        let path = request.wire().replacen(&format!("/sumdb/{}", super::path::encode(name.as_str())), "", 1);
        let ask = move |house: Arc<House>| async move {
            Walk::new(&house.asker, &pool, path).small(SMALL, |_| Ok(())).await.map(|small| small.bytes)
        };
        match request {
            ModuleRequest::SumSupported { .. } => Ok(match ask(Arc::clone(self)).await {
                Ok(bytes) => reply(request, StatusCode::OK, Body::Bytes(bytes), Served::Passed, None),
                Err(_) => unsupported(request, name),
            }),
            ModuleRequest::SumTile { tile, .. } if *tile == super::log::whole(tile) => {
                let key = Key::new(&format!("passed/{}", request.file()));
                let key = key.ok_or_else(|| Failure::fault(format!("{request} has no place in the cache"), ""))?;
                self.keep_passed(request, &key, ask).await
            }
            _ => {
                let answered = ask(Arc::clone(self)).await.map_err(|(trouble, _)| trouble.of(request));
                sum_reply(request, answered, Served::Passed)
            }
        }
    }

    async fn keep_passed<A, F>(self: &Arc<Self>, request: &ModuleRequest, key: &Key, ask: A) -> Result<Reply, Failure>
    where
        A: FnOnce(Arc<House>) -> F + Send + 'static,
        F: Future<Output = Result<Bytes, (Trouble, Option<Bytes>)>> + Send,
    {
        if let Some(held) = self.store.small(key, SMALL).await {
            return Ok(reply(request, StatusCode::OK, Body::Bytes(held), Served::Hit, None));
        }
        let (house, asked) = (Arc::clone(self), request.clone());
        let produce = move |mut draft: Draft| async move {
            let bytes = ask(house).await.map_err(|(trouble, _)| trouble.of(&asked))?;
            let is_sound = fits_tile(&asked, bytes.len());
            draft.write(bytes).await?;
            let facts = Facts::new();
            let verdict = if is_sound { keep(SystemTime::now(), facts) } else { Verdict::PassOn { facts } };
            Ok((draft, verdict))
        };
        let found = self.store.cache.fill(key, produce).await;
        let answered = match found {
            Ok(found) => found.content.bytes(SMALL).await.map_err(|why| Failure::fault(why, "")),
            Err(why) => Err(why),
        };
        sum_reply(request, answered, Served::Miss)
    }

    /// Who answers for a database that nobody configured: the mirrors, then its own host on the
    /// client's account; of another host that host alone.
    fn unknown_pool(&self, name: &Database, place: &Place) -> Pool {
        let mirrors = match place {
            Place::Host { base, standing } => vec![Arc::new(Mirror::new(below(base, name), *standing))],
            Place::Ours { .. } => {
                let own = Base::parse(&format!("https://{name}")).ok();
                let own = own.map(|base| Arc::new(Mirror::new(base, place.standing())));
                let passed_on = |base: &Base| Arc::new(Mirror::unproven(below(base, name), Standing::Configured));
                self.pools.origin_bases().iter().map(passed_on).chain(own).collect()
            }
        };
        Pool { mirrors, manner: Manner::Named, hedge: Duration::from_secs(3) }
    }
}

impl Filled {
    /// Whether it is an answer of this ground. Two grounds may fill one place of the tree, and whoever
    /// joins the other's fill gets what the database vouches for, but neither the other's unverified
    /// file nor the other's refusal.
    fn is_for(&self, ground: &Ground, is_own_place: bool) -> bool {
        let is_ours = |name: &str| ground.pool.mirrors.iter().any(|mirror| mirror.name() == name);
        match &self.found {
            _ if self.leads => true,
            Ok(found) => is_own_place || is_verified(&found.note),
            Err(failure) => {
                let complaints = failure.complaints();
                complaints.is_empty() || complaints.iter().any(|complaint| is_ours(&complaint.upstream))
            }
        }
    }

    fn reply(self, request: &ModuleRequest, served: Served) -> Result<Reply, Failure> {
        match self.found {
            Ok(found) => {
                let served = if self.leads { served } else { Served::Collapsed };
                Ok(reply(request, StatusCode::OK, Body::Held(found.content), served, None))
            }
            Err(failure) => match failure.as_absent() {
                Some((status, text)) => {
                    let body = Body::Bytes(Bytes::copy_from_slice(text.as_bytes()));
                    let absent = reply(request, status, body, served, None);
                    Ok(Reply { content_type: TEXT, absence: Some(failure), ..absent })
                }
                None => Err(failure),
            },
        }
    }
}

impl Held {
    fn freshness(&self, request: &ModuleRequest, now: SystemTime, fresh: Duration) -> Freshness {
        match self {
            Held::There(_) if request.is_immutable() => Freshness::Fresh,
            Held::There(found) => policy::judge_age(policy::age(found.note.at_ms, now), fresh, false),
            Held::Absent(absence) => policy::judge_age(policy::age(absence.at_ms, now), fresh, true),
        }
    }

    /// The found file, where there is one.
    pub fn found(&self) -> Option<&Found> {
        match self {
            Held::There(found) => Some(found),
            Held::Absent(_) => None,
        }
    }

    fn reply(self, request: &ModuleRequest, now: SystemTime, served: Served) -> Reply {
        match self {
            Held::There(found) => {
                let age = policy::age(found.note.at_ms, now);
                reply(request, StatusCode::OK, Body::Held(found.content), served, Some(age))
            }
            Held::Absent(absence) => {
                let age = policy::age(absence.at_ms, now);
                let said = absence.as_failure(request);
                let absent = reply(request, absence.status, Body::Bytes(absence.text), served, Some(age));
                Reply { content_type: TEXT, absence: Some(said), ..absent }
            }
        }
    }
}

impl House {
    fn recheck(self: &Arc<Self>, request: &ModuleRequest, held: &Held, ground: &Ground, now: SystemTime) {
        if let Some(found) = held.found() {
            self.recheck_file(request, &found.note, ground, now);
            self.recheck_info(request, &found.note, ground, now);
        }
    }
}

/// Sets out what an older process, an import or a power cut left to be set out.
fn catch_up(runtime: &Handle, folder: Folder, databases: &[SumdbConfig]) {
    let databases = databases.to_vec();
    runtime.spawn_blocking(move || {
        for database in &databases {
            match joined::catch_up(&folder, database) {
                Ok(0) => {}
                Ok(files) => tracing::debug!(database = %database.name, files, "set out for file:// readers"),
                Err(why) => tracing::warn!(database = %database.name, %why, "could not be set out for file:// readers"),
            }
        }
    });
}

/// Where a database answers itself: the default one under its other name as well.
fn database_hosts(config: &SumdbConfig) -> Vec<(Base, Database)> {
    let is_default = config.name.as_str() == defaults::sumdb_name();
    let aliases = defaults::SUMDB_HOSTS.iter().filter(|_| is_default);
    let aliases = aliases.filter_map(|host| Base::parse(&format!("https://{host}")).ok());
    config.own_base().into_iter().chain(aliases).map(|base| (base, config.name.clone())).collect()
}

/// Whether it is an `.info` of that version, but for its time.
fn is_doubtful(request: &ModuleRequest, text: &[u8]) -> bool {
    matches!(request, ModuleRequest::Info { version, .. }
        if version.is_canonical() && verify::judge_info_loosely(text, version).is_ok())
}

/// Whether an `.info` is about another version than the one that was asked for, which go refuses too
/// (modfetch/proxy.go, Stat): it asks for one that does not suit the module to learn which it stands for.
fn is_of_another(request: &ModuleRequest, text: &[u8]) -> bool {
    matches!(request, ModuleRequest::Info { module, version }
        if super::path::is_suited(module, version)
            && verify::judge_info(text, None).is_ok()
            && verify::judge_info_loosely(text, version).is_err())
}

/// Where a file lies that answers for every place.
pub fn tree_key(request: &ModuleRequest) -> Option<Key> {
    Key::new(&format!("{}/{}", super::pools::TREE, request.file()))
}

/// The verdict on something right.
pub fn keep(now: SystemTime, facts: Facts) -> Verdict {
    Verdict::Keep { at_ms: policy::millis(now), facts }
}

/// Whence something came.
pub fn facts_of(mirror: &Mirror) -> Facts {
    Facts::from([(MIRROR.to_owned(), mirror.base.to_string())])
}

const TEXT: &str = "text/plain; charset=utf-8";

fn reply(request: &ModuleRequest, status: StatusCode, body: Body, served: Served, age: Option<Duration>) -> Reply {
    Reply { status, content_type: request.content_type(), body, served, age, absence: None }
}

/// Nobody is asked for a private module; go's list may go on to `direct`.
fn private_reply(request: &ModuleRequest) -> Reply {
    let text = format!("goanyway: {request}: private here (goproxy.private), so no public mirror is asked for it\n");
    let body = Body::Bytes(text.into());
    Reply { content_type: TEXT, ..reply(request, StatusCode::NOT_FOUND, body, Served::Passed, None) }
}

/// go asks a database of which it hears this elsewhere, and in the end directly.
fn unsupported(request: &ModuleRequest, database: &Database) -> Reply {
    let text = format!("goanyway: checksum database {database} is out of reach from here\n");
    reply(request, StatusCode::NOT_FOUND, Body::Bytes(text.into()), Served::Passed, None)
}

fn sum_reply(request: &ModuleRequest, answered: Result<Bytes, Failure>, served: Served) -> Result<Reply, Failure> {
    match answered {
        Ok(bytes) => Ok(reply(request, StatusCode::OK, Body::Held(Content::of(bytes)), served, None)),
        Err(failure) => match failure.as_absent() {
            Some((status, text)) => {
                let body = Body::Bytes(Bytes::copy_from_slice(text.as_bytes()));
                Ok(Reply { content_type: TEXT, ..reply(request, status, body, served, None) })
            }
            None => Err(failure),
        },
    }
}

/// Waits for lists until all are in, or until the others had their time after the first list or absence.
async fn collect_lists<F>(mut asked: FuturesUnordered<F>) -> Result<Vec<Small>, (Trouble, Option<Bytes>)>
where
    F: Future<Output = Result<Small, (Trouble, Option<Bytes>)>>,
{
    let (mut lists, mut odd) = (Vec::new(), None);
    let mut trouble = Trouble { complaints: Vec::new(), absent: None };
    let mut until: Option<Instant> = None;
    loop {
        let answer = tokio::select! {
            answer = asked.next() => answer,
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => None,
        };
        match answer {
            None => break,
            Some(Ok(list)) => lists.push(list),
            Some(Err((more, body))) => {
                trouble.complaints.extend(more.complaints);
                trouble.absent = trouble.absent.or(more.absent);
                odd = odd.or(body);
            }
        }
        if !lists.is_empty() || trouble.absent.is_some() {
            until.get_or_insert_with(|| Instant::now() + policy::CONTRADICT);
        }
    }
    if lists.is_empty() { Err((trouble, odd)) } else { Ok(lists) }
}

fn judge_list(text: &Bytes) -> Result<(), String> {
    verify::judge_list(text)
}

/// Whether so many bytes may be that tile: as many hashes as it is wide, or records of any length.
fn fits_tile(request: &ModuleRequest, length: usize) -> bool {
    match request {
        ModuleRequest::SumTile { tile, .. } if !tile.is_data() => length == tile.width() as usize * 32,
        _ => true,
    }
}

/// The versions that a list names.
fn versions(list: &Bytes) -> impl Iterator<Item = &str> {
    std::str::from_utf8(list).unwrap_or_default().lines().filter_map(verify::listed_version)
}

/// One list of many: the first as it came, then the lines of the others for versions not yet named.
/// With one list and nothing to add, that list byte for byte.
fn unite(lists: &[Bytes], kept: &[String]) -> Bytes {
    let Some((first, others)) = lists.split_first() else { return Bytes::new() };
    let mut named: std::collections::HashSet<&str> = versions(first).collect();
    let mut added: Vec<&str> = others.iter().flat_map(versions).filter(|version| named.insert(version)).collect();
    added.extend(kept.iter().map(String::as_str).filter(|version| named.insert(version)));
    if added.is_empty() {
        return first.clone();
    }
    added.sort_by(|one, other| version::compare(one, other));
    let mut united = String::from_utf8_lossy(first).into_owned();
    if !united.is_empty() && !united.ends_with('\n') {
        united.push('\n');
    }
    added.iter().for_each(|version| united.extend([version, "\n"]));
    united.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_united_without_losing_a_line() {
        let list = |text: &'static str| Bytes::from_static(text.as_bytes());
        let one = [list("v1.0.0 2019-01-01T00:00:00Z\nodd\n")];
        assert_eq!(unite(&one, &[]), one[0], "byte for byte");
        assert_eq!(
            unite(&[list("v1.0.0\nv1.1.0"), list("v1.10.0\nv1.0.0\nv1.2.0\n")], &["v0.9.0".to_owned()]),
            "v1.0.0\nv1.1.0\nv0.9.0\nv1.2.0\nv1.10.0\n"
        );
        assert_eq!(unite(&[list(""), list("v1.0.0\n")], &[]), "v1.0.0\n");
    }
}
