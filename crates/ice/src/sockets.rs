//! The UDP sockets of one side, one for each local address, as the one socket that QUIC sees.
//!
//! QUIC has one peer with one address that never changes; where packets really go is decided here, packet by packet, by
//! the path that ICE has chosen last. A switch of paths is therefore nothing that QUIC has to agree to.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::task::{Context, Poll, Waker};

use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use socket2::{Domain, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

mod demux;

/// The address that QUIC knows the peer by; of a block reserved for documentation (RFC 5737), so that a packet that left
/// for it by mistake would go nowhere.
pub(crate) const PEER: SocketAddr =
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 1));

/// What the kernel may hold for a socket in each direction, in bytes, as far as it allows: some 30 ms at 1 Gbit/s.
const KERNEL_BUFFER: usize = 4 * 1024 * 1024;

/// STUN messages that wait for the agent. It takes a few each second; more than these are a flood.
const STUN_QUEUE: usize = 256;

/// Packets that the kernel merges at most (Linux, `UDP_MAX_SEGMENTS`).
const MERGED: usize = 64;

/// Places of them that are kept for addresses that one may expect something from.
const STUN_RESERVE: usize = 128;

/// Addresses from which packets are taken. A check that was sent to each has come back, and a peer has one for each way
/// that leads to it; the oldest make room.
const MAX_TRUSTED: usize = 64;

/// Addresses that the peer has told, and STUN servers.
const MAX_EXPECTED: usize = 128;

/// Errors of a socket in a row after which it is left alone until it is ready again; a network's report of an earlier
/// packet, which anyone can forge, is one.
const MAX_ERRORS: u32 = 16;

/// A STUN message that came in.
#[derive(Debug)]
pub(crate) struct StunPacket {
    /// To which socket.
    pub(crate) local: SocketAddr,
    /// From where.
    pub(crate) remote: SocketAddr,
    /// The message.
    pub(crate) contents: Vec<u8>,
}

/// A socket of one local address.
#[derive(Debug)]
struct Local {
    addr: SocketAddr,
    io: UdpSocket,
    /// What sends and receives many packets at once, with marks of congestion. None where the system lacks what that takes,
    /// as an old Windows does: then packets go one by one.
    batches: Option<UdpSocketState>,
}

impl Local {
    /// Binds any port of an address.
    fn bind(ip: std::net::IpAddr) -> io::Result<Self> {
        let wanted = SocketAddr::new(ip, 0);
        let socket = Socket::new(Domain::for_address(wanted), Type::DGRAM, None)?;
        if wanted.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // What the system does not grant it does not grant.
        let _ = socket.set_recv_buffer_size(KERNEL_BUFFER);
        let _ = socket.set_send_buffer_size(KERNEL_BUFFER);
        socket.set_nonblocking(true)?;
        socket.bind(&wanted.into())?;
        let socket = std::net::UdpSocket::from(socket);
        let batches = UdpSocketState::new((&socket).into()).inspect_err(|error| {
            tracing::debug!("packets go one by one: {error}");
        });
        let io = UdpSocket::from_std(socket)?;
        Ok(Self { addr: io.local_addr()?, io, batches: batches.ok() })
    }

    fn receive(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        if let Some(batches) = &self.batches {
            let receive = || batches.recv((&self.io).into(), bufs, meta);
            return self.io.try_io(Interest::READABLE, receive);
        }
        let (Some(buffer), Some(meta)) = (bufs.first_mut(), meta.first_mut()) else {
            return Ok(0);
        };
        let (len, addr) = self.io.try_recv_from(buffer)?;
        *meta = RecvMeta { addr, len, stride: len, ..RecvMeta::default() };
        Ok(1)
    }

    /// Fails only where the socket is full. What else keeps a packet from leaving is for QUIC to make up for, as it makes
    /// up for a packet that the network has lost.
    fn send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if let Some(batches) = &self.batches {
            let send = || batches.send((&self.io).into(), transmit);
            return self.io.try_io(Interest::WRITABLE, send);
        }
        let size = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for packet in transmit.contents.chunks(size) {
            match self.io.try_send_to(packet, transmit.destination) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn max_gso_segments(&self) -> usize {
        self.batches.as_ref().map_or(1, UdpSocketState::max_gso_segments)
    }

    fn may_fragment(&self) -> bool {
        self.batches.as_ref().is_none_or(UdpSocketState::may_fragment)
    }
}

#[derive(Clone, Debug)]
struct Route {
    socket: Arc<Local>,
    remote: SocketAddr,
}

#[derive(Debug, Default)]
struct State {
    sockets: Arc<[Arc<Local>]>,
    /// In the order in which they were last proved.
    trusted: VecDeque<SocketAddr>,
    expected: HashSet<SocketAddr>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Sockets {
    state: RwLock<State>,
    /// None while no path is known: then QUIC's packets wait, as they do for a full socket. Sent into the void they would
    /// be repeated at ever longer intervals, and the connection would sleep on when the path is back.
    route: watch::Sender<Option<Route>>,
    stun: mpsc::Sender<StunPacket>,
    /// Of the task that reads, which must learn of sockets that come.
    reader: Mutex<Option<Waker>>,
    sent: AtomicU64,
    received: AtomicU64,
    /// Checks that the peer has answered.
    answers: AtomicU64,
    turn: AtomicUsize,
}

impl Sockets {
    /// No sockets yet; STUN messages that come in are read from the receiver.
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<StunPacket>) {
        let (stun, messages) = mpsc::channel(STUN_QUEUE);
        let sockets = Self {
            state: RwLock::default(),
            route: watch::Sender::new(None),
            stun,
            reader: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            turn: AtomicUsize::new(0),
        };
        (Arc::new(sockets), messages)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a socket on a local address.
    ///
    /// # Errors
    ///
    /// Where the system refuses: the address is no longer there, or files have run out.
    pub(crate) fn open(&self, ip: std::net::IpAddr) -> io::Result<SocketAddr> {
        let local = Arc::new(Local::bind(ip)?);
        let addr = local.addr;
        let mut state = self.state_mut();
        state.sockets = state.sockets.iter().cloned().chain([local]).collect();
        drop(state);
        self.wake_reader();
        Ok(addr)
    }

    /// Closes a socket whose address is gone.
    pub(crate) fn close(&self, addr: SocketAddr) {
        let mut state = self.state_mut();
        state.sockets = state.sockets.iter().filter(|local| local.addr != addr).cloned().collect();
        drop(state);
        self.route
            .send_if_modified(|route| route.take_if(|route| route.socket.addr == addr).is_some());
    }

    /// The addresses of all sockets.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.state().sockets.iter().map(|local| local.addr).collect()
    }

    /// Sends everything this way from here on.
    pub(crate) fn set_route(&self, local: SocketAddr, remote: SocketAddr) {
        let socket = self.state().sockets.iter().find(|socket| socket.addr == local).cloned();
        self.route.send_replace(socket.map(|socket| Route { socket, remote }));
    }

    /// Sends nothing until there is a route again.
    pub(crate) fn clear_route(&self) {
        self.route.send_replace(None);
    }

    /// How often a check has shown that the peer is there; only comparing values means anything.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// A check that was sent to this address came back: packets from it are taken from here on.
    pub(crate) fn trust(&self, remote: SocketAddr) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        // The latest, as nearly always: each check of the path in use says it again.
        if self.state().trusted.back() == Some(&remote) {
            return;
        }
        let mut state = self.state_mut();
        state.trusted.retain(|known| *known != remote);
        state.trusted.push_back(remote);
        if state.trusted.len() > MAX_TRUSTED {
            state.trusted.pop_front();
        }
    }

    /// Leaves a flood of STUN messages from elsewhere no more than half of the queue.
    pub(crate) fn expect(&self, remotes: impl IntoIterator<Item = SocketAddr>) {
        let mut state = self.state_mut();
        let places = MAX_EXPECTED.saturating_sub(state.expected.len());
        state.expected.extend(remotes.into_iter().take(places));
    }

    /// Sends one STUN message; tells whether it need not be tried again. It is lost where the socket is gone, as on any
    /// network, and waits where QUIC has just filled it.
    pub(crate) fn send_stun(&self, local: SocketAddr, remote: SocketAddr, contents: &[u8]) -> bool {
        let socket = self.state().sockets.iter().find(|socket| socket.addr == local).cloned();
        let sent = socket.map(|socket| socket.io.try_send_to(contents, remote));
        !matches!(sent, Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// How many packets of QUIC went out so far, and how many came in over the path in use; only comparing values means
    /// anything.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed))
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reader.wake();
        }
    }

    fn remember_reader(&self, waker: &Waker) {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        match reader.as_mut() {
            Some(known) => known.clone_from(waker),
            None => *reader = Some(waker.clone()),
        }
    }

    /// Keeps QUIC's packets of what a socket has received, and hands STUN's to the agent.
    fn sort(
        &self,
        local: SocketAddr,
        route: Option<&Route>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> usize {
        let state = self.state();
        let mut kept = 0;
        for place in 0..meta.len() {
            let RecvMeta { addr, stride, .. } = meta[place];
            let trusted = state.trusted.contains(&addr);
            let expected = trusted || state.expected.contains(&addr);
            let stun = |message: &[u8]| {
                if expected || self.stun.capacity() > STUN_RESERVE {
                    let packet = StunPacket { local, remote: addr, contents: message.to_vec() };
                    // A full queue is a flood, or a machine too busy to answer.
                    let _ = self.stun.try_send(packet);
                }
            };
            let length = meta[place].len.min(bufs[place].len());
            let length = demux::sort(&mut bufs[place][..length], stride, trusted, stun);
            if length == 0 {
                continue;
            }
            if route.is_some_and(|route| (route.socket.addr, route.remote) == (local, addr)) {
                self.received.fetch_add(1, Ordering::Relaxed);
            }
            meta[place].len = length;
            meta[place].addr = PEER;
            meta[place].dst_ip = None;
            meta.swap(kept, place);
            bufs.swap(kept, place);
            kept += 1;
        }
        kept
    }

    fn poll_socket(
        &self,
        socket: &Local,
        route: Option<&Route>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<usize> {
        let mut errors = 0;
        loop {
            // An error is that of a socket whose address has gone; it is closed when that is noticed.
            let Poll::Ready(Ok(())) = socket.io.poll_recv_ready(cx) else { return Poll::Pending };
            let received = match socket.receive(bufs, meta) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(_) if errors < MAX_ERRORS => {
                    errors += 1;
                    continue;
                }
                Err(_) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            };
            let kept = self.sort(socket.addr, route, bufs, &mut meta[..received]);
            if kept > 0 {
                return Poll::Ready(kept);
            }
        }
    }
}

impl AsyncUdpSocket for Sockets {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller { sockets: self, waiting: None })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let route = self.route.borrow().clone();
        let Some(route) = route else { return Err(io::ErrorKind::WouldBlock.into()) };
        self.sent.fetch_add(1, Ordering::Relaxed);
        let transmit = Transmit {
            destination: route.remote,
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        route.socket.send(&transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.remember_reader(cx.waker());
        let sockets = self.state().sockets.clone();
        let route = self.route.borrow().clone();
        // Each begins once, so that a busy one does not keep the others from being heard.
        let first = self.turn.fetch_add(1, Ordering::Relaxed) % sockets.len().max(1);
        for socket in sockets[first..].iter().chain(&sockets[..first]) {
            let polled = self.poll_socket(socket, route.as_ref(), cx, bufs, meta);
            if polled.is_ready() {
                return polled.map(Ok);
            }
        }
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))
    }

    fn max_transmit_segments(&self) -> usize {
        let state = self.state();
        state.sockets.iter().map(|socket| socket.max_gso_segments()).min().unwrap_or(1)
    }

    fn max_receive_segments(&self) -> usize {
        // Asked once, before there need be any socket.
        MERGED
    }

    fn may_fragment(&self) -> bool {
        // Asked once, too. Where it is true QUIC never looks for the path's MTU.
        self.state().sockets.iter().any(|socket| socket.may_fragment())
    }
}

/// Waits until the socket of the moment takes packets again.
struct Poller {
    sockets: Arc<Sockets>,
    waiting: Option<Pin<Box<dyn Future<Output = io::Result<()>> + Send + Sync>>>,
}

impl std::fmt::Debug for Poller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Poller").finish_non_exhaustive()
    }
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            let mut route = self.sockets.route.subscribe();
            self.waiting = Some(Box::pin(async move {
                loop {
                    let known = route.wait_for(Option::is_some).await;
                    let socket = known.ok().and_then(|route| Some(route.as_ref()?.socket.clone()));
                    // The sender is gone: so is the endpoint.
                    let Some(socket) = socket else { return Ok(()) };
                    tokio::select! {
                        writable = socket.io.writable() => return writable,
                        // The full socket may be that of the path that has just died.
                        _ = route.changed() => {}
                    }
                }
            }));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Ready(Ok(())) };
        let ready = waiting.as_mut().poll(cx);
        if ready.is_ready() {
            self.waiting = None;
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_go_one_by_one_where_the_system_has_no_more() {
        let plain = || {
            let local = Local::bind(Ipv4Addr::LOCALHOST.into()).unwrap();
            Local { batches: None, ..local }
        };
        let (from, to) = (plain(), plain());
        assert_eq!((from.max_gso_segments(), from.may_fragment()), (1, true));
        from.io.writable().await.unwrap();
        let send = |contents, segment_size| {
            let transmit =
                Transmit { destination: to.addr, ecn: None, contents, segment_size, src_ip: None };
            from.send(&transmit).unwrap();
        };
        send(b"whole", None);
        // What was made for a socket that takes several at once.
        send(b"aabbc", Some(2));
        for expected in ["whole", "aa", "bb", "c"] {
            let mut buffer = [0; 100];
            let mut meta = [RecvMeta::default()];
            loop {
                to.io.readable().await.unwrap();
                match to.receive(&mut [IoSliceMut::new(&mut buffer)], &mut meta) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => break assert_eq!(received.unwrap(), 1),
                }
            }
            let RecvMeta { addr, len, stride, .. } = meta[0];
            assert_eq!((&buffer[..len], stride, addr), (expected.as_bytes(), len, from.addr));
        }
    }
}
