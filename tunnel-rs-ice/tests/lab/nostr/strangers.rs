//! Who is not a client that is there now gets nothing.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use tunnel_testlab::{
    Result, figures,
    nat::Nat,
    nostr::{Manner, publish},
    process::run,
    stream::settled,
};

use super::{END_LIMIT, SESSION_LIMIT, SIGKILL, stage::Stage};
use crate::support::{TestResult, finished};

/// How many sessions of one key are recorded: more than a server negotiates at once with one key.
const RECORDED: usize = 5;

/// For a client to get in beside recordings that take up all of its key's negotiations, each of which ends after 15 s.
const BESIDE_LIMIT: Duration = Duration::from_secs(45);

/// For a negotiation to end that nobody has answered, and a client to give up on one.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(30);

/// Everything that a relay has seen is published once more after the server's restart.
pub(super) fn recordings_give_no_session() -> TestResult {
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let key = stage.config.key()?;
    let observer = stage.observe()?;
    let server = stage.server(&[&key], &[])?;
    let clients: Vec<_> = (0..RECORDED)
        .map(|number| stage.connect(&format!("recorded client {number}"), &key))
        .collect::<Result<_>>()?;
    let sockets = udp_sockets(&stage)?;
    assert!(sockets >= RECORDED, "{sockets} sockets for {RECORDED} sessions");
    for program in clients.iter().map(|client| &client.process).chain([&server.process]) {
        program.signal(SIGKILL)?;
        program.wait_exit(END_LIMIT)?;
    }
    let recorded = observer.seen();
    // A client begins.
    let client = recorded[0].author.clone();
    assert!(recorded.len() >= 3 * RECORDED, "only {} events", recorded.len());
    assert_eq!(observer.authors().len(), 2);

    let server = stage.server(&[&key], &[])?;
    let replayed = Instant::now();
    for _ in 0..2 {
        publish(&stage.lab.relay, stage.relays[0].local(), &recorded)?;
    }
    // The server hears them, and answers.
    let old: HashSet<_> = recorded.iter().map(|seen| &seen.id).collect();
    observer.wait(
        |seen| seen.iter().find(|seen| seen.author != client && !old.contains(&seen.id)).map(drop),
        SESSION_LIMIT,
    )?;
    let genuine = stage.client("the client after the recordings", &key)?;
    let open = genuine.wait_sessions(1, BESIDE_LIMIT)?;
    figures::record("beside recordings: session after they were published", open - replayed);
    server.process.wait_line(|line| line.contains("there is no session"), GIVE_UP_LIMIT)?;
    let over = || udp_sockets(&stage).ok().filter(|left| *left == sockets / RECORDED);
    server.process.wait_for(over, GIVE_UP_LIMIT)?;
    assert_eq!(server.sessions(), 1, "a recording is a session");
    let stream = stage.stream(&genuine)?;
    settled(&stream)?;
    finished(stream)
}

/// A client whose key the server does not know.
pub(super) fn a_foreign_key_gets_nothing() -> TestResult {
    let stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &[Manner::Good])?;
    let [known, foreign] = [stage.config.key()?, stage.config.key()?];
    let observer = stage.observe()?;
    let server = stage.server(&[&known], &[])?;
    let stranger = stage.client("the stranger", &foreign)?;
    let given_up = |line: &str| line.contains("no session") && line.contains("npub");
    let why = stranger.process.wait_line(given_up, GIVE_UP_LIMIT)?;
    assert!(why.contains("does not answer"), "{why}");
    // The stranger has asked, and nobody has said anything to that.
    assert_eq!(observer.authors().len(), 1);
    assert_eq!((stranger.sessions(), server.sessions()), (0, 0));
    assert_eq!(udp_sockets(&stage)?, 0);

    let client = stage.connect("the client beside a stranger", &known)?;
    assert!(udp_sockets(&stage)? > 0);
    let stream = stage.stream(&client)?;
    settled(&stream)?;
    finished(stream)
}

/// How many UDP sockets the programs on the server's host have: a negotiation takes some.
fn udp_sockets(stage: &Stage) -> Result<usize> {
    let mut command = stage.lab.b.host.command("ss");
    let output = run(command.args(["-H", "-u", "-a", "-n"]), SESSION_LIMIT)?;
    Ok(output.lines().count())
}
