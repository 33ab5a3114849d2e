//! Pairs of hosts behind every kind of access: what comes of each, how long it takes, and a table of it.
//!
//! A [`Mode`] says how two hosts of a lab are connected; the rest is the same for every program. Nothing is
//! tried twice, and no pair is left out: what fails is a row with the error.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    nat::{Access, Outcome},
    net::NatLab,
    tunnel::PathKind,
};

mod conversation;
mod mode;
mod pairs;
mod service;
mod table;

pub use mode::{Iroh, Manual, Mode, Nostr, Opened, Tunnel, Vpn};
pub use pairs::{Pair, all, quick};
pub use table::table;

use conversation::Conversation;
use service::Service;

/// How long a pair that the oracle gives a direct path may take to find it.
const DIRECT_LIMIT: Duration = Duration::from_secs(20);

/// How long another pair is watched after its first byte. iroh tries again 5 s after a failure, so that a
/// second attempt is in it.
const WATCH: Duration = Duration::from_secs(8);

/// What is echoed once the path has settled.
const ECHO: usize = 256 * 1024;

/// What came of a pair once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// What kind of path. A pair that must be relayed counts as `Direct` if it ever had a direct path; every
    /// other pair by the path that it ended with.
    pub outcome: Outcome,
    /// From the mode's start, see `Tunnel::started`, to the first byte of an answer through the tunnel.
    pub first_byte: Option<Duration>,
    /// From the same moment to the first line that calls the path direct.
    pub direct: Option<Duration>,
}

/// What came of a pair in all its runs.
#[derive(Debug)]
pub struct Row {
    /// The client's side and the server's.
    pub pair: Pair,
    /// What must come of it.
    pub expected: Outcome,
    /// What came of it.
    pub runs: Vec<Result<Measured>>,
}

impl Row {
    /// Whether every run came out as it must.
    pub fn as_expected(&self) -> bool {
        self.runs.iter().all(|run| self.agrees(run))
    }

    /// Whether one run did.
    fn agrees(&self, run: &Result<Measured>) -> bool {
        let expected = |outcome| self.expected == Outcome::Either || self.expected == outcome;
        run.as_ref().is_ok_and(|measured| expected(measured.outcome))
    }
}

/// Fails with the table and the errors where a pair did not come out as the oracle says.
///
/// # Panics
///
/// There.
pub fn assert_as_expected(rows: &[Row]) {
    let errors = rows.iter().flat_map(|row| &row.runs).filter_map(|run| run.as_ref().err());
    let errors: Vec<_> = errors.map(ToString::to_string).collect();
    assert!(
        rows.iter().all(Row::as_expected),
        "not every pair is as expected:\n{}\n{}",
        table(rows),
        errors.join("\n"),
    );
}

/// How often and how many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Runs of each pair; at least one.
    pub runs: usize,
    /// Labs at once. They mostly wait, but their building and the handshakes share the processors.
    pub parallel: usize,
}

/// Runs the program at `binary` once, with its client on `a` and its server on `b`.
pub fn run_pair(binary: &Path, a: impl Into<Access>, b: impl Into<Access>) -> Result<Measured> {
    measure(&Iroh::new(binary), Pair { client: a.into(), server: b.into() })
}

/// Runs all pairs, each as often as planned, and returns a row for each pair in the same order.
///
/// `progress` is told every result as it comes.
pub fn run(
    mode: &dyn Mode,
    pairs: &[Pair],
    plan: Plan,
    progress: &(dyn Fn(Pair, &Result<Measured>) + Sync),
) -> Vec<Row> {
    let runs = plan.runs.max(1);
    let rows = pairs.iter().map(|pair| Row {
        pair: *pair,
        expected: mode.expected(*pair),
        runs: Vec::with_capacity(runs),
    });
    let rows: Vec<_> = rows.map(Mutex::new).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        // All pairs once, then all once more: what disturbs the machine for a while does not hit one pair only.
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= runs * pairs.len() {
                break;
            }
            let place = number % pairs.len();
            let measured = measure(mode, pairs[place]);
            progress(pairs[place], &measured);
            rows[place].lock().unwrap_or_else(PoisonError::into_inner).runs.push(measured);
        }
    };
    thread::scope(|scope| {
        for _ in 0..plan.parallel.max(1) {
            scope.spawn(work);
        }
    });
    rows.into_iter().map(|row| row.into_inner().unwrap_or_else(PoisonError::into_inner)).collect()
}

/// Builds the lab of a pair, opens a tunnel in it and measures it.
pub fn measure(mode: &dyn Mode, pair: Pair) -> Result<Measured> {
    let expected = mode.expected(pair);
    let lab = NatLab::new(pair.client, pair.server)?;
    let service = Service::start(&lab.b.host)?;
    let tunnel = match mode.open(&lab, service.port)? {
        Opened::Tunnel(tunnel) => tunnel,
        Opened::Impossible => {
            let outcome = Outcome::Impossible;
            return Ok(Measured { outcome, first_byte: None, direct: None });
        }
    };
    let direct = || {
        let paths = tunnel.paths();
        paths.into_iter().find_map(|(kind, at)| (kind == PathKind::Direct).then_some(at))
    };
    let mut conversation = Conversation::open(&lab.a.host, tunnel.as_ref())?;
    let first_byte = Instant::now();
    let limit = if expected == Outcome::Direct { DIRECT_LIMIT } else { WATCH };
    conversation.trickle(first_byte + limit, || direct().is_some())?;
    conversation.echo(ECHO)?;

    let last = tunnel.paths().last().map(|(kind, _)| *kind);
    let last = last.ok_or_else(|| Error::Malformed {
        what: "the log of the client, which names no path,",
        text: tunnel.output(),
    })?;
    let was_direct = direct();
    let outcome = match last {
        PathKind::Relay if expected != Outcome::Relay || was_direct.is_none() => Outcome::Relay,
        _ => Outcome::Direct,
    };
    Ok(Measured {
        outcome,
        first_byte: Some(first_byte.saturating_duration_since(tunnel.started())),
        direct: was_direct.map(|at| at.saturating_duration_since(tunnel.started())),
    })
}
