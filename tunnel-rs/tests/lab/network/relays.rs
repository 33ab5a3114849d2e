//! A relay ends while sessions depend on it.

use std::{
    thread,
    time::{Duration, Instant},
};

use tunnel_testlab::{
    nat::Nat,
    stream::{Mark, Stream},
    tunnel::PathKind,
};

use super::{ENOUGH, PATH_LIMIT, Scene, figures, finished, settled};
use crate::support::{Failure, TestResult, alone};

/// For bytes to flow through the other relay. The goal is 5 s.
const OTHER_LIMIT: Duration = Duration::from_secs(60);

/// For one attempt: a connection that was opened through a session that is lost never arrives.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);

/// Between two attempts to open a connection.
const POLL: Duration = Duration::from_millis(100);

const SIGKILL: i32 = 9;

#[test]
fn a_relayed_session_goes_on_through_the_other_relay() -> TestResult {
    let _alone = alone();
    let scene = Scene::with_two_relays(Nat::Symmetric, Nat::Symmetric)?;
    scene.client.wait_path(PathKind::Relay, PATH_LIMIT)?;
    let stream = scene.stream()?;
    let Some(used) = scene.relay_in_use() else { panic!("the client names no relay of the lab") };
    let killed = settled(&stream)?;
    scene.relays[used].process.signal(SIGKILL)?;
    let reason = |line: &str| line.contains("session suspended") && line.contains("its relay");
    scene.client.process.wait_line(reason, OTHER_LIMIT)?;

    let stream = old_or_new(&scene, stream, killed)?;
    settled(&stream)?;
    finished(stream)
}

/// The stream, once it has gone on, or if it breaks another one that carries bytes; records when.
fn old_or_new(scene: &Scene, stream: Stream, killed: Mark) -> std::result::Result<Stream, Failure> {
    if stream.wait_beyond(killed, ENOUGH, OTHER_LIMIT).is_ok() {
        let pause = stream.pauses(killed.at).longest();
        figures::record("relay killed: pause of the same connection", pause);
        return Ok(stream);
    }
    figures::record("relay killed: end of the same connection", killed.at.elapsed());
    loop {
        match carrying(scene) {
            Ok(stream) => {
                let took = killed.at.elapsed();
                figures::record("relay killed: until a new connection carries", took);
                assert!(took < OTHER_LIMIT, "a new connection carries only after {took:?}");
                return Ok(stream);
            }
            Err(failed) if killed.at.elapsed() >= OTHER_LIMIT => return Err(failed),
            Err(_) => thread::sleep(POLL),
        }
    }
}

/// A new connection that has carried its first bytes. One that an earlier attempt gave up may arrive in its
/// place, and carries none.
fn carrying(scene: &Scene) -> std::result::Result<Stream, Failure> {
    let stream = scene.stream_within(ATTEMPT_LIMIT)?;
    stream.wait_beyond(Mark::of_nothing(Instant::now()), 1, ATTEMPT_LIMIT)?;
    Ok(stream)
}
