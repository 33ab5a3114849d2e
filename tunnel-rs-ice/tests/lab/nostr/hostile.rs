//! Relays that do anything but their work, beside one that does it.

use std::{thread, time::Duration, time::Instant};

use tunnel_testlab::{
    figures,
    nat::Nat,
    nostr::{Manner, memory},
    process::Proc,
    stream::settled,
};

use super::{SESSION_LIMIT, stage::Stage};
use crate::support::{TestResult, finished};

/// What each subscriber gets of the flood, in events a second.
const FLOOD: usize = 1_000;

/// For the program to say what is wrong with a relay: one that is slow has 5 s.
const NAMED_LIMIT: Duration = Duration::from_secs(20);

/// How long the flood goes on while the memory of both sides is watched.
const WATCH: Duration = Duration::from_secs(8);

/// How much either side may grow meanwhile: what a relay may send at once is bounded, and so is what is kept.
const GROWTH: u64 = 16 << 20;

/// What is said of each relay, in words of which one must be there.
const SAID: [(usize, &[&str]); 3] = [
    (1, &["is slow"]),
    (2, &["is no message of Nostr"]),
    (3, &["forged", "nobody asked for", "floods"]),
];

pub(super) fn bad_relays_do_no_harm() -> TestResult {
    let relays = [Manner::Good, Manner::Silent, Manner::Garbage, Manner::Flood(FLOOD)];
    let mut stage = Stage::new(Nat::PortRestricted, Nat::PortRestricted, &relays)?;
    // One at which nobody listens.
    let dead = format!("ws://{}:9", tunnel_testlab::net::NatLab::RELAY_NAME);
    stage.config = stage.config.clone().relay(&dead);
    let key = stage.config.key()?;
    let started = Instant::now();
    let server = stage.server_at_once(&[&key], &[])?;
    let client = stage.client("the client beside bad relays", &key)?;
    let open = client.wait_sessions(1, SESSION_LIMIT)?;
    figures::record("one good relay of five: session after the start", open - started);
    let stream = stage.stream(&client)?;
    settled(&stream)?;

    let sides = [("the server", &server.process), ("the client", &client.process)];
    for (_, side) in sides {
        for (number, words) in SAID {
            named(side, &stage.relays[number].url, words)?;
        }
        named(side, &dead, &["out of reach"])?;
    }
    let before = [memory(sides[0].1)?, memory(sides[1].1)?];
    thread::sleep(WATCH);
    for ((name, side), before) in sides.into_iter().zip(before) {
        let now = memory(side)?;
        assert!(now < before + GROWTH, "{name} has grown from {before} to {now} bytes");
    }
    assert_eq!((client.sessions(), server.sessions()), (1, 1));
    finished(stream)
}

/// Waits until a relay is named in the log with one of these words.
fn named(side: &Proc, url: &str, words: &[&str]) -> TestResult {
    let names = |line: &str| line.contains(url) && words.iter().any(|word| line.contains(word));
    side.wait_line(names, NAMED_LIMIT)?;
    Ok(())
}
