use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tunnel_ice::signaling::nostr::{Action, Message, Negotiation, Nonce, Npub, Reason, SessionId};
use tunnel_ice::{Description, Endpoint, IceConnection, PathState, Side, StunServer};
use tunnel_model::Source;
use tunnel_session::client::{DialError, Dialer};

use super::line::Line;
use crate::cli::path::watch_path;

/// How long an offer is waited for. A server gathers for a second at most, and each repetition is seen by a relay that
/// works.
const OFFER: Duration = Duration::from_secs(10);

/// How long a path may take once both sides know each other.
const PATH: Duration = Duration::from_secs(9);

/// Finds the server through the relays whenever there is no path to it.
#[derive(Clone)]
pub(super) struct NostrDialer {
    shared: Arc<Shared>,
}

struct Shared {
    line: Line,
    server: Npub,
    stun: Vec<StunServer>,
    sources: Vec<Source>,
    /// What the last connection went over, as long as it may serve another one.
    current: Mutex<Option<Current>>,
    /// Counts changes of the machine's network.
    network: watch::Sender<u64>,
    /// Whether there has been a session.
    ever: AtomicBool,
    /// Whether the server allows none of the sources.
    all_refused: watch::Sender<bool>,
}

struct Current {
    endpoint: Endpoint,
    shows: tokio::task::JoinHandle<()>,
}

impl Drop for Current {
    fn drop(&mut self) {
        self.shows.abort();
    }
}

/// Tells the server that nobody waits for it any more, unless that has been settled.
struct Withdraw<'a> {
    line: &'a Line,
    server: Npub,
    negotiation: Option<Negotiation>,
}

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        if let Some(mut negotiation) = self.negotiation.take() {
            self.line.say(self.server, &negotiation.withdraw());
        }
    }
}

fn failed(message: impl ToString) -> DialError {
    DialError { message: message.to_string(), fatal: false }
}

impl NostrDialer {
    pub(super) fn new(
        line: Line,
        server: Npub,
        stun: Vec<StunServer>,
        sources: Vec<Source>,
    ) -> Self {
        let shared = Shared {
            line,
            server,
            stun,
            sources,
            current: Mutex::default(),
            network: watch::Sender::new(0),
            ever: AtomicBool::new(false),
            all_refused: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Whether the server allows none of the sources that are asked for.
    pub(super) fn all_refused(&self) -> bool {
        *self.shared.all_refused.borrow()
    }

    /// The machine's network has changed.
    pub(super) fn network_has_changed(&self) {
        self.shared.network.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.shared.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The path that stands, with a peer that has not said that it ends.
    fn standing(&self) -> Option<Endpoint> {
        let current = self.current();
        let endpoint = &current.as_ref()?.endpoint;
        let up = endpoint.peer_address().is_some() && !endpoint.was_ended_by_peer();
        up.then(|| endpoint.clone())
    }

    /// Closes what the last connection went over, and tells the server.
    pub(super) async fn close(&self) {
        let current = self.current().take();
        if let Some(current) = current {
            current.endpoint.close().await;
        }
    }

    /// Agrees with the server on an endpoint to which there is a path.
    async fn negotiate(&self) -> Result<Endpoint, DialError> {
        let Shared { line, server, stun, sources, .. } = &*self.shared;
        let endpoint = Endpoint::bind(Side::Offering, stun.clone(), None).await.map_err(failed)?;
        let description = endpoint.gathered().await;
        // Heard before anything is said.
        let mut messages = line.messages();
        if timeout(OFFER, line.connected()).await.is_err() {
            return Err(failed(format!("no Nostr relay can be reached: {}", line.standing())));
        }
        let session = SessionId::generate().map_err(failed)?;
        let nonce = Nonce::generate().map_err(failed)?;
        let now = Instant::now().into_std();
        let mut told = description.clone();
        let negotiation =
            Negotiation::new(*server, session, nonce, description, sources.clone(), now);
        let mut open = Withdraw { line, server: *server, negotiation: Some(negotiation) };
        let mut met: Option<Description> = None;
        let mut ends = Instant::now() + OFFER;
        let mut path = endpoint.path();
        loop {
            let Some(negotiation) = &mut open.negotiation else { return Ok(endpoint) };
            while let Some(action) = negotiation.poll(Instant::now().into_std()) {
                match action {
                    Action::Publish(message) => line.say(*server, &message),
                    Action::Meet(peer) => {
                        tracing::debug!("the server has answered");
                        endpoint.meet(&peer, Some(server.to_string())).await.map_err(failed)?;
                        met = Some(peer);
                        ends = Instant::now() + PATH;
                    }
                    Action::Update(peer) => {
                        endpoint.meet(&peer, Some(server.to_string())).await.map_err(failed)?;
                        met = Some(peer);
                    }
                    Action::Refused(refused) => {
                        open.negotiation = None;
                        return Err(self.refused(&refused.reason, &refused.words));
                    }
                    Action::GiveUp => break,
                }
            }
            let due = negotiation.poll_at().map_or(ends, |at| ends.min(at.into()));
            tokio::select! {
                (from, message) = messages.next() => take(negotiation, from, message),
                description = endpoint.changed(&told) => {
                    told.clone_from(&description);
                    negotiation.update(description);
                }
                up = async { path.wait_for(|state| matches!(state, PathState::Up(_))).await.is_ok() }, if met.is_some() => {
                    if up {
                        // The connection says what the answer would.
                        open.negotiation = None;
                    }
                }
                () = sleep_until(due) => {}
            }
            if open.negotiation.is_some() && Instant::now() >= ends {
                return Err(match &met {
                    Some(peer) => failed(format!("no path: {}", endpoint.diagnose(peer))),
                    None => failed(format!(
                        "the server does not answer: it is not running, not at these relays ({}), or does not know this npub",
                        line.standing()
                    )),
                });
            }
        }
    }

    fn refused(&self, reason: &Reason, words: &str) -> DialError {
        let words = words.escape_debug();
        match reason {
            Reason::SourcesRefused(refusals) => {
                for refusal in refusals {
                    tracing::warn!("the server refuses {}", refusal.escape_debug());
                }
                let message = "the server refuses every source asked for".to_owned();
                // Rules that have changed may change again.
                let fatal = !self.shared.ever.load(Ordering::Relaxed);
                self.shared.all_refused.send_replace(fatal);
                DialError { message, fatal }
            }
            Reason::Full => {
                failed(format!("the server has as many sessions as it takes ({words})"))
            }
            Reason::Busy | Reason::Failed | Reason::Withdrawn => {
                failed(format!("the server cannot take this client at the moment: {words}"))
            }
        }
    }
}

fn take(negotiation: &mut Negotiation, from: Npub, message: Message) {
    if let Err(why) = negotiation.handle(from, message, Instant::now().into_std()) {
        tracing::debug!("a message of {from} is not taken: {why}");
    }
}

impl Dialer for NostrDialer {
    type Connection = IceConnection;

    async fn dial(&self) -> Result<IceConnection, DialError> {
        if let Some(endpoint) = self.standing() {
            let mut path = endpoint.path();
            let dialer = endpoint.dialer();
            // A path that has died is called so some seconds later.
            let lost = async {
                drop(path.wait_for(|state| !matches!(state, PathState::Up(_))).await);
            };
            tokio::select! {
                dialled = dialer.dial() => if let Ok(connection) = dialled {
                    return Ok(connection);
                },
                () = lost => {}
            }
        }
        let endpoint = self.negotiate().await?;
        let connection = endpoint.dialer().dial().await?;
        self.shared.ever.store(true, Ordering::Relaxed);
        let shows = tokio::spawn(watch_path(endpoint.path()));
        *self.current() = Some(Current { endpoint, shows });
        Ok(connection)
    }

    fn attempt_limits(&self) -> (Duration, Duration) {
        // What it waits for has limits of its own, and words for each.
        (OFFER + PATH, OFFER + OFFER + PATH)
    }

    fn network_changed(&self) -> impl Future<Output = ()> + Send {
        let mut network = self.shared.network.subscribe();
        let path = self.current().as_ref().map(|current| current.endpoint.path());
        async move {
            let restored = async {
                let Some(mut path) = path else { return std::future::pending().await };
                path.mark_unchanged();
                loop {
                    if path.changed().await.is_err() {
                        return std::future::pending().await;
                    }
                    if matches!(*path.borrow_and_update(), PathState::Up(_)) {
                        return;
                    }
                }
            };
            tokio::select! {
                // The sender is the dialer's own.
                _ = network.changed() => {}
                () = restored => {}
            }
        }
    }
}
