//! Networks behind the server, and the tunnel's own packets, which go around them.

use std::net::IpAddr;

use tunnel_testlab::{
    net::{Capture, NatLab, Packet, PairLab},
    programs::ping,
    relay::Relay,
    tunnel::{ClientConfig, PathKind, ServerConfig},
};

use super::{CLIENT, LIMIT, NETWORK, SERVER, Scene, Setup};
use crate::support::{TUNNEL_RS, TestResult, alone};

const SERVER_ARGUMENTS: [&str; 3] = ["--allow-route", "0.0.0.0/0", "--masquerade"];

const ICMP: u8 = 1;

/// Of the packets that the client's host sent, those from its address in the VPN are pings of these, and others carry
/// them: no packet that carries the VPN is ever in it.
fn goes_around(packets: &[Packet], outer: IpAddr, pinged: &[IpAddr]) {
    let sent = |source: IpAddr| packets.iter().filter(move |packet| packet.source == source);
    assert!(sent(CLIENT.into()).next().is_some(), "nothing went into the VPN");
    for packet in sent(CLIENT.into()) {
        assert!(packet.protocol == ICMP && pinged.contains(&packet.destination), "{packet:?}");
    }
    assert!(sent(outer).any(|packet| packet.protocol != ICMP), "nothing carries it from {outer}");
}

#[test]
fn a_default_route_leads_through_the_server_and_its_carrier_around_it() -> TestResult {
    let _alone = alone();
    let client = &["--route", "0.0.0.0/0"];
    let scene = Scene::new(Setup { server: &SERVER_ARGUMENTS, client, ..Setup::default() })?;
    default_route(&scene)?;
    scene.client.wait_path(PathKind::Direct, LIMIT)?;
    Ok(())
}

#[test]
#[cfg(feature = "test-utils")]
fn a_default_route_leads_through_the_server_over_the_relay_too() -> TestResult {
    let _alone = alone();
    let (both, client) = (&["--relay-only"], &["--route", "0.0.0.0/0"]);
    let setup = Setup { both, server: &SERVER_ARGUMENTS, client, ..Setup::default() };
    default_route(&Scene::new(setup)?)
}

/// The relay's host is reached through the server, though the relay itself is not.
fn default_route(scene: &Scene) -> TestResult {
    let (Some(outer), Some(public)) = (scene.lab.a.address(), scene.lab.b.public()) else {
        panic!("the hosts have no addresses")
    };
    let far = Capture::start(&scene.lab.relay, "icmp")?;
    let near = Capture::start(&scene.lab.a.host, "ip")?;
    ping(&scene.lab.a.host, NatLab::RELAY.into(), &["-c", "5"])?;
    ping(&scene.lab.a.host, SERVER.into(), &[])?;
    let seen = far.finish()?;
    let asked: Vec<_> = seen.iter().filter(|packet| packet.destination == NatLab::RELAY).collect();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|packet| packet.source == public), "not from the server: {asked:?}");
    goes_around(&near.finish()?, outer, &[NatLab::RELAY.into(), SERVER.into()]);
    assert!(!scene.client.process.output().contains("connection lost"));
    Ok(())
}

#[test]
fn the_very_network_that_the_server_is_on_can_be_routed() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let relay = Relay::start(Some(&lab.b), PairLab::B4.into())?;
    let server = ServerConfig::vpn(TUNNEL_RS)
        .relay(&relay)
        .arguments(["--network", NETWORK, "--allow-route", "10.77.0.0/24"])
        .start(Some(&lab.b))?;
    let client = ClientConfig::vpn(TUNNEL_RS, &server.ticket)
        .arguments(["--route", "10.77.0.0/24", "--force-routes"])
        .start(Some(&lab.a))?;
    client.wait_vpn(1, LIMIT)?;
    client.wait_path(PathKind::Direct, LIMIT)?;
    let capture = Capture::start(&lab.a, "ip")?;
    ping(&lab.a, SERVER.into(), &["-c", "10"])?;
    ping(&lab.a, PairLab::B4.into(), &[])?;
    let packets = capture.finish()?;
    goes_around(&packets, PairLab::A4.into(), &[SERVER.into(), PairLab::B4.into()]);
    assert!(!client.process.output().contains("connection lost"), "{}", client.process.output());
    Ok(())
}
