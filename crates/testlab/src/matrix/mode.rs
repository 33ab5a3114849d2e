use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Instant,
};

use super::Pair;
use crate::{
    Result,
    nat::{Outcome, expected},
    net::NatLab,
    process::Stream,
    relay::Relay,
    tunnel::{Client, ClientConfig, PathKind, Server, ServerConfig, path_kind},
};

mod manual;
mod nostr;
mod vpn;

pub use manual::Manual;
pub use nostr::Nostr;
pub use vpn::Vpn;

/// A way to connect the two hosts of a lab.
pub trait Mode: Sync {
    /// What must come of a pair.
    fn expected(&self, pair: Pair) -> Outcome;

    /// Starts everything that leads from `a`'s host to a TCP service of `b`'s host, which listens on this port
    /// of all its addresses. An error is what the oracle does not know: a program that fails or hangs.
    fn open(&self, lab: &NatLab, port: u16) -> Result<Opened>;
}

/// What came of an attempt to connect two hosts.
pub enum Opened {
    /// A tunnel, which may still have to find its peer.
    Tunnel(Box<dyn Tunnel>),
    /// The program said clearly, and in the time that it has for this, that they cannot be connected.
    Impossible,
}

/// A way from one host of a lab to a service of another one, until it is dropped.
pub trait Tunnel {
    /// When the client's process was started, or had all that it needs from its user.
    fn started(&self) -> Instant;

    /// Where the client's host connects to for the service.
    fn entrance(&self) -> SocketAddr;

    /// The kinds of path that the client has named, in order, each with the time.
    fn paths(&self) -> Vec<(PathKind, Instant)>;

    /// All that the client has printed.
    fn output(&self) -> String;
}

/// `tunnel-rs server` and `tunnel-rs client` over iroh, with a relay that both reach and a ticket.
#[derive(Clone, Debug)]
pub struct Iroh {
    binary: PathBuf,
}

impl Iroh {
    /// For the program `tunnel-rs` at this path.
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned() }
    }
}

impl Mode for Iroh {
    fn expected(&self, pair: Pair) -> Outcome {
        expected(pair.client, pair.server)
    }

    fn open(&self, lab: &NatLab, port: u16) -> Result<Opened> {
        let relay = lab.start_relay()?;
        let server = ServerConfig::new(&self.binary)
            .allow_tcp("127.0.0.0/8")
            .relay(&relay)
            .start(Some(&lab.b.host))?;
        let source = format!("tcp://127.0.0.1:{port}");
        let config =
            ClientConfig::with_ticket(&self.binary, &server.ticket).forward(&source, "127.0.0.1:0");
        let started = Instant::now();
        let client = config.start(Some(&lab.a.host))?;
        let entrance = client.target(&source)?;
        Ok(Opened::Tunnel(Box::new(IrohTunnel {
            client,
            _server: server,
            _relay: relay,
            started,
            entrance,
        })))
    }
}

/// Fields are dropped in this order, so that no program is surprised by another one's end.
struct IrohTunnel {
    client: Client,
    _server: Server,
    _relay: Relay,
    started: Instant,
    entrance: SocketAddr,
}

impl Tunnel for IrohTunnel {
    fn started(&self) -> Instant {
        self.started
    }

    fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    fn paths(&self) -> Vec<(PathKind, Instant)> {
        let lines = self.client.process.lines().into_iter();
        let logged = lines.filter(|line| line.stream == Stream::Stderr);
        logged.filter_map(|line| Some((path_kind(&line.text)?, line.at))).collect()
    }

    fn output(&self) -> String {
        self.client.process.output()
    }
}
