//! Nostr mode: two sides that know each other's keys find each other through relays, as often as need be, and nobody
//! else gets in.

use std::{thread, time::Duration};

use crate::support::{TestResult, alone};

mod hostile;
mod independent;
mod many;
mod pairs;
mod returns;
mod stage;
mod strangers;
mod traffic;

/// For a session to open, where nothing is in the way, on a machine with other things to do. The goal is 5 s.
const SESSION_LIMIT: Duration = Duration::from_secs(20);

/// For a program to end that was told to.
const END_LIMIT: Duration = Duration::from_secs(15);

const SIGTERM: i32 = 15;

const SIGKILL: i32 = 9;

/// What a scenario is called, and the scenario.
type Scenario = (&'static str, fn() -> TestResult);

/// Runs scenarios side by side, each in a lab of its own: they wait for most of their time.
fn at_once(scenarios: &[Scenario]) {
    let failed: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> =
            scenarios.iter().map(|(name, run)| (name, scope.spawn(run))).collect();
        let ended = running.into_iter().map(|(name, thread)| (name, thread.join()));
        ended
            .filter_map(|(name, ended)| match ended {
                Ok(Ok(())) => None,
                Ok(Err(failure)) => Some(format!("{name}: {failure:?}")),
                Err(_) => Some(format!("{name}: see the panic above")),
            })
            .collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
}

#[test]
fn clients_come_back_and_nobody_else_gets_in() {
    let _alone = alone();
    at_once(&[
        ("a killed server", returns::from_a_killed_server),
        ("a server that was ended", returns::from_a_server_that_was_ended),
        ("another network", returns::from_another_network),
        ("another network of the server", returns::to_another_network),
        ("an outage", returns::after_an_outage),
        ("a relay that was dead", returns::through_a_relay_that_was_dead),
        ("an idle session", returns::not_without_a_reason),
        ("bad relays", hostile::bad_relays_do_no_harm),
        ("recordings", strangers::recordings_give_no_session),
        ("a foreign key", strangers::a_foreign_key_gets_nothing),
    ]);
}
