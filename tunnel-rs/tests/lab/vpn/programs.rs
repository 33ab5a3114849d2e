//! Programs that people use, through the VPN, over either kind of path.

use std::net::SocketAddr;

use tunnel_testlab::{
    programs::{MIB, ping, ssh},
    services::{Iperf3, Sshd},
    tries::one_of_three,
    tunnel::PathKind,
};

use super::{CLIENT, LIMIT, SERVER, Scene, Setup};
use crate::support::{TestResult, alone};

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
        let lost = one_of_three(|| measure(&options), |report| report.is_nearly_whole(20e6))?;
        assert!(lost.is_none(), "each time too much was lost or too little was sent: {lost:?}");
    }
    Ok(())
}
