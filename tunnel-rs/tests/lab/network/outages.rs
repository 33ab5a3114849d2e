//! The network, or a process, is away for longer than any connection below lives: what runs inside goes on.

use std::{
    thread,
    time::{Duration, Instant},
};

use tunnel_testlab::{
    nat::Nat,
    process::Proc,
    stream::{Mark, Stream},
    tunnel::PathKind,
};

use super::{ENOUGH, FLOW_LIMIT, PATH_LIMIT, Scene, figures, finished, settled};
use crate::support::{SESSION_LIMIT, TestResult, alone};

/// Twice as long as iroh keeps any path without packets (30 s through a relay), unless `LAB_OUTAGE` says otherwise, in
/// seconds: at most 10 minutes, for which a stream waits.
fn outage() -> Duration {
    let given = std::env::var("LAB_OUTAGE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(given.unwrap_or(60))
}

/// Longer than that, for those of which there are several.
const SHORT_OUTAGE: Duration = Duration::from_secs(35);

/// For bytes to flow again. The goal is 3 s, and 5 s after a sleep; this one is kept on a busy machine.
const BACK_LIMIT: Duration = Duration::from_secs(15);

/// For a program to notice that the other one is gone.
const NOTICE_LIMIT: Duration = Duration::from_secs(60);

const SIGCONT: i32 = 18;

const SIGSTOP: i32 = 19;

fn logs(process: &Proc, words: &str) -> TestResult {
    process.wait_line(|line| line.contains(words), NOTICE_LIMIT)?;
    Ok(())
}

/// Both sides say that a session waits, and that it goes on.
fn both_resumed(scene: &Scene) -> TestResult {
    for process in [&scene.client.process, &scene.server.process] {
        logs(process, "session suspended")?;
        logs(process, "session resumed")?;
    }
    Ok(())
}

/// Waits until the stream goes on after `since`, when the cause of its standing still was gone, which had begun at
/// `began`.
fn back(name: &str, stream: &Stream, began: Instant, since: Mark) -> TestResult {
    stream.wait_beyond(since, ENOUGH, FLOW_LIMIT)?;
    let took = stream.pauses(since.at).longest().saturating_sub(since.at - began);
    figures::record(&format!("{name}: until bytes flow again"), took);
    assert!(took < BACK_LIMIT, "{name}: nothing arrived for {took:?} more");
    Ok(())
}

#[test]
fn a_connection_goes_on_after_a_minute_without_a_network() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let (stream, idle) = (scene.stream()?, scene.stream()?);
    let packets = scene.packets()?;
    settled(&stream)?;
    settled(&idle)?;
    let began = Instant::now();
    scene.lab.a.disconnect()?;
    thread::sleep(outage());
    let since = stream.mark();
    let sent = packets.mark();
    scene.lab.a.reconnect()?;

    back("client without a network for a minute or more", &stream, began, since)?;
    packets.wait_beyond(sent, 50, FLOW_LIMIT)?;
    both_resumed(&scene)?;
    finished(stream)?;
    finished(idle)
}

#[test]
fn a_connection_goes_on_though_all_is_new_after_an_outage() -> TestResult {
    let _alone = alone();
    let mut scene = Scene::with_two_relays(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.lab.b.add_uplink(&scene.lab.internet, Nat::Symmetric)?;
    scene.lab.a.add_uplink(&scene.lab.internet, Nat::Symmetric)?;
    let stream = scene.stream()?;
    settled(&stream)?;
    let began = Instant::now();
    for site in [&scene.lab.a, &scene.lab.b] {
        site.disconnect()?;
    }
    let used = scene.relay_in_use().unwrap_or(0);
    scene.relays[used].process.signal(9)?;
    thread::sleep(SHORT_OUTAGE);
    let since = stream.mark();
    scene.lab.a.switch()?;
    scene.lab.b.switch()?;

    back("both in other networks after 35 s, through another relay", &stream, began, since)?;
    both_resumed(&scene)?;
    finished(stream)
}

#[test]
fn a_connection_goes_on_after_either_side_has_slept() -> TestResult {
    let _alone = alone();
    let scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let stream = scene.stream()?;
    for (name, process) in [
        ("client stopped for 35 s", &scene.client.process),
        ("server stopped for 35 s", &scene.server.process),
    ] {
        settled(&stream)?;
        let began = Instant::now();
        process.signal(SIGSTOP)?;
        thread::sleep(SHORT_OUTAGE);
        let since = stream.mark();
        process.signal(SIGCONT)?;
        back(name, &stream, began, since)?;
    }
    finished(stream)
}

#[test]
fn an_outage_beyond_the_grace_resets_on_both_sides_and_new_connections_work() -> TestResult {
    let _alone = alone();
    let scene = Scene::with_grace("3")?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let stream = scene.stream()?;
    settled(&stream)?;
    scene.lab.a.disconnect()?;
    stream.wait_reset(NOTICE_LIMIT)?;
    for process in [&scene.client.process, &scene.server.process] {
        logs(process, "for which a session is kept")?;
    }
    let asked = Instant::now();
    scene.lab.a.reconnect()?;

    let new = scene.stream()?;
    new.wait_beyond(Mark::of_nothing(asked), 1, SESSION_LIMIT)?;
    figures::record("after the grace: new connection carries after", asked.elapsed());
    settled(&new)?;
    finished(new)
}
