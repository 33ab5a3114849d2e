use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tunnel_testlab::{
    Error, Result,
    enter::{connect_tcp, listen_tcp},
    figures,
    nat::Nat,
    net::NatLab,
    process::Proc,
    tor::{OnionService, StoppedTor, TorClient, TorNetwork},
    tunnel::{Client, ClientConfig, Server, ServerConfig, TOKEN},
};

use crate::self_hosting::OwnRelay;
use crate::support::{Failure, TUNNEL_RS};

/// What is echoed, in bytes.
const SIZE: usize = 1 << 20;

/// For an echo of so many bytes through twelve relays on a busy machine.
const ECHO_LIMIT: Duration = Duration::from_secs(60);

/// Where the relay listens on its host's loopback; nothing else runs there.
const RELAY_PORT: u16 = 3340;

/// Between two attempts.
const POLL: Duration = Duration::from_millis(200);

/// Two hosts with public addresses and a Tor each, a Tor network on a third one, and a relay there that is an onion
/// service; an echo service on the loopback of `b`.
///
/// Fields are dropped in this order, so that no program is surprised by another one's end.
pub(super) struct Stage {
    tor: Option<TorClient>,
    _tor_of_server: TorClient,
    onion: OnionService,
    _relay: OwnRelay,
    _relay_state: TempDir,
    pub(super) network: TorNetwork,
    service: SocketAddr,
    pub(super) lab: NatLab,
}

/// A server that nobody is expected to reach.
pub(super) struct LoneServer {
    pub(super) process: Proc,
    _folder: TempDir,
}

impl Stage {
    pub(super) fn new() -> Result<Self> {
        let begun = Instant::now();
        let lab = NatLab::new(Nat::None, Nat::None)?;
        let network = TorNetwork::start(&lab.relay, NatLab::RELAY)?;
        let relay_state = TempDir::new().map_err(io("create a folder for the relay"))?;
        let listen = format!("127.0.0.1:{RELAY_PORT}");
        let relay = OwnRelay::start(&lab.relay, &relay_state, &["--http", "--listen", &listen])?;
        let tor = network.start_client(&lab.a.host)?;
        let tor_of_server = network.start_client(&lab.b.host)?;
        let onion = network.start_service(&lab.relay, RELAY_PORT)?;
        tor.wait_service(&lab.a.host, &onion)?;
        tor_of_server.wait_service(&lab.b.host, &onion)?;
        figures::record("Tor network: until the onion service answers", begun.elapsed());
        let listener = listen_tcp(&lab.b.host, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let service = listener.local_addr().map_err(io("read the service's address"))?;
        thread::spawn(move || echo(&listener));
        Ok(Self {
            tor: Some(tor),
            _tor_of_server: tor_of_server,
            onion,
            _relay: relay,
            _relay_state: relay_state,
            network,
            service,
            lab,
        })
    }

    pub(super) fn relay_url(&self) -> String {
        format!("http://{}", self.onion.name)
    }

    /// The addresses of the client's host and the server's.
    pub(super) fn addresses(&self) -> (IpAddr, IpAddr) {
        let [a, b] = [&self.lab.a, &self.lab.b].map(|site| site.address());
        (a.unwrap_or_else(|| panic!("no address")), b.unwrap_or_else(|| panic!("no address")))
    }

    /// A server on `b` that lets clients reach the echo service.
    pub(super) fn server(&self, arguments: &[&str]) -> Result<Server> {
        let config = ServerConfig::new(TUNNEL_RS).allow_tcp("127.0.0.0/8");
        let relay = self.relay_url();
        let config = config.arguments(["--relay-url", &relay, "--socks5-proxy", TorClient::PROXY]);
        config.arguments(arguments.iter().copied()).start(Some(&self.lab.b.host))
    }

    /// A client on `a` that leads to the echo service.
    pub(super) fn client(&self, config: ClientConfig, arguments: &[&str]) -> Result<Client> {
        let config = config.forward(&self.source(), "127.0.0.1:0");
        let config = config.arguments(["--socks5-proxy", TorClient::PROXY]);
        config.arguments(arguments.iter().copied()).start(Some(&self.lab.a.host))
    }

    /// A server on `b` with this relay, which need not be there.
    pub(super) fn lone_server(&self, relay: &str) -> std::result::Result<LoneServer, Failure> {
        let folder = tempfile::tempdir()?;
        let tokens: PathBuf = folder.path().join("tokens");
        std::fs::write(&tokens, format!("{TOKEN}\n"))?;
        let mut command: Command = self.lab.b.host.command(TUNNEL_RS);
        command.arg("server").env_remove("RUST_LOG").env("NO_COLOR", "1");
        command.arg("--auth-tokens-file").arg(tokens);
        command.args(["--relay-url", relay, "--socks5-proxy", TorClient::PROXY, "--tor-only"]);
        Ok(LoneServer { process: Proc::spawn(&mut command)?, _folder: folder })
    }

    fn source(&self) -> String {
        format!("tcp://{}", self.service)
    }

    /// Echoes a mebibyte through the tunnel, and records how long a first byte and all of them took.
    pub(super) fn record_echo(&self, client: &Client, way: &str) -> Result<()> {
        let begun = Instant::now();
        self.echo(client, 1)?;
        figures::record(
            &format!("{way}: one byte there and back, connecting included"),
            begun.elapsed(),
        );
        let begun = Instant::now();
        self.echo(client, SIZE)?;
        figures::record(&format!("{way}: a mebibyte there and back"), begun.elapsed());
        Ok(())
    }

    /// Waits until an echo comes back.
    pub(super) fn wait_echo(&self, client: &Client, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            match self.echo(client, 1) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    fn echo(&self, client: &Client, size: usize) -> Result<()> {
        let target = client.target(&self.source())?;
        let tcp = connect_tcp(&self.lab.a.host, target, ECHO_LIMIT)?;
        exchange(tcp, size).map_err(|source| Error::NotCarried {
            action: "echo bytes",
            source,
            output: client.process.output(),
        })
    }

    /// Takes the client's Tor away, to be ended.
    pub(super) fn take_tor(&mut self) -> Result<TorClient> {
        let gone = || io("take a Tor that is gone")(io::ErrorKind::NotFound.into());
        self.tor.take().ok_or_else(gone)
    }

    /// Starts it again.
    pub(super) fn put_tor(&mut self, stopped: StoppedTor) -> Result<()> {
        self.tor = Some(stopped.start(&self.network, &self.lab.a.host)?);
        Ok(())
    }
}

/// Sends bytes while it reads them, and compares.
fn exchange(tcp: TcpStream, size: usize) -> io::Result<()> {
    tcp.set_read_timeout(Some(ECHO_LIMIT))?;
    tcp.set_write_timeout(Some(ECHO_LIMIT))?;
    let sent: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
    let mut reader = tcp.try_clone()?;
    thread::scope(|scope| {
        let writer = scope.spawn(|| (&tcp).write_all(&sent));
        let mut read = vec![0; size];
        reader.read_exact(&mut read)?;
        writer.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))?;
        if read == sent { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    })
}

/// Sends everything back, until the listener fails, which it does not.
fn echo(listener: &TcpListener) {
    for tcp in listener.incoming().flatten() {
        thread::spawn(move || {
            let Ok(mut back) = tcp.try_clone() else { return };
            let _ = io::copy(&mut &tcp, &mut back);
            let _ = tcp.shutdown(std::net::Shutdown::Write);
        });
    }
}

fn io(action: &str) -> impl FnOnce(io::Error) -> Error {
    let action = action.to_owned();
    move |source| Error::Io { action, source }
}
