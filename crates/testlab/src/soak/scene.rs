use std::{path::Path, process::Command, thread, time::Duration};

use tempfile::TempDir;

use super::{
    fault::{Fault, Kind, Side},
    traffic::{Entrances, Services},
};
use crate::{
    Error, Result,
    line::{Condition, Line},
    nat::Nat,
    net::{NatLab, Site, StunServers, Uplink},
    netns::Namespace,
    nostr::{Manner, NostrClient, NostrConfig, NostrKey, NostrRelay, NostrServer},
    process::{Proc, run},
    relay::Relay,
    tunnel::{Client, ClientConfig, Server, ServerConfig},
};

/// For a session to open.
const SESSION_LIMIT: Duration = Duration::from_secs(60);

/// For programs that take milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(30);

/// What the services' addresses are in.
const LOOPBACK: &str = "127.0.0.0/8";

const SIGCONT: i32 = 18;

const SIGKILL: i32 = 9;

const SIGSTOP: i32 = 19;

/// How the two programs find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `tunnel-rs`, with two relays that carry what has no direct path.
    Iroh,
    /// `tunnel-rs-ice` in nostr mode, with two relays for signaling.
    Nostr,
}

/// A lab with a client on `a` and a server on `b`, each with two networks to choose from, and two relays.
///
/// Fields are dropped in this order, so that no program is surprised by another one's end.
#[derive(Debug)]
pub(super) struct Scene {
    programs: Programs,
    line: Option<Line>,
    /// The relay that is away.
    away: Option<usize>,
    pub(super) entrances: Entrances,
    pub(super) services: Services,
    pub(super) lab: NatLab,
}

#[derive(Debug)]
enum Programs {
    Iroh(Box<Iroh>),
    Nostr(Box<Nostr>),
}

#[derive(Debug)]
struct Iroh {
    client: Client,
    server: Server,
    relays: [Relay; 2],
    _identity: TempDir,
}

#[derive(Debug)]
struct Nostr {
    client: NostrClient,
    server: NostrServer,
    relays: [NostrRelay; 2],
    _stun: StunServers,
    _keys: [NostrKey; 2],
}

impl Scene {
    /// Builds the lab, starts everything in it, and waits for a session.
    pub(super) fn start(mode: Mode, binary: &Path) -> Result<Self> {
        let mut lab = NatLab::new(Nat::Expiring, Nat::Expiring)?;
        // Without a relay that carries data there is no way from a symmetric NAT to one that filters by port.
        let mobile = match mode {
            Mode::Iroh => Nat::Symmetric,
            Mode::Nostr => Nat::Expiring,
        };
        lab.a.add_uplink(&lab.internet, mobile)?;
        lab.b.add_uplink(&lab.internet, Nat::Expiring)?;
        for site in [&mut lab.a, &mut lab.b] {
            site.expire_on_demand();
        }
        let services = Services::start(&lab.b.host)?;
        let sources = services.sources()?;
        let programs = match mode {
            Mode::Iroh => Programs::Iroh(Box::new(Iroh::start(&lab, binary, &sources)?)),
            Mode::Nostr => Programs::Nostr(Box::new(Nostr::start(&lab, binary, &sources)?)),
        };
        let [streams, messages, packets] = sources.each_ref().map(|source| programs.target(source));
        let (streams, messages, packets) = (streams?, messages?, packets?);
        let entrances = Entrances { streams, messages, packets };
        Ok(Self { programs, line: None, away: None, entrances, services, lab })
    }

    /// The program of a side.
    pub(super) fn program(&self, side: Side) -> &Proc {
        match (&self.programs, side) {
            (Programs::Iroh(programs), Side::Client) => &programs.client.process,
            (Programs::Iroh(programs), Side::Server) => &programs.server.process,
            (Programs::Nostr(programs), Side::Client) => &programs.client.process,
            (Programs::Nostr(programs), Side::Server) => &programs.server.process,
        }
    }

    /// Whether traffic can go on while the fault lasts.
    pub(super) fn leaves_a_way(&self, fault: &Fault) -> bool {
        match fault.kind {
            Kind::Stop | Kind::Outage => false,
            Kind::PathLoss => matches!(self.programs, Programs::Iroh(_)),
            _ => true,
        }
    }

    /// Brings the fault about.
    pub(super) fn strike(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::PathLoss => match self.relay_in_use() {
                Some(number) => self.silence_relay(number),
                None => self.lab.cut_direct(),
            },
            Kind::AddressChange => self.site_mut(fault.side).switch(),
            Kind::RelayKill => {
                let unused = usize::from(fault.side == Side::Server);
                let number = self.relay_in_use().unwrap_or(unused);
                self.away = Some(number);
                self.kill_relay(number)
            }
            Kind::NatRebind => rebind(self.site(fault.side).uplink()),
            Kind::Delay => self.impair(Condition::default().with_delay(fault.delay)),
            Kind::Loss => {
                let loss = Condition::default().with_loss(f64::from(fault.percent) / 100.0);
                self.impair(loss.with_seed(fault.seed))
            }
            Kind::Stop => self.program(fault.side).signal(SIGSTOP),
            Kind::Outage => self.site(fault.side).disconnect(),
        }
    }

    /// Ends what lasts of it.
    pub(super) fn undo(&mut self, fault: &Fault) -> Result<()> {
        match fault.kind {
            Kind::AddressChange | Kind::NatRebind => Ok(()),
            Kind::PathLoss => {
                self.lab.internet.nft(NOT_SILENT)?;
                self.lab.restore_direct()
            }
            Kind::RelayKill => match self.away.take() {
                Some(number) => self.return_relay(number),
                None => Ok(()),
            },
            Kind::Delay | Kind::Loss => {
                self.line = None;
                Ok(())
            }
            Kind::Stop => self.program(fault.side).signal(SIGCONT),
            Kind::Outage => self.site(fault.side).reconnect(),
        }
    }

    fn site(&self, side: Side) -> &Site {
        match side {
            Side::Client => &self.lab.a,
            Side::Server => &self.lab.b,
        }
    }

    fn site_mut(&mut self, side: Side) -> &mut Site {
        match side {
            Side::Client => &mut self.lab.a,
            Side::Server => &mut self.lab.b,
        }
    }

    /// Puts the client's host behind such a link, by whichever network.
    fn impair(&mut self, condition: Condition) -> Result<()> {
        let ports = self.lab.a.uplinks().iter().flat_map(Uplink::ports).map(String::as_str);
        let ports: Vec<_> = ports.collect();
        self.line = Some(Line::shared(&self.lab.internet, &ports, condition, condition)?);
        Ok(())
    }

    /// Which of the relays carries the session, as the client named its path last; none where the path is direct.
    fn relay_in_use(&self) -> Option<usize> {
        let Programs::Iroh(programs) = &self.programs else { return None };
        let lines = programs.client.process.lines();
        let named = |line: &str| NAMES_PATH.iter().any(|words| line.contains(words));
        let last = lines.iter().rev().find(|line| named(&line.text))?;
        programs.relays.iter().position(|relay| {
            let host = relay.url.trim_start_matches("https://");
            last.text.contains(host.split([':', '/']).next().unwrap_or(host))
        })
    }

    /// Silently drops everything to and from a relay.
    fn silence_relay(&self, number: usize) -> Result<()> {
        let relay = RELAYS[number];
        self.lab.internet.nft(&format!(
            "{NOT_SILENT}\
             table ip silent {{\n\
             chain forward {{ type filter hook forward priority filter - 10;\n\
             ip saddr {relay} drop\n\
             ip daddr {relay} drop\n\
             }}\n\
             }}\n"
        ))
    }

    /// Ends a relay's process, or what its peers see of it: a relay for data that starts again would have another
    /// certificate, so it keeps its process, and loses its connections.
    fn kill_relay(&mut self, number: usize) -> Result<()> {
        match &mut self.programs {
            Programs::Iroh(_) => close_ports(&self.lab.relay, number),
            Programs::Nostr(programs) => {
                let process = &programs.relays[number].process;
                process.signal(SIGKILL)?;
                process.wait_exit(LIMIT).map(drop)
            }
        }
    }

    fn return_relay(&mut self, number: usize) -> Result<()> {
        match &mut self.programs {
            Programs::Iroh(_) => self.lab.relay.nft(NOT_CLOSED),
            Programs::Nostr(programs) => programs.relays[number].restart(&self.lab.relay),
        }
    }
}

impl Programs {
    fn target(&self, source: &str) -> Result<std::net::SocketAddr> {
        match self {
            Self::Iroh(programs) => programs.client.target(source),
            Self::Nostr(programs) => programs.client.target(source),
        }
    }
}

impl Iroh {
    fn start(lab: &NatLab, binary: &Path, sources: &[String]) -> Result<Self> {
        let relays = lab.start_two_relays()?;
        let identity = TempDir::new().map_err(Error::io("create a folder for a key"))?;
        let key = identity.path().join("key");
        let mut generate = Command::new(binary);
        run(generate.arg("generate-server-key").arg("--output").arg(&key), LIMIT)?;
        let server =
            ServerConfig::new(binary).allow_tcp(LOOPBACK).allow_udp(LOOPBACK).secret_file(&key);
        let server = relays.iter().fold(server, ServerConfig::relay).start(Some(&lab.b.host))?;
        let client = ClientConfig::with_ticket(binary, &server.ticket);
        let forward = |client: ClientConfig, source: &String| client.forward(source, "127.0.0.1:0");
        let client = sources.iter().fold(client, forward).start(Some(&lab.a.host))?;
        client.wait_session_open(SESSION_LIMIT)?;
        Ok(Self { client, server, relays, _identity: identity })
    }
}

impl Nostr {
    fn start(lab: &NatLab, binary: &Path, sources: &[String]) -> Result<Self> {
        let stun = lab.start_stun()?;
        let relay = || NostrRelay::start(&lab.relay, NatLab::RELAY_NAME, Manner::Good);
        let relays = [relay()?, relay()?];
        let config = NostrConfig::new(binary, Some(&stun));
        let config = relays.iter().fold(config, |config, relay| config.relay(&relay.url));
        let keys = [config.key()?, config.key()?];
        let [client_key, server_key] = &keys;
        let server = config.server(server_key, [client_key]).allow(LOOPBACK);
        let server = server.start(Some(&lab.b.host))?;
        server.wait_ready()?;
        let mut client = config.client(client_key, server_key);
        for source in sources {
            client = client.forward(source, "127.0.0.1:0");
        }
        let client = client.start(Some(&lab.a.host))?;
        client.wait_sessions(1, SESSION_LIMIT)?;
        Ok(Self { client, server, relays, _stun: stun, _keys: keys })
    }
}

/// In a line in which a program names the path of a session.
const NAMES_PATH: [&str; 4] = [
    " path direct to ",
    " path now direct to ",
    " path through relay ",
    " path now through relay ",
];

/// The addresses of the relays for data, in their order.
const RELAYS: [std::net::Ipv4Addr; 2] = [NatLab::RELAY, NatLab::SECOND_RELAY];

/// Deletes the table, and is no error where there is none.
const NOT_SILENT: &str = "table ip silent {}\ndelete table ip silent\n";

/// The same of the one on the relays' host.
const NOT_CLOSED: &str = "table ip closed {}\ndelete table ip closed\n";

/// Ends all connections of a relay, and answers as a host does on which nobody listens.
fn close_ports(host: &Namespace, number: usize) -> Result<()> {
    let relay = RELAYS[number];
    host.nft(&format!(
        "{NOT_CLOSED}\
         table ip closed {{\n\
         chain input {{ type filter hook input priority filter;\n\
         ip daddr {relay} meta l4proto tcp reject with tcp reset\n\
         ip daddr {relay} meta l4proto udp reject\n\
         }}\n\
         }}\n"
    ))?;
    // What it resets is told to both ends at once (ss(8), --kill).
    let mut command = host.command("ss");
    run(command.args(["--kill", "--tcp", "src", &relay.to_string()]), LIMIT).map(drop)
}

/// Ends all mappings of a NAT for UDP, so that the next packets get other ports.
fn rebind(uplink: &Uplink) -> Result<()> {
    if let Some(expiry) = uplink.expiry() {
        return expiry.expire_now();
    }
    // A symmetric NAT takes another port for each mapping by itself. That there is none is called a failure.
    let mut command = uplink.router().command("sh");
    let script = "conntrack -D -f ipv4 -p udp >/dev/null 2>&1 || true";
    run(command.args(["-c", script]), LIMIT).map(drop)
}

/// Waits until the fault has lasted for as long as it is to.
pub(super) fn last(fault: &Fault, since: std::time::Instant) {
    thread::sleep(fault.length.saturating_sub(since.elapsed()));
}
