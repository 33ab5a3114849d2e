//! Packets of a device, on both ends of a VPN: what comes out at the other end is what went in, but for the MSS of a SYN,
//! and nothing else gets through.

#![no_main]

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use tunnel_vpn::engine::{Engine, EngineConfig, Output, Peer, PeerId, Role};
use tunnel_vpn::packet::{TCP, parse};
use tunnel_vpn::wireguard::{End, PresharedKey, PrivateKey, Tunnel};

const PEER: PeerId = PeerId(1);

fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

fn end(role: Role, own: [&str; 2], tunnel: Tunnel, networks: [&str; 2]) -> (Engine, Output) {
    let addresses = own.map(net).into();
    let mut engine = Engine::new(EngineConfig { role, addresses, client_to_client: true });
    let networks = networks.map(net).into();
    let reach = vec![net("0.0.0.0/0"), net("::/0")];
    let peer = Peer { tunnel, networks, reach, header: vec![0, 1], datagram_limit: 900 };
    let mut out = Output::new(12);
    engine.add_peer(PEER, peer, &mut out).expect("a first peer");
    (engine, out)
}

/// Carries what each has for the other, until neither has anything.
fn settle(ends: &mut [(Engine, Output); 2]) {
    loop {
        let sent: [Vec<_>; 2] = ends.each_mut().map(|(_, out)| out.drain_to_peers().collect());
        if sent.iter().all(Vec::is_empty) {
            return;
        }
        for (from, messages) in sent.into_iter().enumerate() {
            let (engine, out) = &mut ends[1 - from];
            messages.iter().for_each(|message| engine.from_peer(PEER, message.packet(), out));
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let keys = [(); 2].map(|()| PrivateKey::generate().expect("randomness"));
    let preshared = PresharedKey::new([1; 32]);
    let parts = [End::Initiator { keepalive: 0 }, End::Responder];
    let [ours, theirs] =
        [0, 1].map(|n| Tunnel::new(&keys[n], keys[1 - n].public(), &preshared, parts[n]));
    let mut ends = [
        end(Role::Client, ["10.0.0.2/24", "fd00::2/64"], ours, ["0.0.0.0/0", "::/0"]),
        end(Role::Server, ["10.0.0.1/24", "fd00::1/64"], theirs, ["10.0.0.2/32", "fd00::2/128"]),
    ];
    settle(&mut ends);
    let mut rest = data;
    while let Some(([from, length], after)) = rest.split_first_chunk() {
        let (packet, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let from = usize::from(from % 2);
        let (engine, out) = &mut ends[from];
        engine.from_device(packet, out);
        assert!(out.device_packets().is_empty());
        settle(&mut ends);
        for got in ends[1 - from].1.device_packets() {
            let got = &got[12..];
            let header = parse(got).expect("a packet");
            assert_eq!(Ok(header), parse(packet));
            if header.protocol != TCP {
                assert_eq!(got, &packet[..header.length]);
            }
        }
        ends.iter_mut().for_each(|(_, out)| out.clear());
    }
});
