//! A Tor network of its own: directory authorities, relays, clients and onion services, all of them the real `tor` in
//! namespaces of the lab.
//!
//! It has everything that the public network has, and votes every 10 s instead of every hour, so that it stands within
//! a minute. Its settings are those of `TestingTorNetwork` (tor(1)) and what `config` adds.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{Error, Result, netns::Namespace, process::Proc, process::run};

mod authority;
mod config;

use config::Torrc;

/// Directory authorities. They are relays as well; fewer than three cannot outvote one that is late.
const AUTHORITIES: u16 = 3;

/// Further relays: a way to an onion service and the one back take six different ones at times.
const RELAYS: u16 = 3;

/// The first port of those on which relays take connections, and authorities are asked.
const RELAY_PORTS: u16 = 5000;
const DIRECTORY_PORTS: u16 = 7000;

/// The port of a client's SOCKS5 proxy, which is Tor's usual one.
const SOCKS_PORT: u16 = 9050;

/// The port of an onion service.
const SERVICE_PORT: u16 = 80;

/// For a Tor to have a way through its network: two or three votes, on a busy machine.
const BOOTSTRAP_LIMIT: Duration = Duration::from_secs(180);

/// For an onion service to be found by others.
const PUBLISH_LIMIT: Duration = Duration::from_secs(120);

/// For one attempt to reach a service, and between two of them.
const ATTEMPT: u64 = 20;
const POLL: Duration = Duration::from_millis(500);

/// A running network.
#[derive(Debug)]
pub struct TorNetwork {
    _nodes: Vec<Node>,
    authorities: String,
}

/// A running Tor.
#[derive(Debug)]
struct Node {
    process: Proc,
    folder: TempDir,
}

/// A Tor with a SOCKS5 proxy on the loopback of its host.
#[derive(Debug)]
pub struct TorClient {
    node: Node,
}

/// A Tor that publishes an onion service.
#[derive(Debug)]
pub struct OnionService {
    /// Its name, with `.onion`.
    pub name: String,
    _node: Node,
}

impl TorNetwork {
    /// Starts the authorities and the relays on an address of the namespace. They need a minute from here on.
    pub fn start(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let mut folders = Vec::new();
        let mut authorities = String::new();
        for number in 0..AUTHORITIES {
            let folder = folder()?;
            let directory = SocketAddr::new(address.into(), DIRECTORY_PORTS + number);
            let keys = authority::make_keys(folder.path(), directory)?;
            let nickname = config::nickname("auth", number);
            authorities.push_str(&format!(
                "DirAuthority {nickname} orport={} no-v2 v3ident={} {directory} {}\n",
                RELAY_PORTS + number,
                keys.identity,
                keys.fingerprint,
            ));
            folders.push(folder);
        }
        let mut nodes = Vec::new();
        for number in 0..AUTHORITIES + RELAYS {
            let relay = SocketAddr::new(address.into(), RELAY_PORTS + number);
            let (folder, torrc) = if number < AUTHORITIES {
                let directory = SocketAddr::new(address.into(), DIRECTORY_PORTS + number);
                let torrc = Torrc::new(&config::nickname("auth", number), &authorities);
                (folders.remove(0), torrc.relay(relay).authority(directory))
            } else {
                let torrc = Torrc::new(&config::nickname("relay", number), &authorities);
                (folder()?, torrc.relay(relay))
            };
            nodes.push(Node::start(namespace, folder, torrc)?);
        }
        Ok(Self { _nodes: nodes, authorities })
    }

    /// Starts a client on a host that reaches the network, and waits until it has a way through it.
    pub fn start_client(&self, host: &Namespace) -> Result<TorClient> {
        let node = Node::start(host, folder()?, self.client_config())?;
        let client = TorClient { node };
        client.wait_ready()?;
        Ok(client)
    }

    /// Publishes what listens on the host's loopback at this port as an onion service.
    pub fn start_service(&self, host: &Namespace, port: u16) -> Result<OnionService> {
        let folder = folder()?;
        let service = folder.path().join("service");
        let torrc = Torrc::new("service", &self.authorities);
        let torrc = torrc.service(&service, SERVICE_PORT, (Ipv4Addr::LOCALHOST, port).into());
        let node = Node::start(host, folder, torrc)?;
        node.wait_ready()?;
        let file = service.join("hostname");
        let read = Error::io(format!("read {}", file.display()));
        let name = fs::read_to_string(&file).map_err(read)?.trim().to_owned();
        Ok(OnionService { name, _node: node })
    }

    fn client_config(&self) -> Torrc {
        Torrc::new("client", &self.authorities).socks((Ipv4Addr::LOCALHOST, SOCKS_PORT).into())
    }

    /// Whether this is a port of the network, which its clients connect to.
    pub fn is_port(&self, port: u16) -> bool {
        let relays = RELAY_PORTS..RELAY_PORTS + AUTHORITIES + RELAYS;
        let directories = DIRECTORY_PORTS..DIRECTORY_PORTS + AUTHORITIES;
        relays.contains(&port) || directories.contains(&port)
    }
}

impl TorClient {
    /// For `--socks5-proxy`.
    pub const PROXY: &str = "socks5h://127.0.0.1:9050";

    /// Waits until it has a way through the network.
    pub fn wait_ready(&self) -> Result<()> {
        self.node.wait_ready()
    }

    /// Waits until an onion service answers through this client, which runs on `host`.
    pub fn wait_service(&self, host: &Namespace, service: &OnionService) -> Result<()> {
        let deadline = Instant::now() + PUBLISH_LIMIT;
        let limit = ATTEMPT.to_string();
        loop {
            let mut curl = host.command("curl");
            curl.args(["--silent", "--show-error", "--max-time", &limit, "--output", "/dev/null"]);
            // Circuits of its own: those of the program under test are to be its own.
            curl.args(["--proxy-user", "curl:curl", "--proxy", Self::PROXY]);
            curl.arg(format!("http://{}/", service.name));
            match run(&mut curl, Duration::from_secs(2 * ATTEMPT)) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => thread::sleep(POLL),
            }
        }
    }

    /// Ends it. What it knows of its network is kept.
    pub fn stop(self) -> StoppedTor {
        StoppedTor { folder: self.node.folder }
    }
}

/// What is left of a client that has been ended: what it knows of its network.
#[derive(Debug)]
pub struct StoppedTor {
    folder: TempDir,
}

impl StoppedTor {
    /// Starts the client again, and waits until it has a way through the network.
    pub fn start(self, network: &TorNetwork, host: &Namespace) -> Result<TorClient> {
        let client = TorClient { node: Node::start(host, self.folder, network.client_config())? };
        client.wait_ready()?;
        Ok(client)
    }
}

impl Node {
    fn start(host: &Namespace, folder: TempDir, torrc: Torrc) -> Result<Self> {
        let file = folder.path().join("torrc");
        write(&file, &torrc.finish(folder.path()))?;
        let none = folder.path().join("none");
        write(&none, "")?;
        let mut tor = host.command("tor");
        // Nothing of the machine's own Tor.
        tor.arg("-f").arg(&file).arg("--defaults-torrc").arg(&none);
        Ok(Self { process: Proc::spawn(&mut tor)?, folder })
    }

    fn wait_ready(&self) -> Result<()> {
        let ready = |line: &str| line.contains("Bootstrapped 100%");
        self.process.wait_line(ready, BOOTSTRAP_LIMIT).map(drop)
    }
}

fn folder() -> Result<TempDir> {
    TempDir::new().map_err(Error::io("create a folder for a Tor"))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).map_err(Error::io(format!("write {}", path.display())))
}
