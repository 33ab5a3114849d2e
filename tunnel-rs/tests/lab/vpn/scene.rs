use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use tempfile::TempDir;
use tunnel_testlab::{
    Result,
    enter::listen_tcp,
    figures,
    nat::Nat,
    net::NatLab,
    relay::Relay,
    stream::{FLOW_LIMIT, Stream},
    tunnel::{Client, ClientConfig, Server, ServerConfig, lasting_key},
};

use super::{CLIENT, LIMIT, NETWORK, SERVER};
use crate::support::{TUNNEL_RS, TestResult};

/// How the two sites are connected, and what is asked of the programs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup<'a> {
    /// That of both sites.
    pub(super) nat: Nat,
    /// No packet over so many bytes gets to the client's site or out of it.
    pub(super) path_mtu: u16,
    /// Arguments of both.
    pub(super) both: &'a [&'a str],
    pub(super) server: &'a [&'a str],
    pub(super) client: &'a [&'a str],
    /// Whether the direct path is cut to begin with.
    pub(super) cut: bool,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let nat = Nat::PortRestricted;
        Self { nat, path_mtu: 1500, both: &[], server: &[], client: &[], cut: false }
    }
}

/// Two sites and a relay; the VPN's server on `b` and its client on `a`, both with a lasting identity.
///
/// Fields are dropped in this order, so that no program is surprised by another one's end. What the programs printed is
/// shown with a test that fails.
pub(super) struct Scene {
    pub(super) client: Client,
    pub(super) server: Server,
    server_config: ServerConfig,
    _relay: Relay,
    pub(super) lab: NatLab,
    _keys: TempDir,
}

impl Scene {
    /// With a client that is in.
    pub(super) fn new(setup: Setup<'_>) -> TestResult<Self> {
        let lab = NatLab::new(setup.nat, setup.nat)?;
        lab.a.narrow(&lab.internet, setup.path_mtu)?;
        if setup.cut {
            lab.cut_direct()?;
        }
        let relay = lab.start_relay()?;
        let keys = TempDir::new()?;
        let key = |name| lasting_key(TUNNEL_RS.as_ref(), keys.path(), name);
        let server_config = ServerConfig::vpn(TUNNEL_RS)
            .relay(&relay)
            .secret_file(&key("server")?)
            .arguments(["--network", NETWORK])
            .arguments(setup.both.iter().chain(setup.server).copied());
        let server = server_config.start(Some(&lab.b.host))?;
        let client = ClientConfig::vpn(TUNNEL_RS, &server.ticket)
            .secret_file(&key("client")?)
            .arguments(setup.both.iter().chain(setup.client).copied())
            .start(Some(&lab.a.host))?;
        let up = client.wait_vpn(1, LIMIT)?;
        assert_eq!(up.address, CLIENT, "{}", up.text);
        Ok(Self { client, server, server_config, _relay: relay, lab, _keys: keys })
    }

    /// The host of an address in the VPN.
    pub(super) fn host(&self, address: Ipv4Addr) -> &tunnel_testlab::netns::Namespace {
        if address == SERVER { &self.lab.b.host } else { &self.lab.a.host }
    }

    /// A service of the test on the server's host, in the VPN.
    pub(super) fn service(&self) -> Result<TcpListener> {
        listen_tcp(&self.lab.b.host, SocketAddr::new(SERVER.into(), 0))
    }

    /// Opens a connection through the VPN.
    pub(super) fn stream(&self, service: &TcpListener) -> TestResult<Stream> {
        let address = service.local_addr()?;
        Ok(Stream::open(&self.lab.a.host, address, service, FLOW_LIMIT)?)
    }

    /// Starts the server again with the same identity, after its process has ended.
    pub(super) fn restart_server(&mut self) -> Result<()> {
        let server = self.server_config.start(Some(&self.lab.b.host))?;
        figures::show("the first server", &self.server.process.output());
        self.server = server;
        Ok(())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        figures::show("the client", &self.client.process.output());
        figures::show("the server", &self.server.process.output());
    }
}
