use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{IrohTunnel, Mode, Opened};
use crate::{
    Result,
    matrix::Pair,
    nat::{Outcome, expected},
    net::NatLab,
    tunnel::{ClientConfig, ServerConfig},
};

/// The VPN's network, and the server's address in it.
const NETWORK: &str = "10.99.0.0/24";
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);

/// For a handshake over whatever path there is.
const UP_LIMIT: Duration = Duration::from_secs(30);

/// `tunnel-rs vpn server` and `tunnel-rs vpn client` over iroh, with a relay that both reach and a ticket.
#[derive(Clone, Debug)]
pub struct Vpn {
    binary: PathBuf,
}

impl Vpn {
    /// For the program `tunnel-rs` at this path.
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned() }
    }
}

impl Mode for Vpn {
    /// What carries it is the same as for forwarding.
    fn expected(&self, pair: Pair) -> Outcome {
        expected(pair.client, pair.server)
    }

    fn open(&self, lab: &NatLab, port: u16) -> Result<Opened> {
        let relay = lab.start_relay()?;
        let server = ServerConfig::vpn(&self.binary)
            .arguments(["--network", NETWORK])
            .relay(&relay)
            .start(Some(&lab.b.host))?;
        let started = Instant::now();
        let client = ClientConfig::vpn(&self.binary, &server.ticket).start(Some(&lab.a.host))?;
        client.wait_vpn(1, UP_LIMIT)?;
        Ok(Opened::Tunnel(Box::new(IrohTunnel {
            client,
            _server: server,
            _relay: relay,
            started,
            entrance: SocketAddr::new(SERVER.into(), port),
        })))
    }
}
