//! Who may use the relay.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use iroh_base::EndpointId;
use iroh_relay::server::{Access, AccessControl, ClientRequest, ConnectionId};
use subtle::ConstantTimeEq;
use tunnel_model::{TokenEntry, TokenId};

use crate::front::{KNOCK, Knock};
use crate::metrics::Metrics;

/// Who may use the relay.
#[derive(Clone, Debug, Default)]
pub enum Rules {
    /// Everybody who can reach it.
    #[default]
    Everybody,
    /// These endpoints.
    Listed(HashSet<EndpointId>),
    /// Whoever has one of these tokens.
    Tokens(Vec<TokenEntry>),
}

/// By what a client came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ticket {
    Open,
    Listed,
    Token(TokenId),
}

/// How long the log does not repeat that the same endpoint is kept out.
const QUIET: Duration = Duration::from_secs(60);

/// How many lines about who is kept out the log has in that time.
const LINES: u64 = 20;

/// What a client that is kept out is told.
pub(crate) const NOT_LISTED: &str = "this EndpointId is not listed at the relay";
const NO_TOKEN: &str = "the relay asks for a token: give --relay-token-file";
const BAD_TOKEN: &str = "the relay does not accept this token";

impl Rules {
    fn admit(&self, id: EndpointId, token: Option<&str>) -> Result<Ticket, &'static str> {
        match self {
            Self::Everybody => Ok(Ticket::Open),
            Self::Listed(ids) if ids.contains(&id) => Ok(Ticket::Listed),
            Self::Listed(_) => Err(NOT_LISTED),
            Self::Tokens(entries) => {
                let token = token.ok_or(NO_TOKEN)?.as_bytes();
                let mut found = None;
                for entry in entries {
                    // Every one is compared, so that the time tells nothing.
                    if bool::from(entry.token.expose().as_bytes().ct_eq(token)) {
                        found = Some(Ticket::Token(entry.token.id()));
                    }
                }
                found.ok_or(BAD_TOKEN)
            }
        }
    }

    /// Whether who came in by this ticket may stay.
    fn keeps(&self, id: EndpointId, ticket: Ticket) -> bool {
        match self {
            Self::Everybody => true,
            Self::Listed(ids) => ids.contains(&id),
            Self::Tokens(entries) => {
                entries.iter().any(|entry| Ticket::Token(entry.token.id()) == ticket)
            }
        }
    }

    /// Whether the discovery server takes this endpoint's records. Requests to it carry no token.
    pub(crate) fn publishes(&self, id: EndpointId) -> bool {
        !matches!(self, Self::Listed(ids) if !ids.contains(&id))
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybody => f.write_str("everybody"),
            Self::Listed(ids) => write!(f, "{} listed endpoint(s)", ids.len()),
            Self::Tokens(tokens) => write!(f, "{} token(s)", tokens.len()),
        }
    }
}

/// A client that is in.
#[derive(Debug)]
struct Guest {
    id: EndpointId,
    ticket: Ticket,
    knock: Option<Knock>,
}

#[derive(Debug, Default)]
struct State {
    rules: Rules,
    /// Requests that the relay has taken and whose client has not shown who it is, by number.
    knocks: HashMap<u64, Knock>,
    guests: HashMap<ConnectionId, Guest>,
    /// Who was kept out last, and when that was written down: endpoints try again within seconds, for ever.
    refused: Option<(EndpointId, &'static str, Instant)>,
    /// When lines about who is kept out were last counted from, and how many there have been.
    lines: Option<(Instant, u64)>,
}

impl State {
    /// Whether the log may have one more line about who is kept out. Keys cost nothing, so everyone could fill it.
    fn may_tell(&mut self) -> bool {
        match &mut self.lines {
            Some((since, count)) if since.elapsed() < QUIET => {
                *count += 1;
                *count <= LINES
            }
            lines => {
                let left_out = lines.map_or(0, |(_, count)| count.saturating_sub(LINES));
                if left_out > 0 {
                    tracing::info!("{left_out} more refusals were not written down");
                }
                *lines = Some((Instant::now(), 1));
                true
            }
        }
    }
}

/// Lets clients in and knows who is in.
#[derive(Debug)]
pub(crate) struct Door {
    state: Mutex<State>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Door {
    pub(crate) fn new(rules: Rules, metrics: Arc<Metrics>) -> Arc<Self> {
        let state = Mutex::new(State { rules, ..State::default() });
        Arc::new(Self { state, next: AtomicU64::new(0), metrics })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a connection that the relay takes over until its client has shown who it is; returns its number.
    pub(crate) fn knock(&self, knock: Knock) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.state().knocks.insert(number, knock);
        number
    }

    /// Ends a connection whose client has not shown in time who it is.
    pub(crate) fn give_up(&self, number: u64) {
        let knock = self.state().knocks.remove(&number);
        if let Some(knock) = knock {
            knock.end();
        }
    }

    /// Whether the discovery server takes this endpoint's records.
    pub(crate) fn publishes(&self, id: EndpointId) -> bool {
        self.state().rules.publishes(id)
    }

    pub(crate) fn set_rules(&self, rules: Rules) {
        self.state().rules = rules;
    }

    /// Ends the connections of those who are in and may not be any more: one that takes no bytes does not hear the relay.
    pub(crate) fn end_unwanted(&self) {
        let state = self.state();
        for guest in
            state.guests.values().filter(|guest| !state.rules.keeps(guest.id, guest.ticket))
        {
            if let Some(knock) = &guest.knock {
                knock.end();
            }
        }
    }

    /// Who is in and may not be any more.
    pub(crate) fn unwanted(&self) -> Vec<(EndpointId, ConnectionId)> {
        let state = self.state();
        let guests = state.guests.iter();
        let gone = guests.filter(|(_, guest)| !state.rules.keeps(guest.id, guest.ticket));
        gone.map(|(connection, guest)| (guest.id, *connection)).collect()
    }
}

impl AccessControl for Door {
    async fn on_connect(&self, request: &ClientRequest) -> Access {
        let id = request.endpoint_id();
        let token = request.auth_token();
        let number =
            request.headers().get(KNOCK).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut state = self.state();
        match state.rules.admit(id, token.as_deref()) {
            Ok(ticket) => {
                let knock = number.and_then(|number: u64| state.knocks.remove(&number));
                state.guests.insert(request.connection_id(), Guest { id, ticket, knock });
                self.metrics.clients.set(i64::try_from(state.guests.len()).unwrap_or(i64::MAX));
                Access::Allow
            }
            // Its knock stays: a client that does not take the answer is ended like one that says nothing.
            Err(reason) => {
                let known = state.refused.is_some_and(|(last, why, at)| {
                    (last, why) == (id, reason) && at.elapsed() < QUIET
                });
                let tell = !known && state.may_tell();
                if !known {
                    state.refused = Some((id, reason, Instant::now()));
                }
                drop(state);
                self.metrics.clients_refused.inc();
                if tell {
                    tracing::info!("client {} refused: {reason}", id.fmt_short());
                }
                Access::Deny { reason: Some(reason.to_owned()) }
            }
        }
    }

    fn on_disconnect(&self, _: EndpointId, connection: ConnectionId) {
        let mut state = self.state();
        let guest = state.guests.remove(&connection);
        self.metrics.clients.set(i64::try_from(state.guests.len()).unwrap_or(i64::MAX));
        drop(state);
        drop(guest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";
    const OTHER: &str = "iw3nLKic3oV7zmFJ8v";

    fn id(seed: u8) -> EndpointId {
        iroh_base::SecretKey::from_bytes(&[seed; 32]).public()
    }

    fn entry(token: &str) -> TokenEntry {
        TokenEntry { token: token.parse().unwrap(), label: None }
    }

    #[test]
    fn each_rule_lets_in_whom_it_names() {
        assert!(Rules::Everybody.admit(id(1), None).is_ok());
        let listed = Rules::Listed([id(1)].into());
        assert!(listed.admit(id(1), None).is_ok());
        assert_eq!(listed.admit(id(2), Some(TOKEN)), Err(NOT_LISTED));
        let tokens = Rules::Tokens(vec![entry(OTHER), entry(TOKEN)]);
        assert!(tokens.admit(id(1), Some(TOKEN)).is_ok());
        assert_eq!(tokens.admit(id(1), None), Err(NO_TOKEN));
        for wrong in ["", &TOKEN[..17], "ikAdvudu_ZxNXhNLCE"] {
            assert_eq!(tokens.admit(id(1), Some(wrong)), Err(BAD_TOKEN), "{wrong}");
        }
        assert_eq!(Rules::Tokens(Vec::new()).admit(id(1), Some(TOKEN)), Err(BAD_TOKEN));
    }

    #[test]
    fn what_is_taken_back_is_not_kept() {
        let tokens = Rules::Tokens(vec![entry(TOKEN)]);
        let ticket = tokens.admit(id(1), Some(TOKEN)).unwrap();
        assert!(tokens.keeps(id(1), ticket));
        assert!(!Rules::Tokens(vec![entry(OTHER)]).keeps(id(1), ticket));
        assert!(!Rules::Listed([id(2)].into()).keeps(id(1), Ticket::Listed));
        assert!(Rules::Listed([id(1)].into()).keeps(id(1), Ticket::Open));
    }

    #[test]
    fn a_list_rules_who_publishes_and_a_token_does_not() {
        let listed = Rules::Listed([id(1)].into());
        assert!(listed.publishes(id(1)) && !listed.publishes(id(2)));
        assert!(Rules::Tokens(Vec::new()).publishes(id(2)) && Rules::Everybody.publishes(id(2)));
    }
}
