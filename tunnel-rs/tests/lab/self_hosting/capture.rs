//! With a relay and a discovery server of one's own, nobody else gets a packet.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use tunnel_testlab::{
    Result,
    enter::listen_tcp,
    nat::Nat,
    net::{Capture, NatLab, Packet, Site},
    netns::Namespace,
    stream::{FLOW_LIMIT, Stream, settled},
    tunnel::{ClientConfig, PathKind, ServerConfig},
};

use super::{LIMIT, OwnRelay, end, folder, is_local};
use crate::support::{SESSION_LIMIT, TUNNEL_RS, TestResult, alone};

/// For a direct path, and for the relay to be used again after its restart.
const PATH_LIMIT: Duration = Duration::from_secs(60);

/// The DNS server of all hosts (RFC 5737): nobody is there.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 253);

const DNS: u16 = 53;

/// All addresses of a host, its own and those that others see.
fn addresses(site: &Site) -> Vec<IpAddr> {
    let uplink = site.uplink();
    uplink.own_addresses().chain(uplink.public_addresses()).collect()
}

/// What a host with these addresses sent to others than `to`, and not to its own link.
fn to_others<'a>(packets: &'a [Packet], own: &[IpAddr], to: &[IpAddr]) -> Vec<&'a Packet> {
    let foreign = |packet: &&Packet| {
        let (source, destination) = (packet.source, packet.destination);
        own.contains(&source)
            && !is_local(destination)
            && !own.contains(&destination)
            && !to.contains(&destination)
    };
    packets.iter().filter(foreign).collect()
}

#[test]
fn nobody_else_gets_a_packet() -> TestResult {
    let _alone = alone();
    let lab = NatLab::new(Nat::PortRestricted, Nat::PortRestricted)?;
    let hosts: [&Namespace; 3] = [&lab.a.host, &lab.b.host, &lab.relay];
    for host in hosts {
        host.set_resolver(RESOLVER.into())?;
    }
    let captures = [start(hosts[0])?, start(hosts[1])?, start(hosts[2])?];

    let state = folder()?;
    // By its name, which the hosts know without DNS, so that a look-up that goes anywhere is one too many.
    let url = format!("https://{}", NatLab::RELAY_NAME);
    let relay = OwnRelay::start(&lab.relay, &state, &["--public-url", &url])?;
    let service = listen_tcp(&lab.b.host, SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let address = service.local_addr()?;
    let config = ServerConfig::new(TUNNEL_RS).allow_tcp("127.0.0.0/8").arguments(relay.flags());
    let server = config.start(Some(&lab.b.host))?;
    let source = format!("tcp://{address}");
    // By id: what the discovery server says is asked for as well.
    let client = ClientConfig::with_id(TUNNEL_RS, &server.endpoint_id)
        .arguments(relay.flags())
        .forward(&source, "127.0.0.1:0")
        .start(Some(&lab.a.host))?;
    client.wait_session_open(SESSION_LIMIT)?;
    client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let stream = Stream::open(&lab.a.host, client.target(&source)?, &service, FLOW_LIMIT)?;
    settled(&stream)?;

    end(&relay.process)?;
    let metrics = ["--metrics-listen", "127.0.0.1:9090", "--public-url", &url];
    let again = OwnRelay::start(&lab.relay, &state, &metrics)?;
    assert_eq!(relay.flags, again.flags);
    let both_are_back = || {
        let mut curl = lab.relay.command("curl");
        curl.args(["--silent", "http://127.0.0.1:9090/metrics"]);
        let told = tunnel_testlab::process::run(&mut curl, LIMIT).unwrap_or_default();
        told.lines().any(|line| line == "tunnel_relay_clients 2").then_some(())
    };
    again.process.wait_for(both_are_back, PATH_LIMIT)?;
    settled(&stream)?;
    stream.finish(LIMIT)?;
    end(&client.process)?;
    end(&server.process)?;
    end(&again.process)?;

    let relay = vec![IpAddr::from(NatLab::RELAY), NatLab::RELAY6.into()];
    let (a, b) = (addresses(&lab.a), addresses(&lab.b));
    let both = [&a[..], &b].concat();
    let known = [(&a, [&b[..], &relay].concat()), (&b, [&a[..], &relay].concat()), (&relay, both)];
    for (capture, (own, to)) in captures.into_iter().zip(known) {
        let packets = capture.finish()?;
        let others = to_others(&packets, own, &to);
        assert!(others.is_empty(), "{own:?} sent to others: {others:?}");
        let asked: Vec<_> = packets.iter().filter(|packet| packet.port == Some(DNS)).collect();
        assert!(asked.is_empty(), "DNS was asked: {asked:?}");
        let sent = packets.iter().filter(|packet| own.contains(&packet.source)).count();
        assert!(sent > 50, "of {own:?} only {sent} packets were seen");
    }
    Ok(())
}

/// The same capture sees what a server does that was not told of a relay.
#[test]
fn the_public_servers_would_be_seen() -> TestResult {
    let _alone = alone();
    let lab = NatLab::new(Nat::PortRestricted, Nat::PortRestricted)?;
    lab.b.host.set_resolver(RESOLVER.into())?;
    let capture = start(&lab.b.host)?;
    let server = ServerConfig::new(TUNNEL_RS).start(Some(&lab.b.host))?;
    capture.wait(|packet| packet.port == Some(DNS), LIMIT)?;
    end(&server.process)?;
    let (own, packets) = (addresses(&lab.b), capture.finish()?);
    assert!(!to_others(&packets, &own, &[NatLab::RELAY.into()]).is_empty(), "{packets:?}");
    Ok(())
}

fn start(host: &Namespace) -> Result<Capture> {
    Capture::start(host, "")
}
