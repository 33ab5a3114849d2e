//! The path changes; the hosts' networks stay.

use tunnel_testlab::{nat::Nat, tunnel::PathKind};

use super::{PATH_LIMIT, Scene, figures, finished, goes_on, settled};
use crate::support::{TestResult, alone};

#[test]
fn a_transfer_survives_the_loss_of_its_direct_path() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let stream = scene.stream()?;
    let cut = settled(&stream)?;
    scene.lab.cut_direct()?;

    goes_on("direct path lost", &stream, cut)?;
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

    goes_on("mappings expired", &stream, expired)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    goes_on("mappings expired, direct again", &stream, settled(&stream)?)?;
    finished(stream)
}
