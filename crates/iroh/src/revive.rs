//! Replaces an endpoint that is of no use although a relay answers.
//!
//! While a relay is out of reach iroh waits longer and longer between two attempts, 16 s and a random part at last, and a
//! network that comes back does not wake it (iroh 1.4, `relay/actor.rs`, `build_backoff`). Whoever is reached by that
//! relay alone stays out of reach for as long. A fresh endpoint with the same key and ports asks at once, and sessions
//! go on over its connections.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use iroh::endpoint::{Connection, RelayStatus, WeakConnectionHandle};
use iroh::{RelayUrl, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::connection::packets;
use crate::relays::answers;

/// How long the home relay must be out of reach before anything is looked at: a connection that breaks is made anew
/// within less.
const AWAY: Duration = Duration::from_secs(1);

/// Between two looks whether it answers.
const LOOK: Duration = Duration::from_millis(500);

/// For the endpoint to connect by itself to a relay that answers.
const BY_ITSELF: Duration = Duration::from_millis(1_200);

/// For a connection to show that it lives: an idle path is asked for a sign of life every 900 ms, and given up after this
/// (`PATH_IDLE`).
const IDLE: Duration = Duration::from_millis(2_800);

/// After a replacement, before the next one; it doubles up to the second value until a relay is connected: a relay that
/// takes TCP connections and nothing more is not helped by it.
const REST: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(300));

/// The connections of an endpoint, as far as they live.
#[derive(Clone, Debug, Default)]
pub(crate) struct Alive(Arc<Mutex<Vec<WeakConnectionHandle>>>);

impl Alive {
    /// Notes a connection.
    pub(crate) fn note(&self, connection: &Connection) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|handle| handle.upgrade().is_some());
        all.push(connection.weak_handle());
    }

    /// Closes all of them.
    pub(crate) fn close(&self) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in all.iter().filter_map(WeakConnectionHandle::upgrade) {
            connection.close(0u32.into(), b"");
        }
    }

    /// Whether none is open.
    pub(crate) fn is_none(&self) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive = all.iter().filter_map(WeakConnectionHandle::upgrade);
        alive.all(|connection| connection.close_reason().is_some())
    }

    /// For how long nothing must have come before none of them is of use.
    fn patience(&self) -> Duration {
        if self.is_none() { BY_ITSELF } else { IDLE }
    }

    /// What has come on each of them so far.
    pub(crate) fn received(&self) -> Received {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let alive = all.iter().filter_map(WeakConnectionHandle::upgrade);
        alive.map(|connection| (connection.stable_id(), packets(&connection))).collect()
    }

    /// Whether anything comes on any of them within a time after which they would be of use.
    async fn is_of_use(&self) -> bool {
        let before = self.received();
        sleep(self.patience()).await;
        anything_new(&before, &self.received())
    }
}

/// Packets by connection.
pub(crate) type Received = HashMap<usize, u64>;

/// Whether anything has come between two looks. A connection that is gone at the second says nothing.
pub(crate) fn anything_new(before: &Received, now: &Received) -> bool {
    now.iter().any(|(connection, count)| before.get(connection).is_none_or(|seen| seen != count))
}

/// When an endpoint may be replaced again.
#[derive(Debug)]
pub(crate) struct Rest(Mutex<(Option<Instant>, Duration)>);

impl Default for Rest {
    fn default() -> Self {
        Self(Mutex::new((None, REST.0)))
    }
}

impl Rest {
    fn state(&self) -> MutexGuard<'_, (Option<Instant>, Duration)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a replacement.
    pub(crate) fn begin(&self) {
        let mut state = self.state();
        let (until, next) = &mut *state;
        *until = Some(Instant::now() + *next);
        *next = (*next * 2).min(REST.1);
    }

    /// Notes that there is nothing to mend.
    fn end(&self) {
        *self.state() = (None, REST.0);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.state().0.is_none_or(|until| Instant::now() >= until)
    }
}

/// Resolves when `endpoint` should be replaced: its relay answers, it does not connect to it, and none of its
/// connections is of any use.
pub(crate) async fn stuck(endpoint: &iroh::Endpoint, alive: &Alive, rest: &Rest) {
    let mut status = endpoint.home_relay_status();
    loop {
        match away(&status.get()) {
            Relay::Connected => rest.end(),
            // With a word of its own, which another endpoint would hear as well.
            Relay::Refuses | Relay::None => {}
            Relay::Away(_) => {
                sleep(AWAY).await;
                while let Relay::Away(url) = away(&status.get()) {
                    if rest.is_over() && answers(&url).await {
                        let is_of_use = alive.is_of_use().await;
                        if matches!(away(&status.get()), Relay::Away(_)) && !is_of_use {
                            return;
                        }
                    }
                    sleep(LOOK).await;
                }
                continue;
            }
        }
        if status.updated().await.is_err() {
            // The endpoint is closed: nothing will change any more.
            std::future::pending::<()>().await;
        }
    }
}

/// Resolves when an endpoint should be replaced because a connection of it has just left a relay that has gone: packets
/// for that relay wait for it, and keep those for other relays waiting behind them (iroh 1.4, `relay/actor.rs`, one
/// datagram is on its way at a time). Not where any connection is of use.
pub(crate) async fn clogged(left: &Notify, alive: &Alive, rest: &Rest) {
    loop {
        left.notified().await;
        while !alive.is_of_use().await {
            if rest.is_over() {
                return;
            }
        }
    }
}

/// How things stand with the home relay.
enum Relay {
    None,
    Connected,
    Refuses,
    Away(RelayUrl),
}

fn away(relays: &[RelayStatus]) -> Relay {
    if relays.iter().any(RelayStatus::is_connected) {
        return Relay::Connected;
    }
    if relays.iter().any(|relay| relay.auth_denied_reason().is_some()) {
        return Relay::Refuses;
    }
    relays.first().map_or(Relay::None, |relay| Relay::Away(relay.url().clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_is_gone_is_no_sign_of_life() {
        let looks = |counts: &[(usize, u64)]| counts.iter().copied().collect::<Received>();
        assert!(!anything_new(&looks(&[(1, 5), (2, 7)]), &looks(&[(1, 5), (2, 7)])));
        assert!(!anything_new(&looks(&[(1, 5), (2, 7)]), &looks(&[(2, 7)])));
        assert!(anything_new(&looks(&[(1, 5), (2, 7)]), &looks(&[(2, 8)])));
        assert!(anything_new(&looks(&[(1, 5)]), &looks(&[(3, 1)])));
    }
}
