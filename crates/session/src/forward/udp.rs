//! Packets between UDP sockets, or a VPN, and datagrams: one table of flows a session, the same on both ends.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tunnel_model::datagram::{self, Datagram, Reassembler};
use tunnel_model::protocol::{self, LargePacket};
use tunnel_model::{CloseCode, ResetCode};

use crate::forward::Counters;
use crate::frame::read_message;
use crate::limits::{
    CROWDED_UDP, LARGE_PACKET_TIMEOUT, LEAST_UDP_IDLE, MAX_EARLY_PACKETS, MAX_FLOWS,
    MAX_LARGE_PACKETS, MAX_PENDING_BYTES, MAX_PENDING_PACKETS,
};
use crate::transport::{Connection, Lost, PathReport, RecvStream, SendStream};
use crate::vpn::Arrivals;

/// Datagrams taken from or given to the transport in one go.
const BATCH: usize = 64;

/// Where a flow's packets from the peer go.
#[derive(Clone)]
pub(crate) enum Port {
    /// To a socket.
    Socket {
        socket: Arc<UdpSocket>,
        /// `None` on a connected socket.
        to: Option<SocketAddr>,
    },
    /// To whoever runs the VPN.
    Vpn { arrivals: Arc<Arrivals>, tag: u64 },
}

impl Port {
    pub(crate) fn new(socket: Arc<UdpSocket>, to: Option<SocketAddr>) -> Self {
        Self::Socket { socket, to }
    }

    pub(crate) fn vpn(arrivals: Arc<Arrivals>, tag: u64) -> Self {
        Self::Vpn { arrivals, tag }
    }

    /// Delivers packets, which are gone afterwards; tells how many bytes have left.
    fn send(&self, packets: &mut Vec<Bytes>) -> usize {
        match self {
            Self::Socket { socket, to } => {
                let left = packets.drain(..).filter(|packet| send(socket, *to, packet));
                left.map(|packet| packet.len()).sum()
            }
            Self::Vpn { arrivals, tag } => arrivals.push(*tag, packets),
        }
    }
}

fn send(socket: &UdpSocket, to: Option<SocketAddr>, packet: &[u8]) -> bool {
    let attempt = || match to {
        Some(to) => socket.try_send_to(packet, to),
        None => socket.try_send(packet),
    };
    match attempt() {
        Ok(_) => true,
        // A full buffer drops, as a network would: to wait would hold up every other flow of the session.
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => false,
        // An ICMP error about an earlier packet is reported once, on the next call; this packet has not left.
        Err(_) => attempt().is_ok(),
    }
}

/// One flow's part in the table, shared with the task that serves it.
pub(crate) struct Flow {
    pub(crate) id: u64,
    number: AtomicU16,
    pub(crate) counters: Counters,
    /// Milliseconds after the table's making at which the last packet passed.
    active: AtomicU64,
    /// Its place is needed for another one.
    displaced: Notify,
    state: Mutex<State>,
}

enum State {
    Pending(VecDeque<Bytes>),
    Open(Port),
}

impl Flow {
    /// Resolves when [`Flows::make_room`] has chosen this flow.
    pub(crate) async fn displaced(&self) {
        self.displaced.notified().await;
    }
}

/// The UDP and VPN flows of one session.
pub(crate) struct Flows<C> {
    /// The session's latest; packets that come while there is none are dropped, as a network would.
    connection: RwLock<Option<C>>,
    start: Instant,
    table: Mutex<Table>,
    large: Arc<Semaphore>,
    totals: Arc<Counters>,
}

#[derive(Default)]
struct Table {
    flows: HashMap<u64, Arc<Flow>>,
    /// Packets that overtook the stream that opens their flow, oldest first.
    early: VecDeque<(u64, Bytes)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every critical section leaves its data whole, so a panic elsewhere takes nothing from it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: Connection> Flows<C> {
    pub(crate) fn new(connection: C, totals: Arc<Counters>) -> Self {
        Self {
            connection: RwLock::new(Some(connection)),
            start: Instant::now(),
            table: Mutex::default(),
            large: Arc::new(Semaphore::new(MAX_LARGE_PACKETS as usize)),
            totals,
        }
    }

    /// Goes on over another connection, or waits for one.
    pub(crate) fn replace(&self, connection: Option<C>) {
        let mut present = self.connection.write().unwrap_or_else(PoisonError::into_inner);
        let earlier = std::mem::replace(&mut *present, connection);
        drop(present);
        drop(earlier);
    }

    fn connection(&self) -> RwLockReadGuard<'_, Option<C>> {
        self.connection.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Enters a flow; its packets wait until [`Flows::open`]. `None` where the id is taken or the table full.
    pub(crate) fn enter(&self, id: u64) -> Option<Arc<Flow>> {
        let mut table = lock(&self.table);
        if table.flows.len() >= MAX_FLOWS as usize || table.flows.contains_key(&id) {
            return None;
        }
        let mut pending = VecDeque::new();
        table.early.retain(|(flow, packet)| {
            if *flow == id {
                pending.push_back(packet.clone());
            }
            *flow != id
        });
        let flow = Arc::new(Flow {
            id,
            number: AtomicU16::new(0),
            counters: Counters::part_of(&self.totals),
            active: AtomicU64::new(self.now()),
            displaced: Notify::new(),
            state: Mutex::new(State::Pending(pending)),
        });
        table.flows.insert(id, flow.clone());
        Some(flow)
    }

    /// Ends the flow that has been idle for longest where there are as many as [`CROWDED_UDP`]; its task sees to it.
    pub(crate) fn make_room(&self) {
        let idlest = {
            let table = lock(&self.table);
            if table.flows.len() < CROWDED_UDP {
                return;
            }
            let idlest =
                table.flows.values().min_by_key(|flow| flow.active.load(Ordering::Relaxed));
            idlest.cloned()
        };
        if let Some(flow) = idlest.filter(|flow| self.idle(flow) >= LEAST_UDP_IDLE) {
            flow.displaced.notify_one();
        }
    }

    /// Opens a flow: what waited goes to `port`, and so does what comes from here on.
    pub(crate) fn open(&self, flow: &Flow, port: Port) {
        loop {
            let waiting = match &mut *lock(&flow.state) {
                State::Pending(packets) if !packets.is_empty() => std::mem::take(packets),
                state => {
                    *state = State::Open(port);
                    return;
                }
            };
            self.arrived(flow, &port, &mut waiting.into());
        }
    }

    /// Takes a flow out; nothing of it is left behind.
    pub(crate) fn remove(&self, id: u64) {
        lock(&self.table).flows.remove(&id);
    }

    /// How long the flow has been without packets in either direction.
    pub(crate) fn idle(&self, flow: &Flow) -> Duration {
        Duration::from_millis(self.now().saturating_sub(flow.active.load(Ordering::Relaxed)))
    }

    /// Makes the datagrams for a packet to the peer; one too large for them takes a stream by itself.
    pub(crate) fn prepare(&self, flow: &Arc<Flow>, packet: &[u8], out: &mut Vec<Bytes>) {
        flow.active.store(self.now(), Ordering::Relaxed);
        // Read for each packet: the limit follows the path.
        let Some(limit) = self.connection().as_ref().map(C::max_datagram_size) else { return };
        flow.counters.add_sent(packet.len());
        // Only parts have one: it must not come again while those of an earlier packet are waited for.
        let number = match datagram::fits(flow.id, packet.len(), limit) {
            true => 0,
            false => flow.number.fetch_add(1, Ordering::Relaxed),
        };
        match datagram::split(flow.id, number, packet, limit) {
            Some(datagrams) => out.extend(datagrams),
            None => self.send_large(flow.id, Bytes::copy_from_slice(packet)),
        }
    }

    /// Sends what [`Flows::prepare`] made.
    pub(crate) fn flush(&self, datagrams: &mut Vec<Bytes>) {
        if !datagrams.is_empty() {
            if let Some(connection) = &*self.connection() {
                connection.send_datagrams(datagrams);
            }
            datagrams.clear();
        }
    }

    /// How many bytes a datagram carries at the moment; 0 without a connection.
    pub(crate) fn limit(&self) -> usize {
        self.connection().as_ref().map_or(0, C::max_datagram_size)
    }

    /// The path of the present connection.
    pub(crate) fn path(&self) -> Option<PathReport> {
        self.connection().as_ref().and_then(C::path)
    }

    /// Gives the present connection up.
    pub(crate) fn leave(&self) {
        if let Some(connection) = &*self.connection() {
            connection.close(CloseCode::Dropped, "");
        }
    }

    /// Sends packets to the peer that stand behind a whole datagram's header of so many bytes, and are gone afterwards.
    pub(crate) fn send_ready(&self, flow: &Flow, header: usize, datagrams: &mut Vec<Bytes>) {
        let limit = self.limit();
        if limit == 0 {
            datagrams.clear();
            return;
        }
        flow.counters.add_sent(datagrams.iter().map(|datagram| datagram.len() - header).sum());
        if datagrams.iter().any(|datagram| datagram.len() > limit) {
            for whole in std::mem::take(datagrams) {
                if whole.len() <= limit {
                    datagrams.push(whole);
                    continue;
                }
                let number = flow.number.fetch_add(1, Ordering::Relaxed);
                match datagram::split(flow.id, number, &whole[header..], limit) {
                    Some(parts) => datagrams.extend(parts),
                    None => self.send_large(flow.id, whole.slice(header..)),
                }
            }
        }
        self.flush(datagrams);
    }

    fn send_large(&self, flow: u64, packet: Bytes) {
        // As many as the peer takes; one more is dropped, as a full queue would.
        let Ok(permit) = self.large.clone().try_acquire_owned() else { return };
        let Ok(header) = protocol::encode(&LargePacket { flow }) else { return };
        let Some(connection) = self.connection().clone() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let deadline = tokio::time::Instant::now() + LARGE_PACKET_TIMEOUT;
            let Ok(Ok(mut send)) = tokio::time::timeout_at(deadline, connection.open_uni()).await
            else {
                return;
            };
            let delivered = async {
                send.write_chunks(&mut [header.into(), packet]).await?;
                send.finish();
                send.stopped().await
            };
            if tokio::time::timeout_at(deadline, delivered).await.is_err() {
                send.reset(ResetCode::Late);
            }
        });
    }

    fn arrived(&self, flow: &Flow, port: &Port, packets: &mut Vec<Bytes>) {
        flow.active.store(self.now(), Ordering::Relaxed);
        flow.counters.add_received(port.send(packets));
    }

    /// Delivers the packet that came with a flow's opening, ahead of all others.
    pub(crate) fn first(&self, flow: &Flow, port: &Port, packet: &[u8]) {
        self.arrived(flow, port, &mut vec![Bytes::copy_from_slice(packet)]);
    }

    /// Delivers packets of one flow, which are gone afterwards.
    fn deliver(&self, id: u64, packets: &mut Vec<Bytes>) {
        let flow = {
            let mut table = lock(&self.table);
            match table.flows.get(&id) {
                Some(flow) => flow.clone(),
                None => {
                    for packet in packets.drain(..) {
                        if table.early.len() == MAX_EARLY_PACKETS {
                            table.early.pop_front();
                        }
                        // Not the buffer that it was received in, which is larger.
                        table.early.push_back((id, Bytes::copy_from_slice(&packet)));
                    }
                    return;
                }
            }
        };
        let port = match &mut *lock(&flow.state) {
            State::Open(port) => port.clone(),
            State::Pending(waiting) => {
                let mut bytes: usize = waiting.iter().map(Bytes::len).sum();
                for packet in packets.drain(..) {
                    if waiting.len() < MAX_PENDING_PACKETS && bytes < MAX_PENDING_BYTES {
                        bytes += packet.len();
                        waiting.push_back(Bytes::copy_from_slice(&packet));
                    }
                }
                return;
            }
        };
        self.arrived(&flow, &port, packets);
    }

    /// Delivers datagrams from the peer until `connection` ends.
    pub(crate) async fn run_datagrams(&self, connection: &C) -> Lost {
        let mut reassembler = Reassembler::default();
        let mut batch = [const { Bytes::new() }; BATCH];
        // Packets that came one after another mostly are of one flow, which is then looked up once.
        let (mut id, mut packets) = (0, Vec::with_capacity(BATCH));
        loop {
            let count = match connection.read_datagrams(&mut batch).await {
                Ok(count) => count,
                Err(lost) => return lost,
            };
            let now = Instant::now();
            for bytes in &mut batch[..count] {
                // Not of a form that this version knows: a later version's, or nothing at all.
                let Ok(datagram) = Datagram::parse(std::mem::take(bytes)) else { continue };
                let Some((flow, packet)) = reassembler.handle(now, datagram) else { continue };
                if flow != id && !packets.is_empty() {
                    self.deliver(id, &mut packets);
                }
                id = flow;
                packets.push(packet);
            }
            if !packets.is_empty() {
                self.deliver(id, &mut packets);
            }
        }
    }

    /// Delivers large packets from the peer until `connection` ends.
    pub(crate) async fn run_large(self: &Arc<Self>, connection: &C) -> Lost {
        let mut readers = tokio::task::JoinSet::new();
        loop {
            let recv = match connection.accept_uni().await {
                Ok(recv) => recv,
                Err(lost) => return lost,
            };
            while readers.try_join_next().is_some() {}
            let flows = self.clone();
            readers.spawn(async move {
                let mut recv = recv;
                // The sender gives up after the same time; this bounds one that does not.
                match timeout(2 * LARGE_PACKET_TIMEOUT, read_large(&mut recv)).await {
                    Ok(Some((flow, packet))) => flows.deliver(flow, &mut vec![packet]),
                    _ => recv.stop(ResetCode::Late),
                }
            });
        }
    }
}

async fn read_large<R: RecvStream>(recv: &mut R) -> Option<(u64, Bytes)> {
    let LargePacket { flow } = read_message(recv, 64).await.ok()?;
    let mut packet = Vec::new();
    let mut chunks = [const { Bytes::new() }; 16];
    while let Some(count) = recv.read_chunks(&mut chunks).await.ok()? {
        for chunk in &mut chunks[..count] {
            packet.extend_from_slice(&std::mem::take(chunk));
        }
        if packet.len() > datagram::MAX_PACKET {
            return None;
        }
    }
    Some((flow, packet.into()))
}

/// Sends every packet that comes to a flow's own socket to the peer; ends only with the flow.
pub(crate) async fn upload<C: Connection>(flows: &Flows<C>, flow: &Arc<Flow>, socket: &UdpSocket) {
    let (mut datagrams, mut told) = (Vec::new(), false);
    while socket.readable().await.is_ok() {
        let more = drain(socket, |_, packet| flows.prepare(flow, packet, &mut datagrams));
        flows.flush(&mut datagrams);
        match more {
            // Under a flood the socket is always readable, and nothing else would run on this thread.
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => {}
            // An ICMP message about an earlier packet: packets may still come.
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    let flow = flow.id;
                    tracing::warn!(
                        "the target of UDP flow {flow} does not take its packets: {error}"
                    );
                }
            }
        }
    }
}

thread_local! {
    /// One receive buffer a thread instead of one a flow: reading never waits while it is borrowed.
    static SCRATCH: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; 65_536]);
}

/// Reads what has come to `socket` without waiting, at most a batch; `each` sees every packet and its sender.
///
/// `Ok(true)` where more may be waiting.
pub(crate) fn drain(
    socket: &UdpSocket,
    mut each: impl FnMut(SocketAddr, &[u8]),
) -> std::io::Result<bool> {
    SCRATCH.with_borrow_mut(|buffer| {
        for _ in 0..BATCH {
            match socket.try_recv_from(buffer) {
                Ok((n, from)) => each(from, &buffer[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::transport::memory::pair;

    #[test]
    fn where_there_are_many_flows_the_one_that_is_idle_for_longest_makes_room() {
        let (connection, _peer) = pair();
        let mut flows = Flows::new(connection, Arc::default());
        flows.start = Instant::now().checked_sub(10 * LEAST_UDP_IDLE).unwrap();
        let entered: Vec<_> = (0..CROWDED_UDP as u64).map(|id| flows.enter(id).unwrap()).collect();
        let displaced = || {
            let displaced = |flow: &&Arc<Flow>| flow.displaced().now_or_never().is_some();
            entered.iter().filter(displaced).map(|flow| flow.id).collect::<Vec<_>>()
        };
        flows.make_room();
        assert!(displaced().is_empty(), "all have just been used");
        entered[7].active.store(1, Ordering::Relaxed);
        entered[9].active.store(0, Ordering::Relaxed);
        flows.make_room();
        assert_eq!(displaced(), [9]);
        flows.remove(9);
        flows.make_room();
        assert!(displaced().is_empty(), "there is room");
    }
}
