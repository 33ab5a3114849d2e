//! The client comes back by itself.

use std::time::{Duration, Instant};

use tunnel_testlab::{
    figures,
    nat::Nat,
    nostr::Manner,
    stream::{Mark, Stream, settled},
};

use super::{END_LIMIT, SESSION_LIMIT, SIGKILL, stage::Stage};
use crate::support::{PATH_LIMIT, TestResult, finished};

/// For the client to notice that its server or its path is gone, and to be back.
const BACK_LIMIT: Duration = Duration::from_secs(10);

/// For the same once there is a relay again, which both sides look for after times that double.
const RELAY_BACK_LIMIT: Duration = Duration::from_secs(20);

/// How long a stream may stand still while nothing happens to its path.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// How long a session is left alone: twice as long as a client without flows listens for silence.
const IDLE: Duration = Duration::from_secs(18);

/// How long the relay is dead.
const DEATH: Duration = Duration::from_secs(4);

/// Waits until a new connection carries.
fn carries(name: &str, stream: Stream, asked: Instant) -> TestResult {
    stream.wait_beyond(Mark::of_nothing(asked), 1, SESSION_LIMIT)?;
    figures::record(&format!("{name}: new connection carries after"), asked.elapsed());
    settled(&stream)?;
    finished(stream)
}

/// After the server was killed and started again with the same key.
pub(super) fn from_a_killed_server() -> TestResult {
    let name = "server killed and restarted";
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let key = stage.config.key()?;
    let server = stage.server(&[&key], &[])?;
    let client = stage.connect(name, &key)?;
    let old = stage.stream(&client)?;
    let killed = settled(&old)?;
    server.process.signal(SIGKILL)?;
    server.process.wait_exit(END_LIMIT)?;
    let _server = stage.server(&[&key], &[])?;

    let back = client.wait_sessions(2, BACK_LIMIT)?;
    figures::record(&format!("{name}: client back after the kill"), back - killed.at);
    let reset = old.wait_reset(BACK_LIMIT)?;
    figures::record(&format!("{name}: old connection reset after the kill"), reset - killed.at);
    carries(name, stage.stream(&client)?, Instant::now())
}

/// In another network. The server's NAT lets in nothing from there until the server has sent something, and it can learn
/// of that network through the relay alone.
pub(super) fn from_another_network() -> TestResult {
    let name = "client's network changed";
    let mut stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    stage.lab.a.add_uplink(&stage.lab.internet, Nat::PortRestricted)?;
    let key = stage.config.key()?;
    let server = stage.server(&[&key], &[])?;
    let client = stage.connect(name, &key)?;
    let old = stage.stream(&client)?;
    let switched = settled(&old)?.at;
    stage.lab.a.switch()?;

    let Some(public) = stage.lab.a.public() else { panic!("the host has no address") };
    let (_, at) = tunnel_testlab::ice::wait_path(
        &server.process,
        |path| path.remote.ip() == public,
        BACK_LIMIT,
    )?;
    figures::record(&format!("{name}: the server names the new path"), at - switched);
    let back = client.wait_sessions(2, BACK_LIMIT)?;
    figures::record(&format!("{name}: client back"), back - switched);
    let reset = old.wait_reset(BACK_LIMIT)?;
    figures::record(&format!("{name}: old connection reset"), reset - switched);
    carries(name, stage.stream(&client)?, Instant::now())
}

/// After the relay died and came back. A session that stands does not notice that. A server that is killed meanwhile is
/// found again once the relay is there.
pub(super) fn through_a_relay_that_was_dead() -> TestResult {
    let name = "relay killed and restarted";
    let mut stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let key = stage.config.key()?;
    let server = stage.server(&[&key], &[])?;
    let client = stage.connect(name, &key)?;
    let old = stage.stream(&client)?;
    let killed = settled(&old)?;
    stage.relays[0].process.signal(SIGKILL)?;
    stage.relays[0].process.wait_exit(END_LIMIT)?;
    for side in [&client.process, &server.process] {
        side.wait_line(|line| line.contains("Nostr relay") && line.contains("reach"), PATH_LIMIT)?;
    }
    std::thread::sleep(DEATH);
    let pauses = old.pauses(killed.at);
    figures::record(&format!("{name}: longest pause of a stream"), pauses.longest());
    assert!(pauses.longest() < UNDISTURBED, "the session noticed: {pauses:?}");
    assert_eq!((client.sessions(), server.sessions()), (1, 1));

    server.process.signal(SIGKILL)?;
    server.process.wait_exit(END_LIMIT)?;
    let next = stage.server_at_once(&[&key], &[])?;
    let relay = Instant::now();
    let Stage { lab, relays, .. } = &mut stage;
    relays[0].restart(&lab.relay)?;
    next.wait_ready()?;
    let back = client.wait_sessions(2, RELAY_BACK_LIMIT)?;
    figures::record(&format!("{name}: client back after the relay's start"), back - relay);
    old.wait_reset(RELAY_BACK_LIMIT)?;
    carries(name, stage.stream(&client)?, Instant::now())
}

/// For as long as nothing happens, there is one session.
pub(super) fn not_without_a_reason() -> TestResult {
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let key = stage.config.key()?;
    let server = stage.server(&[&key], &[])?;
    let client = stage.connect("client without flows", &key)?;
    std::thread::sleep(IDLE);
    assert_eq!((client.sessions(), server.sessions()), (1, 1));
    carries("client without flows", stage.stream(&client)?, Instant::now())
}
