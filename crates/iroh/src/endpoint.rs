use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use iroh::endpoint::RelayStatus;
use iroh::{EndpointAddr, EndpointId, RelayUrl, TransportAddr, Watcher};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tunnel_model::CloseCode;
use tunnel_session::transport::{Connection as _, Role};

use crate::relays::Resting;
use crate::revive::{Alive, Rest, anything_new, clogged, stuck};
use crate::tor::{Gate, choose_home_relay};
use crate::{IrohConnection, RelayCa, SecretKey, Ticket, crypto, relays};

mod config;

pub use config::{
    Discovery, EndpointConfig, EndpointError, OnBound, RelayServer, Relays, ServerHost,
};

/// How long the ports of an endpoint that is replaced are waited for, before any others will do.
const SAME_PORTS: Duration = Duration::from_secs(3);

/// Between two attempts to bind another endpoint, meanwhile and then.
const REBIND: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A bound endpoint: the server's or the client's.
#[derive(Clone, Debug)]
pub struct Endpoint {
    shared: Arc<Shared>,
    _watch: Arc<Task>,
}

/// iroh's endpoint, which is replaced where it is of no use.
#[derive(Clone, Debug)]
enum Present {
    /// As it is.
    Up(iroh::Endpoint),
    /// Between two. Nobody may hold the earlier one now: its sockets are free once the last handle is dropped.
    Replacing,
    /// For good.
    Closed,
}

#[derive(Debug)]
struct Shared {
    present: watch::Sender<Present>,
    id: EndpointId,
    role: Role,
    config: EndpointConfig,
    /// Its own relays, where there are several.
    relays: Arc<[RelayUrl]>,
    /// Those of them that are left out at the moment.
    resting: Resting,
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
    /// This endpoint was replaced in the middle of the handshake.
    #[error("this endpoint begins anew")]
    Replaced,
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
            present: watch::Sender::new(Present::Up(inner)),
            role,
            config,
            relays,
            resting: Resting::default(),
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

    /// iroh's endpoint as it is at the moment; `None` while there is none.
    pub(crate) fn present(&self) -> Option<iroh::Endpoint> {
        match &*self.shared.present.borrow() {
            Present::Up(endpoint) => Some(endpoint.clone()),
            Present::Replacing | Present::Closed => None,
        }
    }

    /// iroh's endpoint, waited for while it is being replaced; `None` once it is closed.
    pub(crate) async fn ready(&self) -> Option<iroh::Endpoint> {
        let mut present = self.shared.present.subscribe();
        let settled = present.wait_for(|present| !matches!(present, Present::Replacing)).await;
        match settled.as_deref() {
            Ok(Present::Up(endpoint)) => Some(endpoint.clone()),
            _ => None,
        }
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
            let now = present.borrow_and_update().clone();
            match now {
                Present::Closed => return None,
                Present::Replacing => {}
                Present::Up(endpoint) => {
                    let incoming = tokio::select! {
                        incoming = endpoint.accept() => incoming,
                        _ = present.changed() => continue,
                    };
                    if let Some(incoming) = incoming {
                        return Some(Accepting { incoming, endpoint: self.clone() });
                    }
                }
            }
            present.changed().await.ok()?;
        }
    }

    /// Waits until a relay answers or refuses, at most `limit`, and says how things stand.
    pub async fn standing(&self, limit: Duration) -> Standing {
        if self.wants_no_relay() {
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

    /// Why clients cannot reach this endpoint at the moment, if so: its relay does not answer, or where it is to have none, it
    /// has no address.
    pub fn unreachable(&self) -> Option<String> {
        if self.wants_no_relay() {
            let addr = self.present().map(|inner| inner.addr());
            let reachable = addr.is_some_and(|addr| addr.ip_addrs().next().is_some());
            return (!reachable).then(|| "this machine has no address".to_owned());
        }
        match self.present_standing() {
            Standing::Relay(_) | Standing::Direct => None,
            Standing::Refused(refusal) => Some(refusal.to_string()),
            Standing::NoRelay(reason) => {
                let reason = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                Some(format!("no relay answers{reason}"))
            }
        }
    }

    fn wants_no_relay(&self) -> bool {
        self.relay_status().is_empty()
            && matches!(&self.shared.config.relays, Relays::Own(relays) if relays.is_empty())
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
                let shown = |address: &&SocketAddr| !config.hides(&TransportAddr::Ip(**address));
                addr.ip_addrs().filter(shown).copied().collect()
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
        // Packets for a relay that has gone keep those for other relays waiting behind them.
        let may_be_there = |url: &&RelayUrl| !self.shared.resting.contains(url);
        if let Relays::Own(relays) = &self.shared.config.relays {
            for url in relays.iter().map(|relay| &relay.url).filter(may_be_there) {
                addr = addr.with_relay_url(url.clone());
            }
        }
        if let Some(ticket) = ticket {
            // Before the two have met through Tor, a packet straight to the other would only give this side away.
            if !self.uses_tor() {
                addr = ticket.addresses.iter().fold(addr, |addr, ip| addr.with_ip_addr(*ip));
            }
            // Where none of the server's is left, a slow attempt is better than none.
            let none_left = !ticket.relays.iter().any(|url| may_be_there(&url));
            let relays = ticket.relays.iter().filter(|url| none_left || may_be_there(url));
            addr = relays.fold(addr, |addr, url| addr.with_relay_url(url.clone()));
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
        if let Present::Up(endpoint) = self.shared.present.send_replace(Present::Closed) {
            endpoint.close().await;
        }
    }
}

/// Watches over the relays of an endpoint, and replaces iroh's part of it where that is stuck, until it is closed.
async fn supervise(shared: Arc<Shared>) {
    let rest = Rest::default();
    let mut present = shared.present.subscribe();
    loop {
        let now = present.borrow_and_update().clone();
        let endpoint = match now {
            Present::Up(endpoint) => endpoint,
            Present::Replacing | Present::Closed => return,
        };
        let choose_relay = async {
            if let Some(gate) = &shared.tor {
                let map = shared.config.relay_mode().relay_map();
                choose_home_relay(endpoint.clone(), gate.clone(), map).await;
            } else if !shared.relays.is_empty() {
                let may_replace = || rest.is_over() && shared.alive.is_none();
                return relays::watch(&endpoint, &shared.relays, &shared.resting, may_replace)
                    .await;
            }
            std::future::pending().await
        };
        tokio::select! {
            gone = choose_relay => {
                rest.begin();
                shared.replace(endpoint, &format!("relay {gone} is gone")).await;
            }
            // Whether a relay behind Tor answers cannot be asked past it.
            () = stuck(&endpoint, &shared.alive, &rest), if shared.tor.is_none() => {
                rest.begin();
                shared.replace(endpoint, "the relay answers again").await;
            }
            () = clogged(&shared.left, &shared.alive, &rest) => {
                rest.begin();
                shared.replace(endpoint, "a relay that had gone is left").await;
            }
            _ = present.changed() => {}
        }
    }
}

impl Shared {
    /// Puts a fresh endpoint with the same key and, as far as they are to be had, the same ports in the place of `old`.
    /// Relays that do not answer while another one does are left out: they would hold up the first report on the network, and
    /// with it the choice of a home relay. Nothing is done where a connection comes to be while they are asked.
    async fn replace(&self, old: iroh::Endpoint, why: &str) {
        let ports = old.bound_sockets();
        let secret = SecretKey(old.secret_key().clone());
        let mut config = EndpointConfig { secret: Some(secret), ..self.config.clone() };
        let map = config.relay_mode().relay_map();
        let before = self.alive.received();
        let dead = relays::dead(&self.relays).await;
        if !self.relays.is_empty() && anything_new(&before, &self.alive.received()) {
            return;
        }
        tracing::info!("{why}: beginning anew");
        if let Relays::Own(relays) = &mut config.relays {
            relays.retain(|relay| !dead.contains(&relay.url));
        }
        self.resting.replace(dead.iter().filter_map(|url| map.get(url)));
        let mut present = self.present.subscribe();
        let goes_on = self.present.send_if_modified(|present| {
            let up = matches!(present, Present::Up(_));
            if up {
                *present = Present::Replacing;
            }
            up
        });
        if !goes_on {
            return;
        }
        // Its connections are of no use any more; without waiting for their ends, as nobody hears them.
        self.alive.close();
        // What was told of them must not end the fresh one.
        let _ = self.left.notified().now_or_never();
        drop(old);
        let tor = self.tor.as_ref();
        let begun = Instant::now();
        let fresh = async {
            loop {
                // The sockets are free a moment after the last handle is gone.
                match config.bind_to(&ports, self.role, tor).await {
                    Ok(fresh) => return fresh,
                    Err(_) if begun.elapsed() < SAME_PORTS => {}
                    Err(_) => match config.bind(self.role, tor).await {
                        Ok(fresh) => return fresh,
                        Err(error) => tracing::warn!("{error}; trying again"),
                    },
                }
                let busy = begun.elapsed() < SAME_PORTS;
                sleep(if busy { REBIND.0 } else { REBIND.1 }).await;
            }
        };
        tokio::select! {
            fresh = fresh => {
                let mut unused = Some(fresh);
                self.present.send_if_modified(|present| {
                    // Closed meanwhile: nothing may come after that.
                    let waits = matches!(present, Present::Replacing);
                    if waits && let Some(fresh) = unused.take() {
                        *present = Present::Up(fresh);
                    }
                    waits
                });
            }
            _ = present.wait_for(|present| matches!(present, Present::Closed)) => {}
        }
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
        let handshake =
            async { self.incoming.accept().map_err(|e| failed(&e))?.await.map_err(|e| failed(&e)) };
        let connection = tokio::select! {
            connection = timeout(limit, handshake) => {
                connection.map_err(|_| AcceptError::TimedOut(limit))??
            }
            // The fresh endpoint waits for the ports that this one holds.
            () = self.endpoint.replaced() => return Err(AcceptError::Replaced),
        };
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use iroh::RelayMode;
    use iroh::endpoint::presets;
    use rustls::crypto::aws_lc_rs;
    use tunnel_model::protocol::ALPN;
    use tunnel_session::client::Dialer;

    use super::*;
    use crate::IrohDialer;

    /// For a connection within one machine.
    const SOON: Duration = Duration::from_secs(20);

    fn on_loopback() -> EndpointConfig {
        EndpointConfig {
            relays: Relays::Own(Vec::new()),
            discovery: Discovery::None,
            bind: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            ..EndpointConfig::default()
        }
    }

    /// Somebody else's endpoint, which knows no post-quantum key exchange.
    async fn classical() -> iroh::Endpoint {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        iroh::Endpoint::builder(presets::Empty)
            .crypto_provider(Arc::new(provider))
            .relay_mode(RelayMode::Disabled)
            .alpns(vec![ALPN.to_vec()])
            .clear_ip_transports()
            .bind_addr((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .bind()
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_classical_client_is_refused_and_told_why() {
        let server = Endpoint::bind(on_loopback(), Role::Server).await.unwrap();
        let stranger = classical().await;
        let addresses = server.present().unwrap().bound_sockets();
        let at =
            EndpointAddr::from_parts(server.id(), addresses.into_iter().map(TransportAddr::Ip));
        let accepting = async { server.accept().await.unwrap().complete(SOON).await.err() };
        let both = async { tokio::join!(accepting, stranger.connect(at, ALPN)) };
        let (refused, dialled) = timeout(SOON, both).await.unwrap();
        assert!(matches!(refused, Some(AcceptError::NotPostQuantum(who)) if who == stranger.id()));
        // The close may be here before it knows that its handshake is done.
        let told = match dialled {
            Ok(connection) => timeout(SOON, connection.closed()).await.unwrap().to_string(),
            Err(error) => chain(&error),
        };
        assert!(told.contains("X25519MLKEM768 is needed (code 8)"), "{told}");
    }

    #[tokio::test]
    async fn a_classical_server_is_given_up() {
        let client = Endpoint::bind(on_loopback(), Role::Client).await.unwrap();
        let stranger = classical().await;
        let ticket = Ticket {
            id: stranger.id(),
            addresses: stranger.bound_sockets(),
            relays: Vec::new(),
            quic_ports: Vec::new(),
            discovery: None,
            relay_pins: Vec::new(),
            own_infrastructure: true,
        };
        let dialer = IrohDialer::new(client, ticket.id, Some(ticket));
        let serving = async { stranger.accept().await.unwrap().accept().unwrap().await };
        let (dialled, _) =
            timeout(SOON, async { tokio::join!(dialer.dial(), serving) }).await.unwrap();
        let error = dialled.err().unwrap();
        assert!(error.fatal && error.message.contains("post-quantum"), "{error}");
    }

    #[tokio::test]
    async fn a_replaced_endpoint_has_its_key_and_ports_and_is_reached_again() {
        let server = Endpoint::bind(on_loopback(), Role::Server).await.unwrap();
        let client = Endpoint::bind(on_loopback(), Role::Client).await.unwrap();
        let dialer = IrohDialer::new(client, server.id(), Some(server.ticket()));
        let accepting = tokio::spawn({
            let server = server.clone();
            async move {
                let mut accepted = 0;
                while let Some(incoming) = server.accept().await {
                    let connection = incoming.complete(SOON).await.unwrap();
                    accepted += 1;
                    // As a session does: it holds a connection for as long as that lives.
                    tokio::spawn(async move { connection.closed().await });
                }
                accepted
            }
        });
        let first = timeout(SOON, dialer.dial()).await.unwrap().unwrap();
        let old = server.present().unwrap();
        let ports = old.bound_sockets();
        timeout(SOON, server.shared.replace(old, "test")).await.unwrap();

        assert_eq!(server.present().unwrap().bound_sockets(), ports);
        assert_eq!(server.present().unwrap().id(), server.id());
        first.close(CloseCode::Dropped, "");
        timeout(SOON, dialer.dial()).await.unwrap().unwrap();
        server.close().await;
        assert_eq!(timeout(SOON, accepting).await.unwrap().unwrap(), 2);
    }

    #[tokio::test]
    async fn relays_that_rest_are_not_dialled_but_for_a_server_without_others() {
        let url = |host: &str| format!("https://{host}/").parse::<RelayUrl>().unwrap();
        let (alive, gone) = (url("alive.invalid"), url("gone.invalid"));
        let server = |url: &RelayUrl| RelayServer { url: url.clone(), quic_port: None };
        let relays = Relays::Own(vec![server(&alive), server(&gone)]);
        let config = EndpointConfig { relays, ..on_loopback() };
        let endpoint = Endpoint::bind(config, Role::Client).await.unwrap();
        let ticket = |relays: &[&RelayUrl]| Ticket {
            relays: relays.iter().copied().cloned().collect(),
            quic_ports: vec![None; relays.len()],
            ..endpoint.ticket()
        };
        let id = SecretKey::generate().id();
        let dialled = |ticket: &Ticket| {
            let address = endpoint.address_of(id, Some(ticket));
            address.relay_urls().cloned().collect::<Vec<_>>()
        };
        assert_eq!(dialled(&ticket(&[&alive, &gone])).len(), 2);
        let map = endpoint.shared.config.relay_mode().relay_map();
        endpoint.shared.resting.replace(map.get(&gone).into_iter());
        assert_eq!(dialled(&ticket(&[&alive, &gone])), std::slice::from_ref(&alive));
        assert_eq!(dialled(&ticket(&[&gone])).len(), 2, "its only one");
    }

    #[tokio::test]
    async fn who_dials_does_not_hold_the_ports_of_an_endpoint_that_is_replaced() {
        let endpoint = Endpoint::bind(on_loopback(), Role::Client).await.unwrap();
        // Takes packets and never answers.
        let deaf = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ticket = Ticket {
            id: SecretKey::generate().id(),
            addresses: vec![deaf.local_addr().unwrap()],
            relays: Vec::new(),
            quic_ports: Vec::new(),
            discovery: None,
            relay_pins: Vec::new(),
            own_infrastructure: true,
        };
        let dialer = IrohDialer::new(endpoint.clone(), ticket.id, Some(ticket));
        let dialling = tokio::spawn(async move { dialer.dial().await.map(drop) });
        let heard = tokio::net::UdpSocket::from_std({
            deaf.set_nonblocking(true).unwrap();
            deaf
        });
        timeout(SOON, heard.unwrap().recv_from(&mut [0; 2000])).await.unwrap().unwrap();

        let old = endpoint.present().unwrap();
        let ports = old.bound_sockets();
        timeout(SOON, endpoint.shared.replace(old, "test")).await.unwrap();
        assert_eq!(endpoint.present().unwrap().bound_sockets(), ports);
        assert!(!dialling.is_finished(), "the attempt goes on with the fresh one");
        dialling.abort();
    }
}
