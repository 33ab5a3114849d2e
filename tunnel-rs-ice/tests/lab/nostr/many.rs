//! Many clients of one server.

use std::time::{Duration, Instant};

use tunnel_testlab::{Result, figures, nat::Nat, nostr::Manner, stream::settled};

use super::{END_LIMIT, SESSION_LIMIT, SIGTERM, stage::Stage};
use crate::support::{TestResult, alone, finished};

/// How many clients a server takes unless it is told otherwise.
const CLIENTS: usize = 10;

/// How many of them have the same key.
const SAME_KEY: usize = 3;

/// For ten clients to start and to connect, all at once.
const ALL_LIMIT: Duration = Duration::from_secs(30);

/// For a client that was turned away to be told, and to get in once there is a place: it tries again after times that
/// double.
const TURN_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn ten_clients_at_once_get_in() -> TestResult {
    let _alone = alone();
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let keys: Vec<_> =
        (0..=CLIENTS - SAME_KEY).map(|_| stage.config.key()).collect::<Result<_>>()?;
    let server = stage.server(&keys.iter().collect::<Vec<_>>(), &[])?;

    let started = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let key = &keys[number.min(CLIENTS - SAME_KEY)];
            stage.client(&format!("client {number}"), key)
        })
        .collect::<Result<_>>()?;
    for client in &clients {
        let open = client.wait_sessions(1, ALL_LIMIT.saturating_sub(started.elapsed()))?;
        figures::record("one of ten clients: session after the first one's start", open - started);
    }
    let streams: Vec<_> =
        clients.iter().map(|client| stage.stream(client)).collect::<Result<_>>()?;
    for stream in &streams {
        settled(stream)?;
    }
    for stream in streams {
        finished(stream)?;
    }
    assert_eq!(server.sessions(), CLIENTS);
    for client in &clients {
        assert_eq!(client.sessions(), 1);
    }
    Ok(())
}

#[test]
fn one_client_too_many_is_told_and_gets_the_next_place() -> TestResult {
    let _alone = alone();
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let keys = [stage.config.key()?, stage.config.key()?, stage.config.key()?];
    let _server = stage.server(&keys.each_ref(), &["--max-sessions", "2"])?;
    let first = stage.connect("first of two clients", &keys[0])?;
    let second = stage.connect("second of two clients", &keys[1])?;
    let stream = stage.stream(&second)?;

    let third = stage.client("third of two clients", &keys[2])?;
    let refused = |line: &str| line.contains("no session") && line.contains("sessions");
    let told = third.process.wait_line(refused, SESSION_LIMIT)?;
    assert!(told.contains("as many sessions as it takes") && told.contains("at most 2"), "{told}");

    first.process.signal(SIGTERM)?;
    let ended = Instant::now();
    assert_eq!(first.process.wait_exit(END_LIMIT)?.code(), Some(0));
    let open = third.wait_sessions(1, TURN_LIMIT)?;
    figures::record("third of two clients: session after another one's end", open - ended);
    let late = stage.stream(&third)?;
    settled(&late)?;
    finished(late)?;
    finished(stream)
}
