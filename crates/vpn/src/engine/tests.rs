//! The engine's rules, one at a time. `traffic` holds what is true of all packets together.

mod packets;
mod spoofing;
mod traffic;

use std::time::Instant;

use super::*;
use crate::wireguard::{End, PresharedKey, PrivateKey};

use self::packets::{syn, udp};

const HEADER: [u8; 2] = [0, 9];

const CLIENT_END: End = End::Initiator { keepalive: 25 };

/// A datagram's usual limit.
const LIMIT: usize = 1414;

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// One client: its own engine, and its address on the server.
struct Client {
    id: PeerId,
    engine: Engine,
}

/// A server and its clients, and what has reached each device.
struct Vpn {
    server: Engine,
    clients: Vec<Client>,
    out: Output,
    server_device: Vec<Vec<u8>>,
    client_devices: Vec<Vec<Vec<u8>>>,
}

const SERVER: PeerId = PeerId(1_000);

fn taken(out: &mut Output) -> (Vec<Vec<u8>>, Vec<ToPeer>) {
    let packets = out.device_packets().iter().map(|p| p[4..].to_vec()).collect();
    let to_peers = out.drain_to_peers().collect();
    out.clear();
    (packets, to_peers)
}

impl Vpn {
    /// Clients have 10.0.0.2 and fd00::2, 10.0.0.3 and so on, and the routes `routes`, which the server allows.
    fn new(count: u8, client_to_client: bool, routes: &[&str]) -> Self {
        let mut vpn = Self {
            server: Engine::new(EngineConfig {
                role: Role::Server,
                addresses: nets(&["10.0.0.1/24", "fd00::1/64"]),
                client_to_client,
            }),
            clients: Vec::new(),
            out: Output::new(4),
            server_device: Vec::new(),
            client_devices: vec![Vec::new(); usize::from(count)],
        };
        for n in 0..count {
            vpn.add(n, routes);
        }
        vpn.settle(Vec::new());
        vpn
    }

    fn add(&mut self, n: u8, routes: &[&str]) {
        let host = n + 2;
        let (ours, theirs) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let psk = PresharedKey::new([n; 32]);
        let id = PeerId(n.into());
        let lease = nets(&[&format!("10.0.0.{host}/32"), &format!("fd00::{host}/128")]);
        let peer = |tunnel, networks, reach| Peer {
            tunnel,
            networks,
            reach,
            header: HEADER.into(),
            datagram_limit: LIMIT,
        };
        let tunnel = Tunnel::new(&theirs, ours.public(), &psk, End::Responder);
        let result = self.server.add_peer(id, peer(tunnel, lease, nets(routes)), &mut self.out);
        assert_eq!(result, Ok(()));
        assert!(self.out.is_empty());
        let mut engine = Engine::new(EngineConfig {
            role: Role::Client,
            addresses: nets(&[&format!("10.0.0.{host}/24"), &format!("fd00::{host}/64")]),
            client_to_client: false,
        });
        let tunnel = Tunnel::new(&ours, theirs.public(), &psk, CLIENT_END);
        let networks = nets(&[&["10.0.0.0/24", "fd00::/64"], routes].concat());
        engine.add_peer(SERVER, peer(tunnel, networks, Vec::new()), &mut self.out).unwrap();
        self.clients.push(Client { id, engine });
        let (_, sent) = taken(&mut self.out);
        // The handshake begins without a packet.
        assert_eq!(sent.len(), 1);
        self.settle(sent.into_iter().map(|p| (usize::from(n), p)).collect());
    }

    /// Carries packets between client `.0` and the server, both ways, until nobody has any more.
    fn settle(&mut self, mut from_clients: Vec<(usize, ToPeer)>) {
        let mut from_server: Vec<ToPeer> = Vec::new();
        loop {
            for (n, message) in std::mem::take(&mut from_clients) {
                assert_eq!(message.datagram[..2], HEADER);
                self.server.from_peer(self.clients[n].id, message.packet(), &mut self.out);
            }
            let (packets, sent) = taken(&mut self.out);
            self.server_device.extend(packets);
            from_server.extend(sent);
            for message in std::mem::take(&mut from_server) {
                let n = message.peer.0 as usize;
                self.clients[n].engine.from_peer(SERVER, message.packet(), &mut self.out);
                let (packets, sent) = taken(&mut self.out);
                self.client_devices[n].extend(packets);
                from_clients.extend(sent.into_iter().map(|message| (n, message)));
            }
            if from_clients.is_empty() {
                return;
            }
        }
    }

    /// A packet of client `n`'s device, all the way.
    fn client_sends(&mut self, n: usize, packet: &[u8]) {
        self.clients[n].engine.from_device(packet, &mut self.out);
        let (packets, sent) = taken(&mut self.out);
        assert!(packets.is_empty());
        self.settle(sent.into_iter().map(|message| (n, message)).collect());
    }

    /// A packet that client `n` puts into its tunnel whatever its engine says to that.
    fn forges(&mut self, n: usize, packet: &[u8]) {
        let mut sent = Output::new(4);
        let peer = self.clients[n].engine.peers.get_mut(&SERVER).unwrap();
        peer.send(packet, &mut sent.peers).ok().unwrap();
        let (_, sent) = taken(&mut sent);
        self.settle(sent.into_iter().map(|message| (n, message)).collect());
    }

    fn server_sends(&mut self, packet: &[u8]) {
        self.server.from_device(packet, &mut self.out);
        let (_, sent) = taken(&mut self.out);
        for message in sent {
            let n = message.peer.0 as usize;
            self.clients[n].engine.from_peer(SERVER, message.packet(), &mut self.out);
            let (packets, sent) = taken(&mut self.out);
            self.client_devices[n].extend(packets);
            self.settle(sent.into_iter().map(|message| (n, message)).collect());
        }
    }

    /// What the server itself puts into a client's tunnel whatever its engine says to that.
    fn server_forges(&mut self, n: usize, packet: &[u8]) {
        let mut sent = Output::new(4);
        let id = self.clients[n].id;
        self.server.peers.get_mut(&id).unwrap().send(packet, &mut sent.peers).ok().unwrap();
        let (_, sent) = taken(&mut sent);
        for message in sent {
            self.clients[n].engine.from_peer(SERVER, message.packet(), &mut self.out);
        }
        let (packets, _) = taken(&mut self.out);
        self.client_devices[n].extend(packets);
    }

    fn delivered(&self) -> usize {
        self.server_device.len() + self.client_devices.iter().map(Vec::len).sum::<usize>()
    }
}

#[test]
fn both_ends_reach_each_other_as_soon_as_there_is_a_peer() {
    let mut vpn = Vpn::new(1, true, &[]);
    for (here, there) in [("10.0.0.2", "10.0.0.1"), ("fd00::2", "fd00::1")] {
        let packet = udp(here, there, 1, 2, b"to the server");
        vpn.client_sends(0, &packet);
        assert_eq!(vpn.server_device.pop(), Some(packet));
        let packet = udp(there, here, 2, 1, b"to the client");
        vpn.server_sends(&packet);
        assert_eq!(vpn.client_devices[0].pop(), Some(packet));
    }
    let stats = vpn.server.stats(PeerId(0)).unwrap();
    assert!(stats.established);
    assert_eq!((stats.received_packets, stats.sent_packets), (2, 2));
    assert_eq!(stats.received_bytes, 2 * 8 + 20 + 40 + 2 * 13);
    assert_eq!(vpn.server.drops(), Drops::default());
}

#[test]
fn the_datagram_is_ready_to_be_sent() {
    let mut vpn = Vpn::new(1, true, &[]);
    let packet = udp("10.0.0.1", "10.0.0.2", 1, 2, &[5; 1000]);
    vpn.server.from_device(&packet, &mut vpn.out);
    let [sent] = vpn.out.to_peers() else { panic!("one packet") };
    assert_eq!(sent.peer, PeerId(0));
    assert_eq!(sent.datagram.len(), HEADER.len() + packet.len() + OVERHEAD);
    assert_eq!(sent.datagram[..2], HEADER);
    assert_eq!(sent.datagram[2..], *sent.packet());
}

#[test]
fn packets_before_the_handshake_are_not_lost() {
    let mut vpn = Vpn::new(0, true, &[]);
    vpn.client_devices.push(Vec::new());
    let (ours, theirs) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
    let psk = PresharedKey::new([0; 32]);
    let mut client = Engine::new(EngineConfig {
        role: Role::Client,
        addresses: nets(&["10.0.0.2/24"]),
        client_to_client: false,
    });
    let peer = |tunnel, networks| Peer {
        tunnel,
        networks: nets(&[networks]),
        reach: Vec::new(),
        header: HEADER.into(),
        datagram_limit: LIMIT,
    };
    let tunnel = Tunnel::new(&ours, theirs.public(), &psk, CLIENT_END);
    client.add_peer(SERVER, peer(tunnel, "10.0.0.0/24"), &mut vpn.out).unwrap();
    let packets: Vec<_> = (0..9).map(|n| udp("10.0.0.2", "10.0.0.1", 1, 2, &[n; 700])).collect();
    packets.iter().for_each(|packet| client.from_device(packet, &mut vpn.out));
    let (_, sent) = taken(&mut vpn.out);
    assert_eq!(sent.len(), 1);

    let tunnel = Tunnel::new(&theirs, ours.public(), &psk, End::Responder);
    vpn.server.add_peer(PeerId(0), peer(tunnel, "10.0.0.2/32"), &mut vpn.out).unwrap();
    let waits = udp("10.0.0.1", "10.0.0.2", 1, 2, b"from the server");
    vpn.clients.push(Client { id: PeerId(0), engine: client });
    vpn.server.from_device(&waits, &mut vpn.out);
    assert!(vpn.out.is_empty());
    vpn.settle(sent.into_iter().map(|message| (0, message)).collect());
    assert_eq!(vpn.server_device, packets);
    assert_eq!(vpn.client_devices[0], [waits]);
}

#[test]
fn a_client_sends_from_its_own_addresses_only() {
    let mut vpn = Vpn::new(2, true, &["0.0.0.0/0", "::/0"]);
    let mut forged = 0;
    for (source, there) in [
        ("10.0.0.1", "10.0.0.3"),
        ("10.0.0.3", "10.0.0.1"),
        ("10.0.0.9", "10.0.0.1"),
        ("192.0.2.1", "10.0.0.3"),
        ("127.0.0.1", "10.0.0.1"),
        ("fd00::3", "fd00::1"),
        ("fd00::1", "fd00::3"),
        ("fe80::2", "fd00::1"),
        ("::ffff:10.0.0.2", "fd00::1"),
        ("::10.0.0.2", "fd00::1"),
        ("::", "ff02::2"),
    ] {
        let whole = udp(source, there, 1, 2, b"spoofed");
        for packet in packets::as_fragments(&whole).into_iter().chain([whole]) {
            vpn.forges(0, &packet);
            forged += 1;
            // Its own engine does not even send it.
            let before = vpn.clients[0].engine.drops();
            vpn.client_sends(0, &packet);
            let after = vpn.clients[0].engine.drops();
            let dropped = |d: &Drops| d.foreign_source + d.not_for_hosts;
            assert_eq!(dropped(&after), dropped(&before) + 1);
        }
    }
    assert_eq!(vpn.delivered(), 0);
    assert_eq!(vpn.server.drops().spoofed, forged);
    assert_eq!(vpn.server.stats(PeerId(0)).unwrap().spoofed, forged);
}

#[test]
fn spoofing_is_reported_at_once_and_then_once_a_minute() {
    let mut vpn = Vpn::new(1, true, &[]);
    let now = Instant::now();
    assert!(vpn.server.take_reports(now).is_empty());
    let report = |packets| [SpoofReport { peer: PeerId(0), packets }];
    let spoofed = udp("10.0.0.7", "10.0.0.1", 1, 2, b"");
    vpn.forges(0, &spoofed);
    assert_eq!(vpn.server.take_reports(now), report(1));
    (0..5).for_each(|_| vpn.forges(0, &spoofed));
    assert!(vpn.server.take_reports(now + Duration::from_secs(59)).is_empty());
    assert_eq!(vpn.server.take_reports(now + Duration::from_secs(60)), report(5));
    assert!(vpn.server.take_reports(now + Duration::from_secs(600)).is_empty());
}

#[test]
fn a_client_takes_packets_from_its_routes_to_itself_only() {
    let mut vpn = Vpn::new(1, true, &["192.0.2.0/24"]);
    let good = udp("192.0.2.7", "10.0.0.2", 1, 2, b"");
    vpn.server_sends(&good);
    assert_eq!(vpn.client_devices[0].pop(), Some(good));
    for (source, there) in [
        ("198.51.100.1", "10.0.0.2"),
        ("10.0.0.2", "10.0.0.2"),
        ("192.0.2.7", "10.0.0.3"),
        ("192.0.2.7", "192.0.2.8"),
        ("192.0.2.7", "198.51.100.1"),
        ("192.0.2.7", "224.0.0.251"),
        ("192.0.2.7", "127.0.0.1"),
        ("fd00::1", "::ffff:10.0.0.2"),
    ] {
        vpn.server_forges(0, &udp(source, there, 1, 2, b""));
        assert_eq!(vpn.delivered(), 0, "{source} {there}");
    }
}

#[test]
fn the_server_forwards_to_permitted_routes_only() {
    let mut vpn = Vpn::new(2, true, &["192.0.2.0/24"]);
    let to = |there| udp("10.0.0.2", there, 1, 2, b"");
    vpn.client_sends(0, &to("192.0.2.7"));
    assert_eq!(vpn.server_device.pop(), Some(to("192.0.2.7")));
    for refused in [
        "198.51.100.1",
        "127.0.0.1",
        "10.0.0.9",
        "10.0.0.255",
        "10.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "169.254.169.254",
    ] {
        vpn.forges(0, &to(refused));
        assert_eq!(vpn.delivered(), 0, "{refused}");
    }
    let mut routed = packets::with_source_route(&to("10.0.0.1"));
    vpn.forges(0, &routed);
    assert_eq!((vpn.delivered(), vpn.server.drops().source_routed), (0, 1));
    routed[20] = 1;
    vpn.server.set_reach(PeerId(0), &[]);
    vpn.forges(0, &to("192.0.2.7"));
    assert_eq!(vpn.delivered(), 0);
}

#[test]
fn unassigned_addresses_are_not_handed_to_the_kernel() {
    // It would send them back, for ever.
    let mut vpn = Vpn::new(1, true, &["0.0.0.0/0", "::/0"]);
    vpn.client_sends(0, &udp("10.0.0.2", "10.0.0.77", 1, 2, b""));
    vpn.client_sends(0, &udp("fd00::2", "fd00::77", 1, 2, b""));
    assert_eq!((vpn.delivered(), vpn.server.drops().no_route), (0, 2));
}

#[test]
fn clients_reach_each_other_where_that_is_allowed() {
    let packet = udp("10.0.0.2", "10.0.0.3", 1, 2, b"hello");
    let mut vpn = Vpn::new(2, true, &[]);
    vpn.client_sends(0, &packet);
    assert_eq!(vpn.client_devices, [vec![], vec![packet.clone()]]);
    assert!(vpn.server_device.is_empty());
    // Nobody is sent what it sends to itself.
    vpn.forges(0, &udp("10.0.0.2", "10.0.0.2", 1, 2, b""));
    assert_eq!((vpn.delivered(), vpn.server.drops().between_clients), (1, 1));

    let mut vpn = Vpn::new(2, false, &["0.0.0.0/0"]);
    vpn.client_sends(0, &packet);
    assert_eq!((vpn.delivered(), vpn.server.drops().between_clients), (0, 1));
    // Nor by way of the kernel.
    vpn.server_sends(&packet);
    assert_eq!((vpn.delivered(), vpn.server.drops().foreign_source), (0, 1));
    // Nor from an address of the VPN that is nobody's.
    vpn.server_sends(&udp("10.0.0.77", "10.0.0.3", 1, 2, b"hello"));
    assert_eq!((vpn.delivered(), vpn.server.drops().foreign_source), (0, 2));
}

#[test]
fn the_transports_own_packets_go_neither_in_nor_out() {
    let mut vpn = Vpn::new(1, true, &[]);
    vpn.server.set_transport_ports(&[4000]);
    vpn.clients[0].engine.set_transport_ports(&[5000]);
    vpn.client_sends(0, &udp("10.0.0.2", "10.0.0.1", 5000, 9, b""));
    vpn.client_sends(0, &udp("10.0.0.2", "10.0.0.1", 9, 4000, b""));
    vpn.server_sends(&udp("10.0.0.1", "10.0.0.2", 4000, 9, b""));
    vpn.server_sends(&udp("fd00::1", "fd00::2", 9, 5000, b""));
    assert_eq!(vpn.delivered(), 0);
    assert_eq!(vpn.server.drops().transport, 2);
    assert_eq!(vpn.clients[0].engine.drops().transport, 2);
    // The same numbers mean nothing at other addresses, or to TCP.
    vpn.client_sends(0, &udp("10.0.0.2", "10.0.0.1", 4000, 5000, b""));
    vpn.client_sends(0, &syn("10.0.0.2", "10.0.0.1", 5000, 4000, 1300));
    vpn.server_sends(&udp("10.0.0.1", "10.0.0.2", 5000, 4000, b""));
    assert_eq!(vpn.delivered(), 3);
}

#[test]
fn what_this_machine_sends_to_itself_comes_back_by_the_device() {
    let mut vpn = Vpn::new(1, true, &[]);
    let to_itself = syn("10.0.0.2", "10.0.0.2", 9, 9, 1460);
    vpn.clients[0].engine.from_device(&to_itself, &mut vpn.out);
    let (packets, sent) = taken(&mut vpn.out);
    assert_eq!((packets, sent.len()), (vec![to_itself], 0));
    let of_another = udp("10.0.0.3", "10.0.0.2", 9, 9, b"");
    vpn.clients[0].engine.from_device(&of_another, &mut vpn.out);
    assert!(vpn.out.is_empty());
    let to_itself = udp("fd00::1", "fd00::1", 9, 9, b"");
    vpn.server.from_device(&to_itself, &mut vpn.out);
    assert_eq!(taken(&mut vpn.out).0, [to_itself]);
}

#[test]
fn tcp_is_told_to_fit_one_datagram_in_both_directions() {
    let mut vpn = Vpn::new(2, true, &[]);
    let mss = |packet: &[u8], ip: usize| u16::from_be_bytes([packet[ip + 22], packet[ip + 23]]);
    vpn.server.set_datagram_limit(PeerId(0), 1214);
    vpn.client_sends(0, &syn("10.0.0.2", "10.0.0.1", 1, 2, 1380));
    let got = vpn.server_device.pop().unwrap();
    assert_eq!(mss(&got, 20), 1214 - 2 - 32 - 40);
    assert!(packets::tcp_checksum_is_right(&got));
    vpn.server_sends(&syn("fd00::1", "fd00::2", 1, 2, 1360));
    let got = vpn.client_devices[0].pop().unwrap();
    assert_eq!(mss(&got, 40), 1220);
    assert!(packets::tcp_checksum_is_right(&got));
    // Between clients the narrower of both paths counts.
    vpn.client_sends(1, &syn("10.0.0.3", "10.0.0.2", 1, 2, 1340));
    assert_eq!(mss(&vpn.client_devices[0].pop().unwrap(), 20), 1140);
    vpn.client_sends(0, &syn("10.0.0.2", "10.0.0.3", 1, 2, 1340));
    assert_eq!(mss(&vpn.client_devices[1].pop().unwrap(), 20), 1140);
}

#[test]
fn a_network_has_one_peer() {
    let mut vpn = Vpn::new(2, true, &[]);
    let peer = |networks: &[&str], header| {
        let key = PrivateKey::generate().unwrap();
        let tunnel = Tunnel::new(&key, key.public(), &PresharedKey::new([0; 32]), End::Responder);
        Peer { tunnel, networks: nets(networks), reach: vec![], header, datagram_limit: LIMIT }
    };
    let mut add = |id, peer| vpn.server.add_peer(PeerId(id), peer, &mut vpn.out);
    let net = nets(&["10.0.0.2/32", "10.0.0.1/32"]);
    let taken = PeerError::Taken { net: net[0], peer: PeerId(0) };
    assert_eq!(add(7, peer(&["10.0.0.2/32"], vec![])), Err(taken));
    assert_eq!(add(7, peer(&["10.0.0.1/32"], vec![])), Err(PeerError::Own(net[1])));
    assert_eq!(add(7, peer(&[], vec![0; 33])), Err(PeerError::LongHeader(33)));
    assert_eq!(add(0, peer(&["10.0.0.2/32", "10.0.0.9/32"], vec![])), Ok(()));
    assert!(vpn.server.remove_peer(PeerId(0)).is_some());
    assert!(vpn.server.remove_peer(PeerId(0)).is_none());
    let mut add = |id, peer| vpn.server.add_peer(PeerId(id), peer, &mut vpn.out);
    assert_eq!(add(7, peer(&["10.0.0.2/32"], vec![])), Ok(()));
}

#[test]
fn buffers_are_used_again() {
    let mut vpn = Vpn::new(1, true, &[]);
    let packet = udp("10.0.0.2", "10.0.0.1", 1, 2, &[7; 1300]);
    let mut places = std::collections::HashSet::new();
    for _ in 0..50 {
        vpn.clients[0].engine.from_device(&packet, &mut vpn.out);
        let sent: Vec<_> = vpn.out.drain_to_peers().collect();
        vpn.server.from_peer(PeerId(0), sent[0].packet(), &mut vpn.out);
        let [got] = vpn.out.device_packets() else { panic!("one packet") };
        assert_eq!(got[4..], packet);
        places.insert(got.as_ptr());
        // As a device that joins packets does.
        got.extend_from_slice(&[9; 100]);
        vpn.out.clear();
    }
    assert!(places.len() <= 2);
}
