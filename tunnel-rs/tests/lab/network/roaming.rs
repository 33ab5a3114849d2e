//! A host changes its network: another address behind another NAT.

use tunnel_testlab::{
    nat::Nat,
    net::{NatLab, Site},
    netns::Namespace,
    process::Proc,
    tunnel::PathKind,
};

use super::{FLOW_LIMIT, PATH_LIMIT, PAUSE_LIMIT, Scene, figures, finished, goes_on, settled};
use crate::support::{TestResult, alone};

/// 1 s of packets.
const PACKETS: u64 = 50;

#[test]
fn a_clients_connection_goes_on_in_another_network() -> TestResult {
    moved(
        "client's network changed",
        |lab| (&mut lab.a, &lab.internet),
        |scene| &scene.server.process,
    )
}

#[test]
fn a_servers_connection_goes_on_in_another_network() -> TestResult {
    moved(
        "server's network changed",
        |lab| (&mut lab.b, &lab.internet),
        |scene| &scene.client.process,
    )
}

/// Moves the host of `site` (and the internet that it is on), to which `peer` must have a direct path afterwards.
fn moved(
    name: &str,
    site: fn(&mut NatLab) -> (&mut Site, &Namespace),
    peer: fn(&Scene) -> &Proc,
) -> TestResult {
    let _alone = alone();
    let mut scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let (moving, internet) = site(&mut scene.lab);
    moving.add_uplink(internet, Nat::PortRestricted)?;
    let stream = scene.stream()?;
    let switched = settled(&stream)?;
    site(&mut scene.lab).0.switch()?;

    let pause = goes_on(name, &stream, switched)?;
    let Some(public) = site(&mut scene.lab).0.public() else { panic!("the host has no address") };
    let direct = Scene::wait_direct_to(peer(&scene), public, PATH_LIMIT)?;
    figures::record(&format!("{name}: direct again"), direct - switched.at);
    settled(&stream)?;
    finished(stream)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    Ok(())
}

#[test]
fn a_clients_connection_goes_on_behind_a_symmetric_nat() -> TestResult {
    let _alone = alone();
    let mut scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    scene.lab.a.add_uplink(&scene.lab.internet, Nat::Symmetric)?;
    let stream = scene.stream()?;
    let switched = settled(&stream)?;
    scene.lab.a.switch()?;

    let pause = goes_on("client's network changed to a symmetric NAT", &stream, switched)?;
    scene.client.wait_path(PathKind::Relay, PATH_LIMIT)?;
    settled(&stream)?;
    finished(stream)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    Ok(())
}

#[test]
fn packets_flow_again_in_another_network() -> TestResult {
    let _alone = alone();
    let mut scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    scene.lab.a.add_uplink(&scene.lab.internet, Nat::PortRestricted)?;
    let packets = scene.packets()?;
    packets.wait_beyond(packets.mark(), PACKETS, FLOW_LIMIT)?;
    let switched = packets.mark();
    scene.lab.a.switch()?;

    packets.wait_beyond(switched, PACKETS, FLOW_LIMIT)?;
    let pauses = packets.pauses(switched.at);
    figures::record("packets, client's network changed: pause to the server's side", pauses.up);
    figures::record("packets, client's network changed: pause of the answers", pauses.down);
    assert!(pauses.longest() < PAUSE_LIMIT, "{pauses:?}");
    Ok(())
}
