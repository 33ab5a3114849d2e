use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::RelayStatus;
use iroh::{EndpointAddr, EndpointId, RelayUrl, Watcher};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tunnel_model::CloseCode;
use tunnel_session::transport::{Connection as _, Role};

use crate::revive::{Alive, Rest, clogged, stuck};
use crate::tor::{Gate, choose_home_relay};
use crate::{IrohConnection, RelayCa, SecretKey, Ticket, crypto, relays};

mod config;

pub use config::{Discovery, EndpointConfig, EndpointError, RelayServer, Relays};

/// For an endpoint to close that is to be replaced; its connections are of no use any more.
const CLOSING: Duration = Duration::from_secs(1);

/// A bound endpoint: the server's or the client's.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
    _watch: Arc<Task>,
}

#[derive(Debug)]
struct Shared {
    /// iroh's, which is replaced where it stays away from a relay that answers; `None` once it is closed for good.
    present: watch::Sender<Option<iroh::Endpoint>>,
    id: EndpointId,
    role: Role,
    config: EndpointConfig,
    /// Its own relays, where there are several.
    relays: Arc<[RelayUrl]>,
    tor: Option<Gate>,
    alive: Alive,
    /// Told by connections that leave a relay that has gone.
    left: Arc<Notify>,
}

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why an incoming connection came to nothing.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// The handshake failed.
    #[error("handshake failed: {0}")]
    Handshake(String),
    /// The handshake took too long.
    #[error("handshake took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The handshake chose a classical key exchange.
    #[error("{0} chose a key exchange that is not post-quantum")]
    NotPostQuantum(EndpointId),
}

/// What can be said of an endpoint's connection to the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Connected to this relay.
    Relay(RelayUrl),
    /// The relay answers and keeps this endpoint out.
    Refused(RelayRefusal),
    /// No relay answers; perhaps the reason.
    NoRelay(Option<String>),
    /// No relay is configured.
    Direct,
}

/// What a relay says that keeps an endpoint out.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the relay {relay} refuses this endpoint: {}", reason.escape_debug())]
pub struct RelayRefusal {
    /// Which relay.
    pub relay: RelayUrl,
    /// The relay's own words.
    pub reason: String,
}

impl Endpoint {
    /// Binds an endpoint.
    ///
    /// # Errors
    ///
    /// Where the sockets cannot be bound.
    pub async fn bind(config: EndpointConfig, role: Role) -> Result<Self, EndpointError> {
        crypto::install();
        let tor = match config.tor {
            Some(tor) => Some(Gate::open(tor).await?),
            None => None,
        };
        let inner = config.bind(role, tor.as_ref()).await?;
        let relays: Arc<[_]> = match &config.relays {
            // Those behind Tor cannot be asked past it whether they are there.
            Relays::Own(relays) if relays.len() > 1 && tor.is_none() => {
                relays.iter().map(|relay| relay.url.clone()).collect()
            }
            Relays::Own(_) | Relays::Public => [].into(),
        };
        let shared = Arc::new(Shared {
            id: inner.id(),
            present: watch::Sender::new(Some(inner)),
            role,
            config,
            relays,
            tor,
            alive: Alive::default(),
            left: Arc::default(),
        });
        let watch = Arc::new(Task(tokio::spawn(supervise(shared.clone()))));
        Ok(Self { shared, _watch: watch })
    }

    /// This endpoint's identity.
    pub fn id(&self) -> EndpointId {
        self.shared.id
    }

    /// iroh's endpoint as it is at the moment; the last one where it is closed.
    pub(crate) fn present(&self) -> Option<iroh::Endpoint> {
        self.shared.present.borrow().clone()
    }

    /// Resolves when iroh's endpoint has been replaced since the call, or closed.
    pub(crate) fn replaced(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut present = self.shared.present.subscribe();
        async move {
            if present.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A connection of this endpoint.
    pub(crate) fn connection(&self, connection: iroh::endpoint::Connection) -> IrohConnection {
        self.shared.alive.note(&connection);
        let relays = self.shared.relays.clone();
        let (announced, left) = (self.announces_direct_paths(), self.shared.left.clone());
        IrohConnection::new(connection, self.id(), relays, announced, left)
    }

    /// The next connection that comes in, before its handshake; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Accepting> {
        let mut present = self.shared.present.subscribe();
        loop {
            let endpoint = present.borrow_and_update().clone()?;
            let incoming = tokio::select! {
                incoming = endpoint.accept() => incoming,
                _ = present.changed() => continue,
            };
            if let Some(incoming) = incoming {
                return Some(Accepting { incoming, endpoint: self.clone() });
            }
            // It is being replaced, or closed for good.
            present.changed().await.ok()?;
        }
    }

    /// Waits until a relay answers or refuses, at most `limit`, and says how things stand.
    pub async fn standing(&self, limit: Duration) -> Standing {
        if self.relay_status().is_empty()
            && matches!(&self.shared.config.relays, Relays::Own(relays) if relays.is_empty())
        {
            return Standing::Direct;
        }
        let known = async {
            tokio::select! {
                _ = self.online() => {}
                _ = self.refused() => {}
            }
        };
        let _ = timeout(limit, known).await;
        self.present_standing()
    }

    /// Waits until a relay answers, however long that takes.
    pub async fn online(&self) -> Standing {
        loop {
            let (replaced, endpoint) = (self.replaced(), self.present());
            let online = async {
                match endpoint {
                    Some(endpoint) => endpoint.online().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = online => return self.present_standing(),
                () = replaced => {}
            }
        }
    }

    fn relay_status(&self) -> Vec<RelayStatus> {
        self.present().map(|endpoint| endpoint.home_relay_status().get()).unwrap_or_default()
    }

    /// Waits until the relay answers and keeps this endpoint out, however long that takes.
    pub async fn refused(&self) -> RelayRefusal {
        loop {
            let (replaced, endpoint) = (self.replaced(), self.present());
            let refused = async {
                let mut status = endpoint.map(|endpoint| endpoint.home_relay_status());
                while let Some(status) = &mut status {
                    if let Some(refusal) = refusal(&status.get()) {
                        return refusal;
                    }
                    if status.updated().await.is_err() {
                        break;
                    }
                }
                // The endpoint is closed: nothing will change any more.
                std::future::pending().await
            };
            tokio::select! {
                refusal = refused => return refusal,
                () = replaced => {}
            }
        }
    }

    /// How things stand with the relay at the moment.
    pub fn present_standing(&self) -> Standing {
        let relays = self.relay_status();
        if let Some(relay) = relays.iter().find(|relay| relay.is_connected()) {
            return Standing::Relay(relay.url().clone());
        }
        if let Some(refusal) = refusal(&relays) {
            return Standing::Refused(refusal);
        }
        if let Some(reason) = self.tor_failure() {
            return Standing::NoRelay(Some(reason));
        }
        let reason = relays
            .iter()
            .find_map(|relay| relay.last_error().map(|error| one_line(&format!("{error:#}"))));
        Standing::NoRelay(reason)
    }

    /// The ticket for this endpoint as it can be reached at the moment.
    pub fn ticket(&self) -> Ticket {
        let addr =
            self.present().map_or_else(|| EndpointAddr::new(self.id()), |inner| inner.addr());
        let config = &self.shared.config;
        let own = match &config.relays {
            Relays::Public => &[][..],
            Relays::Own(relays) => relays,
        };
        let mut relays: Vec<_> = own.iter().map(|r| r.url.clone()).collect();
        let mut quic_ports: Vec<_> = own.iter().map(|r| r.quic_port).collect();
        for url in addr.relay_urls().filter(|url| !own.iter().any(|r| r.url == **url)) {
            relays.push(url.clone());
            quic_ports.push(None);
        }
        Ticket {
            id: self.id(),
            // Who has a ticket need not learn from it what Tor hides; the two ends tell each other when they meet.
            addresses: if self.uses_tor() {
                Vec::new()
            } else {
                addr.ip_addrs().copied().collect()
            },
            relays,
            quic_ports,
            discovery: match &config.discovery {
                Discovery::Own(url) => Some(url.clone()),
                Discovery::Public | Discovery::None => None,
            },
            relay_pins: match &config.relay_ca {
                RelayCa::Pins(pins) => pins.clone(),
                RelayCa::WebRoots | RelayCa::Roots(_) => Vec::new(),
            },
            own_infrastructure: config.own_infrastructure(),
        }
    }

    /// Where the server `id` may be before discovery has been asked: the ticket's addresses, and one's own relays.
    pub(crate) fn address_of(&self, id: EndpointId, ticket: Option<&Ticket>) -> EndpointAddr {
        let mut addr = EndpointAddr::new(id);
        if let Relays::Own(relays) = &self.shared.config.relays {
            for relay in relays {
                addr = addr.with_relay_url(relay.url.clone());
            }
        }
        if let Some(ticket) = ticket {
            // Before the two have met through Tor, a packet straight to the other would only give this side away.
            if !self.uses_tor() {
                addr = ticket.addresses.iter().fold(addr, |addr, ip| addr.with_ip_addr(*ip));
            }
            addr = ticket.relays.iter().fold(addr, |addr, url| addr.with_relay_url(url.clone()));
        }
        addr
    }

    /// Whether a direct path is to be said, as the rest goes through Tor.
    pub(crate) fn announces_direct_paths(&self) -> bool {
        self.shared.tor.as_ref().is_some_and(|tor| !tor.only())
    }

    /// Whether relays are reached through Tor, which takes longer.
    pub fn uses_tor(&self) -> bool {
        self.shared.tor.is_some()
    }

    /// Why the relays are out of reach through Tor, where that is so.
    pub(crate) fn tor_failure(&self) -> Option<String> {
        self.shared.tor.as_ref().and_then(Gate::failure)
    }

    /// Closes every connection and waits until the peers have been told.
    pub async fn close(&self) {
        if let Some(endpoint) = self.shared.present.send_replace(None) {
            endpoint.close().await;
        }
    }
}

/// Watches over the relays of an endpoint, and replaces iroh's part of it where that is stuck, until it is closed.
async fn supervise(shared: Arc<Shared>) {
    let rest = Rest::default();
    // Ports that were asked for are not free again before the last connection is gone.
    let replaceable = shared.config.bind.is_empty();
    let mut present = shared.present.subscribe();
    loop {
        let Some(endpoint) = present.borrow_and_update().clone() else { return };
        let choose_relay = async {
            if let Some(gate) = &shared.tor {
                let map = shared.config.relay_mode().relay_map();
                choose_home_relay(endpoint.clone(), gate.clone(), map).await;
            } else if !shared.relays.is_empty() {
                relays::watch(endpoint.clone(), shared.relays.clone()).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            () = choose_relay => {}
            // Whether a relay behind Tor answers cannot be asked past it.
            () = stuck(&endpoint, &shared.alive, &rest), if replaceable && shared.tor.is_none() => {
                tracing::info!("the relay answers again: beginning anew with it");
                rest.begin();
                shared.replace(&endpoint).await;
            }
            () = clogged(&shared.left, &shared.alive, &rest), if replaceable => {
                tracing::info!("a relay that had gone is left: beginning anew without it");
                rest.begin();
                shared.replace(&endpoint).await;
            }
            _ = present.changed() => {}
        }
    }
}

impl Shared {
    /// Puts a fresh endpoint with the same key and, where they are free at once, the same ports in the place of `old`.
    async fn replace(&self, old: &iroh::Endpoint) {
        let secret = SecretKey(old.secret_key().clone());
        let ports = old.bound_sockets();
        // First, as both cannot have the same ports.
        let _ = timeout(CLOSING, old.close()).await;
        let mut config = EndpointConfig { secret: Some(secret), ..self.config.clone() };
        let tor = self.tor.as_ref();
        let fresh = match config.bind_to(&ports, self.role, tor).await {
            Ok(fresh) => Ok(fresh),
            Err(_) => {
                config.bind.clone_from(&self.config.bind);
                config.bind(self.role, tor).await
            }
        };
        let fresh = fresh.inspect_err(|error| tracing::error!("{error}; start this program again"));
        self.present.send_if_modified(|present| {
            // Closed meanwhile: nothing may come after that.
            if present.is_none() {
                return false;
            }
            if let Ok(fresh) = fresh {
                *present = Some(fresh);
            }
            true
        });
    }
}

fn refusal(relays: &[RelayStatus]) -> Option<RelayRefusal> {
    relays.iter().find_map(|relay| {
        let reason = relay.auth_denied_reason()?.to_owned();
        Some(RelayRefusal { relay: relay.url().clone(), reason })
    })
}

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A connection that has come in and has not yet shown who it is.
#[derive(Debug)]
pub struct Accepting {
    incoming: iroh::endpoint::Incoming,
    endpoint: Endpoint,
}

impl Accepting {
    /// Whether the peer has shown that packets to its address reach it.
    pub fn is_from_real_address(&self) -> bool {
        self.incoming.remote_addr_validated()
    }

    /// Makes the peer show that packets to its address reach it, and come again (RFC 9000 section 8.1.2).
    pub fn ask_for_proof_of_address(self) {
        // Fails only for one that has shown it.
        let _ = self.incoming.retry();
    }

    /// Completes the handshake within `limit`.
    ///
    /// # Errors
    ///
    /// [`AcceptError`] says what came instead.
    pub async fn complete(self, limit: Duration) -> Result<IrohConnection, AcceptError> {
        let failed =
            |error: &(dyn std::error::Error + 'static)| AcceptError::Handshake(chain(error));
        let connection = timeout(limit, async {
            self.incoming.accept().map_err(|e| failed(&e))?.await.map_err(|e| failed(&e))
        })
        .await
        .map_err(|_| AcceptError::TimedOut(limit))??;
        let remote = connection.remote_id();
        let connection = self.endpoint.connection(connection);
        require_post_quantum(&connection).map_err(|()| AcceptError::NotPostQuantum(remote))?;
        Ok(connection)
    }
}

/// Closes a connection whose handshake chose a classical key exchange.
pub(crate) fn require_post_quantum(connection: &IrohConnection) -> Result<(), ()> {
    if connection.key_exchange() == Some(crypto::POST_QUANTUM) {
        return Ok(());
    }
    connection.close(CloseCode::NotPostQuantum, "X25519MLKEM768 is needed");
    Err(())
}
