//! Packets in, packets out: the VPN without I/O and clock (but for what [`crate::wireguard`] says of time).
//!
//! Packets of the device are encrypted for the peer that has their destination; packets of peers are decrypted, checked, and
//! go to the device or, on a server, to another peer. A peer can send from its own addresses only. What carries packets to
//! a peer is not known here.
//!
//! A packet is routed without touching it: its TTL stays, as the VPN is one link to those who use it. Only the MSS in a SYN is
//! lowered, so that TCP's packets need not be split.

mod counters;
mod output;
mod routing;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use thiserror::Error;

pub use self::counters::{Drops, PeerStats, REPORT_PAUSE, SpoofReport};
pub use self::output::{Output, ToPeer};

use self::counters::Counters;
use self::output::{ToDevice, ToPeers};
use self::routing::Routes;
use crate::packet::{self, Header, PacketError, UDP, clamp_mss, is_host};
use crate::wireguard::{MAX_INNER, OVERHEAD, Received, Tunnel, message_buffer, packet_buffer};

/// How often [`Engine::tick`] wants to be called: WireGuard's shortest time here is half a second.
pub const TICK: Duration = Duration::from_millis(250);

/// The longest header in front of packets, in bytes.
pub const MAX_HEADER: usize = 32;

/// Tells the peers of an engine apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(pub u64);

/// Which end of the VPN this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Has one peer, begins handshakes, and sends from its own addresses only.
    Client,
    /// Has many peers, and sends from any address that is not one of theirs.
    Server,
}

/// What holds for the engine as a whole.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Which end it is.
    pub role: Role,
    /// Our addresses on the device, with the prefixes of the VPN's networks.
    pub addresses: Vec<IpNet>,
    /// Whether a server takes packets from one client to another.
    pub client_to_client: bool,
}

/// A peer, as it is added.
pub struct Peer {
    /// Our end of its tunnel.
    pub tunnel: Tunnel,
    /// What it may send from and what is sent to it: a client's addresses on the server, and on the client the VPN's networks and
    /// the routes.
    pub networks: Vec<IpNet>,
    /// Where it may send beside our own addresses and other clients': on a server the routes that this client may use.
    pub reach: Vec<IpNet>,
    /// What its carrier wants in front of each packet; at most [`MAX_HEADER`] bytes.
    pub header: Vec<u8>,
    /// What one of the carrier's datagrams holds at present, in bytes, header included.
    pub datagram_limit: usize,
}

/// Why a peer was not added or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PeerError {
    /// Another one has this network.
    #[error("{net} is another peer's ({})", peer.0)]
    Taken {
        /// The network.
        net: IpNet,
        /// Who has it.
        peer: PeerId,
    },
    /// It holds addresses of our own.
    #[error("{0} is an address of this end")]
    Own(IpNet),
    /// Longer than [`MAX_HEADER`].
    #[error("a header of {0} bytes in front of packets; at most {MAX_HEADER} are possible")]
    LongHeader(usize),
}

struct PeerState {
    id: PeerId,
    tunnel: Tunnel,
    reach: Routes<()>,
    header: Box<[u8]>,
    /// The largest packet within the tunnel that needs no splitting.
    max_whole: usize,
    counters: Counters,
}

/// Why a packet goes no further.
enum Reason {
    Malformed,
    SourceRouted,
    NotForHosts,
    ForeignSource,
    Spoofed,
    NoRoute,
    BetweenClients,
    Transport,
    Overflow,
}

/// The addresses of this end.
struct Own {
    hosts: Vec<IpAddr>,
    networks: Vec<IpNet>,
    transport_ports: Vec<u16>,
}

impl Own {
    fn has(&self, address: IpAddr) -> bool {
        self.hosts.contains(&address)
    }

    fn is_transport(&self, port: u16) -> bool {
        self.transport_ports.contains(&port)
    }

    /// In one of the VPN's networks, though perhaps nobody's.
    fn is_inside(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|net| net.contains(&address))
    }
}

/// The VPN of one process, with all its peers.
pub struct Engine {
    role: Role,
    client_to_client: bool,
    own: Own,
    peers: HashMap<PeerId, PeerState>,
    routes: Routes<PeerId>,
    drops: Drops,
    /// A SYN from the device, which is not ours to change.
    syn: Vec<u8>,
}

impl Engine {
    /// An engine without peers.
    pub fn new(config: EngineConfig) -> Self {
        let own = Own { hosts: Vec::new(), networks: Vec::new(), transport_ports: Vec::new() };
        let mut engine = Self {
            role: config.role,
            client_to_client: config.client_to_client,
            own,
            peers: HashMap::new(),
            routes: Routes::new(),
            drops: Drops::default(),
            syn: Vec::new(),
        };
        engine.set_addresses(&config.addresses);
        engine
    }

    /// Changes our addresses on the device, as [`EngineConfig::addresses`].
    pub fn set_addresses(&mut self, addresses: &[IpNet]) {
        self.own.hosts = addresses.iter().map(IpNet::addr).collect();
        self.own.networks = addresses.iter().map(IpNet::trunc).collect();
    }

    /// Says which UDP ports the transport has. Packets of these between addresses inside the VPN are dropped: no path of the
    /// transport's ever leads through what it carries.
    pub fn set_transport_ports(&mut self, ports: &[u16]) {
        self.own.transport_ports = ports.to_vec();
    }

    /// Adds a peer, in the place of the one that had its id. A client begins the handshake at once.
    ///
    /// # Errors
    ///
    /// Where another peer has one of its networks, or this end has one of its addresses. Nothing is changed then.
    pub fn add_peer(&mut self, id: PeerId, peer: Peer, out: &mut Output) -> Result<(), PeerError> {
        for net in &peer.networks {
            if let Some(other) = self.routes.exact(net).filter(|other| *other != id) {
                return Err(PeerError::Taken { net: *net, peer: other });
            }
            if self.role == Role::Server && self.own.hosts.iter().any(|own| net.contains(own)) {
                return Err(PeerError::Own(*net));
            }
        }
        check_header(&peer.header)?;
        self.remove_peer(id);
        peer.networks.iter().for_each(|net| self.routes.insert(net, id));
        let reach = Routes::of(&peer.reach);
        let max_whole = max_whole(peer.datagram_limit, peer.header.len());
        let header = peer.header.into();
        let counters = Counters::default();
        let mut state = PeerState { id, tunnel: peer.tunnel, reach, header, max_whole, counters };
        if self.role == Role::Client {
            out.peers.push(id, &state.header, message_buffer(0), |to| state.tunnel.initiate(to));
        }
        self.peers.insert(id, state);
        Ok(())
    }

    /// Removes a peer; says what it has done.
    pub fn remove_peer(&mut self, id: PeerId) -> Option<PeerStats> {
        let stats = self.stats(id);
        self.routes.remove(id);
        self.peers.remove(&id);
        stats
    }

    /// Says what one datagram of a peer's carrier holds from now on, header included.
    pub fn set_datagram_limit(&mut self, id: PeerId, limit: usize) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.max_whole = max_whole(limit, peer.header.len());
        }
    }

    /// Says where a peer may send from now on, as [`Peer::reach`].
    pub fn set_reach(&mut self, id: PeerId, reach: &[IpNet]) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.reach = Routes::of(reach);
        }
    }

    /// A peer's carrier can send again after it could not: a client begins a handshake at once, as either end may have lost its
    /// key meanwhile.
    pub fn carrier_restored(&mut self, now: Instant, id: PeerId, out: &mut Output) {
        if let Some(PeerState { tunnel, header, .. }) = self.peers.get_mut(&id) {
            out.peers.push(id, header, message_buffer(0), |to| tunnel.carrier_restored(now, to));
        }
    }

    /// Takes a packet from the device.
    pub fn from_device(&mut self, packet: &[u8], out: &mut Output) {
        if let Err(reason) = self.send(packet, out) {
            self.drops.count(reason);
        }
    }

    fn send(&mut self, packet: &[u8], out: &mut Output) -> Result<(), Reason> {
        let Output { device, peers: out } = out;
        let header = packet::parse(packet)?;
        let packet = &packet[..header.length];
        check_hosts(&header)?;
        let ours = self.own.has(header.source);
        // The kernel routes between clients only what the engine would have, and what it was told not to; and somebody beside
        // this machine can have it route an address of the VPN that is nobody's.
        let foreign = self.role == Role::Client
            || self.own.is_inside(header.source)
            || self.routes.get(header.source).is_some();
        if !ours && foreign {
            return Err(Reason::ForeignSource);
        }
        if ours
            && header.protocol == UDP
            && header.ports(packet).is_some_and(|(source, _)| self.own.is_transport(source))
        {
            return Err(Reason::Transport);
        }
        // Where devices have two ends, as on macOS, the kernel looks for this machine's own address at the far one.
        if ours && self.own.has(header.destination) {
            device.next(packet.len()).copy_from_slice(packet);
            device.commit(packet.len());
            return Ok(());
        }
        let id = self.routes.get(header.destination).ok_or(Reason::NoRoute)?;
        let peer = self.peers.get_mut(&id).ok_or(Reason::NoRoute)?;
        if header.is_syn(packet) {
            self.syn.clear();
            self.syn.extend_from_slice(packet);
            clamp_mss(&mut self.syn, &header, peer.max_whole);
            return peer.send(&self.syn, out);
        }
        peer.send(packet, out)
    }

    /// Takes a WireGuard packet from a peer, without the header that the carrier has in front of it.
    pub fn from_peer(&mut self, id: PeerId, message: &[u8], out: &mut Output) {
        let Output { device, peers: out } = out;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if message.len() > MAX_INNER + OVERHEAD {
            self.drops.rejected += 1;
            return;
        }
        let buffer = device.next(packet_buffer(message.len()));
        match peer.tunnel.decrypt(message, buffer) {
            Received::Nothing => {}
            Received::Rejected => self.drops.rejected += 1,
            Received::Reply(length) => peer.push(&buffer[..length], out),
            Received::Packet(length) => {
                if let Err(reason) = self.deliver(id, length, device, out) {
                    self.drops.count(reason);
                }
            }
        }
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.send_waiting(out);
    }

    /// Routes the packet of `length` bytes that a peer has sent, in the device's next buffer.
    fn deliver(
        &mut self,
        from: PeerId,
        length: usize,
        device: &mut ToDevice,
        out: &mut ToPeers,
    ) -> Result<(), Reason> {
        let packet = &mut device.next(length)[..];
        let header = packet::parse(packet)?;
        // Nothing else says whose packet it is; every fragment has a source of its own, so it is asked of each.
        if self.routes.get(header.source) != Some(from) || self.own.has(header.source) {
            if let Some(peer) = self.peers.get_mut(&from) {
                peer.counters.stats.spoofed += 1;
            }
            return Err(Reason::Spoofed);
        }
        check_hosts(&header)?;
        let mut max_whole = self.peers.get(&from).map_or(0, |peer| peer.max_whole);
        if self.own.has(header.destination) {
            if header.protocol == UDP
                && header.ports(packet).is_some_and(|(_, to)| self.own.is_transport(to))
            {
                return Err(Reason::Transport);
            }
        } else if let Some(to) = self.routes.get(header.destination) {
            if to == from || self.role == Role::Client || !self.client_to_client {
                return Err(Reason::BetweenClients);
            }
            let Some(peer) = self.peers.get_mut(&to) else { return Err(Reason::NoRoute) };
            max_whole = max_whole.min(peer.max_whole);
            clamp_mss(packet, &header, max_whole);
            peer.send(&packet[..header.length], out)?;
            self.received(from, header.length);
            return Ok(());
        } else if self.own.is_inside(header.destination) || !self.may_reach(from, &header) {
            return Err(Reason::NoRoute);
        }
        clamp_mss(packet, &header, max_whole);
        device.commit(header.length);
        self.received(from, header.length);
        Ok(())
    }

    fn may_reach(&self, from: PeerId, header: &Header) -> bool {
        self.peers.get(&from).is_some_and(|peer| peer.reach.get(header.destination).is_some())
    }

    fn received(&mut self, from: PeerId, length: usize) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.counters.received(length);
        }
    }

    /// Does what is due at each peer; to be called every [`TICK`].
    pub fn tick(&mut self, now: Instant, out: &mut Output) {
        for PeerState { id, tunnel, header, .. } in self.peers.values_mut() {
            out.peers.push(*id, header, message_buffer(0), |to| tunnel.tick(now, to));
        }
    }

    /// What is worth a line in a log: of each peer that sends from others' addresses at once, and then at most every
    /// [`REPORT_PAUSE`].
    pub fn take_reports(&mut self, now: Instant) -> Vec<SpoofReport> {
        self.peers.values_mut().filter_map(|peer| peer.counters.report(now, peer.id)).collect()
    }

    /// What has passed between this end and a peer.
    pub fn stats(&self, id: PeerId) -> Option<PeerStats> {
        let peer = self.peers.get(&id)?;
        Some(PeerStats { established: peer.tunnel.is_established(), ..peer.counters.stats })
    }

    /// What has been dropped since the beginning.
    pub fn drops(&self) -> Drops {
        self.drops
    }
}

impl PeerState {
    fn send(&mut self, packet: &[u8], out: &mut ToPeers) -> Result<(), Reason> {
        if packet.len() > MAX_INNER {
            return Err(Reason::Overflow);
        }
        let mut taken = true;
        out.push(self.id, &self.header, message_buffer(packet.len()), |to| {
            let length = self.tunnel.encrypt(packet, to);
            taken = length.is_some();
            length.unwrap_or(0)
        });
        if !taken {
            return Err(Reason::Overflow);
        }
        self.counters.sent(packet.len());
        Ok(())
    }

    fn push(&mut self, message: &[u8], out: &mut ToPeers) {
        out.push(self.id, &self.header, message.len(), |to| {
            to.copy_from_slice(message);
            message.len()
        });
    }

    fn send_waiting(&mut self, out: &mut ToPeers) {
        while let Some(length) = self.tunnel.next_waiting_buffer() {
            out.push(self.id, &self.header, length, |to| self.tunnel.next_waiting(to));
        }
    }
}

impl Drops {
    fn count(&mut self, reason: Reason) {
        let count = match reason {
            Reason::Malformed => &mut self.malformed,
            Reason::SourceRouted => &mut self.source_routed,
            Reason::NotForHosts => &mut self.not_for_hosts,
            Reason::ForeignSource => &mut self.foreign_source,
            Reason::Spoofed => &mut self.spoofed,
            Reason::NoRoute => &mut self.no_route,
            Reason::BetweenClients => &mut self.between_clients,
            Reason::Transport => &mut self.transport,
            Reason::Overflow => &mut self.overflow,
        };
        *count += 1;
    }
}

impl From<PacketError> for Reason {
    fn from(_: PacketError) -> Self {
        Self::Malformed
    }
}

fn check_hosts(header: &Header) -> Result<(), Reason> {
    if header.source_routed {
        return Err(Reason::SourceRouted);
    }
    if !is_host(header.source) || !is_host(header.destination) {
        return Err(Reason::NotForHosts);
    }
    Ok(())
}

fn check_header(header: &[u8]) -> Result<(), PeerError> {
    match header.len() {
        0..=MAX_HEADER => Ok(()),
        length => Err(PeerError::LongHeader(length)),
    }
}

fn max_whole(datagram_limit: usize, header: usize) -> usize {
    datagram_limit.saturating_sub(header + OVERHEAD)
}

#[cfg(test)]
mod tests;
