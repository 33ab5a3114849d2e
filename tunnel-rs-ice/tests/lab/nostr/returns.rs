//! The client comes back by itself.

use std::{
    thread,
    time::{Duration, Instant},
};

use tunnel_testlab::{
    Result, figures,
    ice::wait_path,
    nat::Nat,
    nostr::{Manner, NostrClient, NostrKey, NostrServer},
    process::Proc,
    stream::{ENOUGH, Mark, Stream, settled},
};

use super::{
    END_LIMIT, SESSION_LIMIT, SIGKILL, SIGTERM,
    stage::{Shown, Stage},
};
use crate::support::{PATH_LIMIT, TestResult, finished};

/// For the client to notice that its server or its path is gone, and to be back.
const BACK_LIMIT: Duration = Duration::from_secs(10);

/// For the same once there is a relay again, which both sides look for after times that double.
const RELAY_BACK_LIMIT: Duration = Duration::from_secs(20);

/// How long a stream may stand still while nothing happens to its path, on a machine with other things to do.
const UNDISTURBED: Duration = Duration::from_secs(10);

/// How long the relay is dead while a session stands.
const DEATH: Duration = Duration::from_secs(4);

/// How long the client is without a network.
const OUTAGE: Duration = Duration::from_secs(30);

/// How long a session is left alone: twice as long as a client without flows listens for silence.
const IDLE: Duration = Duration::from_secs(18);

/// A client, and a server that it is connected to.
struct Scene {
    client: Shown<NostrClient>,
    server: Shown<NostrServer>,
    key: NostrKey,
    stage: Stage,
}

impl Scene {
    fn new(name: &str) -> Result<Self> {
        let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
        let key = stage.config.key()?;
        let server = stage.server(&[&key], &[])?;
        Ok(Self { client: stage.connect(name, &key)?, server, key, stage })
    }

    fn stream(&self) -> Result<Stream> {
        self.stage.stream(&self.client)
    }

    /// Starts the server again with the same key, after its process has ended. It may still have to reach a relay.
    fn restart_server(&mut self) -> Result<()> {
        self.server = self.stage.server_at_once(&[&self.key], &[])?;
        Ok(())
    }

    /// Waits until the client has a second session, and a new connection through it carries. The connection of before
    /// is reset, at the latest then.
    fn is_back(&self, name: &str, old: &Stream, since: Instant, limit: Duration) -> TestResult {
        let back = self.client.wait_sessions(2, limit)?;
        figures::record(&format!("{name}: client back after"), back - since);
        let reset = old.wait_reset(limit)?;
        figures::record(&format!("{name}: old connection reset after"), reset - since);
        let asked = Instant::now();
        let new = self.stream()?;
        new.wait_beyond(Mark::of_nothing(asked), 1, SESSION_LIMIT)?;
        figures::record(&format!("{name}: new connection carries after"), asked.elapsed());
        settled(&new)?;
        finished(new)
    }

    /// Waits until the session goes on over another connection, and the stream of before with it.
    fn goes_on(&self, name: &str, stream: Stream, since: Mark) -> TestResult {
        for process in [&self.client.process, &self.server.process] {
            process.wait_line(|line| line.contains("session resumed"), BACK_LIMIT)?;
        }
        stream.wait_beyond(since, ENOUGH, BACK_LIMIT)?;
        let pause = stream.pauses(since.at).longest();
        figures::record(&format!("{name}: the same connection goes on after"), pause);
        settled(&stream)?;
        finished(stream)
    }
}

/// Sends a signal that ends a program.
fn end(process: &Proc, signal: i32) -> Result<()> {
    process.signal(signal)?;
    process.wait_exit(END_LIMIT).map(drop)
}

pub(super) fn from_a_killed_server() -> TestResult {
    restarted("server killed and restarted", SIGKILL)
}

pub(super) fn from_a_server_that_was_ended() -> TestResult {
    restarted("server ended and restarted", SIGTERM)
}

fn restarted(name: &str, signal: i32) -> TestResult {
    let mut scene = Scene::new(name)?;
    let old = scene.stream()?;
    let ended = settled(&old)?.at;
    end(&scene.server.process, signal)?;
    scene.restart_server()?;
    scene.is_back(name, &old, ended, BACK_LIMIT)
}

/// In another network. The server's NAT lets in nothing from there until the server has sent something, and it can learn
/// of that network through the relay alone.
pub(super) fn from_another_network() -> TestResult {
    let name = "client's network changed";
    let mut scene = Scene::new(name)?;
    let lab = &mut scene.stage.lab;
    lab.a.add_uplink(&lab.internet, Nat::PortRestricted)?;
    let old = scene.stream()?;
    let switched = settled(&old)?;
    scene.stage.lab.a.switch()?;

    let Some(public) = scene.stage.lab.a.public() else { panic!("the host has no address") };
    wait_path(&scene.server.process, |path| path.remote.ip() == public, BACK_LIMIT)?;
    scene.goes_on(name, old, switched)
}

/// As `from_another_network`, where it is the server that has moved.
pub(super) fn to_another_network() -> TestResult {
    let name = "server's network changed";
    let mut scene = Scene::new(name)?;
    let lab = &mut scene.stage.lab;
    lab.b.add_uplink(&lab.internet, Nat::PortRestricted)?;
    let old = scene.stream()?;
    let switched = settled(&old)?;
    scene.stage.lab.b.switch()?;

    let Some(public) = scene.stage.lab.b.public() else { panic!("the host has no address") };
    wait_path(&scene.client.process, |path| path.remote.ip() == public, BACK_LIMIT)?;
    scene.goes_on(name, old, switched)
}

/// After a time without any network, in which the relay is lost as well.
pub(super) fn after_an_outage() -> TestResult {
    let name = "client without a network for 30 s";
    let scene = Scene::new(name)?;
    let old = scene.stream()?;
    settled(&old)?;
    scene.stage.lab.a.disconnect()?;
    thread::sleep(OUTAGE);
    let back = old.mark();
    scene.stage.lab.a.reconnect()?;

    old.wait_beyond(back, ENOUGH, RELAY_BACK_LIMIT)?;
    let took = old.pauses(back.at).longest().saturating_sub(OUTAGE);
    figures::record(&format!("{name}: until bytes flow again"), took);
    settled(&old)?;
    finished(old)
}

/// After the relay died and came back. A session that stands does not notice that. A server that is killed meanwhile is
/// found again once the relay is there.
pub(super) fn through_a_relay_that_was_dead() -> TestResult {
    let name = "relay killed and restarted";
    let mut scene = Scene::new(name)?;
    let old = scene.stream()?;
    let killed = settled(&old)?.at;
    end(&scene.stage.relays[0].process, SIGKILL)?;
    for side in [&scene.client.process, &scene.server.process] {
        side.wait_line(|line| line.contains("no Nostr relay is left"), PATH_LIMIT)?;
    }
    thread::sleep(DEATH);
    let pause = old.pauses(killed).longest();
    figures::record(&format!("{name}: longest pause of a stream"), pause);
    assert!(pause < UNDISTURBED, "the session noticed: nothing arrived for {pause:?}");
    for side in [&scene.client.process, &scene.server.process] {
        let output = side.output();
        let noticed = ["session suspended", "session resumed"].map(|words| output.contains(words));
        assert_eq!(noticed, [false, false], "{output}");
    }
    assert_eq!((scene.client.sessions(), scene.server.sessions()), (1, 1));

    end(&scene.server.process, SIGKILL)?;
    scene.restart_server()?;
    let restarted = Instant::now();
    let Stage { lab, relays, .. } = &mut scene.stage;
    relays[0].restart(&lab.relay)?;
    scene.is_back(name, &old, restarted, RELAY_BACK_LIMIT)
}

/// For as long as nothing happens, there is one session.
pub(super) fn not_without_a_reason() -> TestResult {
    let scene = Scene::new("client without flows")?;
    thread::sleep(IDLE);
    assert_eq!((scene.client.sessions(), scene.server.sessions()), (1, 1));
    let stream = scene.stream()?;
    settled(&stream)?;
    finished(stream)
}
