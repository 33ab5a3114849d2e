//! The client's network changes, and the server is started again, under connections inside the VPN.

use std::time::{Duration, Instant};

use tunnel_testlab::{
    figures,
    nat::Nat,
    stream::{Mark, goes_on, settled},
    tunnel::PathKind,
};

use super::{CLIENT, LIMIT, SIGKILL, SIGTERM, Scene, Setup};
use crate::support::{TestResult, alone};

/// What a pause must not exceed, on a machine with other things to do too.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// For a new connection after the server is there again. A client that was not told of its end notices it by silence.
const BACK_LIMIT: Duration = Duration::from_secs(20);

/// For the last bytes of a stream.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

#[test]
fn a_connection_goes_on_in_another_network() -> TestResult {
    moved("VPN, client's network changed", Setup::default())
}

#[test]
fn a_connection_goes_on_in_another_network_with_a_default_route() -> TestResult {
    let server = &["--allow-route", "0.0.0.0/0", "--masquerade"];
    let client = &["--route", "0.0.0.0/0"];
    moved(
        "VPN with a default route, client's network changed",
        Setup { server, client, ..Setup::default() },
    )
}

fn moved(name: &str, setup: Setup<'_>) -> TestResult {
    let _alone = alone();
    let mut scene = Scene::new(setup)?;
    scene.client.wait_path(PathKind::Direct, LIMIT)?;
    scene.lab.a.add_uplink(&scene.lab.internet, Nat::PortRestricted)?;
    let service = scene.service()?;
    let stream = scene.stream(&service)?;
    // There and back again.
    for _ in 0..2 {
        let switched = settled(&stream)?;
        scene.lab.a.switch()?;
        let pause = goes_on(name, &stream, switched)?;
        assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    }
    stream.finish(FINISH_LIMIT)?;
    Ok(())
}

#[test]
fn connections_survive_a_server_that_was_killed() -> TestResult {
    restarted("VPN, server killed and restarted", SIGKILL)
}

#[test]
fn connections_survive_a_server_that_was_ended() -> TestResult {
    restarted("VPN, server ended and restarted", SIGTERM)
}

fn restarted(name: &str, signal: i32) -> TestResult {
    let _alone = alone();
    let mut scene = Scene::new(Setup::default())?;
    scene.client.wait_path(PathKind::Direct, LIMIT)?;
    let service = scene.service()?;
    let old = scene.stream(&service)?;
    let ended = settled(&old)?;
    scene.server.process.signal(signal)?;
    scene.server.process.wait_exit(LIMIT)?;
    scene.restart_server()?;
    let ready = Instant::now();
    let up = scene.client.wait_vpn(2, LIMIT)?;
    assert_eq!(up.address, CLIENT);
    figures::record(
        &format!("{name}: up again after the server is ready"),
        up.at.saturating_duration_since(ready),
    );

    let service = scene.service()?;
    let new = scene.stream(&service)?;
    new.wait_beyond(Mark::of_nothing(ready), 1, LIMIT)?;
    let took = ready.elapsed();
    figures::record(&format!("{name}: a new connection carries after"), took);
    assert!(took < BACK_LIMIT, "a new connection carries only after {took:?}");
    settled(&new)?;
    new.finish(FINISH_LIMIT)?;
    // Both kernels still have the old one.
    goes_on(name, &old, ended)?;
    old.finish(FINISH_LIMIT)?;
    Ok(())
}
