use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tunnel_testlab::{
    Error, Result,
    enter::{bind_udp, listen_tcp},
    nat::{Access, Nat},
    net::NatLab,
    process::{Line, Proc, run},
    relay::Relay,
    stream::{Packets, Stream},
    tunnel::{Client, ClientConfig, Server, ServerConfig},
};

use super::{FLOW_LIMIT, figures};
use crate::support::{ANSWER_LIMIT, SESSION_LIMIT, TUNNEL_RS};

/// Two sites and one or two relays; a server on `b` with a lasting identity, and a client on `a` that leads to
/// two services of `b`, which are sockets of the test.
///
/// Fields are dropped in this order, so that no program is surprised by another one's end. What the programs
/// printed is shown with a test that fails.
pub(super) struct Scene {
    pub(super) client: Client,
    pub(super) server: Server,
    pub(super) relays: Vec<Relay>,
    server_config: ServerConfig,
    service: TcpListener,
    packet_service: UdpSocket,
    pub(super) lab: NatLab,
    _identity: TempDir,
}

impl Scene {
    /// With one relay.
    pub(super) fn new(a: impl Into<Access>, b: impl Into<Access>) -> Result<Self> {
        let lab = NatLab::new(a, b)?;
        let relay = Relay::start(Some(&lab.relay), NatLab::RELAY.into())?;
        Self::start(lab, vec![relay])
    }

    /// With two relays, both of which the server and the client know.
    pub(super) fn with_two_relays(a: impl Into<Access>, b: impl Into<Access>) -> Result<Self> {
        let lab = NatLab::new(a, b)?;
        let relays = lab.start_two_relays()?;
        Self::start(lab, relays.into())
    }

    /// With one relay, and a server that keeps sessions without a connection for so many seconds.
    pub(super) fn with_grace(seconds: &str) -> Result<Self> {
        let lab = NatLab::new(Nat::PortRestricted, Nat::PortRestricted)?;
        let relay = Relay::start(Some(&lab.relay), NatLab::RELAY.into())?;
        Self::begin(lab, vec![relay], |config| config.arguments(["--session-grace", seconds]))
    }

    fn start(lab: NatLab, relays: Vec<Relay>) -> Result<Self> {
        Self::begin(lab, relays, |config| config)
    }

    fn begin(
        lab: NatLab,
        relays: Vec<Relay>,
        configure: impl FnOnce(ServerConfig) -> ServerConfig,
    ) -> Result<Self> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let service = listen_tcp(&lab.b.host, loopback)?;
        let packet_service = bind_udp(&lab.b.host, loopback)?;
        let identity = TempDir::new().map_err(io("create a folder for a key"))?;
        let key = identity.path().join("key");
        let mut generate = Command::new(TUNNEL_RS);
        run(generate.arg("generate-server-key").arg("--output").arg(&key), ANSWER_LIMIT)?;
        let server_config = ServerConfig::new(TUNNEL_RS)
            .allow_tcp("127.0.0.0/8")
            .allow_udp("127.0.0.0/8")
            .secret_file(&key);
        let server_config = configure(relays.iter().fold(server_config, ServerConfig::relay));
        let server = server_config.start(Some(&lab.b.host))?;
        let client = ClientConfig::with_ticket(TUNNEL_RS, &server.ticket)
            .forward(&tcp(&service)?, "127.0.0.1:0")
            .forward(&udp(&packet_service)?, "127.0.0.1:0")
            .start(Some(&lab.a.host))?;
        client.wait_session_open(SESSION_LIMIT)?;
        Ok(Self {
            client,
            server,
            relays,
            server_config,
            service,
            packet_service,
            lab,
            _identity: identity,
        })
    }

    /// Opens a connection through the tunnel.
    pub(super) fn stream(&self) -> Result<Stream> {
        self.stream_within(FLOW_LIMIT)
    }

    /// Opens a connection through the tunnel, unless that takes longer.
    pub(super) fn stream_within(&self, limit: Duration) -> Result<Stream> {
        let entrance = self.client.target(&tcp(&self.service)?)?;
        Stream::open(&self.lab.a.host, entrance, &self.service, limit)
    }

    /// Sends packets through the tunnel.
    pub(super) fn packets(&self) -> Result<Packets> {
        let entrance = self.client.target(&udp(&self.packet_service)?)?;
        let exit = self.packet_service.try_clone().map_err(io("share the UDP service"))?;
        Packets::start(&self.lab.a.host, entrance, exit)
    }

    /// Starts the server again with the same identity, after its process has ended.
    pub(super) fn restart_server(&mut self) -> Result<()> {
        let server = self.server_config.start(Some(&self.lab.b.host))?;
        figures::show("the first server", &self.server.process.output());
        self.server = server;
        Ok(())
    }

    /// Waits until the client has said so often that a session is open, and says when it did the last time.
    pub(super) fn wait_sessions(&self, count: usize, limit: Duration) -> Result<Instant> {
        self.client.process.wait_lines(
            |lines| {
                let mut open = lines.iter().filter(|line| line.text.contains("session open"));
                open.nth(count - 1).map(|line| line.at)
            },
            limit,
        )
    }

    /// Waits until the path that the program named last is a direct one to the address.
    pub(super) fn wait_direct_to(process: &Proc, to: IpAddr, limit: Duration) -> Result<Instant> {
        let to = format!("direct to {to}:");
        process.wait_lines(
            |lines| {
                let last = lines.iter().rev().find(|line| names_path(line))?;
                last.text.contains(&to).then_some(last.at)
            },
            limit,
        )
    }

    /// Which of the relays the client named last.
    pub(super) fn relay_in_use(&self) -> Option<usize> {
        let lines = self.client.process.lines();
        let last = lines.iter().rev().find(|line| names_path(line))?;
        self.relays.iter().position(|relay| last.text.contains(host(&relay.url)))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        figures::show("the client", &self.client.process.output());
        figures::show("the server", &self.server.process.output());
    }
}

/// Whether the program names the path of a session there.
fn names_path(line: &Line) -> bool {
    [" path direct to ", " path now direct to ", " path through relay ", " path now through relay "]
        .iter()
        .any(|words| line.text.contains(words))
}

/// The host of a URL: the program shows URLs without the usual port.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split([':', '/']).next().unwrap_or(rest)
}

fn tcp(service: &TcpListener) -> Result<String> {
    let address = service.local_addr().map_err(io("read the TCP service's address"))?;
    Ok(format!("tcp://{address}"))
}

fn udp(service: &UdpSocket) -> Result<String> {
    let address = service.local_addr().map_err(io("read the UDP service's address"))?;
    Ok(format!("udp://{address}"))
}

fn io(action: &str) -> impl FnOnce(std::io::Error) -> Error {
    let action = action.to_owned();
    move |source| Error::Io { action, source }
}
