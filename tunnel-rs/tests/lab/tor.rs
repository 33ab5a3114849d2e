//! A relay that is an onion service of a Tor network in the lab: server and client on two hosts, each with a Tor of its
//! own, and everything that the hosts send is captured.
//!
//! One test, as the network takes most of a minute to stand.

use std::{net::IpAddr, time::Duration};

use tunnel_iroh::Ticket;
use tunnel_testlab::{
    net::{Capture, NatLab, Packet},
    process::Proc,
    tunnel::{ClientConfig, PathKind},
};

use crate::support::{TUNNEL_RS, TestResult, alone};

mod stage;

use stage::Stage;

/// For a session to open: several circuits at both ends, and another attempt where one of them came to nothing.
const TOR_LIMIT: Duration = Duration::from_secs(120);

/// For a path to be found, or the loss of one to be noticed and said.
const PATH_LIMIT: Duration = Duration::from_secs(60);

/// Every packet but those of TCP connections that stand already.
const BEGINNINGS: &str = "not tcp or ip6 or tcp[tcpflags] & tcp-syn != 0";

/// What is in a packet (IANA protocol numbers).
const ICMP: u8 = 1;
const TCP: u8 = 6;

#[test]
fn sessions_go_through_tor_and_what_may_not_leave_does_not() -> TestResult {
    let _alone = alone();
    let mut stage = Stage::new()?;
    with_tor_only_nothing_leaves_but_through_the_proxy(&stage)?;
    a_direct_path_is_said_and_all_else_goes_through_the_proxy(&stage)?;
    what_tor_says_reaches_the_user(&stage)?;
    a_client_comes_back_with_its_tor(&mut stage)
}

fn with_tor_only_nothing_leaves_but_through_the_proxy(stage: &Stage) -> TestResult {
    let hosts = [&stage.lab.a.host, &stage.lab.b.host];
    let captures = [Capture::start(hosts[0], BEGINNINGS)?, Capture::start(hosts[1], BEGINNINGS)?];
    let server = stage.server(&["--tor-only"])?;
    let ticket: Ticket = server.ticket.parse()?;
    assert!(ticket.addresses.is_empty(), "the ticket tells addresses: {ticket:?}");

    let client = ClientConfig::with_ticket(TUNNEL_RS, &server.ticket);
    let client = stage.client(client, &["--tor-only"])?;
    client.wait_session_open(TOR_LIMIT)?;
    stage.record_echo(&client, "through Tor")?;
    for process in [&server.process, &client.process] {
        assert_eq!(udp_sockets(process)?, 0, "there are UDP sockets:\n{}", process.output());
    }
    assert!(client.paths().iter().all(|path| *path == PathKind::Relay), "{:?}", client.paths());
    drop((client, server));

    for capture in captures {
        let packets = capture.finish()?;
        let stray: Vec<_> = packets.iter().filter(|packet| !stage.is_tor(packet)).collect();
        assert!(stray.is_empty(), "outside the proxy: {stray:?}");
        // What is not seen at all proves nothing.
        let asked = |packet: &Packet| packet.protocol == TCP && packet.port == Some(9050);
        assert!(packets.iter().any(asked), "no connection to the proxy in {packets:?}");
    }
    Ok(())
}

fn a_direct_path_is_said_and_all_else_goes_through_the_proxy(stage: &Stage) -> TestResult {
    let (a, b) = stage.addresses();
    let capture = Capture::start(&stage.lab.a.host, BEGINNINGS)?;
    let server = stage.server(&[])?;
    let client = ClientConfig::with_id(TUNNEL_RS, &server.endpoint_id);
    let client = stage.client(client, &["--relay-url", &stage.relay_url()])?;
    client.wait_session_open(TOR_LIMIT)?;
    client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    for (process, peer) in [(&client.process, b), (&server.process, a)] {
        let said = format!("direct path to {peer}:");
        process.wait_line(|l| l.contains(&said) && l.contains("--tor-only forbids"), PATH_LIMIT)?;
    }
    stage.record_echo(&client, "directly")?;
    drop((client, server));

    let between = |one: IpAddr, other: IpAddr| [one, other].iter().all(|ip| [a, b].contains(ip));
    let packets = capture.finish()?;
    let direct = |packet: &Packet| {
        // The kernel answers by ICMP what comes for the one that has been ended first.
        (packet.is_udp() || packet.protocol == ICMP) && between(packet.source, packet.destination)
    };
    assert!(packets.iter().any(direct), "no direct path in the capture");
    let stray = packets.iter().filter(|packet| !direct(packet) && !stage.is_tor(packet));
    let stray: Vec<_> = stray.collect();
    assert!(stray.is_empty(), "neither Tor nor direct: {stray:?}");
    Ok(())
}

fn what_tor_says_reaches_the_user(stage: &Stage) -> TestResult {
    // The Tor Project's own, which this network has not, and the same with a slip of the pen.
    let unknown = "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
    let mistyped = "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wjd.onion";
    for (relay, words) in [(unknown, "no such onion service"), (mistyped, "mistyped")] {
        let server = stage.lone_server(relay)?;
        server.process.wait_line(|line| line.contains(words), TOR_LIMIT)?;
    }
    // A port behind which nothing listens.
    let server = stage.lone_server(&format!("{}:81", stage.relay_url()))?;
    server.process.wait_line(|line| line.contains("nothing answers at this port"), TOR_LIMIT)?;
    Ok(())
}

fn a_client_comes_back_with_its_tor(stage: &mut Stage) -> TestResult {
    let server = stage.server(&["--tor-only"])?;
    let client = ClientConfig::with_ticket(TUNNEL_RS, &server.ticket);
    let client = stage.client(client, &["--tor-only"])?;
    client.wait_session_open(TOR_LIMIT)?;
    let stopped = stage.take_tor()?.stop();
    client.process.wait_line(|line| line.contains("is Tor running?"), PATH_LIMIT)?;
    stage.put_tor(stopped)?;
    let again = |line: &str| line.contains("is within reach through Tor");
    client.process.wait_lines(
        |lines| (lines.iter().filter(|line| again(&line.text)).count() >= 2).then_some(()),
        TOR_LIMIT,
    )?;
    stage.wait_echo(&client, TOR_LIMIT)?;
    Ok(())
}

/// How many UDP sockets the namespace of a program has; nobody else in it has any.
fn udp_sockets(process: &Proc) -> std::io::Result<usize> {
    let mut sockets = 0;
    for table in ["udp", "udp6"] {
        let path = format!("/proc/{}/net/{table}", process.pid());
        // The first line names the columns.
        sockets += std::fs::read_to_string(path)?.lines().skip(1).count();
    }
    Ok(sockets)
}

impl Stage {
    /// Whether a packet belongs to a host's Tor, or to the way to it on the host's own loopback.
    fn is_tor(&self, packet: &Packet) -> bool {
        let network = IpAddr::from(NatLab::RELAY);
        let port = packet.port.unwrap_or_default();
        let on_loopback = packet.source.is_loopback() && packet.destination.is_loopback();
        packet.protocol == TCP
            && port != 53
            && (on_loopback
                || packet.source == network
                || packet.destination == network && self.network.is_port(port))
    }
}
