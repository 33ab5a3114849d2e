//! Programs that people use, through the VPN, over either kind of path.

use std::net::SocketAddr;

use tunnel_testlab::{
    programs::{MIB, ping, ssh},
    services::{Iperf3, Sshd},
    tunnel::PathKind,
};

use super::{CLIENT, LIMIT, SERVER, Scene, Setup};
use crate::support::{TestResult, alone};

/// Of UDP packets on an idle cable, in percent.
const LOSS_LIMIT: f64 = 1.0;

#[test]
fn programs_work_over_a_direct_path() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Setup::default())?;
    scene.client.wait_path(PathKind::Direct, LIMIT)?;
    programs(&scene)
}

#[test]
#[cfg(feature = "test-utils")]
fn programs_work_through_the_relay() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Setup { both: &["--relay-only"], ..Setup::default() })?;
    programs(&scene)?;
    assert!(!scene.client.paths().contains(&PathKind::Direct), "not by the relay alone");
    Ok(())
}

fn programs(scene: &Scene) -> TestResult {
    for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        ping(scene.host(from), to.into(), &[])?;
    }

    let sshd = Sshd::start(Some(scene.host(SERVER)), SERVER.into())?;
    let printed = ssh(scene.host(CLIENT), &sshd, sshd.address, "ip -brief address show dev tun0")?;
    assert!(printed.contains(&format!("{SERVER}/24")), "not the far end: {printed}");

    let mut iperf3 = Iperf3::start(Some(scene.host(SERVER)), SERVER.into())?;
    let target: SocketAddr = iperf3.address;
    let mut measure =
        |options: &[&str]| iperf3.measure(Some(scene.host(CLIENT)), target, 2, options);
    for direction in [&[][..], &["-R"]] {
        let report = measure(direction)?;
        assert!(report.received_bytes > MIB, "almost nothing arrived: {report:?}");
    }
    for direction in [&[][..], &["-R"]] {
        // As large as the VPN's own MTU lets them be: each is split on its way.
        let udp = ["-u", "-b", "20M", "-l", "1392", "-w", "2M"];
        let options = [&udp, direction].concat();
        let mut seen = Vec::new();
        // A machine that stands still for a moment loses packets by itself.
        while seen.len() < 3 {
            let report = measure(&options)?;
            if report.lost_percent() < LOSS_LIMIT && report.bits_per_second > 18e6 {
                break;
            }
            seen.push(report);
        }
        assert!(seen.len() < 3, "each time too much was lost or too little was sent: {seen:?}");
    }
    Ok(())
}
