//! The server's process ends and is started again.

use std::time::{Duration, Instant};

use tunnel_testlab::{nat::Nat, stream::Mark, tunnel::PathKind};

use super::{PATH_LIMIT, Scene, figures, finished, settled};
use crate::support::{SESSION_LIMIT, TestResult, alone};

/// For a program to end that was told to.
const END_LIMIT: Duration = Duration::from_secs(15);

/// For the client to be back. The goals are 5 s after an end in order and 10 s after a kill.
const BACK_LIMIT: Duration = Duration::from_secs(60);

const SIGTERM: i32 = 15;

const SIGKILL: i32 = 9;

#[test]
fn a_server_that_was_ended_has_its_client_back() -> TestResult {
    restarted("server ended and restarted", SIGTERM)
}

#[test]
fn a_server_that_was_killed_has_its_client_back() -> TestResult {
    restarted("server killed and restarted", SIGKILL)
}

fn restarted(name: &str, signal: i32) -> TestResult {
    let _alone = alone();
    let mut scene = Scene::new(Nat::PortRestricted, Nat::PortRestricted)?;
    scene.client.wait_path(PathKind::Direct, PATH_LIMIT)?;
    let old = scene.stream()?;
    let ended = settled(&old)?;
    scene.server.process.signal(signal)?;
    scene.server.process.wait_exit(END_LIMIT)?;
    let started = Instant::now();
    scene.restart_server()?;
    figures::record(&format!("{name}: until the server is ready"), started.elapsed());

    let back = scene.wait_sessions(2, BACK_LIMIT)?;
    figures::record(&format!("{name}: client back after the server's start"), back - started);
    let reset = old.wait_reset(BACK_LIMIT)?;
    figures::record(&format!("{name}: old connection reset after the signal"), reset - ended.at);

    let asked = Instant::now();
    let new = scene.stream()?;
    new.wait_beyond(Mark::of_nothing(asked), 1, SESSION_LIMIT)?;
    figures::record(&format!("{name}: new connection carries after"), asked.elapsed());
    settled(&new)?;
    finished(new)
}
