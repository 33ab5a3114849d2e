//! A client that has its place in a VPN and puts whatever it likes into its tunnel, and messages that are no tunnel's: nothing
//! comes out that is not from the client's own address and to where it may send.

#![no_main]

use std::net::IpAddr;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use tunnel_vpn::engine::{Engine, EngineConfig, Output, Peer, PeerId, Role};
use tunnel_vpn::packet::parse;
use tunnel_vpn::wireguard::{
    End, PresharedKey, PrivateKey, PublicKey, Received, Tunnel, message_buffer,
};

const CLIENT: PeerId = PeerId(2);
const OTHER: PeerId = PeerId(3);

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn peer(own: &PrivateKey, key: PublicKey, networks: [&str; 2]) -> Peer {
    Peer {
        tunnel: Tunnel::new(own, key, &PresharedKey::new([1; 32]), End::Responder),
        networks: networks.map(net).into(),
        reach: vec![net("192.0.2.0/24"), net("2001:db8::/32")],
        header: vec![0, 1],
        datagram_limit: 1000,
    }
}

fuzz_target!(|data: &[u8]| {
    let [own, theirs] = [(); 2].map(|()| PrivateKey::generate().expect("randomness"));
    let addresses = vec![net("10.0.0.1/24"), net("fd00::1/64")];
    let config = EngineConfig { role: Role::Server, addresses, client_to_client: true };
    let (mut engine, mut out) = (Engine::new(config), Output::new(12));
    let client = peer(&own, theirs.public(), ["10.0.0.2/32", "fd00::2/128"]);
    engine.add_peer(CLIENT, client, &mut out).expect("a first peer");
    let other = peer(&own, own.public(), ["10.0.0.3/32", "fd00::3/128"]);
    engine.add_peer(OTHER, other, &mut out).expect("another peer");
    let end = End::Initiator { keepalive: 0 };
    let mut tunnel = Tunnel::new(&theirs, own.public(), &PresharedKey::new([1; 32]), end);
    let mut buffer = vec![0; message_buffer(u16::MAX.into())];
    let length = tunnel.initiate(&mut buffer);
    engine.from_peer(CLIENT, &buffer[..length], &mut out);
    let response = out.drain_to_peers().next().expect("a response");
    let Received::Reply(length) = tunnel.decrypt(response.packet(), &mut buffer) else {
        panic!("no confirmation");
    };
    engine.from_peer(CLIENT, &buffer[..length], &mut out);
    assert!(tunnel.is_established() && out.is_empty());

    let hosts: [IpAddr; 2] = ["10.0.0.2", "fd00::2"].map(|text| text.parse().expect("an address"));
    let reach = ["10.0.0.1/32", "fd00::1/128", "192.0.2.0/24", "2001:db8::/32"].map(net);
    let mut rest = data;
    while let Some(([kind, length], after)) = rest.split_first_chunk() {
        let (bytes, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        if kind % 4 == 0 {
            engine.from_peer(CLIENT, bytes, &mut out);
        } else if let Some(length) = tunnel.encrypt(bytes, &mut buffer) {
            engine.from_peer(CLIENT, &buffer[..length], &mut out);
        }
        for packet in out.device_packets() {
            let header = parse(&packet[12..]).expect("a packet");
            assert_eq!(header.length, packet.len() - 12);
            assert!(hosts.contains(&header.source) && !header.source_routed);
            assert!(reach.iter().any(|net| net.contains(&header.destination)));
        }
        out.clear();
    }
});
