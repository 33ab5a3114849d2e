use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{Direction, Mark, Pauses, Totals};
use crate::{Error, Result};

/// Shorter pauses are not kept one by one: they are the senders' own pace.
const NOTABLE: Duration = Duration::from_millis(40);

/// What the threads of a stream and its owner have in common.
#[derive(Debug)]
pub(super) struct Meter {
    state: Mutex<State>,
    changed: Condvar,
}

/// One end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Near,
    Far,
}

#[derive(Debug)]
struct State {
    up: Way,
    down: Way,
    broken: Vec<Broken>,
    stopping: bool,
}

/// One direction: positions count what is sent, bytes or packets, from 0.
#[derive(Debug)]
struct Way {
    sent: u64,
    received: u64,
    /// How often something arrived.
    arrivals: u64,
    /// When something arrived last.
    arrived: Instant,
    /// When each notable pause ended, and how long it was.
    pauses: Vec<(Instant, Duration)>,
    complete: bool,
}

#[derive(Debug)]
struct Broken {
    end: End,
    direction: Direction,
    position: u64,
    kind: io::ErrorKind,
    why: String,
    at: Instant,
}

impl Meter {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let way = || Way {
            sent: 0,
            received: 0,
            arrivals: 0,
            arrived: now,
            pauses: Vec::new(),
            complete: false,
        };
        let (up, down) = (way(), way());
        let state = State { up, down, broken: Vec::new(), stopping: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Up to `position` everything was sent.
    pub(super) fn sent(&self, direction: Direction, position: u64) {
        self.lock().way(direction).sent = position;
    }

    /// Up to `position` everything has arrived, or of packets that one.
    pub(super) fn received(&self, direction: Direction, position: u64) {
        let mut state = self.lock();
        let way = state.way(direction);
        let now = Instant::now();
        let pause = now.saturating_duration_since(way.arrived);
        if pause >= NOTABLE {
            way.pauses.push((now, pause));
        }
        way.arrived = now;
        way.arrivals += 1;
        way.received = way.received.max(position);
        drop(state);
        self.changed.notify_all();
    }

    /// At the end of a direction: whether everything has come and nothing more will.
    pub(super) fn complete(&self, direction: Direction) -> bool {
        let mut state = self.lock();
        let stopping = state.stopping;
        let way = state.way(direction);
        way.complete = stopping && way.received == way.sent;
        let complete = way.complete;
        drop(state);
        self.changed.notify_all();
        complete
    }

    /// An end cannot send or receive any more.
    pub(super) fn broke(&self, end: End, direction: Direction, position: u64, error: io::Error) {
        let (kind, why, at) = (error.kind(), error.to_string(), Instant::now());
        self.lock().broken.push(Broken { end, direction, position, kind, why, at });
        self.changed.notify_all();
    }

    /// Tells the senders to stop.
    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// Whether the senders are to stop; waits for that.
    pub(super) fn stopped_within(&self, limit: Duration) -> bool {
        self.wait(limit, |state| state.stopping.then_some(())).is_some()
    }

    pub(super) fn mark(&self) -> Mark {
        let state = self.lock();
        Mark { at: Instant::now(), up: state.up.sent, down: state.down.sent }
    }

    pub(super) fn totals(&self) -> Totals {
        let state = self.lock();
        Totals { up: state.up.sent, down: state.down.sent }
    }

    /// How often something arrived.
    pub(super) fn arrivals(&self, direction: Direction) -> u64 {
        self.lock().way(direction).arrivals
    }

    /// An error if an end could not send or receive, or got what was not sent.
    pub(super) fn unbroken(&self) -> Result<()> {
        self.lock().broken.first().map_or(Ok(()), |broken| Err(broken.error()))
    }

    pub(super) fn wait_beyond(&self, mark: Mark, more: u64, limit: Duration) -> Result<()> {
        self.wait_unbroken(limit, |state| {
            let beyond = |way: &Way, sent: u64| way.received >= sent + more;
            beyond(&state.up, mark.up) && beyond(&state.down, mark.down)
        })
    }

    pub(super) fn wait_way(
        &self,
        direction: Direction,
        mark: Mark,
        more: u64,
        limit: Duration,
    ) -> Result<()> {
        self.wait_unbroken(limit, |state| match direction {
            Direction::Up => state.up.received >= mark.up + more,
            Direction::Down => state.down.received >= mark.down + more,
        })
    }

    pub(super) fn wait_complete(&self, limit: Duration) -> Result<Totals> {
        self.wait_unbroken(limit, |state| state.up.complete && state.down.complete)?;
        Ok(self.totals())
    }

    pub(super) fn wait_reset(&self, limit: Duration) -> Result<Instant> {
        // Whichever of the near end's threads comes first is told of the reset, the other one that the
        // connection has ended.
        let is_reset = |broken: &&Broken| {
            broken.end == End::Near && broken.kind == io::ErrorKind::ConnectionReset
        };
        let reset = |state: &State| state.broken.iter().find(is_reset).map(|broken| broken.at);
        self.wait(limit, reset).ok_or_else(|| {
            let mut seen = self.lock().broken.iter().map(Broken::describe).collect::<Vec<_>>();
            if seen.is_empty() {
                seen.push("both directions stand".to_owned());
            }
            Error::NotReset { limit, seen: seen.join("; ") }
        })
    }

    pub(super) fn pauses(&self, since: Instant) -> Pauses {
        let state = self.lock();
        let now = Instant::now();
        Pauses { up: state.up.longest(since, now), down: state.down.longest(since, now) }
    }

    /// Waits for something that a broken connection cannot do.
    fn wait_unbroken(&self, limit: Duration, done: impl Fn(&State) -> bool) -> Result<()> {
        let ended = self.wait(limit, |state| match state.broken.first() {
            _ if done(state) => Some(Ok(())),
            Some(broken) => Some(Err(broken.error())),
            None => None,
        });
        ended.unwrap_or_else(|| {
            let state = self.lock();
            let progress = |way: &Way| format!("{} of {}", way.received, way.sent);
            let (up, down) = (progress(&state.up), progress(&state.down));
            Err(Error::Stalled { limit, up, down })
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<T>(&self, limit: Duration, find: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl State {
    fn way(&mut self, direction: Direction) -> &mut Way {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

impl Way {
    fn longest(&self, since: Instant, now: Instant) -> Duration {
        let ended = self.pauses.iter().filter(|(end, _)| *end > since).map(|(_, pause)| *pause);
        let present = (!self.complete).then(|| now.saturating_duration_since(self.arrived));
        ended.chain(present).max().unwrap_or_default()
    }
}

impl Broken {
    fn error(&self) -> Error {
        let Self { direction, position, why, .. } = self;
        Error::Broken { direction: *direction, position: *position, why: why.clone() }
    }

    fn describe(&self) -> String {
        self.error().to_string()
    }
}
