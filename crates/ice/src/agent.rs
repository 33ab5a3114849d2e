//! The task that makes ICE happen: it feeds the driver with packets and time, asks STUN servers, and follows the
//! machine's addresses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tunnel_model::Host;

use crate::description::Mapping;
use crate::driver::{Driver, Event, Path, Side, Transmit};
use crate::gather::{Gatherer, Mapped};
use crate::interfaces::{Addresses, Interfaces};
use crate::sockets::{Sockets, StunPacket};
use crate::{Candidate, CandidateKind, Credentials};

/// How often the traffic is looked at, to tell whether data flows.
const TRAFFIC_LOOK: Duration = Duration::from_millis(500);

/// Packets in that time that are data; keeping a connection alive takes fewer.
const TRAFFIC: u64 = 4;

/// Between attempts to resolve a STUN server's name.
const RESOLVE_AGAIN: Duration = Duration::from_secs(10);

/// Addresses of a STUN server that are asked.
const MAX_SERVER_ADDRESSES: usize = 2;

/// Reflexive addresses that are told to the peer.
const MAX_REFLEXIVE: usize = 12;

/// Packets that are taken or kept at once.
const BURST: usize = 64;

/// How long a packet waits that finds its socket full.
const FULL: Duration = Duration::from_millis(5);

/// Commands that wait; each is taken at once.
const COMMANDS: usize = 16;

/// A STUN server (RFC 8489) that tells this side its address on the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StunServer {
    /// Its address or name.
    pub host: Host,
    /// Its UDP port; 3478 is the usual one (RFC 8489 section 18.6).
    pub port: u16,
}

impl fmt::Display for StunServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl StunServer {
    async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        match &self.host {
            Host::Ip(ip) => Ok(vec![SocketAddr::new(*ip, self.port)]),
            Host::Name(name) => {
                let found = tokio::net::lookup_host((name.as_str(), self.port)).await?;
                let (v4, v6): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
                let some = |all: Vec<_>| all.into_iter().take(MAX_SERVER_ADDRESSES);
                Ok(some(v4).chain(some(v6)).collect())
            }
        }
    }
}

/// How things stand with the path to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathState {
    /// None has been found yet.
    Searching,
    /// This one is in use.
    Up(Path),
    /// For some seconds nothing has been heard from the peer; it is looked for on.
    Gone,
}

/// What this side looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Where it may be reached.
    pub(crate) candidates: Vec<Candidate>,
    /// How it gets out over IPv4.
    pub(crate) mapping_v4: Mapping,
    /// How it gets out over IPv6.
    pub(crate) mapping_v6: Mapping,
    /// Whether every STUN server has answered or will not.
    pub(crate) settled: bool,
    /// Why STUN servers could not be asked.
    pub(crate) unresolved: Vec<String>,
}

/// What the agent is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Who the peer is, and where it may be.
    Remote(Credentials, Vec<Candidate>),
    /// Where the peer may be now, in place of what was said before.
    Candidates(Vec<Candidate>),
}

/// A handle to the task; it ends with the handle.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) path: watch::Receiver<PathState>,
    pub(crate) view: watch::Receiver<View>,
    commands: mpsc::Sender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    /// Opens a socket on every usable address, and begins to ask the STUN servers.
    pub(crate) async fn start(
        side: Side,
        credentials: &Credentials,
        servers: Vec<StunServer>,
    ) -> Self {
        let (sockets, packets) = Sockets::new();
        let (interfaces, addresses) = Interfaces::watch().await;
        let now = Instant::now();
        let (commands, told) = mpsc::channel(COMMANDS);
        let (path_sender, path) = watch::channel(PathState::Searching);
        let (resolved_sender, resolved) = mpsc::channel(COMMANDS);
        let resolving = servers.iter().map(ToString::to_string).collect();
        let mut resolvers = JoinSet::new();
        for server in servers {
            resolvers.spawn(resolve(server, resolved_sender.clone()));
        }
        let mut task = Task {
            driver: Driver::new(side, credentials, now),
            gatherer: Gatherer::default(),
            sockets: sockets.clone(),
            packets,
            commands: told,
            path: path_sender,
            view: watch::Sender::default(),
            interfaces,
            resolved,
            _resolvers: resolvers,
            resolving,
            failures: BTreeMap::new(),
            unsent: VecDeque::new(),
            traffic: (0, 0),
            looked: now,
        };
        task.take_addresses(&addresses);
        task.show();
        let view = task.view.subscribe();
        let task = tokio::spawn(task.run());
        Self { sockets, path, view, commands, task }
    }

    /// Tells the task something.
    pub(crate) async fn tell(&self, command: Command) {
        // The task ends only with this handle.
        let _ = self.commands.send(command).await;
    }

    /// The same from where the handle cannot be kept.
    pub(crate) fn teller(&self) -> mpsc::Sender<Command> {
        self.commands.clone()
    }
}

/// The name of a STUN server, and what came of it.
type Resolved = (String, Result<Vec<SocketAddr>, String>);

async fn resolve(server: StunServer, resolved: mpsc::Sender<Resolved>) {
    loop {
        let found = server.resolve().await.map_err(|error| error.to_string());
        let done = found.is_ok();
        if resolved.send((server.to_string(), found)).await.is_err() || done {
            return;
        }
        sleep(RESOLVE_AGAIN).await;
    }
}

struct Task {
    driver: Driver,
    gatherer: Gatherer,
    sockets: Arc<Sockets>,
    packets: mpsc::Receiver<StunPacket>,
    commands: mpsc::Receiver<Command>,
    path: watch::Sender<PathState>,
    view: watch::Sender<View>,
    interfaces: Interfaces,
    resolved: mpsc::Receiver<Resolved>,
    _resolvers: JoinSet<()>,
    /// STUN servers whose names are being resolved for the first time.
    resolving: BTreeSet<String>,
    /// Why names could not be resolved.
    failures: BTreeMap<String, String>,
    /// What found its socket full.
    unsent: VecDeque<Transmit>,
    traffic: (u64, u64),
    looked: Instant,
}

impl Task {
    async fn run(mut self) {
        loop {
            self.flush();
            let wake = self.next_timeout();
            tokio::select! {
                Some(packet) = self.packets.recv() => {
                    self.take_packet(&packet);
                    // All that are there, before what is done once for all of them.
                    for _ in 0..BURST {
                        let Ok(packet) = self.packets.try_recv() else { break };
                        self.take_packet(&packet);
                    }
                }
                Some(command) = self.commands.recv() => self.take_command(command),
                Some(resolved) = self.resolved.recv() => self.take_servers(resolved),
                addresses = self.interfaces.changed() => self.take_addresses(&addresses),
                () = sleep_until(wake.into()) => {}
            }
            let now = Instant::now();
            self.look_at_traffic(now);
            self.gatherer.handle_timeout(now);
            self.driver.handle_timeout(now);
            self.show();
        }
    }

    fn next_timeout(&mut self) -> Instant {
        let driver = self.driver.poll_timeout();
        let gatherer = self.gatherer.poll_timeout();
        let look = self.driver.path().map(|_| self.looked + TRAFFIC_LOOK);
        let now = Instant::now();
        let unsent = (!self.unsent.is_empty()).then(|| now + FULL);
        let idle = now + Duration::from_secs(60);
        [driver, gatherer, look, unsent].into_iter().flatten().fold(idle, Instant::min)
    }

    fn look_at_traffic(&mut self, now: Instant) {
        if now < self.looked + TRAFFIC_LOOK {
            return;
        }
        self.looked = now;
        let (sent, received) = self.sockets.traffic();
        self.driver.set_busy(sent - self.traffic.0 >= TRAFFIC);
        if received > self.traffic.1 {
            self.driver.heard(now);
        }
        self.traffic = (sent, received);
    }

    fn flush(&mut self) {
        let next = || self.gatherer.poll_transmit().or_else(|| self.driver.poll_transmit());
        let mut transmits = std::mem::take(&mut self.unsent);
        transmits.extend(std::iter::from_fn(next));
        for transmit in transmits {
            let Transmit { local, remote, contents } = &transmit;
            if !self.sockets.send_stun(*local, *remote, contents) && self.unsent.len() < BURST {
                self.unsent.push_back(transmit);
            }
        }
        while let Some(event) = self.driver.poll_event() {
            match event {
                Event::Trusted(remote) => self.sockets.trust(remote),
                Event::Selected(path) => {
                    tracing::debug!(
                        "data goes from {} to {}: {}",
                        path.local,
                        path.remote,
                        path.kind
                    );
                    self.sockets.set_route(path.local, path.remote);
                    self.gatherer.set_resting(true, Instant::now());
                    self.path.send_replace(PathState::Up(path));
                }
                Event::Stalled => {
                    tracing::debug!("checks of the path in use are not answered");
                    self.sockets.clear_route();
                }
                Event::Gone => {
                    self.gatherer.set_resting(false, Instant::now());
                    self.path.send_replace(PathState::Gone);
                }
            }
        }
    }

    fn take_packet(&mut self, packet: &StunPacket) {
        let StunPacket { local, remote, contents } = packet;
        let now = Instant::now();
        let (answer, mapped) = self.gatherer.handle_packet(now, *local, *remote, contents);
        if let Some(Mapped { base, outside, .. }) = mapped
            && outside != base
        {
            let candidate = Candidate { kind: CandidateKind::ServerReflexive, addr: outside };
            self.driver.add_local(candidate, base);
        }
        if !answer {
            self.driver.handle_packet(now, *local, *remote, contents);
        }
    }

    fn take_command(&mut self, command: Command) {
        match command {
            Command::Remote(credentials, candidates) => {
                self.driver.set_remote(&credentials);
                self.take_candidates(&candidates);
            }
            Command::Candidates(candidates) => self.take_candidates(&candidates),
        }
    }

    fn take_candidates(&mut self, candidates: &[Candidate]) {
        self.sockets.expect(candidates.iter().map(|candidate| candidate.addr));
        self.driver.set_remote_addresses(candidates);
    }

    fn take_servers(&mut self, (name, resolved): Resolved) {
        self.resolving.remove(&name);
        match resolved {
            Ok(servers) => {
                self.failures.remove(&name);
                self.sockets.expect(servers.iter().copied());
                for server in servers {
                    self.gatherer.add_server(server, Instant::now());
                }
            }
            Err(failure) => {
                if self.failures.insert(name.clone(), failure.clone()).as_ref() != Some(&failure) {
                    tracing::warn!("STUN server {name}: {failure}");
                }
            }
        }
    }

    /// Opens sockets on addresses that have come, and closes those of addresses that have gone.
    fn take_addresses(&mut self, addresses: &Addresses) {
        let known = self.sockets.addresses();
        for base in known.iter().filter(|base| !addresses.present.contains(&base.ip())) {
            tracing::debug!("address {} is gone", base.ip());
            self.sockets.close(*base);
            self.gatherer.remove_base(*base);
            self.driver.remove_local(*base);
        }
        let new = addresses.usable.iter().filter(|ip| !known.iter().any(|b| b.ip() == **ip));
        let mut failed = false;
        for ip in new {
            match self.sockets.open(*ip) {
                Ok(base) => {
                    self.gatherer.add_base(base, Instant::now());
                    let candidate = Candidate { kind: CandidateKind::Host, addr: base };
                    self.driver.add_local(candidate, base);
                }
                Err(error) => {
                    tracing::debug!("cannot open a socket on {ip}: {error}");
                    failed = true;
                }
            }
        }
        self.interfaces.look_again(failed);
    }

    fn show(&self) {
        let hosts = self.sockets.addresses();
        let outside = self.gatherer.outside().map(|(_, outside)| outside);
        let outside: BTreeSet<_> = outside.filter(|addr| !hosts.contains(addr)).collect();
        let kinds = [(CandidateKind::Host, hosts), {
            let outside = outside.into_iter().take(MAX_REFLEXIVE).collect();
            (CandidateKind::ServerReflexive, outside)
        }];
        let candidates = kinds
            .into_iter()
            .flat_map(|(kind, addrs)| addrs.into_iter().map(move |addr| Candidate { kind, addr }))
            .collect();
        let view = View {
            candidates,
            mapping_v4: self.gatherer.mapping(true),
            mapping_v6: self.gatherer.mapping(false),
            settled: self.resolving.is_empty() && self.gatherer.is_settled(),
            unresolved: self.failures.iter().map(|(name, why)| format!("{name}: {why}")).collect(),
        };
        self.view.send_if_modified(|shown| {
            let changed = *shown != view;
            if changed {
                *shown = view;
            }
            changed
        });
    }
}
