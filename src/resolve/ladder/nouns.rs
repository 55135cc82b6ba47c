//! What a ladder is given, what it wants done, and what it comes to.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use crate::resolve::Tier;
use crate::resolve::kind::Kind;
use crate::resolve::reply::{Ede, Family, Reply};
use crate::resolve::server::{Server, Transport};

/// How long a plain public server's answer is held to see whether another one follows: what is
/// injected on the path comes first, and the real answer after it.
pub const LISTEN_ON: Duration = Duration::from_millis(40);
/// The same where somebody on the path was caught lately: longer than the real answer takes
/// from the other side of the world.
pub const LISTEN_LONG: Duration = Duration::from_millis(400);

/// Who runs a server: two denials count only if they come from two of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    System,
    Service(&'static str),
    Own(SocketAddr),
}

/// A server as this look-up sees it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub server: Server,
    pub tier: Tier,
    pub operator: Operator,
    /// Servers of one wave are asked together.
    pub wave: usize,
    /// The transport to begin with: TCP where UDP is known to be dead.
    pub transport: Transport,
    pub edns: bool,
    /// Known to be down; asked because all are.
    pub down: bool,
    /// Known to be down; asked beside the others to find out whether it still is.
    pub trial: bool,
    pub marks: Marks,
}

impl Candidate {
    /// Whether what it says can be forged by anybody on the way, if it is asked over UDP.
    pub fn is_exposed(&self) -> bool {
        self.tier == Tier::Plain && self.transport == Transport::Udp
    }

    /// How a question to it is put over one of its transports.
    pub fn manner(&self, transport: Transport) -> Manner {
        let exposed = self.tier == Tier::Plain && transport == Transport::Udp;
        Manner {
            public: self.tier > Tier::System,
            mixed: exposed && !self.marks.flattens,
            listen_on: match exposed {
                true if self.marks.poisoned => LISTEN_LONG,
                true => LISTEN_ON,
                false => Duration::ZERO,
            },
        }
    }
}

/// What earlier look-ups taught about a server, or about the way to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// It lied about this domain: a denial of it needs two others.
    pub liar: bool,
    /// Somebody on the way forges what UDP says about this domain.
    pub poisoned: bool,
    /// Over UDP it said nothing lately, and over TCP it did; UDP is what is left where TCP fails.
    pub udp_dead: bool,
    /// It spells names its own way, so that mixed case shows nothing.
    pub flattens: bool,
    /// It has answered well with EDNS: that is not what it fails over.
    pub edns_proven: bool,
    /// It denies the IPv6 side of names that have an IPv4 one.
    pub denies_v6: bool,
}

/// How a question is put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// To somebody who owes us nothing, so not too often.
    pub public: bool,
    /// In mixed case, which a forger off the path would have to guess (draft-vixie-dnsext-dns0x20).
    pub mixed: bool,
    /// How long to listen for a second answer that differs.
    pub listen_on: Duration,
}

/// Whom to ask about a name, and what to know about it beforehand.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kind: Kind,
    pub families: Vec<Family>,
    /// Sorted by wave.
    pub candidates: Vec<Candidate>,
    /// When the second server is asked: twice what the first usually takes, 50 to 150 ms.
    pub hedge: Duration,
    /// Whether an older answer is at hand.
    pub spare: bool,
    /// Networks that are as good as public ones here.
    pub allow: Vec<IpNet>,
    /// Ask everybody once the verdict stands, so that a person sees what each says.
    pub exhaustive: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    Ask(Ask),
    /// Hand this on to whoever waits. Only [`Verdict::Spare`] may be followed by another.
    Answer(Verdict),
}

/// One question to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub attempt: usize,
    pub candidate: usize,
    pub transport: Transport,
    pub family: Family,
    pub edns: bool,
}

/// What a look-up comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Found(Answer),
    /// Use the older answer. Before the end it means: for now.
    Spare,
    Absent {
        confirmed: bool,
        /// Nobody else may be asked, so this word is final.
        last_word: bool,
        ttl: Option<Duration>,
        by: Vec<usize>,
    },
    Blocked {
        by: usize,
        ede: Ede,
    },
    Unknown,
}

/// The addresses, and whose word they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub by: usize,
    pub transport: Transport,
    pub addresses: Vec<IpAddr>,
    pub ttl: Duration,
    /// The family about which it has not said a word that counts.
    pub unheard: Option<Family>,
    /// A system server gave an address of the site's own: the name is private.
    pub inward: bool,
    /// Not believed, but all there is.
    pub doubtful: bool,
    /// Servers whose denial, or whose impossible address, this overrules.
    pub overruled: Vec<usize>,
}

/// One question that was asked, for the trace.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub candidate: usize,
    pub transport: Transport,
    pub family: Family,
    pub asked_at: Instant,
    pub reply: Option<Reply>,
    /// What the server said before it was judged; go would take it at its word.
    pub said: Option<Reply>,
    pub elapsed: Duration,
    pub edns: bool,
}
