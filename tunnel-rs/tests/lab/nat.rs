//! Hosts behind NATs find the path that the oracle says they can, and keep their transfers.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use tunnel_testlab::{
    Result, files,
    nat::{Nat, Outcome, expected},
    net::NatLab,
    process::{Proc, run},
    relay::Relay,
    services::Http,
    tunnel::{Client, ClientConfig, PathKind, Server, ServerConfig},
};

use crate::support::{
    MIB, Payload, SESSION_LIMIT, TRANSFER_LIMIT, TUNNEL_RS, TestResult, alone, curl,
};

/// For a path to be found or found lost, and for the log to say so.
const PATH_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn port_restricted_nats_are_punched_through() -> TestResult {
    assert_path(Nat::PortRestricted, Nat::PortRestricted, PathKind::Direct)
}

#[test]
fn a_full_cone_is_reached_from_behind_a_symmetric_nat() -> TestResult {
    assert_path(Nat::FullCone, Nat::Symmetric, PathKind::Direct)
}

#[test]
fn a_symmetric_nat_and_a_port_restricted_one_need_the_relay() -> TestResult {
    assert_path(Nat::Symmetric, Nat::PortRestricted, PathKind::Relay)
}

#[test]
fn two_symmetric_nats_need_the_relay() -> TestResult {
    assert_path(Nat::Symmetric, Nat::Symmetric, PathKind::Relay)
}

#[test]
fn a_network_without_udp_needs_the_relay() -> TestResult {
    assert_path(Nat::UdpBlocked, Nat::None, PathKind::Relay)
}

#[test]
fn a_transfer_survives_the_loss_of_its_direct_path() -> TestResult {
    let _alone = alone();
    // So much that what the buffers of the programs and of the path hold is a small part of it.
    let payload = Payload::new(128 * MIB)?;
    let scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted, payload.folder.path())?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;

    let copy = payload.folder.path().join("copy");
    let mut curl = curl(&scene.lab.a.host, scene.target, &copy);
    let transfer = Proc::spawn(curl.args(["--limit-rate", "8M"]))?;
    files::wait_for_size(&copy, 8 * MIB, TRANSFER_LIMIT)?;
    assert_eq!(scene.client.paths().last(), Some(&PathKind::Direct), "it was lost too early");
    scene.lab.cut_direct()?;

    scene.client.wait_path(PathKind::Relay, PATH_LIMIT)?;
    transfer.finish(TRANSFER_LIMIT)?;
    payload.assert_copied("copy")?;
    Ok(())
}

/// Transfers a file between hosts behind these NATs and asserts that they come to this kind of path, which
/// must be what the oracle says of them.
fn assert_path(a: Nat, b: Nat, kind: PathKind) -> TestResult {
    let outcome = match kind {
        PathKind::Direct => Outcome::Direct,
        PathKind::Relay => Outcome::Relay,
    };
    assert_eq!(expected(a, b), outcome, "the test contradicts the oracle");
    let _alone = alone();
    let payload = Payload::new(16 * MIB)?;
    let scene = Scene::new(a, b, payload.folder.path())?;

    // So slow that hole punching has 8 s to succeed where it must not.
    let mut slowly = curl(&scene.lab.a.host, scene.target, &payload.folder.path().join("first"));
    run(slowly.args(["--limit-rate", "2M"]), TRANSFER_LIMIT)?;
    payload.assert_copied("first")?;
    scene.client.wait_path(kind, PATH_LIMIT)?;

    let copy = payload.folder.path().join("second");
    run(&mut curl(&scene.lab.a.host, scene.target, &copy), TRANSFER_LIMIT)?;
    payload.assert_copied("second")?;
    let paths = scene.client.paths();
    assert_eq!(paths.last(), Some(&kind), "the path changed: {paths:?}");
    if kind == PathKind::Relay {
        assert!(!paths.contains(&PathKind::Direct), "there cannot be a direct path: {paths:?}");
    }
    Ok(())
}

/// Two sites, a relay, a web server beside the tunnel's server on `b`, and a client on `a` that leads to it.
///
/// Fields are dropped in this order, so that no program is surprised by another one's end.
struct Scene {
    client: Client,
    target: SocketAddr,
    _server: Server,
    _http: Http,
    _relay: Relay,
    lab: NatLab,
}

impl Scene {
    fn new(a: Nat, b: Nat, folder: &Path) -> Result<Self> {
        let lab = NatLab::new(a, b)?;
        let relay = Relay::start(Some(&lab.relay), NatLab::RELAY.into())?;
        let http = Http::start(Some(&lab.b.host), IpAddr::V4(Ipv4Addr::LOCALHOST), folder)?;
        let server = ServerConfig::new(TUNNEL_RS)
            .allow_tcp("127.0.0.0/8")
            .relay(&relay)
            .start(Some(&lab.b.host))?;
        let source = format!("tcp://{}", http.address);
        let client = ClientConfig::with_ticket(TUNNEL_RS, &server.ticket)
            .forward(&source, "127.0.0.1:0")
            .start(Some(&lab.a.host))?;
        client.wait_session_open(SESSION_LIMIT)?;
        let target = client.target(&source)?;
        Ok(Self { client, target, _server: server, _http: http, _relay: relay, lab })
    }
}
