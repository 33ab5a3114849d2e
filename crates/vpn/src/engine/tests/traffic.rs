//! What is true of all packets, whatever happens to the datagrams that carry them.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use proptest::prelude::*;
use tunnel_model::datagram::{Datagram, Reassembler, split, whole_header};

use super::packets::tcp_checksum_is_right;
use super::*;

const FLOW: u64 = 9;

#[derive(Clone, Debug)]
enum Step {
    /// A device of the client's (`false`) or the server's sends a packet of so many bytes of data.
    Udp(bool, usize),
    Syn(bool, u16),
    /// What becomes of one of the datagrams that are on their way.
    Deliver(usize),
    Copy(usize),
    Lose(usize),
    Alter(usize, usize),
    Shorten(usize, usize),
    /// The path's limit changes.
    Limit(usize),
    /// Time goes on, in milliseconds.
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), 0usize..4000).prop_map(|(end, length)| Step::Udp(end, length)),
        1 => (any::<bool>(), any::<u16>()).prop_map(|(end, mss)| Step::Syn(end, mss)),
        12 => any::<usize>().prop_map(Step::Deliver),
        2 => any::<usize>().prop_map(Step::Copy),
        1 => any::<usize>().prop_map(Step::Lose),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(which, at)| Step::Alter(which, at)),
        1 => (any::<usize>(), any::<usize>()).prop_map(|(which, at)| Step::Shorten(which, at)),
        1 => (400usize..1500).prop_map(Step::Limit),
        1 => (1u64..3000).prop_map(Step::Wait),
    ]
}

/// An end, and what carries its packets.
struct Site {
    engine: Engine,
    peer: PeerId,
    number: u16,
    reassembler: Reassembler,
}

struct World {
    /// The client, then the server.
    ends: [Site; 2],
    out: Output,
    limit: usize,
    now: Instant,
    /// With the end that each goes to.
    in_flight: Vec<(usize, Bytes)>,
    /// By a number in the packet, with the end that sent it.
    sent: HashMap<u32, (usize, Vec<u8>)>,
    delivered: HashSet<u32>,
}

impl World {
    fn new() -> Self {
        let (ours, theirs) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let psk = PresharedKey::new([3; 32]);
        let mut out = Output::new(12);
        let now = Instant::now();
        let mut in_flight = Vec::new();
        let tunnels = [
            Tunnel::new(&ours, theirs.public(), &psk, CLIENT_END),
            Tunnel::new(&theirs, ours.public(), &psk, End::Responder),
        ];
        let ends = [
            (Role::Client, "10.0.0.2/24", "10.0.0.0/24"),
            (Role::Server, "10.0.0.1/24", "10.0.0.2/32"),
        ];
        let mut tunnels = tunnels.into_iter();
        let ends = ends.map(|(role, own, networks)| {
            let config = EngineConfig { role, addresses: nets(&[own]), client_to_client: false };
            let mut engine = Engine::new(config);
            let peer = Peer {
                tunnel: tunnels.next().unwrap(),
                networks: nets(&[networks]),
                reach: Vec::new(),
                header: whole_header(FLOW).to_vec(),
                datagram_limit: 1200,
            };
            engine.add_peer(PeerId(5), peer, &mut out).unwrap();
            Site { engine, peer: PeerId(5), number: 0, reassembler: Reassembler::default() }
        });
        in_flight.extend(out.drain_to_peers().map(|packet| (1, packet.datagram)));
        let (sent, delivered) = (HashMap::new(), HashSet::new());
        Self { ends, out, limit: 1200, now, in_flight, sent, delivered }
    }

    /// Sends what `from` has for the other, as its carrier does, and looks at what its device is given.
    fn flush(&mut self, from: usize) -> Result<(), TestCaseError> {
        for packet in self.out.drain_to_peers() {
            let end = &mut self.ends[from];
            if packet.datagram.len() <= self.limit {
                self.in_flight.push((1 - from, packet.datagram));
                continue;
            }
            end.number = end.number.wrapping_add(1);
            let parts = split(FLOW, end.number, packet.packet(), self.limit).into_iter().flatten();
            self.in_flight.extend(parts.map(|part| (1 - from, part)));
        }
        for packet in self.out.device_packets() {
            let packet = &packet[12..];
            let header = packet::parse(packet).unwrap();
            let place = if header.protocol == UDP { 28 } else { 24 };
            let mark = u32::from_be_bytes(*packet[place..].first_chunk().unwrap());
            let (sender, original) = &self.sent[&mark];
            prop_assert_eq!(*sender, 1 - from);
            prop_assert!(self.delivered.insert(mark), "delivered twice");
            if header.protocol == UDP {
                prop_assert_eq!(packet, &original[..]);
            } else {
                // Nothing but the MSS and the checksum differs, and these are right.
                let mut unclamped = packet.to_vec();
                unclamped[36..38].copy_from_slice(&original[36..38]);
                unclamped[42..44].copy_from_slice(&original[42..44]);
                prop_assert_eq!(&unclamped, original);
                prop_assert!(tcp_checksum_is_right(packet));
                prop_assert!(packet[42..44] <= original[42..44]);
            }
        }
        self.out.clear();
        Ok(())
    }

    /// A device sends what `make` makes of its address, the other's, and a number of the packet's own.
    fn send(
        &mut self,
        end: usize,
        make: impl FnOnce([&str; 2], u32) -> Vec<u8>,
    ) -> Result<(), TestCaseError> {
        let mark = self.sent.len() as u32;
        let hosts = [["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"]][end];
        let packet = make(hosts, mark);
        self.sent.insert(mark, (end, packet.clone()));
        self.ends[end].engine.from_device(&packet, &mut self.out);
        self.flush(end)
    }

    fn deliver(&mut self, to: usize, datagram: Bytes) -> Result<(), TestCaseError> {
        let Site { engine, peer, reassembler, .. } = &mut self.ends[to];
        let Ok(datagram) = Datagram::parse(datagram) else { return Ok(()) };
        if let Some((FLOW, packet)) = reassembler.handle(self.now, datagram) {
            engine.from_peer(*peer, &packet, &mut self.out);
        }
        self.flush(to)
    }

    fn tick(&mut self) -> Result<(), TestCaseError> {
        for end in 0..2 {
            self.ends[end].engine.tick(self.now, &mut self.out);
            self.flush(end)?;
        }
        Ok(())
    }

    fn take(&mut self, which: usize) -> Option<(usize, Bytes)> {
        let count = self.in_flight.len();
        (count > 0).then(|| self.in_flight.remove(which % count))
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Udp(server, length) => self.send(server.into(), |[from, to], mark| {
                let data = [&mark.to_be_bytes()[..], &vec![length as u8; length]].concat();
                udp(from, to, 7, 8, &data)
            }),
            Step::Syn(server, mss) => self
                .send(server.into(), |hosts, mark| packets::syn_numbered(hosts, [7, 8], mark, mss)),
            Step::Deliver(which) => match self.take(which) {
                Some((to, datagram)) => self.deliver(to, datagram),
                None => Ok(()),
            },
            Step::Copy(which) => {
                if let Some(taken) = self.take(which) {
                    self.in_flight.extend([taken.clone(), taken]);
                }
                Ok(())
            }
            Step::Lose(which) => {
                self.take(which);
                Ok(())
            }
            Step::Alter(which, at) => match self.take(which) {
                Some((to, datagram)) => {
                    let mut bytes = datagram.to_vec();
                    let at = at % bytes.len();
                    bytes[at] ^= 0x10;
                    self.deliver(to, bytes.into())
                }
                None => Ok(()),
            },
            Step::Shorten(which, to_length) => match self.take(which) {
                Some((to, datagram)) => {
                    let length = to_length % datagram.len();
                    self.deliver(to, datagram.slice(..length))
                }
                None => Ok(()),
            },
            Step::Limit(limit) => {
                self.limit = limit;
                for Site { engine, peer, .. } in &mut self.ends {
                    engine.set_datagram_limit(*peer, limit);
                }
                Ok(())
            }
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(milliseconds);
                self.tick()
            }
        }
    }
}

proptest! {
    #[test]
    fn only_whole_authentic_packets_arrive_and_once(
        steps in proptest::collection::vec(step(), 0..250),
    ) {
        let mut world = World::new();
        for one in steps {
            world.step(one)?;
        }
    }

    #[test]
    fn without_loss_everything_arrives_whatever_the_order_and_the_limits(
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let mut world = World::new();
        for one in steps {
            match one {
                Step::Lose(which) | Step::Alter(which, _) | Step::Shorten(which, _) => {
                    world.step(Step::Deliver(which))?;
                }
                // Time would let parts of packets go that are still on their way.
                Step::Wait(_) => {}
                other => world.step(other)?,
            }
        }
        while let Some((to, datagram)) = world.take(0) {
            world.deliver(to, datagram)?;
        }
        // A packet that waits at the server for the client's first leaves with it.
        world.step(Step::Udp(false, 0))?;
        while let Some((to, datagram)) = world.take(0) {
            world.deliver(to, datagram)?;
        }
        let too_long = |packet: &[u8]| packet.len() + OVERHEAD > 4 * (400 - 5);
        let missing: Vec<_> = world
            .sent
            .iter()
            .filter(|(mark, (_, packet))| !world.delivered.contains(*mark) && !too_long(packet))
            .map(|(mark, (end, packet))| (*mark, *end, packet.len()))
            .collect();
        prop_assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn whatever_the_source_only_the_clients_own_comes_out(
        packets in proptest::collection::vec(
            (any::<[u8; 4]>(), any::<u16>(), proptest::collection::vec(any::<u8>(), 0..60), any::<u8>()),
            1..40,
        ),
    ) {
        let mut vpn = Vpn::new(2, true, &["0.0.0.0/0"]);
        for (source, place, payload, near) in packets {
            let mut packet = packets::ip("10.0.0.2", "10.0.0.1", UDP, &payload);
            // Half of them within the network, where the others are.
            let source = if near % 2 == 0 { [10, 0, 0, near / 2 % 8] } else { source };
            packet[12..16].copy_from_slice(&source);
            packet[6..8].copy_from_slice(&place.to_be_bytes());
            let before = vpn.delivered();
            vpn.forges(0, &packet);
            prop_assert_eq!(vpn.delivered() - before, usize::from(source == [10, 0, 0, 2]));
        }
    }

    #[test]
    fn no_bytes_from_anybody_panic(
        packets in proptest::collection::vec((0u8..3, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..120)), 0..40),
    ) {
        let mut vpn = Vpn::new(1, true, &["0.0.0.0/0", "::/0"]);
        for (kind, four, mut bytes) in packets {
            // As packets that have the form of one at least.
            if bytes.len() >= 40 {
                let length = bytes.len() as u16 - if four { 0 } else { 40 };
                bytes[0] = if four { 0x45 | bytes[0] & 2 } else { 0x60 };
                let at = if four { 2 } else { 4 };
                bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
                if four && bytes[1] % 2 == 0 {
                    bytes[12..20].copy_from_slice(&[10, 0, 0, 2, 10, 0, 0, 1]);
                }
            }
            match kind {
                0 => vpn.server_sends(&bytes),
                1 => vpn.server.from_peer(PeerId(0), &bytes, &mut vpn.out),
                _ if bytes.is_empty() => {}
                _ => vpn.forges(0, &bytes),
            }
            vpn.out.clear();
        }
    }
}
