//! What a client's host sends from addresses that are not its own reaches nobody.

use std::net::IpAddr;

use tunnel_testlab::{
    net::{Capture, Packet},
    programs::ping,
    raw::{RawSender, udp_whole_and_in_fragments},
};

use super::{LIMIT, Scene, Setup};
use crate::support::{TestResult, alone};

/// The port that only packets of this test go to.
const PORT: u16 = 9;

/// How many rounds of all sources.
const ROUNDS: usize = 100;

#[test]
fn nothing_from_a_foreign_address_arrives() -> TestResult {
    let _alone = alone();
    let arguments = &["--network", "fd99::/64", "--allow-route", "0.0.0.0/0,::/0"];
    let scene = Scene::new(Setup { server: arguments, ..Setup::default() })?;
    let (client, server) = (&scene.lab.a.host, &scene.lab.b.host);
    let filter = "udp port 9 or ip[6:2] & 0x1fff != 0 or ip6 proto 44 or icmp";
    let (near, far) = (Capture::start(client, filter)?, Capture::start(server, filter)?);
    let sender = RawSender::new(client)?;
    let address = |text: &str| text.parse::<IpAddr>();
    let to = [address("10.99.0.1")?, address("fd99::1")?];
    let foreign = [
        "10.99.0.1",
        "10.99.0.3",
        "10.99.0.200",
        "192.168.1.2",
        "203.0.113.7",
        "127.0.0.1",
        "8.8.8.8",
        "fd99::1",
        "fd99::3",
        "2001:db8::7",
        "fe80::1",
        "::1",
    ];
    let mut sent = 0;
    for _ in 0..ROUNDS {
        for source in foreign {
            for to in to {
                for packet in udp_whole_and_in_fragments(address(source)?, to, PORT) {
                    sender.send(&packet, to)?;
                    sent += 1;
                }
            }
        }
    }
    assert_eq!(sent, ROUNDS * foreign.len() * 3);
    // As a user of the machine can do it, too.
    client.ip(&["address", "add", "10.99.7.7/32", "dev", "tun0"])?;
    let pinged = ping(client, to[0], &["-I", "10.99.7.7", "-w", "2"]);
    assert!(pinged.is_err(), "an answer to an address that is nobody's");

    // What comes from its own addresses does arrive, behind all of that.
    for (own, to) in [("10.99.0.2", to[0]), ("fd99::2", to[1])] {
        let own = address(own)?;
        let whole = &udp_whole_and_in_fragments(own, to, PORT)[0];
        for _ in 0..3 {
            sender.send(whole, to)?;
        }
        far.wait(|packet| packet.source == own && packet.port == Some(PORT), LIMIT)?;
    }
    ping(client, to[0], &[])?;
    let into_vpn = |packet: &&Packet| to.contains(&packet.destination);
    let (left, came) = (near.finish()?, far.finish()?);
    for source in foreign {
        let source = address(source)?;
        assert!(left.iter().filter(into_vpn).any(|packet| packet.source == source), "{source}");
    }
    let own = [address("10.99.0.2")?, address("fd99::2")?];
    for packet in came.iter().filter(into_vpn) {
        assert!(own.contains(&packet.source), "{packet:?}");
    }
    Ok(())
}
