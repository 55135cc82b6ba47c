//! Bytes both ways between a client and an origin, untouched.
//!
//! Half-close is relayed: what one side still has to say after the other has finished arrives, for
//! at most a minute. A reset of one side becomes a reset of the other. A tunnel in which nothing moves for ten minutes ends. While a flow is idle it
//! holds no buffer: each worker lends one scratch buffer for the length of a read and a write, and
//! a flow keeps only what could not be written. Once a direction is bulky its bytes move inside
//! the kernel (`splice`) through a pooled 1 MiB pipe, which goes back to the pool when it idles.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::Instant;

use crate::metrics::{By, Counter, Family, Gauge, Label, Registry, Unit};
use crate::socket::{self, Conduit};

/// No byte either way for so long ends a tunnel.
const IDLE: Duration = Duration::from_secs(600);
/// One side has finished, and the other says nothing for so long.
const HALF_OPEN: Duration = Duration::from_secs(60);
/// What a worker lends for a read: large enough that copying costs little, small enough for the cache.
const SCRATCH: usize = 256 * 1024;
/// A direction that has moved so much is bulky: a git pack, a zip, an image layer.
const BULKY: u64 = 256 * 1024;

/// Counts of all tunnels, shared by all workers.
#[derive(Clone, Default)]
pub struct Tunnels {
    open: Gauge,
    ended: Family<By<Ending>, Counter>,
    bytes: Family<By<Direction>, Counter>,
}

impl Tunnels {
    /// None yet.
    pub fn new(registry: &Registry) -> Tunnels {
        let tunnels = Tunnels::default();
        registry.room("tunnel", |families| {
            families.register("open", "Tunnels open now", tunnels.open.clone());
            families.register("ended", "Tunnels that ended, by how", tunnels.ended.clone());
            let bytes = "Bytes moved by tunnels that ended, by direction";
            families.register_with_unit("carried", bytes, Unit::Bytes, tunnels.bytes.clone());
        });
        tunnels
    }

    /// How many are open now, and the bytes that those which ended have carried.
    pub fn totals(&self) -> (u64, u64) {
        let bytes = |direction| self.bytes.get_or_create(&By(direction)).get();
        (u64::try_from(self.open.get()).unwrap_or(0), bytes(Direction::Up) + bytes(Direction::Down))
    }

    /// Moves bytes until both sides have finished, or one failed, or nothing moves. `early` is what
    /// the client sent before the tunnel stood. Bare connections are joined by the kernel once they are
    /// bulky; TLS on either side is copied.
    pub async fn relay(&self, client: Conduit, origin: Conduit, early: Bytes) -> Carried {
        match (client, origin) {
            (Conduit::Bare(client), Conduit::Bare(origin)) => self.relay_bare(client, origin, early).await,
            (client, origin) => Box::pin(self.relay_wrapped(client, origin, early)).await,
        }
    }

    async fn relay_bare(&self, mut client: TcpStream, mut origin: TcpStream, early: Bytes) -> Carried {
        self.open.inc();
        let life = Life::default();
        let ending = match write_all(&origin, early, Direction::Up, &life).await {
            Ok(()) => run(&mut client, &mut origin, &life).await,
            Err(_) => Ending::Broken,
        };
        if ending == Ending::Reset {
            // What one side was told by a reset the other is not told by an orderly end.
            socket::reset_on_close(&client);
            socket::reset_on_close(&origin);
        }
        self.finish(&life, ending)
    }

    async fn relay_wrapped(&self, mut client: Conduit, mut origin: Conduit, early: Bytes) -> Carried {
        let life = Life::default();
        let sent = async {
            origin.write_all(&early).await?;
            origin.flush().await
        };
        match tokio::time::timeout(HALF_OPEN, sent).await {
            Ok(Ok(())) => life.moved(Direction::Up, early.len() as u64),
            _ => {
                self.open.inc();
                return self.finish(&life, Ending::Broken);
            }
        }
        let carried = self.carry(&mut client, &mut origin).await;
        if carried.ending == Ending::Reset {
            socket::reset_on_close(client.socket());
            socket::reset_on_close(origin.socket());
        }
        Carried { up: carried.up + early.len() as u64, ..carried }
    }

    /// The same for streams that the kernel cannot join: protocols that were switched to by an upgrade.
    /// Whoever has the streams hands on a reset.
    pub async fn carry<C, O>(&self, client: &mut C, origin: &mut O) -> Carried
    where
        C: AsyncRead + AsyncWrite + Unpin,
        O: AsyncRead + AsyncWrite + Unpin,
    {
        self.open.inc();
        let life = Life::default();
        let ((client_in, client_out), (origin_in, origin_out)) = (split(client), split(origin));
        let up = copy(client_in, origin_out, Direction::Up, &life);
        let down = copy(origin_in, client_out, Direction::Down, &life);
        let ending = both(up, down, &life).await;
        self.finish(&life, ending)
    }

    fn finish(&self, life: &Life, ending: Ending) -> Carried {
        let carried = Carried { up: life.total(Direction::Up), down: life.total(Direction::Down), ending };
        self.open.dec();
        self.ended.get_or_create(&By(ending)).inc();
        self.bytes.get_or_create(&By(Direction::Up)).inc_by(carried.up);
        self.bytes.get_or_create(&By(Direction::Down)).inc_by(carried.down);
        carried
    }
}

/// What a tunnel carried, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the client to the origin.
    pub up: u64,
    /// Bytes from the origin to the client.
    pub down: u64,
    pub ending: Ending,
}

/// How a tunnel ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Both sides finished.
    Finished,
    /// A side reset the connection, and so did we to the other.
    Reset,
    /// A side could not be written to.
    Broken,
    /// Nothing moved for too long.
    Idle,
}

impl Label for Ending {
    const KEY: &'static str = "ending";

    fn label(&self) -> &'static str {
        match self {
            Ending::Finished => "finished",
            Ending::Reset => "reset",
            Ending::Broken => "broken",
            Ending::Idle => "idle",
        }
    }
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Up,
    Down,
}

impl Label for Direction {
    const KEY: &'static str = "direction";

    fn label(&self) -> &'static str {
        match self {
            Direction::Up => "up",
            Direction::Down => "down",
        }
    }
}

/// What both directions of one tunnel tell each other: bytes moved, and when last.
struct Life {
    start: Instant,
    up: AtomicU64,
    down: AtomicU64,
    /// Milliseconds from `start` to the last byte.
    last: AtomicU64,
}

impl Default for Life {
    fn default() -> Life {
        Life { start: Instant::now(), up: AtomicU64::new(0), down: AtomicU64::new(0), last: AtomicU64::new(0) }
    }
}

impl Life {
    fn moved(&self, direction: Direction, bytes: u64) {
        self.counter(direction).fetch_add(bytes, Ordering::Relaxed);
        self.touch();
    }

    /// Something happened: whatever is waited for is waited for from now on.
    fn touch(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    fn total(&self, direction: Direction) -> u64 {
        self.counter(direction).load(Ordering::Relaxed)
    }

    fn counter(&self, direction: Direction) -> &AtomicU64 {
        match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        }
    }

    /// Returns when nothing has moved for `limit`.
    async fn idle_for(&self, limit: Duration) {
        loop {
            let due = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed)) + limit;
            if Instant::now() >= due {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }
}

/// Which side cut a direction short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The one that is read from: it reset the connection.
    Read,
    /// The one that is written to.
    Write,
}

async fn run(client: &mut TcpStream, origin: &mut TcpStream, life: &Life) -> Ending {
    let ((client_in, client_out), (origin_in, origin_out)) = (client.split(), origin.split());
    let up = pump(client_in, origin_out, Direction::Up, life);
    let down = pump(origin_in, client_out, Direction::Down, life);
    both(up, down, life).await
}

/// Both directions to their ends.
async fn both<U, D>(up: U, down: D, life: &Life) -> Ending
where
    U: Future<Output = Result<(), Cut>>,
    D: Future<Output = Result<(), Cut>>,
{
    let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
    let first = tokio::select! {
        ended = &mut up => (Direction::Up, ended),
        ended = &mut down => (Direction::Down, ended),
        () = life.idle_for(IDLE) => return Ending::Idle,
    };
    if first.1 == Err(Cut::Read) {
        return Ending::Reset;
    }
    // A side that takes no more may have said why before it went: that is still carried over.
    let broken = first.1.is_err();
    life.touch();
    let second = async {
        match first.0 {
            Direction::Up => down.await,
            Direction::Down => up.await,
        }
    };
    tokio::select! {
        ended = second => match ended {
            Ok(()) if !broken => Ending::Finished,
            Err(Cut::Read) if !broken => Ending::Reset,
            _ => Ending::Broken,
        },
        () = life.idle_for(HALF_OPEN) => Ending::Idle,
    }
}

/// One direction of two streams, to its end; then the end is passed on.
async fn copy<R, W>(mut from: R, mut to: W, direction: Direction, life: &Life) -> Result<(), Cut>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    loop {
        let mut piece = poll_fn(|cx| read_lent(&mut from, cx)).await.map_err(|_| Cut::Read)?;
        if piece.is_empty() {
            break;
        }
        while piece.has_remaining() {
            // Counted piece by piece: a side that reads slowly is not an idle one.
            let written = to.write(&piece).await.map_err(|_| Cut::Write)?;
            if written == 0 {
                return Err(Cut::Write);
            }
            piece.advance(written);
            life.moved(direction, written as u64);
        }
        to.flush().await.map_err(|_| Cut::Write)?;
    }
    // The other side may be gone already: nobody is left to be told.
    let _ = to.shutdown().await;
    Ok(())
}

/// What is there to be read, read into the lent buffer: a stream that waits holds none.
fn read_lent<R: AsyncRead + Unpin>(from: &mut R, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    LENT.with_borrow_mut(|scratch| {
        scratch.resize(SCRATCH, 0);
        let mut room = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(room.filled())))
    })
}

/// Counts piece by piece: a side that reads slowly is not an idle one.
async fn write_all(to: &TcpStream, mut bytes: Bytes, direction: Direction, life: &Life) -> Result<(), Cut> {
    while bytes.has_remaining() {
        to.writable().await.map_err(|_| Cut::Write)?;
        match to.try_write(&bytes) {
            Ok(written) => {
                bytes.advance(written);
                life.moved(direction, written as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return Err(Cut::Write),
        }
    }
    Ok(())
}

/// One direction, to its end; then the end is passed on.
async fn pump(mut from: ReadHalf<'_>, to: WriteHalf<'_>, direction: Direction, life: &Life) -> Result<(), Cut> {
    let to = to.as_ref();
    loop {
        if life.total(direction) >= BULKY {
            from.readable().await.map_err(|_| Cut::Read)?;
            if bulk::splice_while_busy(from.as_ref(), to, direction, life).await? == Flow::Ended {
                break;
            }
        }
        match poll_fn(|cx| move_once(&mut from, to, cx)).await? {
            Moved::End => break,
            Moved::Some { written, rest } => {
                life.moved(direction, written as u64);
                write_all(to, rest, direction, life).await?;
            }
        }
    }
    finish_writing(to).map_err(|_| Cut::Write)
}

fn finish_writing(to: &TcpStream) -> io::Result<()> {
    match socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write) {
        // The other side is gone already: nobody is left to be told.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        outcome => outcome,
    }
}

enum Moved {
    End,
    Some { written: usize, rest: Bytes },
}

/// Whether a direction goes on after its busy stretch.
#[derive(PartialEq, Eq)]
enum Flow {
    Ended,
    Paused,
}

thread_local! {
    /// Lent for one read and one write; never held across an await.
    static LENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Polled, and not tried: a read that leaves room shows tokio that there is no more, without another.
fn move_once(from: &mut ReadHalf<'_>, to: &TcpStream, cx: &mut Context<'_>) -> Poll<Result<Moved, Cut>> {
    LENT.with_borrow_mut(|scratch| {
        scratch.resize(SCRATCH, 0);
        let mut room = ReadBuf::new(scratch);
        ready!(Pin::new(from).poll_read(cx, &mut room)).map_err(|_| Cut::Read)?;
        let read = room.filled();
        if read.is_empty() {
            return Poll::Ready(Ok(Moved::End));
        }
        let written = match to.try_write(read) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return Poll::Ready(Err(Cut::Write)),
        };
        Poll::Ready(Ok(Moved::Some { written, rest: Bytes::copy_from_slice(&read[written..]) }))
    })
}

#[cfg(target_os = "linux")]
mod bulk {
    //! The kernel moves the bytes: socket to pipe, pipe to socket.

    use super::*;
    use std::os::fd::OwnedFd;
    use std::sync::atomic::AtomicUsize;
    use std::sync::{Mutex, PoisonError};
    use tokio::io::Interest;
    use tokio::time::timeout;

    use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with, splice};
    use rustix::process::{Resource, getrlimit};

    /// What a pipe should hold. The kernel's default of 64 KiB loses most of the gain.
    const PIPE: usize = 1 << 20;
    /// Below this a pipe is worse than copying: past the user's limit of pipe pages
    /// (`pipe-user-pages-soft`) new pipes get 8 KiB.
    const WORTH: usize = 256 * 1024;
    /// A direction that had nothing to move for so long gives its pipe back.
    const PAUSE: Duration = Duration::from_millis(200);
    /// Pipes kept for the next bulky flow. To make one is cheap beside a flow that is worth it.
    const POOLED: usize = 16;
    /// Pipes are at most one for so many files that may be open: the files are for clients first.
    const FILES_FOR_EACH: u64 = 16;

    static MADE: AtomicUsize = AtomicUsize::new(0);
    static POOL: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

    struct Pipe {
        read: OwnedFd,
        write: OwnedFd,
        size: usize,
    }

    impl Pipe {
        fn take() -> Option<Pipe> {
            if let Some(pipe) = POOL.lock().unwrap_or_else(PoisonError::into_inner).pop() {
                return Some(pipe);
            }
            let afforded = getrlimit(Resource::Nofile).current.map_or(u64::MAX, |files| files / FILES_FOR_EACH);
            if MADE.load(Ordering::Relaxed) as u64 >= afforded {
                return None;
            }
            let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
            // Refused past the user's limit; what was granted is read back.
            let _ = fcntl_setpipe_size(&write, PIPE);
            let size = fcntl_getpipe_size(&write).ok()?;
            if size < WORTH {
                return None;
            }
            MADE.fetch_add(1, Ordering::Relaxed);
            Some(Pipe { read, write, size })
        }

        /// Only an empty pipe may be lent again.
        fn give_back(self) {
            let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
            if pool.len() < POOLED {
                pool.push(self);
            }
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            MADE.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) async fn splice_while_busy(
        from: &TcpStream,
        to: &TcpStream,
        direction: Direction,
        life: &Life,
    ) -> Result<Flow, Cut> {
        let Some(pipe) = Pipe::take() else { return Ok(Flow::Paused) };
        loop {
            let filled = timeout(PAUSE, from.async_io(Interest::READABLE, || fill(from, &pipe))).await;
            let Ok(filled) = filled else {
                pipe.give_back();
                return Ok(Flow::Paused);
            };
            let mut left = filled.map_err(|_| Cut::Read)?;
            if left == 0 {
                pipe.give_back();
                return Ok(Flow::Ended);
            }
            while left > 0 {
                let drained = to.async_io(Interest::WRITABLE, || drain(&pipe, to, left)).await;
                let drained = drained.map_err(|_| Cut::Write)?;
                left -= drained;
                life.moved(direction, drained as u64);
            }
        }
    }

    fn fill(from: &TcpStream, pipe: &Pipe) -> io::Result<usize> {
        Ok(splice(from, None, &pipe.write, None, pipe.size, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }

    fn drain(pipe: &Pipe, to: &TcpStream, left: usize) -> io::Result<usize> {
        Ok(splice(&pipe.read, None, to, None, left, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
    }
}

#[cfg(not(target_os = "linux"))]
mod bulk {
    //! Elsewhere everything is copied.

    use super::*;

    pub(super) async fn splice_while_busy(_: &TcpStream, _: &TcpStream, _: Direction, _: &Life) -> Result<Flow, Cut> {
        Ok(Flow::Paused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Two connected sockets.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (near, far)
    }

    struct Rig {
        client: TcpStream,
        origin: TcpStream,
        carried: tokio::task::JoinHandle<Carried>,
    }

    async fn tunnel(early: &'static [u8]) -> Rig {
        let (client, client_end) = pair().await;
        let (origin, origin_end) = pair().await;
        let tunnels = Tunnels::default();
        let carried = tokio::spawn(async move {
            tunnels.relay(client_end.into(), origin_end.into(), Bytes::from_static(early)).await
        });
        Rig { client, origin, carried }
    }

    #[tokio::test]
    async fn early_bytes_arrive_and_an_answer_after_half_close_too() {
        let mut rig = tunnel(b"early ").await;
        rig.client.write_all(b"late").await.unwrap();
        rig.client.shutdown().await.unwrap();
        let mut heard = String::new();
        rig.origin.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "early late");
        rig.origin.write_all(b"answer").await.unwrap();
        rig.origin.shutdown().await.unwrap();
        let mut answer = String::new();
        rig.client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        assert_eq!(rig.carried.await.unwrap(), Carried { up: 10, down: 6, ending: Ending::Finished });
    }

    #[tokio::test]
    async fn bulk_arrives_whole_and_in_order_both_ways() {
        const SIZE: usize = 24 << 20;
        let rig = tunnel(b"").await;
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at * 31 % 251) as u8).collect();
        let (client_in, client_out) = rig.client.into_split();
        let (origin_in, origin_out) = rig.origin.into_split();
        let send = |mut to: tokio::net::tcp::OwnedWriteHalf, bytes: Vec<u8>| async move {
            to.write_all(&bytes).await.unwrap();
            to.shutdown().await.unwrap();
        };
        let receive = |mut from: tokio::net::tcp::OwnedReadHalf| async move {
            let mut heard = Vec::new();
            from.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (_, _, up, down) = tokio::join!(
            send(client_out, bytes.clone()),
            send(origin_out, bytes.clone()),
            receive(origin_in),
            receive(client_in)
        );
        assert!(up == bytes && down == bytes, "{} up, {} down", up.len(), down.len());
        assert_eq!(rig.carried.await.unwrap().ending, Ending::Finished);
    }

    /// A client that says its last word after a long silence lost the answer to it: the minute for
    /// it was counted from the last byte, and was over when it began.
    #[tokio::test(start_paused = true)]
    async fn the_minute_of_a_half_open_tunnel_begins_with_the_half_close() {
        let mut half = tunnel(b"").await;
        tokio::time::advance(HALF_OPEN * 3).await;
        let begun = Instant::now();
        half.client.shutdown().await.unwrap();
        half.origin.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(half.carried.await.unwrap().ending, Ending::Idle);
        assert_eq!(begun.elapsed().as_secs(), HALF_OPEN.as_secs());
    }

    /// A client of which a pipe's 1 MiB took longer than the limit was cut as idle: bytes counted
    /// when they were read, not when they went on.
    #[tokio::test]
    async fn what_was_written_is_what_counts_as_moved() {
        let (near, mut far) = pair().await;
        let life = Life::default();
        let written = write_all(&near, Bytes::from(vec![7; 64 << 20]), Direction::Down, &life);
        let mut written = std::pin::pin!(written);
        let mut heard = vec![0; 1 << 20];
        tokio::select! {
            _ = &mut written => unreachable!("64 MiB fit no socket"),
            heard = far.read_exact(&mut heard) => drop(heard.unwrap()),
        }
        assert!(life.total(Direction::Down) >= 1 << 20);
    }

    /// An origin that refuses an upload answers, closes, and resets what still comes: the answer got
    /// lost when the failed write was noticed first.
    #[tokio::test]
    async fn an_answer_before_a_failed_upload_arrives() {
        let life = Life::default();
        let ((mut client, mut client_end), (mut origin, mut origin_end)) = (pair().await, pair().await);
        client_end.write_all(b"upload").await.unwrap();
        origin.write_all(b"413").await.unwrap();
        origin.shutdown().await.unwrap();
        // What the kernel says of a write to a side that is gone, without the race of provoking it.
        socket2::SockRef::from(&origin_end).shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(run(&mut client, &mut origin_end, &life).await, Ending::Broken);
        drop(client);
        let mut heard = String::new();
        let _ = client_end.read_to_string(&mut heard).await;
        assert_eq!(heard, "413");
    }

    /// A reset became an orderly end: a download that broke off looked whole to a client that reads to
    /// the end.
    #[tokio::test]
    async fn a_reset_of_one_side_is_a_reset_of_the_other() {
        for origin_resets in [true, false] {
            let rig = tunnel(b"").await;
            let (resets, mut hears) = if origin_resets { (rig.origin, rig.client) } else { (rig.client, rig.origin) };
            socket::reset_on_close(&resets);
            drop(resets);
            let heard = hears.read_to_end(&mut Vec::new()).await;
            assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            assert_eq!(rig.carried.await.unwrap().ending, Ending::Reset);
        }
    }

    #[tokio::test]
    async fn streams_are_carried_like_sockets() {
        let ((mut client, mut client_end), (mut origin, mut origin_end)) = (pair().await, pair().await);
        let carried = tokio::spawn(async move { Tunnels::default().carry(&mut client_end, &mut origin_end).await });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let (mut up, mut down) = (String::new(), String::new());
        origin.read_to_string(&mut up).await.unwrap();
        origin.write_all(b"answer").await.unwrap();
        origin.shutdown().await.unwrap();
        client.read_to_string(&mut down).await.unwrap();
        assert_eq!((up.as_str(), down.as_str()), ("question", "answer"));
        assert_eq!(carried.await.unwrap(), Carried { up: 8, down: 6, ending: Ending::Finished });
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_tunnel_and_half_silence_sooner() {
        let idle = tunnel(b"").await;
        let begun = Instant::now();
        assert_eq!(idle.carried.await.unwrap().ending, Ending::Idle);
        assert_eq!(begun.elapsed().as_secs(), IDLE.as_secs());

        let mut half = tunnel(b"").await;
        half.client.shutdown().await.unwrap();
        half.origin.read_to_end(&mut Vec::new()).await.unwrap();
        assert_eq!(half.carried.await.unwrap().ending, Ending::Idle);
    }
}
