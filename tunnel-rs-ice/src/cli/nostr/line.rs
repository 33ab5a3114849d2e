use tunnel_ice::NetworkWatch;
use tunnel_ice::signaling::nostr::{
    Events, Health, Message, NostrKey, Npub, PayloadError, Rejected, RelayUrl, Relays, RelaysError,
    Timestamp, open, seal,
};

/// What this side says to its peers and hears from them. Cheap to clone.
#[derive(Clone)]
pub(super) struct Line {
    relays: Relays,
    key: NostrKey,
    peers: Vec<Npub>,
}

impl Line {
    pub(super) async fn start(
        key: NostrKey,
        peers: Vec<Npub>,
        urls: Vec<RelayUrl>,
    ) -> Result<Self, RelaysError> {
        let relays = Relays::start(&key, peers.iter().copied(), urls).await?;
        Ok(Self { relays, key, peers })
    }

    /// Connects to the relays anew whenever the machine's network changes, and tells the caller.
    pub(super) async fn follow_network(&self, changed: impl Fn()) {
        let mut network = NetworkWatch::start().await;
        loop {
            network.changed().await;
            self.relays.network_changed();
            changed();
        }
    }

    pub(super) async fn connected(&self) {
        self.relays.connected().await;
    }

    /// Whether a relay works.
    pub(super) fn is_served(&self) -> bool {
        self.relays.health().iter().any(|(_, health)| matches!(health, Health::Serving))
    }

    /// How things stand with the relays, in words.
    pub(super) fn standing(&self) -> String {
        let word = |health| match health {
            Health::New => "not reached yet",
            Health::Serving => "works",
            Health::Slow => "does not answer in time",
            Health::Rejecting => "refuses",
            Health::Unreachable => "out of reach",
        };
        let all = self.relays.health().into_iter();
        all.map(|(url, health)| format!("{url} {}", word(health))).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn messages(&self) -> Messages {
        let (key, peers) = (self.key.clone(), self.peers.clone());
        Messages { events: self.relays.events(), key, peers, told: false }
    }

    /// Says something to a peer. What does not arrive is said again by whoever waits for the answer.
    pub(super) fn say(&self, peer: Npub, message: &Message) {
        let event = match seal(&self.key, peer, message, Timestamp::now()) {
            Ok(event) => event,
            Err(error) => return tracing::error!("{error}"),
        };
        let (relays, kind) = (self.relays.clone(), message.kind());
        tokio::spawn(async move {
            match relays.publish(&event).await {
                Ok(()) => tracing::debug!("{kind} published for {peer}"),
                Err(error) => tracing::debug!("{kind} for {peer} not published: {error}"),
            }
        });
    }

    pub(super) async fn close(&self) {
        self.relays.close().await;
    }
}

/// What peers say.
pub(super) struct Messages {
    events: Events,
    key: NostrKey,
    peers: Vec<Npub>,
    /// Whether it was said that a peer has another version.
    told: bool,
}

impl Messages {
    /// The next message that is a peer's. Waits for ever once the relays are closed.
    pub(super) async fn next(&mut self) -> (Npub, Message) {
        while let Some(event) = self.events.next().await {
            match open(&self.key, &self.peers, &event, Timestamp::now()) {
                Ok((peer, message)) => {
                    tracing::debug!("{} from {peer}", message.kind());
                    return (peer, message);
                }
                Err(Rejected::Payload(why @ PayloadError::Version(_))) if !self.told => {
                    self.told = true;
                    tracing::warn!("a peer cannot be understood: {why}");
                }
                Err(why) => tracing::debug!("an event is not taken: {why}"),
            }
        }
        std::future::pending().await
    }
}
