use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use iroh::address_lookup::{AddrFilter, DnsAddressLookup, PkarrPublisher, PkarrResolver};
use iroh::dns::{DnsResolver, FallbackMode};
use iroh::endpoint::{
    BindOpts, Builder, PortmapperConfig, QuicTransportConfig, RelayStatus, presets,
};
use iroh::{EndpointAddr, EndpointId, RelayConfig, RelayMap, RelayMode, RelayUrl, Watcher};
use thiserror::Error;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tunnel_model::CloseCode;
use tunnel_model::protocol::ALPN;
use tunnel_session::transport::{Connection as _, Role};
use url::Url;

use crate::congestion::Congestion;
use crate::connection::{STREAM_WINDOW, UNAUTHENTICATED_WINDOW, WINDOW};
use crate::mdns::LocalLink;
use crate::revive::{Alive, Rest, stuck};
use crate::tor::{Gate, Tor, TorError, choose_home_relay};
use crate::{IrohConnection, RelayCa, SecretKey, Ticket, crypto, relays};

/// The UDP port on which a relay tells clients their public address, where nothing else is said (iroh-relay,
/// `defaults::DEFAULT_RELAY_QUIC_PORT`).
const DEFAULT_QUIC_PORT: u16 = 7842;

/// What may be sent before the peer has acknowledged it, in bytes; as much as the peer's window takes.
const SEND_WINDOW: u64 = WINDOW as u64;

/// Datagrams waiting to be sent, in bytes. The oldest are dropped beyond it: 50 ms at 100 Mbit/s, so that a full queue
/// costs a voice call little.
const DATAGRAM_SEND_BUFFER: usize = 640 * 1024;

/// Datagrams waiting to be read, in bytes: a burst at 1 Gbit/s while this process is not scheduled for 16 ms.
const DATAGRAM_RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// Packets in flight per acknowledgement asked for (draft-ietf-quic-ack-frequency), and the longest the peer may wait.
const ACK_ELICITING_THRESHOLD: u32 = 10;

/// A direct path on which nothing came for so long is given up for another one; bytes are to flow again within 3 s. iroh
/// gives one by a relay 30 s instead (`RELAY_PATH_MAX_IDLE_TIMEOUT`). The last path is never given up (noq-proto 1.4, `Connection::close_path`), so where there is no relay an outage may last as
/// long as the connection's own idle timeout of 30 s. On a long path it is three times the probe timeout instead.
const PATH_IDLE: Duration = Duration::from_millis(2_800);

/// How often an idle path is asked for a sign of life: three times before it is given up.
const PATH_KEEP_ALIVE: Duration = Duration::from_millis(900);

/// For an endpoint to close that is to be replaced; its connections are of no use any more.
const CLOSING: Duration = Duration::from_secs(1);

/// A relay of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayServer {
    /// `https://` or `http://`.
    pub url: RelayUrl,
    /// The UDP port for address discovery, where it is not the usual one.
    pub quic_port: Option<u16>,
}

/// Which relays carry what cannot go directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Relays {
    /// iroh's public ones.
    #[default]
    Public,
    /// These and no others; none at all where empty.
    Own(Vec<RelayServer>),
}

/// Which discovery servers tell where an endpoint is, besides mDNS on the local link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// iroh's public one.
    #[default]
    Public,
    /// This one: a pkarr relay over HTTP.
    Own(Url),
    /// None.
    None,
}

/// How an endpoint is to be bound.
#[derive(Clone, Debug, Default)]
pub struct EndpointConfig {
    /// The lasting identity; a fresh one where none is given.
    pub secret: Option<SecretKey>,
    /// Relays.
    pub relays: Relays,
    /// Discovery servers.
    pub discovery: Discovery,
    /// What own relays and discovery servers must show.
    pub relay_ca: RelayCa,
    /// UDP sockets; any port of every address where empty. An unspecified address stands for both families.
    pub bind: Vec<SocketAddr>,
    /// Addresses to advertise that this machine cannot see itself.
    pub external: Vec<SocketAddr>,
    /// Congestion control.
    pub congestion: Congestion,
    /// Reach the relays, which are onion services then, through Tor. No discovery: neither servers nor the local link.
    pub tor: Option<Tor>,
    /// No direct paths.
    #[cfg(feature = "test-utils")]
    pub relay_only: bool,
}

/// Why an endpoint could not be bound.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// The sockets.
    #[error("cannot bind the UDP socket{}: {reason}", given(.addresses))]
    Bind {
        /// The addresses asked for, perhaps none.
        addresses: Vec<SocketAddr>,
        /// What the system says.
        reason: String,
    },
    /// Tor.
    #[error(transparent)]
    Tor(#[from] TorError),
}

fn given(addresses: &[SocketAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    if list.is_empty() { String::new() } else { format!(" {}", list.join(", ")) }
}

impl EndpointConfig {
    /// Whether the owner has named infrastructure of their own: then nobody else is asked anything.
    pub fn own_infrastructure(&self) -> bool {
        self.relays != Relays::Public || self.discovery != Discovery::Public
    }

    fn transport(&self) -> QuicTransportConfig {
        let mut acknowledgements = iroh::endpoint::AckFrequencyConfig::default();
        acknowledgements.ack_eliciting_threshold(ACK_ELICITING_THRESHOLD.into());
        QuicTransportConfig::builder()
            // One stream for authentication; more once that is done.
            .max_concurrent_bidi_streams(1u32.into())
            .max_concurrent_uni_streams(0u32.into())
            .receive_window(UNAUTHENTICATED_WINDOW.into())
            .stream_receive_window(STREAM_WINDOW.into())
            .send_window(SEND_WINDOW)
            .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
            .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
            .ack_frequency_config(Some(acknowledgements))
            .default_path_max_idle_timeout(PATH_IDLE)
            .default_path_keep_alive_interval(PATH_KEEP_ALIVE)
            .congestion_controller_factory(self.congestion.factory())
            .build()
    }

    fn relay_mode(&self) -> RelayMode {
        match &self.relays {
            Relays::Public => RelayMode::Default,
            Relays::Own(relays) if relays.is_empty() => RelayMode::Disabled,
            Relays::Own(relays) => {
                let map = RelayMap::empty();
                for relay in relays {
                    // Address discovery is QUIC and needs TLS, which plain HTTP has not.
                    let quic = (relay.url.scheme() == "https").then(|| {
                        let port = relay.quic_port.unwrap_or(DEFAULT_QUIC_PORT);
                        iroh_relay::RelayQuicConfig::new(port)
                    });
                    let config = RelayConfig::new(relay.url.clone(), quic);
                    map.insert(relay.url.clone(), Arc::new(config));
                }
                RelayMode::Custom(map)
            }
        }
    }

    fn sockets(&self, mut builder: Builder) -> Result<Builder, EndpointError> {
        if self.bind.is_empty() {
            return Ok(builder);
        }
        let failed = |error: &dyn ToString| EndpointError::Bind {
            addresses: self.bind.clone(),
            reason: error.to_string(),
        };
        builder = builder.clear_ip_transports();
        for address in &self.bind {
            if address.ip().is_unspecified() {
                let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
                // A machine without the other family still has the one that was written.
                let required = |is: bool| BindOpts::default().set_is_required(is);
                builder = builder
                    .bind_addr_with_opts(v4, required(address.is_ipv4()))
                    .and_then(|b| b.bind_addr_with_opts(v6, required(address.is_ipv6())))
                    .map_err(|e| failed(&e))?;
            } else {
                builder = builder.bind_addr(*address).map_err(|e| failed(&e))?;
            }
        }
        Ok(builder)
    }

    /// Looks servers up; only a server is published, a client has no reason to be found.
    fn discovery(&self, mut builder: Builder, role: Role) -> Builder {
        match &self.discovery {
            Discovery::None => builder,
            Discovery::Public if self.own_infrastructure() => builder,
            Discovery::Public => {
                if role == Role::Server {
                    builder = builder.address_lookup(PkarrPublisher::n0_dns());
                }
                builder
                    .address_lookup(PkarrResolver::n0_dns())
                    .address_lookup(DnsAddressLookup::n0_dns())
            }
            Discovery::Own(url) => {
                if role == Role::Server {
                    // On one's own server direct addresses give nothing away to others.
                    let publisher = PkarrPublisher::builder(url.clone());
                    builder =
                        builder.address_lookup(publisher.addr_filter(AddrFilter::unfiltered()));
                }
                builder.address_lookup(PkarrResolver::builder(url.clone()))
            }
        }
    }

    /// iroh's endpoint by these settings.
    async fn bind(&self, role: Role, tor: Option<&Gate>) -> Result<iroh::Endpoint, EndpointError> {
        self.finish(self.sockets(self.builder(role))?, role, tor).await
    }

    /// The same on these very sockets.
    async fn bind_to(
        &self,
        sockets: &[SocketAddr],
        role: Role,
        tor: Option<&Gate>,
    ) -> Result<iroh::Endpoint, EndpointError> {
        let mut builder = self.builder(role).clear_ip_transports();
        for socket in sockets {
            builder = builder.bind_addr(*socket).map_err(|error| EndpointError::Bind {
                addresses: sockets.to_vec(),
                reason: error.to_string(),
            })?;
        }
        self.finish(builder, role, tor).await
    }

    fn builder(&self, role: Role) -> Builder {
        let mut builder = iroh::Endpoint::builder(presets::Empty)
            .crypto_provider(crypto::provider())
            .transport_config(self.transport())
            .relay_mode(self.relay_mode())
            .ca_tls_config(self.relay_ca.tls_config());
        if let Some(secret) = &self.secret {
            builder = builder.secret_key(secret.0.clone());
        }
        if role == Role::Server {
            builder = builder.alpns(vec![ALPN.to_vec()]);
        }
        if self.own_infrastructure() {
            let resolver = DnsResolver::builder()
                .with_system_defaults()
                .with_fallback_mode(FallbackMode::Never);
            builder = builder
                .dns_resolver(resolver.build())
                .portmapper_config(PortmapperConfig::Disabled);
        }
        for address in &self.external {
            builder = builder.external_addr(*address);
        }
        builder
    }

    async fn finish(
        &self,
        builder: Builder,
        role: Role,
        tor: Option<&Gate>,
    ) -> Result<iroh::Endpoint, EndpointError> {
        let builder = match tor {
            Some(tor) => tor.configure(builder),
            None => self.discovery(builder, role),
        };
        #[cfg(feature = "test-utils")]
        let builder = if self.relay_only { builder.clear_ip_transports() } else { builder };
        let inner = builder.bind().await.map_err(|error| EndpointError::Bind {
            addresses: self.bind.clone(),
            // The cause is what says "address in use".
            reason: chain(&error),
        })?;
        if tor.is_none()
            && let Ok(lookup) = inner.address_lookup()
        {
            lookup.add(LocalLink::new(inner.id(), role));
        }
        Ok(inner)
    }
}

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
    /// No relay answers; perhaps the reason.
    NoRelay(Option<String>),
    /// No relay is configured.
    Direct,
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
        IrohConnection::new(connection, self.id(), relays, self.announces_direct_paths())
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

    /// Waits until a relay answers, at most `limit`, and says how things stand.
    pub async fn standing(&self, limit: Duration) -> Standing {
        if self.relay_status().is_empty()
            && matches!(&self.shared.config.relays, Relays::Own(relays) if relays.is_empty())
        {
            return Standing::Direct;
        }
        let _ = timeout(limit, self.online()).await;
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

    fn present_standing(&self) -> Standing {
        let relays = self.relay_status();
        if let Some(relay) = relays.iter().find(|relay| relay.is_connected()) {
            return Standing::Relay(relay.url().clone());
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
    let mut rest = Rest::default();
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
            () = stuck(&endpoint, &shared.alive, &mut rest), if shared.tor.is_none() => {
                tracing::info!("the relay answers again: beginning anew with it");
                rest.begin();
                shared.replace(&endpoint).await;
            }
            _ = present.changed() => {}
        }
    }
}

impl Shared {
    /// Puts a fresh endpoint with the same key and, as far as they are to be had, the same ports in the place of `old`.
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
        let fresh = fresh.inspect_err(|error| tracing::warn!("{error}"));
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
