//! Packets of every size up to the VPN's MTU pass, whatever the path's own limit is and while it changes.

use std::time::Duration;

use tunnel_testlab::{figures, raw::sweep, tries::one_of_three, tunnel::PathKind};

use super::{CLIENT, LIMIT, SERVER, Scene, Setup};
use crate::support::{TestResult, alone};

/// Of IP packets in the VPN, in bytes. The greatest is its MTU.
const SIZES: std::ops::RangeInclusive<u16> = 64..=1420;

/// For all of them to have been answered. A path that has just become narrower loses packets until QUIC has noticed.
const SWEEP_LIMIT: Duration = Duration::from_secs(15);

/// How many packets may be lost once and pass when they are sent again, where nothing changes.
const STRAY: usize = 5;

/// The least path that IPv6 permits (RFC 8200 section 5), one between, and Ethernet's.
const PATH_MTUS: [u16; 3] = [1280, 1400, 1500];

/// Every size passes from either end. Says how many packets were lost once.
fn all_pass(scene: &Scene, name: &str) -> TestResult<usize> {
    let mut lost = 0;
    for (from, to) in [(CLIENT, SERVER), (SERVER, CLIENT)] {
        let swept = sweep(scene.host(from), from, to, SIZES, SWEEP_LIMIT)?;
        figures::record(&format!("{name}: every size from {from}"), swept.took);
        assert!(swept.never.is_empty(), "{name}, from {from}: {swept:?}");
        lost += swept.first_lost.len();
    }
    Ok(lost)
}

/// Every size passes from either end, and almost all of them at once: in one of three tries, as a machine that stands still for a
/// moment loses packets by itself.
fn all_pass_at_once(scene: &Scene, name: &str) -> TestResult {
    let lost = one_of_three(|| all_pass(scene, name), |lost| *lost <= STRAY)?;
    assert!(lost.is_none(), "{name}: each time packets were lost: {lost:?}");
    Ok(())
}

#[test]
fn every_size_passes_directly() -> TestResult {
    let _alone = alone();
    for path_mtu in PATH_MTUS {
        let scene = Scene::new(Setup { path_mtu, ..Setup::default() })?;
        scene.client.wait_path(PathKind::Direct, LIMIT)?;
        all_pass_at_once(&scene, &format!("direct, path MTU {path_mtu}"))?;
    }
    Ok(())
}

#[test]
#[cfg(feature = "test-utils")]
fn every_size_passes_through_the_relay() -> TestResult {
    let _alone = alone();
    for path_mtu in PATH_MTUS {
        let both = &["--relay-only"];
        let scene = Scene::new(Setup { path_mtu, both, ..Setup::default() })?;
        all_pass_at_once(&scene, &format!("relayed, path MTU {path_mtu}"))?;
    }
    Ok(())
}

#[test]
fn every_size_passes_right_after_the_path_has_changed() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Setup { path_mtu: 1280, cut: true, ..Setup::default() })?;
    scene.client.wait_path(PathKind::Relay, LIMIT)?;
    all_pass(&scene, "relayed at first")?;
    scene.lab.restore_direct()?;
    scene.client.wait_path(PathKind::Direct, LIMIT)?;
    all_pass(&scene, "right after the path has become direct")?;
    scene.lab.cut_direct()?;
    all_pass(&scene, "while the direct path is lost")?;
    scene.client.wait_path(PathKind::Relay, LIMIT)?;
    Ok(())
}

#[test]
fn every_size_passes_when_the_path_becomes_narrower() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Setup::default())?;
    scene.client.wait_path(PathKind::Direct, LIMIT)?;
    all_pass(&scene, "path MTU 1500 at first")?;
    scene.lab.a.narrow(&scene.lab.internet, 1280)?;
    all_pass(&scene, "path MTU 1280 from now on")?;
    let lost = all_pass(&scene, "path MTU 1280, noticed")?;
    assert!(lost <= STRAY, "{lost} packets were lost though the limit was known");
    scene.lab.a.narrow(&scene.lab.internet, 1500)?;
    all_pass(&scene, "path MTU 1500 again")?;
    Ok(())
}
