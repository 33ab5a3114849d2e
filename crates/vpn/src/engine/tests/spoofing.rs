//! A client that keeps to nothing sends from a million addresses that are not its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::packets::{as_fragments, udp};
use super::*;

const PACKETS: u64 = 1_000_000;

/// Numbers without an order, the same ones each time (Vigna: splitmix64).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.next() as usize % choices.len()]
    }
}

/// An IPv4 source: near the client's own one, of others, or anywhere.
fn source4(numbers: &mut Numbers) -> Ipv4Addr {
    loop {
        let bits = numbers.next();
        let source = match bits % 4 {
            0 => Ipv4Addr::new(10, 0, 0, (bits >> 8) as u8),
            1 => Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 2)) ^ (1 << ((bits >> 8) % 32))),
            _ => Ipv4Addr::from((bits >> 8) as u32),
        };
        if source != Ipv4Addr::new(10, 0, 0, 2) {
            return source;
        }
    }
}

fn source6(numbers: &mut Numbers) -> Ipv6Addr {
    let own: Ipv6Addr = "fd00::2".parse().unwrap();
    loop {
        let bits = numbers.next();
        let source = match bits % 4 {
            0 => Ipv6Addr::from(u128::from(own) & !0xff | u128::from(bits as u8)),
            1 => Ipv6Addr::from(u128::from(own) ^ (1 << ((bits >> 8) % 128))),
            2 => source4(numbers).to_ipv6_mapped(),
            _ => Ipv6Addr::from(u128::from(bits) << 64 | u128::from(numbers.next())),
        };
        if source != own {
            return source;
        }
    }
}

#[test]
fn of_a_million_spoofed_packets_none_is_delivered() {
    let mut vpn = Vpn::new(2, true, &["0.0.0.0/0", "::/0"]);
    let mut numbers = Numbers(1);
    let (mut forged, mut to_device, mut sent) = (0, 0, Output::new(4));
    let mut to_peers = 0;
    while forged < PACKETS {
        let whole = if numbers.next().is_multiple_of(2) {
            let to = numbers.one_of(&["10.0.0.1", "10.0.0.3", "192.0.2.7", "10.0.0.2"]);
            udp(&source4(&mut numbers).to_string(), to, 1, 2, b"spoofed")
        } else {
            let to = numbers.one_of(&["fd00::1", "fd00::3", "2001:db8::7", "fd00::2"]);
            udp(&source6(&mut numbers).to_string(), to, 1, 2, b"spoofed")
        };
        for packet in as_fragments(&whole).into_iter().chain([whole]) {
            let peer = vpn.clients[0].engine.peers.get_mut(&SERVER).unwrap();
            peer.send(&packet, &mut sent.peers).ok().unwrap();
            for message in sent.drain_to_peers() {
                vpn.server.from_peer(vpn.clients[0].id, message.packet(), &mut vpn.out);
            }
            forged += 1;
        }
        let (packets, sent) = taken(&mut vpn.out);
        to_device += packets.len();
        to_peers += sent.len();
    }
    assert_eq!((to_device, to_peers), (0, 0));
    assert_eq!(vpn.server.drops(), Drops { spoofed: forged, ..Drops::default() });
    assert_eq!(vpn.server.stats(PeerId(0)).unwrap().spoofed, forged);

    // And its own still arrive.
    let own = udp("10.0.0.2", "10.0.0.1", 1, 2, b"own");
    vpn.forges(0, &own);
    assert_eq!(vpn.server_device, [own]);
}
