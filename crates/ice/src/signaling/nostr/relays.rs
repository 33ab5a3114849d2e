//! Several relays at once, of which one that works is enough.
//!
//! nostr-sdk connects, subscribes, authenticates (NIP-42) and speaks the protocol. Below it, [`transport`] and [`pump`]
//! keep away from it what a relay could do harm with: floods, garbage, silence, and events that nobody asked for.

mod inbox;
mod pump;
mod state;
mod transport;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nostr_sdk::{
    Client, ClientMessage, ClientOptions, Event, EventId, Filter, Kind, RelayOptions,
    RelayPoolOptions, RelayUrl, SubscriptionId, Timestamp,
};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::Connector;

pub use inbox::Events;
pub use state::Health;

use self::inbox::Inbox;
use self::state::{Complaint, REMIND, Relay};
use self::transport::Guarded;
use super::key::{NostrKey, Npub};
use super::replay::{Replay, ReplayGuard};
use super::seal::{self, KIND, MAX_AGE, Rejected, peer_tag};

/// The most relays at once. Each is a connection, and one that works is enough.
pub const MAX_RELAYS: usize = 16;

/// How long [`Relays::publish`] waits for a relay to take an event.
const PUBLISH: Duration = Duration::from_secs(5);

/// Of the one subscription; NIP-01 allows 64 characters.
const SUBSCRIPTION: &str = "tunnel-rs";

/// Why there is no signaling at all.
#[derive(Debug, Error)]
pub enum RelaysError {
    /// None was named.
    #[error("no Nostr relay is named: give at least one with --relay")]
    None,
    /// More than [`MAX_RELAYS`].
    #[error(
        "{0} Nostr relays are named, and at most {MAX_RELAYS} are used at once: leave some out"
    )]
    TooMany(usize),
    /// No peer was named.
    #[error("no peer is named: give the other side's npub with --peer-npub")]
    NoPeer,
    /// The library does not take it.
    #[error("cannot use the Nostr relay {0}: {1}")]
    Relay(RelayUrl, nostr_sdk::pool::pool::Error),
}

/// Why no relay has taken an event. It may be published again.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PublishError {
    /// There is no connection to any, or all that are connected do not answer.
    #[error("no Nostr relay is connected")]
    NotConnected,
    /// None has answered in time.
    #[error("no Nostr relay has answered within {} s", PUBLISH.as_secs())]
    NoAnswer,
    /// All have refused; this is what the last one said.
    #[error("every Nostr relay refuses: {0}")]
    Refused(String),
}

/// A relay's word on an event: taken, or why not.
type Verdict = Result<(), String>;

/// What all connections share.
#[derive(Debug)]
struct Shared {
    own: Npub,
    peers: BTreeSet<Npub>,
    subscription: SubscriptionId,
    relays: BTreeMap<RelayUrl, Arc<Relay>>,
    seen: Mutex<ReplayGuard>,
    /// Peers of which something odd has been logged.
    odd: Mutex<HashSet<Npub>>,
    /// `None` once all is closed.
    inboxes: Mutex<Option<Vec<Weak<Inbox>>>>,
    published: Mutex<HashMap<EventId, mpsc::Sender<Verdict>>>,
    /// When it was last logged that no relay is left.
    alone: Mutex<Option<Instant>>,
    /// How many relays serve the subscription.
    serving: watch::Sender<usize>,
    /// Counts how often the network has changed.
    network: watch::Sender<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Counts the relays that serve the subscription.
    fn count(&self) {
        let serving = self.relays.values().filter(|relay| relay.is_serving()).count();
        let before = self.serving.send_replace(serving);
        if before == 0 || serving > 0 || lock(&self.inboxes).is_none() {
            return;
        }
        let (mut alone, now) = (lock(&self.alone), Instant::now());
        if alone.is_none_or(|last| now >= last + REMIND) {
            *alone = Some(now);
            tracing::warn!("no Nostr relay is left: the other side cannot be reached by signaling");
        }
    }

    /// Hands on a relay's word to whoever published the event.
    fn verdict(&self, id: &EventId, verdict: Verdict) {
        if let Some(sender) = lock(&self.published).get(id) {
            // There is room for one of each relay.
            let _ = sender.try_send(verdict);
        }
    }

    /// Takes an event that a relay delivers. `live` is whether it was published just now, as far as the relay says.
    fn take(&self, relay: &Relay, event: Event, live: bool) {
        let now = Timestamp::now();
        let is_peer = |author: &Npub| self.peers.contains(author);
        let author = match seal::check(self.own, is_peer, &event, now) {
            Ok(author) => author,
            Err(why @ (Rejected::Stale(_) | Rejected::Future(_))) => {
                if live && let Some(author) = Npub::of(event.pubkey) {
                    self.note(&event, author, &why);
                }
                return;
            }
            Err(Rejected::Own) => return,
            Err(why) => return relay.complain(Complaint::Unasked, &why.to_string()),
        };
        if lock(&self.seen).has_seen(author, &event.id) {
            return;
        }
        if event.verify().is_err() {
            return relay.complain(Complaint::Forged, "");
        }
        match lock(&self.seen).take(author, event.id, event.created_at, now) {
            Ok(()) => {}
            Err(Replay::Seen) => return,
            Err(why @ Replay::TooMany) => return self.note(&event, author, &why),
        }
        if let Some(inboxes) = &mut *lock(&self.inboxes) {
            inboxes.retain(|inbox| match inbox.upgrade() {
                Some(inbox) => {
                    inbox.push(author, event.clone());
                    true
                }
                None => false,
            });
        }
    }

    /// Ends the streams of events.
    fn close(&self) {
        let inboxes = lock(&self.inboxes).take().unwrap_or_default();
        inboxes.iter().filter_map(Weak::upgrade).for_each(|inbox| inbox.close());
    }

    /// Logs once of each peer what is odd with its events, if it is the peer's doing at all.
    fn note(&self, event: &Event, author: Npub, why: &dyn fmt::Display) {
        if lock(&self.odd).contains(&author) || event.verify().is_err() {
            return;
        }
        if lock(&self.odd).insert(author) {
            tracing::warn!("an event of {author} is not taken: {why}; further ones are not logged");
        }
    }
}

/// Connections to several relays, kept up for ever. Cheap to clone; they end with the last clone.
#[derive(Clone, Debug)]
pub struct Relays {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: Client,
    shared: Arc<Shared>,
    pool: BTreeMap<RelayUrl, nostr_sdk::Relay>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// An entry of [`Shared::published`], for as long as somebody waits.
struct Published<'a>(&'a Shared, EventId);

impl Drop for Published<'_> {
    fn drop(&mut self) {
        lock(&self.0.published).remove(&self.1);
    }
}

impl Relays {
    /// Begins to connect to all of them, and to subscribe to what `peers` tell the holder of `key`. TLS takes the
    /// process's default provider, and trusts the web's authorities.
    ///
    /// # Errors
    ///
    /// [`RelaysError`]; a relay that is out of reach is none.
    pub async fn start(
        key: &NostrKey,
        peers: impl IntoIterator<Item = Npub>,
        urls: impl IntoIterator<Item = RelayUrl>,
    ) -> Result<Self, RelaysError> {
        Self::start_with(key, peers, urls, None).await
    }

    async fn start_with(
        key: &NostrKey,
        peers: impl IntoIterator<Item = Npub>,
        urls: impl IntoIterator<Item = RelayUrl>,
        connector: Option<Connector>,
    ) -> Result<Self, RelaysError> {
        // Without one the TLS library panics where it is built with several.
        crate::crypto::install();
        let urls: BTreeSet<RelayUrl> = urls.into_iter().collect();
        let peers: BTreeSet<Npub> = peers.into_iter().collect();
        match urls.len() {
            0 => return Err(RelaysError::None),
            1..=MAX_RELAYS => {}
            more => return Err(RelaysError::TooMany(more)),
        }
        if peers.is_empty() {
            return Err(RelaysError::NoPeer);
        }
        let own = key.npub();
        let filter = Filter::new()
            .kind(Kind::Custom(KIND))
            .authors(peers.iter().map(|peer| *peer.public_key()))
            .custom_tag(peer_tag(), own.public_key().to_hex())
            .since(Timestamp::from_secs(Timestamp::now().as_secs().saturating_sub(MAX_AGE)));
        let relays = urls.iter().map(|url| (url.clone(), Arc::new(Relay::new(url.clone()))));
        let shared = Arc::new(Shared {
            own,
            peers,
            subscription: SubscriptionId::new(SUBSCRIPTION),
            relays: relays.collect(),
            seen: Mutex::default(),
            odd: Mutex::default(),
            inboxes: Mutex::new(Some(Vec::new())),
            published: Mutex::default(),
            alone: Mutex::default(),
            serving: watch::Sender::new(0),
            network: watch::Sender::new(0),
        });
        // The pool's notifications are not read: nothing is kept for nobody.
        let client = Client::builder()
            .signer(key.keys().clone())
            .websocket_transport(Guarded::new(shared.clone(), connector))
            .opts(ClientOptions::new().pool(RelayPoolOptions::new().notification_channel_size(1)))
            .build();
        // What is saved in the pool, each relay subscribes to whenever it connects.
        client.pool().save_subscription(shared.subscription.clone(), filter).await;
        let mut pool = BTreeMap::new();
        for url in urls {
            // The transport has better ways to wait and to notice silence.
            let options = RelayOptions::new()
                .ping(false)
                .adjust_retry_interval(false)
                .retry_interval(Duration::ZERO);
            let added = client.pool().add_relay(url.clone(), options).await;
            let relay = match added {
                Ok(_) => client.pool().relay(url.clone()).await,
                Err(error) => Err(error),
            };
            let relay = relay.map_err(|error| RelaysError::Relay(url.clone(), error))?;
            pool.insert(url, relay);
        }
        client.connect().await;
        Ok(Self { inner: Arc::new(Inner { client, shared, pool }) })
    }

    /// Waits until at least one relay has taken the subscription: it says so, or has been connected for 5 s. What is
    /// published before that, the answer may be lost to. Waits for ever where there is no relay to be reached.
    pub async fn connected(&self) {
        let mut serving = self.inner.shared.serving.subscribe();
        // The sender lives as long as this.
        let _ = serving.wait_for(|serving| *serving > 0).await;
    }

    /// How things stand with each relay.
    pub fn health(&self) -> Vec<(RelayUrl, Health)> {
        let relays = self.inner.shared.relays.iter();
        relays.map(|(url, relay)| (url.clone(), relay.health())).collect()
    }

    /// The events of peers for this side from now on, each once: genuine, recent, and none of them a replay. What is
    /// encrypted in them is for [`open`](super::open) to say. Every call gives another stream of all of them.
    pub fn events(&self) -> Events {
        let inbox = Arc::new(Inbox::default());
        match &mut *lock(&self.inner.shared.inboxes) {
            Some(inboxes) => inboxes.push(Arc::downgrade(&inbox)),
            None => inbox.close(),
        }
        Events::new(inbox)
    }

    /// Publishes an event through all relays that are connected; returns once one has taken it. One that is slow holds
    /// nothing up, and gets no more while it has not answered for 32 events.
    ///
    /// # Errors
    ///
    /// [`PublishError`] where none has taken it within 5 s.
    pub async fn publish(&self, event: &Event) -> Result<(), PublishError> {
        let Inner { shared, pool, .. } = &*self.inner;
        let (sender, mut verdicts) = mpsc::channel(MAX_RELAYS);
        lock(&shared.published).insert(event.id, sender);
        let _published = Published(shared, event.id);
        let deadline = Instant::now() + PUBLISH;
        let mut asked = 0;
        for (url, relay) in &shared.relays {
            if !relay.ask(event.id, Instant::now()) {
                continue;
            }
            let sent =
                pool.get(url).map(|relay| relay.send_msg(ClientMessage::event(event.clone())));
            match sent {
                Some(Ok(())) => asked += 1,
                Some(Err(_)) | None => relay.unask(&event.id),
            }
        }
        let mut refused = None;
        while asked > 0 {
            match timeout_at(deadline, verdicts.recv()).await {
                Ok(Some(Ok(()))) => return Ok(()),
                Ok(Some(Err(words))) => refused = Some(words),
                Ok(None) | Err(_) => return Err(PublishError::NoAnswer),
            }
            asked -= 1;
        }
        Err(refused.map_or(PublishError::NotConnected, PublishError::Refused))
    }

    /// Connects to all relays anew, at once: the machine's network has changed, so that connections may be dead without
    /// a sign of it.
    pub fn network_changed(&self) {
        self.inner.shared.network.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Closes all connections, and ends the streams of events.
    pub async fn close(&self) {
        self.inner.shared.close();
        self.inner.client.shutdown().await;
    }
}
