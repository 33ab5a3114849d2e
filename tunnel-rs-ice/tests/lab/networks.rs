//! The networks of a host change while a session is open.

use std::time::Duration;

use tunnel_testlab::{
    figures,
    ice::wait_path,
    nat::Nat,
    net::{Cable, Capture, NatLab, Packet, PairLab},
    stream::{goes_on, settled},
};

use crate::{
    scene::Stage,
    support::{PATH_LIMIT, TestResult, alone, finished},
};

/// What a pause must not exceed. The goal is 3 s; this one is kept on a machine with other things to do too.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// The server's NAT lets in packets from addresses that it never sent to: one that does not cannot be told of the
/// client's new address once there is no path left to tell it by.
#[test]
fn a_clients_session_goes_on_in_another_network() -> TestResult {
    let _alone = alone();
    let mut lab = NatLab::new(Nat::PortRestricted, Nat::FullCone)?;
    lab.a.add_uplink(&lab.internet, Nat::PortRestricted)?;
    let stun = lab.start_stun()?;
    let mut scene = Stage::new(lab, Some(stun))?.connect()?;
    let stream = scene.stream()?;
    let switched = settled(&stream)?;
    scene.stage.lab.a.switch()?;

    let pause = goes_on("client's network changed", &stream, switched)?;
    let Some(public) = scene.stage.lab.a.public() else { panic!("the host has no address") };
    let server = &scene.tunnel.0.server;
    let (_, at) = wait_path(server, |path| path.remote.ip() == public, PATH_LIMIT)?;
    figures::record("client's network changed: the server names the new path", at - switched.at);
    finished(stream)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    Ok(())
}

#[test]
fn a_network_that_comes_later_is_a_path_when_the_first_is_lost() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let capture = Capture::start(&lab.a, "udp and (net 10.78.0.0/24 or net fd78::/64)")?;
    let scene = Stage::new(lab, None)?.connect()?;
    let stream = scene.stream()?;
    let added = settled(&stream)?;
    scene.stage.lab.add_second_cable()?;
    // Each side has told the other one its new addresses, as both send there.
    for to in [Cable::Second.a(), Cable::Second.b()] {
        capture.wait(|packet: &Packet| to.contains(&packet.destination), PATH_LIMIT)?;
    }
    figures::record("second network added: tried after", added.at.elapsed());
    let cut = settled(&stream)?;
    scene.stage.lab.cut(&[Cable::First])?;

    let pause = goes_on("first network lost, one added before", &stream, cut)?;
    for (_, process) in scene.tunnel.sides() {
        let on_second = |end: std::net::SocketAddr| Cable::of(end.ip()) == Some(Cable::Second);
        wait_path(process, |path| on_second(path.local) && on_second(path.remote), PATH_LIMIT)?;
    }
    finished(stream)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    Ok(())
}
