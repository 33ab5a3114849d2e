use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use nostr_sdk::{EventId, RelayUrl};
use tokio::time::Instant;

use super::lock;

/// Events that a relay may owe an answer for.
const MAX_WAITING: usize = 32;

/// A relay that has not answered for an event, or not taken the subscription, for so long is slow.
pub(super) const SLOW: Duration = Duration::from_secs(5);

/// A connection that served for so long was a good one, and is dialled again soon.
const STEADY: Duration = Duration::from_secs(60);

/// Between attempts: the first, and the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What has been logged is not logged again for so long, for a relay that keeps changing.
pub(super) const REMIND: Duration = Duration::from_secs(600);

/// How things stand with a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// It has not been reached yet.
    New,
    /// It works.
    Serving,
    /// It is connected, and does not answer in time.
    Slow,
    /// It refuses the subscription or an event.
    Rejecting,
    /// There is no connection; it is tried again for ever.
    Unreachable,
}

/// What a relay does that it should not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Complaint {
    /// Messages that are none of Nostr.
    Garbage,
    /// Events that nobody asked for.
    Unasked,
    /// Events with false signatures.
    Forged,
    /// More than is read at once.
    Flood,
}

/// One relay, across its connections.
#[derive(Debug)]
pub(super) struct Relay {
    url: RelayUrl,
    inner: Mutex<State>,
}

#[derive(Debug)]
struct State {
    health: Health,
    /// When each state was last logged.
    logged: HashMap<Health, Instant>,
    complaints: BTreeSet<Complaint>,
    connected: bool,
    serving: Option<Instant>,
    failures: u32,
    /// Events without an answer, the oldest first.
    waiting: VecDeque<(EventId, Instant)>,
}

/// What others say, made safe for a log.
fn words(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

impl Relay {
    pub(super) fn new(url: RelayUrl) -> Self {
        let state = State {
            health: Health::New,
            logged: HashMap::new(),
            complaints: BTreeSet::new(),
            connected: false,
            serving: None,
            failures: 0,
            waiting: VecDeque::new(),
        };
        Self { url, inner: Mutex::new(state) }
    }

    pub(super) fn health(&self) -> Health {
        lock(&self.inner).health
    }

    pub(super) fn is_serving(&self) -> bool {
        lock(&self.inner).serving.is_some()
    }

    /// Changes the state; a change is logged.
    fn change(&self, state: &mut State, health: Health, why: &str) {
        if state.health == health {
            return;
        }
        let before = std::mem::replace(&mut state.health, health);
        let (now, url, why) = (Instant::now(), &self.url, words(why));
        if state.logged.get(&health).is_some_and(|last| now < *last + REMIND) {
            tracing::debug!("Nostr relay {url}: {health:?} again: {why}");
            return;
        }
        state.logged.insert(health, now);
        match health {
            Health::New => {}
            Health::Serving if before == Health::New => {
                tracing::info!("Nostr relay {url} connected")
            }
            Health::Serving => tracing::info!("Nostr relay {url} works again"),
            Health::Slow => tracing::warn!("Nostr relay {url} is slow: {why}"),
            Health::Rejecting => tracing::warn!("Nostr relay {url} refuses: {why}"),
            Health::Unreachable => {
                tracing::warn!("Nostr relay {url} is out of reach: {why}; it is tried again");
            }
        }
    }

    /// Logs once what the relay does wrong.
    pub(super) fn complain(&self, complaint: Complaint, detail: &str) {
        if !lock(&self.inner).complaints.insert(complaint) {
            return;
        }
        let (url, detail) = (&self.url, words(detail));
        match complaint {
            Complaint::Garbage => {
                tracing::warn!("Nostr relay {url} sends what is no message of Nostr");
            }
            Complaint::Unasked => {
                tracing::warn!("Nostr relay {url} delivers what nobody asked for: {detail}");
            }
            Complaint::Forged => tracing::warn!("Nostr relay {url} delivers forged events"),
            Complaint::Flood => {
                tracing::warn!("Nostr relay {url} floods this side, and is read slowly");
            }
        }
    }

    /// How long to wait before the next attempt. `random` spreads those of many sides.
    pub(super) fn backoff(&self, random: u8) -> Duration {
        let failures = lock(&self.inner).failures;
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let wait = BACKOFF.0.saturating_mul(1 << doublings.min(10)).min(BACKOFF.1);
        wait + wait * u32::from(random) / 512
    }

    /// The next attempt is to be made at once.
    pub(super) fn forgive(&self) {
        lock(&self.inner).failures = 0;
    }

    /// No connection came to be.
    pub(super) fn failed(&self, why: &str) {
        let mut state = lock(&self.inner);
        state.failures = state.failures.saturating_add(1);
        self.change(&mut state, Health::Unreachable, why);
    }

    /// A connection stands.
    pub(super) fn opened(&self) {
        lock(&self.inner).connected = true;
    }

    /// The relay serves the subscription, or has been silent about it for so long that it may.
    pub(super) fn served(&self, now: Instant, in_time: bool) {
        let mut state = lock(&self.inner);
        state.serving.get_or_insert(now);
        if in_time {
            self.change(&mut state, Health::Serving, "");
        } else {
            let why = format!("it has not taken the subscription within {} s", SLOW.as_secs());
            self.change(&mut state, Health::Slow, &why);
        }
    }

    /// The relay refuses something.
    pub(super) fn refused(&self, why: &str) {
        self.change(&mut lock(&self.inner), Health::Rejecting, why);
    }

    /// The connection is gone; gives the events that there will be no answer for. `None` for a reason says that this side
    /// has closed it.
    pub(super) fn closed(&self, now: Instant, why: Option<&str>) -> Vec<EventId> {
        let mut state = lock(&self.inner);
        state.connected = false;
        let steady = state.serving.take().is_some_and(|since| now >= since + STEADY);
        if let Some(why) = why {
            state.failures = if steady { 1 } else { state.failures.saturating_add(1) };
            if state.health != Health::Rejecting {
                self.change(&mut state, Health::Unreachable, why);
            }
        } else {
            state.failures = 1;
        }
        state.waiting.drain(..).map(|(id, _)| id).collect()
    }

    /// Whether the relay may be asked to take an event, and notes that it is.
    pub(super) fn ask(&self, id: EventId, now: Instant) -> bool {
        let mut state = lock(&self.inner);
        let may = state.connected && state.waiting.len() < MAX_WAITING;
        if may {
            state.waiting.push_back((id, now));
        }
        may
    }

    /// The relay was not asked after all.
    pub(super) fn unask(&self, id: &EventId) {
        lock(&self.inner).waiting.retain(|(waiting, _)| waiting != id);
    }

    /// Notes the answer for an event; `false` where none was waited for.
    pub(super) fn answered(&self, id: &EventId, now: Instant, refused: Option<&str>) -> bool {
        let mut state = lock(&self.inner);
        let before = state.waiting.len();
        state.waiting.retain(|(waiting, _)| waiting != id);
        if state.waiting.len() == before {
            return false;
        }
        let overdue = state.waiting.front().is_some_and(|(_, since)| now >= *since + SLOW);
        match refused {
            Some(why) => self.change(&mut state, Health::Rejecting, why),
            None if overdue || state.serving.is_none() => {}
            None => self.change(&mut state, Health::Serving, ""),
        }
        true
    }

    /// Looks whether an answer is overdue. Answers that have been for long will not come.
    pub(super) fn look(&self, now: Instant) {
        let mut state = lock(&self.inner);
        if state.waiting.front().is_some_and(|(_, since)| now >= *since + SLOW) {
            let why = format!("it has not answered for an event within {} s", SLOW.as_secs());
            self.change(&mut state, Health::Slow, &why);
        }
        state.waiting.retain(|(_, since)| now < *since + 6 * SLOW);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay() -> Relay {
        Relay::new(RelayUrl::parse("wss://relay.example").unwrap())
    }

    fn id(number: u8) -> EventId {
        EventId::from_byte_array([number; 32])
    }

    #[test]
    fn attempts_grow_rare_until_a_connection_has_served_for_a_while() {
        let (relay, now) = (relay(), Instant::now());
        assert_eq!(relay.backoff(255), Duration::ZERO);
        let mut waits = Vec::new();
        for _ in 0..8 {
            relay.failed("no route");
            waits.push(relay.backoff(0).as_secs());
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert!(relay.backoff(255) > Duration::from_secs(40));
        // One that closes at once is no better than none.
        relay.opened();
        relay.served(now, true);
        relay.closed(now + STEADY - Duration::from_millis(1), Some("closed"));
        assert_eq!(relay.backoff(0), BACKOFF.1);
        relay.opened();
        relay.served(now, true);
        relay.closed(now + STEADY, Some("closed"));
        assert_eq!(relay.backoff(0), BACKOFF.0);
        relay.forgive();
        assert_eq!(relay.backoff(0), Duration::ZERO);
    }

    #[test]
    fn health_follows_what_the_relay_does() {
        let (relay, now) = (relay(), Instant::now());
        let late = now + SLOW;
        assert!(!relay.ask(id(1), now), "asked without a connection");
        relay.opened();
        assert!(!relay.is_serving());
        relay.served(now, false);
        assert_eq!((relay.health(), relay.is_serving()), (Health::Slow, true));
        relay.served(now, true);
        assert_eq!(relay.health(), Health::Serving);
        assert!(relay.ask(id(1), now) && relay.ask(id(2), now));
        relay.look(late - Duration::from_millis(1));
        assert_eq!(relay.health(), Health::Serving);
        relay.look(late);
        assert_eq!(relay.health(), Health::Slow);
        assert!(relay.answered(&id(1), late, None));
        assert_eq!(relay.health(), Health::Slow, "the other answer is overdue");
        assert!(!relay.answered(&id(1), late, None));
        assert!(relay.answered(&id(2), late, None));
        assert_eq!(relay.health(), Health::Serving);
        assert!(relay.ask(id(3), now) && relay.answered(&id(3), now, Some("blocked: no")));
        assert_eq!(relay.health(), Health::Rejecting);
        assert!(relay.ask(id(4), now));
        assert_eq!(relay.closed(now, Some("gone")), [id(4)]);
        assert_eq!((relay.health(), relay.is_serving()), (Health::Rejecting, false));
        relay.failed("no route");
        assert_eq!(relay.health(), Health::Unreachable);
    }

    #[test]
    fn a_relay_that_never_answers_is_asked_no_more_for_a_while() {
        let (relay, now) = (relay(), Instant::now());
        relay.opened();
        for number in 0..MAX_WAITING as u8 {
            assert!(relay.ask(id(number), now));
        }
        assert!(!relay.ask(id(99), now));
        relay.unask(&id(0));
        assert!(relay.ask(id(99), now));
        relay.look(now + 6 * SLOW);
        assert!(relay.ask(id(0), now));
    }

    #[test]
    fn what_others_say_does_no_harm_to_a_log() {
        let said = words(&format!("\u{1b}[2J\n{}", "x".repeat(1000)));
        assert!(said.starts_with("\\u{1b}[2J\\n"), "{said}");
        assert!(said.len() < 300);
    }
}
