//! The path changes; the hosts' networks stay.

use tunnel_testlab::{nat::Nat, tunnel::PathKind};

use super::{PATH_LIMIT, PAUSE_LIMIT, Scene, figures, finished, goes_on, settled};
use crate::support::{TestResult, alone};

/// Waits until the client's session has gone on over another connection, which it did without a moment between the two.
fn resumed(scene: &Scene) -> TestResult {
    scene.client.process.wait_line(|line| line.contains("session resumed"), PATH_LIMIT)?;
    assert!(!scene.client.process.output().contains("session suspended"));
    Ok(())
}

#[test]
fn a_transfer_survives_the_loss_of_its_direct_path() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let stream = scene.stream()?;
    let cut = settled(&stream)?;
    scene.lab.cut_direct()?;

    let pause = goes_on("direct path lost", &stream, cut)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    resumed(&scene)?;
    scene.client.wait_path(PathKind::Relay, PATH_LIMIT)?;

    let restored = settled(&stream)?;
    scene.lab.restore_direct()?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    figures::record("direct path back: until it is used", restored.at.elapsed());
    goes_on("direct path back", &stream, restored)?;
    finished(stream)
}

#[test]
fn a_transfer_survives_that_its_mappings_expire() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Nat::Expiring, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let stream = scene.stream()?;
    let expired = settled(&stream)?;
    let Some(expiry) = scene.lab.a.uplink().expiry() else { panic!("this NAT forgets nothing") };
    expiry.expire_now()?;

    let pause = goes_on("mappings expired", &stream, expired)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    resumed(&scene)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    goes_on("mappings expired, direct again", &stream, settled(&stream)?)?;
    finished(stream)
}
