//! The stage of a scenario: who plays which server, over sockets that are none.
//!
//! Datagrams are real packets with real ids, sent and heard on tokio's clock, so that retransmission,
//! listening past strangers' packets and forged pairs are the wire's own code. A connection is a
//! question and a reply.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_net::NetError;
use hickory_proto::op::Message;
use tokio::time::Instant;

use super::super::server::{Server, Transport};
use super::says::{self, Says};

/// What a server is in a scenario.
#[derive(Clone, Debug)]
pub(super) enum Part {
    Says(Says),
    /// Nothing listens there.
    Closed,
    /// It has a certificate of another name.
    Impostor,
}

impl std::str::FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        match text {
            "closed" => Ok(Part::Closed),
            "impostor" => Ok(Part::Impostor),
            says => says.parse().map(Part::Says),
        }
    }
}

/// All servers of a scenario.
#[derive(Default)]
pub(in crate::resolve) struct Stage {
    actors: Mutex<HashMap<SocketAddr, Actor>>,
    // This machine has no descriptor left.
    exhausted: AtomicBool,
}

struct Actor {
    part: Part,
    packets: usize,
    asked: Vec<String>,
}

impl Stage {
    pub(super) fn cast(&self, server: SocketAddr, part: Part) {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        let actor = actors.entry(server).or_insert_with(|| Actor { part: part.clone(), packets: 0, asked: Vec::new() });
        actor.part = part;
    }

    pub(super) fn set_exhausted(&self, exhausted: bool) {
        self.exhausted.store(exhausted, Ordering::Relaxed);
    }

    /// The names that a server was asked for, a line a question.
    pub(super) fn asked(&self, server: SocketAddr) -> Vec<String> {
        self.with(server, |actor| actor.asked.clone())
    }

    pub(super) fn forget_questions(&self) {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        actors.values_mut().for_each(|actor| actor.asked.clear());
    }

    pub(in crate::resolve) fn open(self: &Arc<Stage>, server: SocketAddr) -> io::Result<Staged> {
        self.check_descriptors()?;
        Ok(Staged { stage: Arc::clone(self), server, inbox: Mutex::default() })
    }

    pub(in crate::resolve) async fn exchange(
        &self,
        server: &Server,
        transport: Transport,
        question: &Message,
    ) -> Result<Message, NetError> {
        self.check_descriptors()?;
        let address = server.address().ok_or(NetError::NoConnections)?;
        match self.with(address, |actor| actor.part.clone()) {
            Part::Closed => Err(io::Error::from(io::ErrorKind::ConnectionRefused).into()),
            Part::Impostor if transport != Transport::Tcp => {
                Err(io::Error::new(io::ErrorKind::InvalidData, "invalid peer certificate").into())
            }
            Part::Impostor | Part::Says(_) => self.reply(address, question).await,
        }
    }

    async fn reply(&self, server: SocketAddr, question: &Message) -> Result<Message, NetError> {
        match self.play(server, question, false)?.into_iter().next() {
            Some((after, packet)) => {
                tokio::time::sleep(after).await;
                Ok(Message::from_vec(&packet)?)
            }
            None => std::future::pending().await,
        }
    }

    fn play(&self, server: SocketAddr, question: &Message, udp: bool) -> io::Result<Vec<says::Packet>> {
        self.with(server, |actor| {
            let number = actor.packets;
            actor.packets += 1;
            let name = question.queries.first().map(|query| query.name().to_ascii()).unwrap_or_default();
            actor.asked.push(name.trim_end_matches('.').to_lowercase());
            match &actor.part {
                Part::Says(says) => Ok(says::play(says, question, udp, number)),
                Part::Closed => Err(io::ErrorKind::ConnectionRefused.into()),
                Part::Impostor => Ok(Vec::new()),
            }
        })
    }

    fn with<T>(&self, server: SocketAddr, work: impl FnOnce(&mut Actor) -> T) -> T {
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        // Where go is to be heard without a resolv.conf, this host is asked, and nobody is there.
        if server.ip().is_loopback() && !actors.contains_key(&server) {
            return work(&mut Actor { part: Part::Closed, packets: 0, asked: Vec::new() });
        }
        work(actors.get_mut(&server).unwrap_or_else(|| panic!("nobody plays {server}, and it is asked")))
    }

    fn check_descriptors(&self) -> io::Result<()> {
        match self.exhausted.load(Ordering::Relaxed) {
            true => Err(rustix::io::Errno::MFILE.into()),
            false => Ok(()),
        }
    }
}

/// What stands for a connected UDP socket.
pub(in crate::resolve) struct Staged {
    stage: Arc<Stage>,
    server: SocketAddr,
    // What is on its way back, and when it is here; one task sends and receives.
    inbox: Mutex<Vec<(Instant, io::Result<Vec<u8>>)>>,
}

impl Staged {
    pub(in crate::resolve) fn send(&self, packet: &[u8]) -> io::Result<usize> {
        let question = Message::from_vec(packet).map_err(io::Error::other)?;
        let now = Instant::now();
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        match self.stage.play(self.server, &question, true) {
            Ok(packets) => inbox.extend(packets.into_iter().map(|(after, packet)| (now + after, Ok(packet)))),
            Err(error) => inbox.push((now, Err(error))),
        }
        Ok(packet.len())
    }

    pub(in crate::resolve) async fn recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.first_due() else { return std::future::pending().await };
        tokio::time::sleep_until(first).await;
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        let place = inbox.iter().position(|(at, _)| *at == first).expect("it was there, and nobody else takes it");
        let bytes = inbox.remove(place).1?;
        let length = bytes.len().min(packet.len());
        packet[..length].copy_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn first_due(&self) -> Option<Instant> {
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.iter().map(|(at, _)| *at).min()
    }
}
