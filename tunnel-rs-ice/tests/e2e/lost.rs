//! What is said when nobody is there, or not any more.

use std::thread;
use std::time::{Duration, Instant};

use tunnel_testlab::process::Proc;

use crate::ending::{END, searching};
use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side};
use crate::support::{
    SIGINT, SIGKILL, SOON, TestResult, exit_code, on_loopback, sessions, wait_log,
};

/// From the last sign of life to the words.
const GONE: Duration = Duration::from_secs(8);

/// From the answer to the words, of which the client says its own after 9 s.
const NO_PATH: Duration = Duration::from_secs(20);

/// What `--offer-ttl` is at the least.
const TTL: Duration = Duration::from_secs(10);

/// By how much anything may be late on a machine that is busy otherwise.
const LATE: Duration = Duration::from_secs(5);

#[test]
fn an_offer_that_nobody_answers_expires() -> TestResult {
    on_loopback(|| {
        let start = Instant::now();
        let client = Side::client(&["tcp://127.0.0.1:22"], &["--offer-ttl", "10"])?;
        assert_eq!(client.exit_code(SOON)?, 1, "{}", client.process.output());
        let took = start.elapsed();
        assert!(took >= TTL && took < TTL + LATE, "expired after {took:?}");
        wait_log(&client.process, &["ERROR", "expired", "start again"], SOON)?;
        Ok(())
    })
}

#[test]
fn no_path_is_said_by_the_client_at_once_and_by_the_server_when_the_offer_expires() -> TestResult {
    on_loopback(|| {
        let pair = searching(&["--offer-ttl", "10"])?;
        let answered = Instant::now();
        let why = "neither side asked a STUN server";
        assert_eq!(pair.client.exit_code(SOON)?, 1, "{}", pair.client.process.output());
        let took = answered.elapsed();
        assert!(took < NO_PATH, "said only after {took:?}");
        wait_log(&pair.client.process, &["ERROR", "no path: ", why], SOON)?;
        assert_eq!(pair.server.exit_code(SOON)?, 1, "{}", pair.server.process.output());
        let took = answered.elapsed();
        assert!(took < TTL + LATE, "the server went on for {took:?}");
        wait_log(&pair.server.process, &["ERROR", "expired", "no path", why], SOON)?;
        Ok(())
    })
}

/// Kills a side; the other one says that the path is gone, goes on looking, and can be ended.
fn killed(killed: &Proc, other: &Proc) -> TestResult {
    killed.signal(SIGKILL)?;
    let start = Instant::now();
    let gone = other.wait_line_at(|line| line.contains("the path is gone"), SOON)?;
    assert!(gone.at - start < GONE, "said only after {:?}", gone.at - start);
    other.signal(SIGINT)?;
    let start = Instant::now();
    assert_eq!(exit_code(other, SOON)?, 0, "{}", other.output());
    let took = start.elapsed();
    assert!(took < END, "ended only after {took:?}: {}", other.output());
    Ok(())
}

#[test]
fn a_killed_side_is_missed_within_seconds() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        // All at once, as most of it is waiting.
        let cases = [(true, true), (true, false), (false, true), (false, false)];
        let mut pairs = Vec::new();
        for case in cases {
            pairs.push((case, Pair::connect(&[&source])?));
        }
        let case = |(client, busy): (bool, bool), pair: &Pair| -> TestResult {
            let mut tcp = connect(pair.targets[0])?;
            if busy {
                ask(&mut tcp, "hello")?;
            } else {
                drop(tcp);
            }
            let (client_side, server_side) = (&pair.client.process, &pair.server.process);
            if client { killed(client_side, server_side) } else { killed(server_side, client_side) }
        };
        let ended: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                pairs.iter().map(|(which, pair)| scope.spawn(|| case(*which, pair))).collect();
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for ended in ended {
            match ended {
                Ok(result) => result?,
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
        }
        Ok(())
    })
}

/// Longer than a session without flows may be silent before it is looked after.
const IDLE: Duration = Duration::from_secs(10);

#[test]
fn an_idle_session_is_left_alone() -> TestResult {
    on_loopback(|| {
        let pair = Pair::connect(&[&tcp_service(shout)?])?;
        // Nothing is to happen, so there is nothing to wait for.
        thread::sleep(IDLE);
        ask(&mut connect(pair.targets[0])?, "still here")?;
        for (name, process) in pair.sides() {
            assert_eq!(sessions(process), 1, "{name}: {}", process.output());
            // A process that stands still for long enough is missed.
            let is_warning =
                |line: &&str| line.contains("WARN") && !line.contains("the path is gone");
            assert_eq!(process.output().lines().find(is_warning), None, "{name}");
        }
        Ok(())
    })
}
