//! The only maker of sockets: listeners, datagrams, outgoing connections, and hickory's provider.
//!
//! What every socket of ours has in common is set here and nowhere else: `TCP_NODELAY` on both
//! sides (without it a TLS server's session ticket waits 35 ms for an acknowledgement),
//! `SO_REUSEPORT` for one listener a worker, `IPV6_V6ONLY` so that both families can be bound side
//! by side. Who may be connected to is decided elsewhere: `connect` demands a judged address.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_net::runtime::{RuntimeProvider, TokioHandle};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsStream;

/// How many connections may wait for `accept`.
const BACKLOG: i32 = 1024;
/// How many datagrams are taken from the kernel at once, where it gives several.
const BATCH: usize = if quinn_udp::BATCH_SIZE < 8 { quinn_udp::BATCH_SIZE } else { 8 };
/// The kernel may hand over several datagrams of one sender as one (UDP_GRO): as much as there is.
const MOST_BYTES: usize = 64 * 1024;

/// One address, bound once for each worker: for TCP, or with [`std::net::UdpSocket`] for datagrams.
#[derive(Debug)]
pub struct Listeners<S = std::net::TcpListener> {
    /// Where they listen; the port that the kernel chose where 0 was asked for.
    pub address: SocketAddr,
    both_families: bool,
    sockets: Vec<S>,
}

impl Listeners {
    /// Binds `address` for `workers` accept loops. The first bind is made without `SO_REUSEPORT`:
    /// a second goanyway on the same port is told that the port is in use instead of joining.
    pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Listeners> {
        Self::bind_each(address, workers, listening_socket)
    }
}

impl Listeners {
    /// The same for connections that a gateway brings here: where this process may (CAP_NET_ADMIN), also
    /// those that keep their destination (TPROXY, `IP_TRANSPARENT`).
    pub fn bind_transparent(address: SocketAddr, workers: usize) -> io::Result<Listeners> {
        Self::bind_each(address, workers, transparent_socket)
    }
}

impl Listeners<std::net::UdpSocket> {
    /// The same for `workers` loops that receive datagrams.
    pub fn bind_datagrams(address: SocketAddr, workers: usize) -> io::Result<Listeners<std::net::UdpSocket>> {
        Self::bind_each(address, workers, datagram_socket)
    }
}

impl<S: From<Socket>> Listeners<S> {
    /// `make` binds one socket, shared with others or not.
    fn bind_each(
        address: SocketAddr,
        workers: usize,
        make: fn(SocketAddr, bool) -> io::Result<Socket>,
    ) -> io::Result<Listeners<S>> {
        let probe = make(address, false)?;
        let bound = probe.local_addr()?.as_socket().unwrap_or(address);
        drop(probe);
        let make = || make_again(|| make(bound, true));
        let sockets = (0..workers).map(|_| make().map(S::from)).collect::<io::Result<_>>()?;
        Ok(Listeners { address: bound, both_families: false, sockets })
    }

    /// Takes a socket that somebody else bound, for `workers` loops, which take turns at it: a group of
    /// `SO_REUSEPORT` cannot be made of it any more.
    pub fn adopt(socket: impl Into<Socket>, workers: usize) -> io::Result<Listeners<S>> {
        let socket = socket.into();
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let both_families = address.is_ipv6() && address.ip().is_unspecified() && !socket.only_v6()?;
        let sockets = (0..workers).map(|_| socket.try_clone().map(S::from)).collect::<io::Result<_>>()?;
        Ok(Listeners { address, both_families, sockets })
    }

    /// All that this answers at: one that others bound to all addresses of IPv6 may have IPv4's, too.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + use<S> {
        let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.address.port()));
        std::iter::once(self.address).chain(self.both_families.then_some(v4))
    }

    /// The sockets, one a worker, still to be given to a runtime by [`accepting`] or
    /// [`Datagrams::receiving`].
    pub fn into_sockets(self) -> Vec<S> {
        self.sockets
    }
}

/// Hands a bound listener to the runtime that this is called in.
pub fn accepting(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    // What it accepts inherits that.
    SockRef::from(&socket).set_tcp_nodelay(true)?;
    TcpListener::from_std(socket)
}

/// A UDP socket that knows to which of this machine's addresses each datagram was sent, so that the
/// reply comes from there: a client takes no other.
pub struct Datagrams {
    socket: UdpSocket,
    state: UdpSocketState,
    /// It has one address alone: replies leave from there whatever is said.
    is_bound: bool,
}

/// Room for one batch of datagrams, to be used again.
pub struct Batch {
    bytes: Vec<u8>,
    metas: [RecvMeta; BATCH],
    filled: usize,
}

/// One datagram as it came.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    pub peer: SocketAddr,
    /// The address of ours that it was sent to, where the kernel tells.
    pub local: Option<IpAddr>,
    pub bytes: &'a [u8],
}

impl Default for Batch {
    fn default() -> Batch {
        Batch { bytes: vec![0; BATCH * MOST_BYTES], metas: [RecvMeta::default(); BATCH], filled: 0 }
    }
}

impl Batch {
    /// The datagrams that came with the last [`Datagrams::receive`].
    pub fn datagrams(&self) -> impl Iterator<Item = Datagram<'_>> {
        let filled = self.metas[..self.filled].iter().zip(self.bytes.chunks(MOST_BYTES));
        filled.flat_map(|(meta, bytes)| {
            let whole = &bytes[..meta.len.min(bytes.len())];
            let each = whole.chunks(meta.stride.max(1));
            each.map(|bytes| Datagram { peer: meta.addr, local: meta.dst_ip, bytes })
        })
    }
}

impl Datagrams {
    /// Hands a bound socket to the runtime that this is called in.
    pub fn receiving(socket: std::net::UdpSocket) -> io::Result<Datagrams> {
        let state = UdpSocketState::new((&socket).into())?;
        let is_bound = !socket.local_addr()?.ip().is_unspecified();
        Ok(Datagrams { socket: UdpSocket::from_std(socket)?, state, is_bound })
    }

    /// Hands over each datagram that comes, until the kernel gives none for another reason than that there
    /// is none.
    pub async fn receive(&self, batch: &mut Batch, mut take: impl FnMut(Datagram<'_>)) -> io::Error {
        loop {
            let taken = self.socket.async_io(Interest::READABLE, || {
                self.fill(batch)?;
                batch.datagrams().for_each(&mut take);
                // Fewer than there was room for: there are no more, which need not be asked again.
                if batch.filled < BATCH { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
            });
            if let Err(error) = taken.await {
                return error;
            }
        }
    }

    fn fill(&self, batch: &mut Batch) -> io::Result<()> {
        let mut pieces = batch.bytes.chunks_mut(MOST_BYTES);
        let mut slices: [_; BATCH] = std::array::from_fn(|_| IoSliceMut::new(pieces.next().unwrap_or_default()));
        batch.filled = self.state.recv((&self.socket).into(), &mut slices, &mut batch.metas)?;
        Ok(())
    }

    /// Sends a datagram back from the address that it is the answer to. One that the kernel has no
    /// room for is lost, as datagrams are.
    pub fn reply(&self, peer: SocketAddr, local: Option<IpAddr>, bytes: &[u8]) -> io::Result<()> {
        if self.is_bound {
            return SockRef::from(&self.socket).send_to(bytes, &peer.into()).map(drop);
        }
        let transmit = Transmit { destination: peer, ecn: None, contents: bytes, segment_size: None, src_ip: local };
        self.state.try_send((&self.socket).into(), &transmit)
    }
}

/// Binds where the probe was just now. A child that another thread makes in that moment has a copy of the probe
/// until it becomes another program, so that is waited for.
fn make_again(make: impl Fn() -> io::Result<Socket>) -> io::Result<Socket> {
    const TRIES: usize = 100;
    for _ in 1..TRIES {
        match make() {
            Err(why) if why.kind() == io::ErrorKind::AddrInUse => std::thread::sleep(Duration::from_millis(10)),
            made => return made,
        }
    }
    make()
}

fn listening_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    listen_on(Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?, address, shared)
}

fn transparent_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Refused to whoever may not; REDIRECT works without.
    #[cfg(target_os = "linux")]
    let _ = if address.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) };
    listen_on(socket, address, shared)
}

fn listen_on(socket: Socket, address: SocketAddr, shared: bool) -> io::Result<Socket> {
    socket.set_reuse_address(true)?;
    bind_socket(&socket, address, shared)?;
    // The probe listens too: a bind alone succeeds beside a listener that has SO_REUSEADDR set.
    socket.listen(BACKLOG)?;
    Ok(socket)
}

fn datagram_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    bind_socket(&socket, address, shared)?;
    Ok(socket)
}

fn bind_socket(socket: &Socket, address: SocketAddr, shared: bool) -> io::Result<()> {
    #[cfg(unix)]
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

/// Whether an address is one of this machine's own. Nothing is sent: a socket can be bound to such
/// an address alone, except where the kernel was told to bind to any (`ip_nonlocal_bind`); there
/// the address that it would send from must do, which knows an interface's first address only.
pub fn is_here(address: IpAddr) -> bool {
    let nowhere: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::new(240, 0, 0, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1).into(),
    };
    let binds = |address: IpAddr| std::net::UdpSocket::bind((address, 0)).is_ok();
    binds(address) && (!binds(nowhere) || source_to(address).is_ok_and(|source| source == address))
}

/// Whether a connection to `address` ends at our own listener `own`: on its very address, on any of
/// this machine's where it listens on all of them (the system knows which those are), or on no address
/// in particular, which is this host.
pub fn leads_to(own: SocketAddr, address: SocketAddr) -> bool {
    let (own_ip, ip) = (own.ip().to_canonical(), address.ip().to_canonical());
    if own.port() != address.port() || own_ip.is_ipv4() != ip.is_ipv4() {
        return false;
    }
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    own_ip == ip || own_ip.is_unspecified() && (ip.is_loopback() || is_here(ip))
}

/// Raises the soft limit of open files to the hard one, and tells what it is then: a connection
/// takes two or more.
#[cfg(unix)]
pub fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    // Where that is not allowed, what there is must do.
    let now = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    now.filter(|&limit| limit < u64::MAX)
}

/// Elsewhere there is no such limit.
#[cfg(not(unix))]
pub fn raise_file_limit() -> Option<u64> {
    None
}

/// Whether a socket could not be made because this process, or this host, has no open file left.
pub fn is_short_of_files(error: &io::Error) -> bool {
    #[cfg(unix)]
    let short = [rustix::io::Errno::MFILE.raw_os_error(), rustix::io::Errno::NFILE.raw_os_error()];
    #[cfg(not(unix))]
    let short = [10_024]; // WSAEMFILE
    error.raw_os_error().is_some_and(|code| short.contains(&code))
}

/// The address that packets to `address` would start from. The routing table says; nothing is sent.
pub fn source_to(address: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Where a connection was going before a gateway brought it here: what netfilter remembers of it
/// (REDIRECT), else its own end, which is as it was (TPROXY). That of whoever came by itself is our listener.
#[cfg(target_os = "linux")]
pub fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    let local = stream.local_addr()?;
    let socket = SockRef::from(stream);
    // ENOENT where netfilter did not touch it.
    let remembered = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    Ok(remembered.ok().and_then(|address| address.as_socket()).unwrap_or(local))
}

/// Elsewhere nothing is brought here.
#[cfg(not(target_os = "linux"))]
pub fn destination(stream: &TcpStream) -> io::Result<SocketAddr> {
    stream.local_addr()
}

/// Connects to an address. The caller sets the deadline.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = unblocking_socket(address)?;
    socket.set_tcp_nodelay(true)?;
    if let Err(error) = socket.connect(&address.into())
        && !is_under_way(&error)
    {
        return Err(error);
    }
    let stream = TcpStream::from_std(socket.into())?;
    // Within this machine it stands by now: nothing is to be waited for.
    if stream.peer_addr().is_err() {
        stream.writable().await?;
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
    }
    Ok(stream)
}

fn unblocking_socket(address: SocketAddr) -> io::Result<Socket> {
    let (domain, protocol) = (Domain::for_address(address), Some(Protocol::TCP));
    // In one call, where there is one.
    #[cfg(target_os = "linux")]
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), protocol)?;
    #[cfg(not(target_os = "linux"))]
    let socket = Socket::new(domain, Type::STREAM, protocol)?;
    #[cfg(not(target_os = "linux"))]
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a connection has begun that is still to be waited for.
fn is_under_way(error: &io::Error) -> bool {
    #[cfg(unix)]
    let code = rustix::io::Errno::INPROGRESS.raw_os_error();
    #[cfg(not(unix))]
    let code = 10_035; // WSAEWOULDBLOCK
    error.raw_os_error() == Some(code)
}

/// Has a connection end in a reset and not in what looks like an orderly end: what was still to be
/// said will not be.
pub fn reset_on_close(stream: &TcpStream) {
    // A socket that takes no more options is gone already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A connection to carry bytes over: bare, or within TLS that was set up over it by either side.
#[derive(Debug)]
pub enum Conduit {
    Bare(TcpStream),
    /// Boxed: ten thousand idle tunnels are bare, and must not have room for this.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Conduit {
    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Conduit::Bare(stream) => stream,
            Conduit::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl From<TcpStream> for Conduit {
    fn from(stream: TcpStream) -> Conduit {
        Conduit::Bare(stream)
    }
}

impl<S: Into<TlsStream<TcpStream>>> From<Box<S>> for Conduit {
    fn from(stream: Box<S>) -> Conduit {
        Conduit::Tls(Box::new((*stream).into()))
    }
}

impl AsyncRead for Conduit {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conduit::Bare(stream) => Pin::new(stream).poll_read(cx, buf),
            Conduit::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Conduit {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conduit::Bare(stream) => Pin::new(stream).poll_write(cx, bytes),
            Conduit::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conduit::Bare(stream) => Pin::new(stream).poll_flush(cx),
            Conduit::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conduit::Bare(stream) => Pin::new(stream).poll_shutdown(cx),
            Conduit::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conduit::Bare(stream) => {
                let mut room = [0; SMALL];
                match joined(slices, &mut room) {
                    Some(bytes) => Pin::new(stream).poll_write(cx, bytes),
                    None => Pin::new(stream).poll_write_vectored(cx, slices),
                }
            }
            Conduit::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// Up to here it costs less to copy a head and its body together than to hand the kernel two pieces.
const SMALL: usize = 1024;

/// All of the slices in one, if the room holds them.
fn joined<'a>(slices: &[io::IoSlice<'_>], room: &'a mut [u8; SMALL]) -> Option<&'a [u8]> {
    let mut held = 0;
    for slice in slices {
        room.get_mut(held..held + slice.len())?.copy_from_slice(slice);
        held += slice.len();
    }
    Some(&room[..held])
}

/// A client's connection, which can be made to end in a reset by somebody who does not hold it.
#[derive(Debug)]
pub struct Edge {
    // Absent once it was taken over.
    stream: Option<Conduit>,
    cut: Cut,
}

/// Cuts the connection that it belongs to: once told, that ends in a reset.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<AtomicBool>);

impl Cut {
    /// From now on the connection ends in a reset.
    pub fn tell(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Edge {
    /// Nothing is cut yet.
    pub fn new(stream: Conduit) -> Edge {
        Edge { stream: Some(stream), cut: Cut::default() }
    }

    /// The means to cut it.
    pub fn cut(&self) -> Cut {
        self.cut.clone()
    }

    /// The connection itself, for whoever takes it over.
    pub fn into_inner(mut self) -> Conduit {
        self.stream.take().expect("taken by `into_inner` alone, which ends it")
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut Conduit> {
        Pin::new(self.get_mut().stream.as_mut().expect("taken by `into_inner` alone, which ends it"))
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(stream) = &self.stream
            && self.cut.0.load(Ordering::Relaxed)
        {
            reset_on_close(stream.socket());
        }
    }
}

impl AsyncRead for Edge {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl AsyncWrite for Edge {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A UDP socket of its own port, connected, so that refusals come back and strangers' packets stay out.
pub async fn udp_to(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(socket)
}

/// hickory's way to sockets and tasks. It must outlive the exchanges made through it: their
/// background tasks end with its last clone.
#[derive(Clone, Default)]
pub struct Provider(TokioHandle);

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = hickory_net::runtime::TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> TokioHandle {
        self.0.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _local: Option<SocketAddr>,
        patience: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        Box::pin(async move {
            let patience = patience.unwrap_or(Duration::from_secs(5));
            match tokio::time::timeout(patience, connect(server)).await {
                Ok(stream) => stream.map(AsyncIoTokioAsStd),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn bind_udp(
        &self,
        _local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<UdpSocket>>>> {
        Box::pin(udp_to(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A start beside a program that was just being started once said that its own port was in use.
    #[test]
    fn a_childs_copy_of_the_probe_is_waited_for() {
        let copy = listening_socket("127.0.0.1:0".parse().unwrap(), false).unwrap();
        let address = copy.local_addr().unwrap().as_socket().unwrap();
        let bind = || listening_socket(address, true);
        assert_eq!(bind().unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let child = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(30));
            drop(copy);
        });
        assert!(make_again(bind).is_ok());
        child.join().unwrap();
    }

    #[test]
    fn a_small_answer_is_written_in_one_piece_and_a_large_one_is_not_copied() {
        let (head, body) = (b"HTTP/1.1 200 OK\r\n\r\n", b"v1.0.0\n");
        let slices = |body: &'static [u8]| [io::IoSlice::new(head), io::IoSlice::new(body)];
        let mut room = [0; SMALL];
        assert_eq!(joined(&slices(body), &mut room), Some(&b"HTTP/1.1 200 OK\r\n\r\nv1.0.0\n"[..]));
        assert_eq!(joined(&slices(&[0; SMALL]), &mut room), None);
        assert_eq!(joined(&[], &mut room), Some(&b""[..]));
    }

    #[test]
    fn this_machines_addresses_are_told_from_others() {
        assert!(is_here(Ipv4Addr::LOCALHOST.into()) && is_here(Ipv4Addr::new(127, 0, 0, 9).into()));
        // Reserved (RFC 1112 section 4): nobody's.
        assert!(!is_here(Ipv4Addr::new(240, 0, 0, 9).into()));
    }

    #[test]
    fn our_own_listener_is_found_by_every_address_that_leads_to_it() {
        let table = [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "0.0.0.0:80", true),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80", true),
            ("0.0.0.0:80", "127.0.0.9:80", true),
            ("0.0.0.0:80", "0.0.0.0:80", true),
            ("0.0.0.0:80", "240.0.0.9:80", false),
            // Listeners are of one family alone (IPV6_V6ONLY).
            ("[::]:80", "127.0.0.1:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "[::]:80", true),
        ];
        for (own, address, leads) in table {
            assert_eq!(leads_to(own.parse().unwrap(), address.parse().unwrap()), leads, "{own} {address}");
        }
    }

    /// Without it a TLS server's session ticket waits 35 ms for an acknowledgement.
    #[tokio::test]
    async fn what_is_accepted_does_not_wait_to_send() {
        let bound = Listeners::bind((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let address = bound.address;
        let listener = accepting(bound.into_sockets().remove(0)).unwrap();
        let client = connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        assert!(accepted.nodelay().unwrap() && client.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_port_is_shared_by_our_workers_and_by_nobody_else() {
        let ours = Listeners::bind((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
        assert_ne!(ours.address.port(), 0);
        let second = Listeners::bind(ours.address, 2).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(ours.into_sockets().len(), 2);
        let datagrams = Listeners::bind_datagrams((Ipv4Addr::LOCALHOST, 0).into(), 2).unwrap();
        let second = Listeners::bind_datagrams(datagrams.address, 2).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
    }

    /// Bound to every address, a reply used to leave from whichever address the route prefers, and
    /// the client dropped it.
    #[tokio::test]
    async fn a_reply_comes_from_the_address_that_was_asked() {
        let at = Ipv4Addr::new(127, 0, 0, 7);
        for bound in [Ipv4Addr::UNSPECIFIED, at] {
            is_answered_from_there(bound.into(), at.into()).await;
        }
        for bound in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST] {
            is_answered_from_there(bound.into(), Ipv6Addr::LOCALHOST.into()).await;
        }
    }

    async fn is_answered_from_there(bound: IpAddr, at: IpAddr) {
        let sockets = Listeners::bind_datagrams((bound, 0).into(), 1).unwrap();
        let asked = SocketAddr::new(at, sockets.address.port());
        let ours = Datagrams::receiving(sockets.into_sockets().remove(0)).unwrap();
        let client = udp_to(asked).await.unwrap();
        client.send(b"who").await.unwrap();
        let answer = |Datagram { peer, local, bytes }: Datagram<'_>| {
            assert_eq!((local, bytes), (Some(asked.ip()), &b"who"[..]));
            ours.reply(peer, local, b"me").unwrap();
        };
        let (mut told, mut batch) = ([0; 8], Batch::default());
        // The socket is connected to that address: anything from elsewhere stays out.
        let length = tokio::select! {
            error = ours.receive(&mut batch, answer) => panic!("{error}"),
            length = tokio::time::timeout(Duration::from_secs(20), client.recv(&mut told)) => {
                length.expect("the reply started elsewhere").unwrap()
            }
        };
        assert_eq!(&told[..length], b"me");
    }

    /// However many come at once: a batch that is not full is the last, and one that is may be.
    #[tokio::test]
    async fn every_datagram_of_a_burst_is_taken() {
        let sockets = Listeners::bind_datagrams((Ipv4Addr::LOCALHOST, 0).into(), 1).unwrap();
        let at = sockets.address;
        let ours = Datagrams::receiving(sockets.into_sockets().remove(0)).unwrap();
        let client = udp_to(at).await.unwrap();
        let (taken, mut batch) = (std::cell::Cell::new(0), Batch::default());
        let taking = ours.receive(&mut batch, |_| taken.set(taken.get() + 1));
        let mut taking = std::pin::pin!(taking);
        for burst in (1..=3 * BATCH).chain([BATCH, 2 * BATCH, 1]) {
            taken.set(0);
            for _ in 0..burst {
                client.send(b"who").await.unwrap();
            }
            let all = async {
                while taken.get() < burst {
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                error = &mut taking => panic!("{error}"),
                came = tokio::time::timeout(Duration::from_secs(20), all) => came.expect("some are left behind"),
            }
            assert_eq!(taken.get(), burst);
        }
    }
}
