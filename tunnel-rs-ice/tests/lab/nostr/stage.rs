use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::Deref,
    time::Instant,
};

use tunnel_testlab::{
    Error, Result, figures,
    nat::Access,
    net::{NatLab, StunServers},
    nostr::{
        Manner, NostrClient, NostrConfig, NostrKey, NostrRelay, NostrServer, Observer, PythonRelay,
    },
    process::Proc,
    stream::{FLOW_LIMIT, Stream},
};

use super::SESSION_LIMIT;
use crate::support::TUNNEL_RS_ICE;

/// A lab with relays and STUN servers, in which a TCP service of `b`'s host, a socket of the test, waits to be connected
/// to. Clients are on `a`'s host.
///
/// Fields are dropped in this order.
pub(super) struct Stage {
    pub(super) config: NostrConfig,
    pub(super) key: NostrKey,
    source: String,
    service: TcpListener,
    pub(super) relays: Vec<NostrRelay>,
    _stun: StunServers,
    pub(super) lab: NatLab,
}

/// A program; what it printed is shown with a test that fails.
pub(super) struct Shown<P: AsRef<Proc>> {
    name: String,
    program: P,
}

impl Stage {
    /// With relays of these manners.
    pub(super) fn new(
        a: impl Into<Access>,
        b: impl Into<Access>,
        relays: &[Manner],
    ) -> Result<Self> {
        let lab = NatLab::new(a, b)?;
        let stun = lab.start_stun()?;
        let relays: Vec<_> = relays
            .iter()
            .map(|manner| NostrRelay::start(&lab.relay, NatLab::RELAY_NAME, *manner))
            .collect::<Result<_>>()?;
        let config = NostrConfig::new(TUNNEL_RS_ICE, Some(&stun));
        let config = relays.iter().fold(config, |config, relay| config.relay(&relay.url));
        let service = listen(&lab)?;
        let source = source(&service)?;
        Ok(Self { key: config.key()?, config, source, service, relays, _stun: stun, lab })
    }

    /// Starts a relay of somebody else's making, which both sides use beside the others.
    pub(super) fn add_python_relay(&mut self) -> Result<PythonRelay> {
        let relay = PythonRelay::start(&self.lab.relay, NatLab::RELAY)?;
        self.config = self.config.clone().relay(&relay.url);
        Ok(relay)
    }

    /// Starts the server, with further arguments, and returns once it waits for these clients.
    pub(super) fn server(
        &self,
        peers: &[&NostrKey],
        arguments: &[&str],
    ) -> Result<Shown<NostrServer>> {
        let server = self.server_at_once(peers, arguments)?;
        server.wait_ready()?;
        Ok(server)
    }

    /// As `server`, without a wait.
    pub(super) fn server_at_once(
        &self,
        peers: &[&NostrKey],
        arguments: &[&str],
    ) -> Result<Shown<NostrServer>> {
        let config = self.config.server(&self.key, peers.iter().copied()).allow("127.0.0.0/8");
        let server = config.arguments(arguments.iter().copied()).start(Some(&self.lab.b.host))?;
        Ok(Shown { name: "the server".to_owned(), program: server })
    }

    /// Starts a client. Its session may still have to open.
    pub(super) fn client(&self, name: &str, key: &NostrKey) -> Result<Shown<NostrClient>> {
        let config = self.config.client(key, &self.key).forward(&self.source, "127.0.0.1:0");
        let client = config.start(Some(&self.lab.a.host))?;
        Ok(Shown { name: name.to_owned(), program: client })
    }

    /// Starts a client and waits for its session; says how long that took.
    pub(super) fn connect(&self, name: &str, key: &NostrKey) -> Result<Shown<NostrClient>> {
        let started = Instant::now();
        let client = self.client(name, key)?;
        let open = client.wait_sessions(1, SESSION_LIMIT)?;
        figures::record(&format!("{name}: session after the start"), open - started);
        Ok(client)
    }

    /// Opens a connection through a client. One at a time, as the service takes whichever comes.
    pub(super) fn stream(&self, client: &NostrClient) -> Result<Stream> {
        let entrance = client.target(&self.source)?;
        Stream::open(&self.lab.a.host, entrance, &self.service, FLOW_LIMIT)
    }

    /// Where the client listens for the service.
    pub(super) fn entrance(&self, client: &NostrClient) -> Result<SocketAddr> {
        client.target(&self.source)
    }

    /// The service.
    pub(super) fn service(&self) -> &TcpListener {
        &self.service
    }

    /// Reads along at the first relay from now on.
    pub(super) fn observe(&self) -> Result<Observer> {
        Observer::start(&self.lab.relay, self.relays[0].local())
    }
}

fn listen(lab: &NatLab) -> Result<TcpListener> {
    tunnel_testlab::enter::listen_tcp(&lab.b.host, (Ipv4Addr::LOCALHOST, 0).into())
}

fn source(service: &TcpListener) -> Result<String> {
    let address = service
        .local_addr()
        .map_err(|source| Error::Io { action: "read the service's address".to_owned(), source })?;
    Ok(format!("tcp://{address}"))
}

impl<P: AsRef<Proc>> Deref for Shown<P> {
    type Target = P;

    fn deref(&self) -> &P {
        &self.program
    }
}

impl<P: AsRef<Proc>> Drop for Shown<P> {
    fn drop(&mut self) {
        figures::show(&self.name, &self.program.as_ref().output());
    }
}
