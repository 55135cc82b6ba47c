//! Which mirrors may answer a request, and where its answer is kept.
//!
//! The built-in public mirrors are one pool, the configured upstreams are one, every other host is a
//! pool of its own that fails over to nobody: a curated mirror's 403 or 404 is its answer. What the
//! pool of origin form gave lies in the `file://` tree under `download/`, everything else apart
//! under `hosts/`, so that no host ever answers with another's files.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lru::LruCache;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::mirrors::{Manner, Mirror, Pool};
use super::path::ModuleRequest;
use super::{Place, defaults};
use crate::admit::Standing;
use crate::cache::Key;
use crate::target::{Base, Host};

/// A named mirror that is this slow to its first byte is joined by the next.
const HEDGE_NAMED: Duration = Duration::from_secs(3);
/// A public mirror may have to fetch what it is asked for; the next one is told of it later.
const HEDGE_PUBLIC: Duration = Duration::from_secs(6);
/// Hosts whose health is remembered, beside the built-in and the configured ones.
const HOSTS: usize = 1024;
/// The tree of the pool that origin form serves.
pub const TREE: &str = "download";

/// All mirrors known to this process.
pub struct Pools {
    origin: Pool,
    /// Whether origin form is served by the built-in mirrors.
    is_public: bool,
    public: Vec<Arc<Mirror>>,
    // Looked up once for each request to another host; never across an await.
    hosts: Mutex<LruCache<(Base, Standing), Ground>>,
}

/// A pool, and the folder of its files.
#[derive(Clone, Debug)]
pub struct Ground {
    pub pool: Pool,
    root: Arc<str>,
}

impl Ground {
    /// Whether this is the pool that origin form serves.
    pub fn is_origin(&self) -> bool {
        &*self.root == TREE
    }

    /// Whether these are mirrors that we know of ourselves, and not a host that some client named.
    pub fn is_known(&self) -> bool {
        self.is_origin() || self.pool.manner == Manner::OnFault
    }

    /// Where the answer lies.
    pub fn key(&self, request: &ModuleRequest) -> Option<Key> {
        Key::new(&format!("{}/{}", self.root, request.file()))
    }

    /// Where an answer lies that is nobody's idea of right.
    pub fn odd_key(&self, request: &ModuleRequest) -> Option<Key> {
        Key::new(&format!("odd/{}/{}", self.root, request.file()))
    }

    /// Where its absence lies.
    pub fn absent_key(&self, request: &ModuleRequest) -> Option<Key> {
        Key::new(&format!("absent/{}/{}", self.root, request.file()))
    }
}

impl Pools {
    /// Takes the upstreams that the configuration names; none means the built-in ones.
    pub fn new(upstreams: &[Base]) -> Pools {
        let configured = |base: Base| Arc::new(Mirror::new(base, Standing::Configured));
        let public: Vec<Arc<Mirror>> = defaults::mirrors().into_iter().map(configured).collect();
        let is_public = upstreams.is_empty();
        let origin = match is_public {
            true => public_pool(&public, None),
            false => named_pool(upstreams.iter().cloned().map(configured).collect()),
        };
        let hosts = Mutex::new(LruCache::new(NonZeroUsize::new(HOSTS).unwrap_or(NonZeroUsize::MIN)));
        Pools { origin, is_public, public, hosts }
    }

    /// The bases of the origin pool, which also pass checksum databases on.
    pub fn origin_bases(&self) -> Vec<Base> {
        self.origin.mirrors.iter().map(|mirror| mirror.base.clone()).collect()
    }

    /// The known mirror, or the place of one of these databases, that an absolute-form request is for, and
    /// what of its path follows the base.
    pub fn listed<'a, 'b>(
        &'b self,
        base: &Base,
        path: &'a str,
        databases: impl Iterator<Item = &'b Base>,
    ) -> Option<(Base, &'a str)> {
        let known = self.origin.mirrors.iter().chain(&self.public).map(|mirror| &mirror.base).chain(databases);
        let here = known.filter(|known| known.scheme == base.scheme && known.target == base.target);
        let follows = |known: &Base| path.strip_prefix(&known.path).filter(|rest| rest.starts_with('/'));
        let found = here.filter_map(|known| Some((known.clone(), follows(known)?)));
        found.max_by_key(|(known, _)| known.path.len())
    }

    /// The ground that a request stands on. Nothing where the module is private and only public
    /// mirrors are left.
    pub fn ground(&self, place: &Place, is_private: bool) -> Option<Ground> {
        let mut ground = self.open_ground(place);
        if is_private {
            ground.pool.mirrors.retain(|mirror| !defaults::is_public(&mirror.base));
        }
        (!ground.pool.mirrors.is_empty()).then_some(ground)
    }

    fn open_ground(&self, place: &Place) -> Ground {
        let Place::Host { base, standing } = place else { return self.origin_ground() };
        if !self.is_public && self.origin.mirrors.iter().any(|mirror| mirror.base == *base) {
            return self.origin_ground();
        }
        if let Some(named) = self.public.iter().position(|mirror| mirror.base == *base) {
            let pool = public_pool(&self.public, Some(named));
            let root = if self.is_public { TREE.to_owned() } else { host_root(&self.public[0].base) };
            return Ground { pool, root: root.into() };
        }
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (base.clone(), *standing);
        let fresh = || {
            let mirror = Arc::new(Mirror::new(base.clone(), *standing));
            let root = format!("{}{}", host_root(base), whose(*standing));
            Ground { pool: named_pool(vec![mirror]), root: root.into() }
        };
        hosts.get_or_insert(place, fresh).clone()
    }

    /// The pool that origin form is served from.
    pub fn origin(&self) -> &Pool {
        &self.origin
    }

    /// The ground of origin form.
    pub fn origin_ground(&self) -> Ground {
        Ground { pool: self.origin.clone(), root: TREE.into() }
    }
}

/// The public mirrors that are asked by default, after the one that a client named.
fn public_pool(public: &[Arc<Mirror>], named: Option<usize>) -> Pool {
    let rest = (0..public.len().min(defaults::ASKED)).filter(|&at| Some(at) != named);
    let mirrors = named.into_iter().chain(rest).map(|at| Arc::clone(&public[at])).collect();
    Pool { mirrors, manner: Manner::OnFault, hedge: HEDGE_PUBLIC }
}

fn named_pool(mirrors: Vec<Arc<Mirror>>) -> Pool {
    Pool { mirrors, manner: Manner::Named, hedge: HEDGE_NAMED }
}

/// Whose files they are: a client on this host may reach what no other may (`admit`), and what it fetched there is
/// not for those. A prefix is encoded, and never ends like this.
fn whose(standing: Standing) -> &'static str {
    match standing {
        Standing::Remote => "",
        Standing::Local | Standing::Configured => "-local",
    }
}

/// One folder for each base: scheme, host, port and prefix in one component, so that no prefix and
/// module path together look like another's. An IPv6 address is marked with a tilde, which no name has.
fn host_root(base: &Base) -> String {
    let host = match &base.target.host {
        Host::Name(name) => name.to_string(),
        Host::Addr(address) if address.is_ipv6() => format!("~{}", address.to_string().replace(':', "_")),
        Host::Addr(address) => address.to_string(),
    };
    let prefix = utf8_percent_encode(&base.path, NON_ALPHANUMERIC);
    format!("hosts/{}-{host}-{}{prefix}", base.scheme.as_str(), base.target.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(text: &str) -> Base {
        Base::parse(text).unwrap()
    }

    fn ours() -> Place {
        Place::Ours { standing: Standing::Local }
    }

    fn host(text: &str) -> Place {
        Place::Host { base: base(text), standing: Standing::Remote }
    }

    /// Whom a request is put to, in order, and where its list lies.
    fn ground(pools: &Pools, place: &Place, is_private: bool) -> Option<(Vec<String>, String)> {
        let ground = pools.ground(place, is_private)?;
        let names = ground.pool.mirrors.iter().map(|mirror| mirror.name()).collect();
        let list = ModuleRequest::parse("/x.y/z/@v/list").unwrap();
        Some((names, ground.key(&list).unwrap().as_str().to_owned()))
    }

    fn at(names: &[&str], key: &str) -> Option<(Vec<String>, String)> {
        Some((names.iter().map(|&name| name.to_owned()).collect(), key.to_owned()))
    }

    #[test]
    fn by_default_the_public_mirrors_are_one_pool() {
        let pools = Pools::new(&[]);
        let tree = "download/x.y/z/@v/list";
        assert_eq!(ground(&pools, &ours(), false), at(&["proxy.golang.org", "goproxy.cn"], tree));
        assert_eq!(ground(&pools, &host("https://goproxy.cn"), false), at(&["goproxy.cn", "proxy.golang.org"], tree));
        assert_eq!(
            ground(&pools, &host("https://goproxy.io"), false),
            at(&["goproxy.io", "proxy.golang.org", "goproxy.cn"], tree)
        );
    }

    #[test]
    fn configured_upstreams_are_another_and_keep_apart_from_it() {
        let pools = Pools::new(&[base("http://a.corp.example/x"), base("https://b.corp.example")]);
        let both = ["http://a.corp.example/x", "b.corp.example"];
        assert_eq!(ground(&pools, &ours(), false), at(&both, "download/x.y/z/@v/list"));
        assert_eq!(ground(&pools, &host("https://b.corp.example"), false), at(&both, "download/x.y/z/@v/list"));
        assert_eq!(
            ground(&pools, &host("https://goproxy.cn"), false),
            at(&["goproxy.cn", "proxy.golang.org"], "hosts/https-proxy.golang.org-443/x.y/z/@v/list")
        );
    }

    #[test]
    fn any_other_host_answers_for_itself_alone() {
        let pools = Pools::new(&[]);
        assert_eq!(
            ground(&pools, &host("https://curated.example:8443/a.b"), false),
            at(&["curated.example:8443/a.b"], "hosts/https-curated.example-8443%2Fa%2Eb/x.y/z/@v/list")
        );
        assert_eq!(ground(&pools, &host("http://[::1]:3000"), false).unwrap().1, "hosts/http-~__1-3000/x.y/z/@v/list");
    }

    /// A client from elsewhere, refused by an internal host, was given what one on this host had fetched from it.
    #[test]
    fn what_a_client_on_this_host_may_reach_is_kept_apart_from_what_others_may() {
        let pools = Pools::new(&[]);
        let internal = base("https://athens.corp.example");
        let at = |standing| ground(&pools, &Place::Host { base: internal.clone(), standing }, false).unwrap().1;
        assert_eq!(at(Standing::Local), "hosts/https-athens.corp.example-443-local/x.y/z/@v/list");
        assert_eq!(at(Standing::Remote), "hosts/https-athens.corp.example-443/x.y/z/@v/list");
    }

    #[test]
    fn a_listed_base_takes_its_prefix_off_the_path() {
        let pools = Pools::new(&[base("http://a.corp.example/x"), base("http://a.corp.example/x/y")]);
        let database = base("http://sums.corp.example/db");
        let listed = |server: &str, path: &'static str| {
            pools.listed(&base(server), path, [&database].into_iter()).map(|(base, rest)| (base.to_string(), rest))
        };
        let (short, long) = ("http://a.corp.example/x".to_owned(), "http://a.corp.example/x/y".to_owned());
        assert_eq!(listed("http://a.corp.example", "/x/m.io/@v/list"), Some((short, "/m.io/@v/list")));
        assert_eq!(listed("http://a.corp.example", "/x/y/m.io/@v/list"), Some((long, "/m.io/@v/list")));
        assert_eq!(listed("http://a.corp.example", "/xy/m.io/@v/list"), None);
        assert_eq!(listed("http://other.example", "/x/m.io/@v/list"), None);
        assert!(listed("https://goproxy.cn", "/m.io/@v/list").is_some());
        let own = listed("http://sums.corp.example", "/db/lookup/m.io@v1.0.0");
        assert_eq!(own, Some(("http://sums.corp.example/db".to_owned(), "/lookup/m.io@v1.0.0")));
    }

    #[test]
    fn no_public_mirror_is_asked_for_a_private_module() {
        let mixed = Pools::new(&[base("https://goproxy.cn"), base("https://athens.corp.example")]);
        assert_eq!(ground(&mixed, &ours(), true), at(&["athens.corp.example"], "download/x.y/z/@v/list"));
        assert_eq!(ground(&Pools::new(&[]), &ours(), true), None);
        assert_eq!(ground(&Pools::new(&[]), &host("https://proxy.golang.org"), true), None);
        assert!(ground(&Pools::new(&[]), &host("https://athens.corp.example"), true).is_some());
    }
}
