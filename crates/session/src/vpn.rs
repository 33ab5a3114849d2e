//! What stands between a session and whoever runs a VPN: the way of WireGuard packets in and out, and what is agreed on
//! when a VPN flow opens. What is in the packets is nobody's business here.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};
use tunnel_model::protocol::{Refusal, VpnOpened};
use tunnel_model::{Identity, VpnSecret, datagram};

use crate::events::FlowEnd;
use crate::forward::udp::{Flow, Flows};
use crate::transport::{Connection, PathReport};

/// Packets that wait for whoever runs the VPN; beyond it the newest are dropped. 5 ms at 10 Gbit/s, and some 6 MB of
/// full-size ones.
const MAX_WAITING: usize = 4096;

/// Their bytes, as there are larger ones.
const MAX_WAITING_BYTES: usize = 8 * 1024 * 1024;

/// Packets that have come, of all flows of a VPN, each with what its flow is known by.
#[derive(Debug, Default)]
pub struct Arrivals {
    queue: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    packets: Vec<(u64, Bytes)>,
    bytes: usize,
}

impl Arrivals {
    fn queue(&self) -> MutexGuard<'_, Waiting> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch of one flow's packets, which is empty afterwards; tells how many bytes found room.
    pub(crate) fn push(&self, tag: u64, packets: &mut Vec<Bytes>) -> usize {
        let mut queue = self.queue();
        let mut bytes = 0;
        for packet in packets.drain(..) {
            let fits = queue.bytes + packet.len() <= MAX_WAITING_BYTES;
            if fits && queue.packets.len() < MAX_WAITING {
                queue.bytes += packet.len();
                bytes += packet.len();
                queue.packets.push((tag, packet));
            }
        }
        drop(queue);
        self.ready.notify_one();
        bytes
    }

    /// Resolves when something has come since the last [`Arrivals::take`], or has by now.
    pub async fn ready(&self) {
        self.ready.notified().await;
    }

    /// Exchanges what has come for `empty`, so that neither side allocates.
    pub fn take(&self, empty: &mut Vec<(u64, Bytes)>) {
        empty.clear();
        let mut queue = self.queue();
        queue.bytes = 0;
        std::mem::swap(empty, &mut queue.packets);
    }
}

trait Carry: Send + Sync {
    fn limit(&self) -> usize;
    fn send(&self, header: usize, datagrams: &mut Vec<Bytes>);
    fn path(&self) -> Option<PathReport>;
    fn leave(&self);
}

struct FlowOf<C> {
    flows: Arc<Flows<C>>,
    flow: Arc<Flow>,
}

impl<C: Connection> Carry for FlowOf<C> {
    fn limit(&self) -> usize {
        self.flows.limit()
    }

    fn send(&self, header: usize, datagrams: &mut Vec<Bytes>) {
        self.flows.send_ready(&self.flow, header, datagrams);
    }

    fn path(&self) -> Option<PathReport> {
        self.flows.path()
    }

    fn leave(&self) {
        self.flows.leave();
    }
}

/// The way of one VPN flow's packets to the peer; cheap to clone. Without a connection packets are dropped, as a network
/// would.
#[derive(Clone)]
pub struct Carrier {
    header: Bytes,
    way: Arc<dyn Carry>,
}

impl Carrier {
    pub(crate) fn new<C: Connection>(flows: Arc<Flows<C>>, flow: Arc<Flow>) -> Self {
        Self { header: datagram::whole_header(flow.id), way: Arc::new(FlowOf { flows, flow }) }
    }

    /// What stands in front of each packet that is not split.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// How many bytes one datagram carries at the moment, header included; 0 while there is no connection.
    pub fn limit(&self) -> usize {
        self.way.limit()
    }

    /// Sends packets that stand behind [`Carrier::header`]; `datagrams` is empty afterwards. One that is larger than a
    /// datagram is split.
    pub fn send(&self, datagrams: &mut Vec<Bytes>) {
        self.way.send(self.header.len(), datagrams);
    }

    /// The path in use at the moment, where there is one.
    pub fn path(&self) -> Option<PathReport> {
        self.way.path()
    }

    /// Gives the present connection up, as if it was lost: the session goes on over another one, or the next one begins.
    pub fn leave(&self) {
        self.way.leave();
    }
}

/// A client that the rules let into the VPN.
pub struct Applicant<'a> {
    /// Its identity in the transport, the same for all its sessions.
    pub peer: &'a [u8],
    /// Who it is, for people.
    pub identity: &'a Identity,
    /// Its fresh WireGuard key.
    pub public_key: &'a [u8; 32],
    /// The networks beyond the VPN's own that it may send to.
    pub routes: &'a [ipnet::IpNet],
    /// For the pre-shared key of its tunnel.
    pub secret: &'a VpnSecret,
    /// The way to it.
    pub carrier: Carrier,
}

/// A client's place in the VPN.
pub struct Entry {
    /// What the client is told.
    pub opened: VpnOpened,
    /// What its packets are known by among the arrivals.
    pub tag: u64,
    /// Where they go.
    pub arrivals: Arc<Arrivals>,
    /// Cancelled when another client takes its place.
    pub replaced: CancellationToken,
    /// Dropped when the flow has ended.
    pub place: Box<dyn Any + Send + Sync>,
}

/// Runs a server's VPN.
pub trait VpnServer: Send + Sync + 'static {
    /// Takes a client in.
    ///
    /// # Errors
    ///
    /// Why not, for the client.
    fn enter(&self, client: Applicant<'_>) -> Result<Entry, Refusal>;
}

/// Why a client has no VPN.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum VpnError {
    /// The server has none.
    #[error("the server offers no VPN: it is started with 'tunnel-rs vpn server'")]
    NotOffered,
    /// The server says no.
    #[error("the server refuses the VPN: {0}")]
    Refused(Refusal),
    /// The session ended, or the flow was cut, before it was open.
    #[error("the VPN could not be opened: {0}")]
    Lost(FlowEnd),
    /// What the server answered cannot be.
    #[error("the server's answer is not understood: {0}")]
    Malformed(String),
}

/// A client's open VPN flow; it ends when this is dropped.
pub struct Vpn {
    /// What the server gave.
    pub opened: VpnOpened,
    /// For the pre-shared key of the tunnel.
    pub secret: VpnSecret,
    /// The way to the server.
    pub carrier: Carrier,
    pub(crate) end: oneshot::Receiver<FlowEnd>,
    pub(crate) _leaving: DropGuard,
}

impl Vpn {
    /// Resolves when the flow has ended.
    pub async fn ended(&mut self) -> FlowEnd {
        (&mut self.end).await.unwrap_or(FlowEnd::SessionLost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_wait_are_bounded_in_number_and_in_bytes() {
        let (arrivals, mut taken) = (Arrivals::default(), Vec::new());
        // The second time: what was taken counts no more.
        for _ in 0..2 {
            for size in [100, 60_000] {
                let packet = Bytes::from(vec![0; size]);
                let room = (MAX_WAITING_BYTES / size).min(MAX_WAITING);
                let accepted = arrivals.push(7, &mut vec![packet; MAX_WAITING + 1]);
                assert_eq!(accepted, room * size);
                arrivals.take(&mut taken);
                assert_eq!(taken.len(), room);
            }
        }
    }
}
