//! With `--no-stun`, nobody but the peer is contacted.

use std::{net::IpAddr, time::Duration};

use tunnel_testlab::{
    ice::ManualConfig,
    net::{Cable, Capture, Packet, PairLab, StunServers},
    stream::settled,
};

use crate::{
    scene::Stage,
    support::{TUNNEL_RS_ICE, TestResult, alone, finished},
};

/// For a packet to be seen.
const SEEN_LIMIT: Duration = Duration::from_secs(10);

/// For the programs to end, once the client was told to.
const END_LIMIT: Duration = Duration::from_secs(15);

const SIGTERM: i32 = 15;

/// The STUN servers that the program asks unless it is told otherwise.
const DEFAULT_STUN: [&str; 2] = ["stun.l.google.com", "stun.cloudflare.com"];

/// DNS.
const DNS: u16 = 53;

/// Two hosts on one cable, with a way out on which all is seen and nothing arrives. They know the addresses of the
/// usual STUN servers.
fn lab() -> tunnel_testlab::Result<PairLab> {
    let lab = PairLab::new()?;
    lab.add_default_routes()?;
    let mut hosts = Vec::new();
    for ((name, v4), v6) in DEFAULT_STUN.into_iter().zip(StunServers::V4).zip(StunServers::V6) {
        hosts.extend([(IpAddr::from(v4), name), (v6.into(), name)]);
    }
    lab.a.set_hosts(&hosts)?;
    lab.b.set_hosts(&hosts)?;
    Ok(lab)
}

/// Whether a packet asks for a name, or goes anywhere but to one of the two hosts.
fn goes_outside(packet: &Packet) -> bool {
    let to = packet.destination;
    // Addresses that are valid on one link only reach nobody else (RFC 4291 section 2.5.6).
    let on_link = matches!(to, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let own = to.is_loopback() || on_link || Cable::of(to).is_some();
    !own || packet.port == Some(DNS)
}

#[test]
fn without_stun_all_packets_go_to_the_two_hosts() -> TestResult {
    let _alone = alone();
    let lab = lab()?;
    let captures = [Capture::start(&lab.a, "")?, Capture::start(&lab.b, "")?];
    let scene = Stage::new(lab, None)?.connect()?;
    let stream = scene.stream()?;
    settled(&stream)?;
    finished(stream)?;

    // The farewell is captured too.
    scene.tunnel.0.client.signal(SIGTERM)?;
    for (name, process) in scene.tunnel.sides() {
        assert_eq!(process.wait_exit(END_LIMIT)?.code(), Some(0), "{name}");
    }
    for capture in captures {
        let packets = capture.finish()?;
        let outside: Vec<_> = packets.iter().filter(|packet| goes_outside(packet)).collect();
        assert!(outside.is_empty(), "{outside:?}");
        let udp = packets.iter().filter(|packet| packet.is_udp());
        // A mebibyte each way; a packet here may be one of 64 KiB that the interface would have cut up.
        assert!(udp.count() > 50, "of {} packets almost none is of the tunnel", packets.len());
    }
    Ok(())
}

#[test]
fn the_usual_stun_servers_would_be_seen() -> TestResult {
    let _alone = alone();
    let lab = lab()?;
    let capture = Capture::start(&lab.a, "")?;
    let config = ManualConfig::with_default_stun(TUNNEL_RS_ICE);
    let _offered = config.forward("tcp://127.0.0.1:22", "127.0.0.1:0").offer(Some(&lab.a))?;

    for stun in StunServers::V4.map(IpAddr::from).into_iter().chain(StunServers::V6.map(Into::into))
    {
        capture.wait(|packet| packet.destination == stun && goes_outside(packet), SEEN_LIMIT)?;
    }
    Ok(())
}
