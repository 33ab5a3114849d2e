use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tunnel_cli::client::{FAREWELL, failure, follow_use, notice};
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::{Failure, Outcome, signals};
use tunnel_iroh::{Endpoint, IrohDialer, OnBound, ServerHost};
use tunnel_model::protocol::{Reason, VpnRequest};
use tunnel_session::client::Link;
use tunnel_session::events::FlowEnd;
use tunnel_session::transport::{PathKind, PathReport, Role};
use tunnel_session::vpn::{Vpn, VpnError};
use tunnel_vpn::device::{Device, TunDevice};
use tunnel_vpn::engine::{EngineConfig, PeerId, Role as End};
use tunnel_vpn::join::{Handle, Join, Member};
use tunnel_vpn::lock::ClientLock;
use tunnel_vpn::network::{Bypass, ClientNetwork, ClientPlan, DnsForwarder};
use tunnel_vpn::wireguard::{End as TunnelEnd, PresharedKey, PrivateKey, PublicKey, Tunnel};

use super::{carry, clear_leftovers, device_gone, list, ports};
use crate::cli::refusal;
use crate::config::client::PeerConfig;
use crate::config::vpn::{VpnClientArgs, VpnClientConfig};

/// Between two attempts to open the VPN, on a session or on one after the other.
const AGAIN: Duration = Duration::from_millis(500);

/// For the link to notice that a session has ended with its VPN.
const SESSION_END: Duration = Duration::from_secs(1);

/// How often rules and routes are made again that somebody else may have removed: network managers take those that they do
/// not know for left over.
const RULES_LOOK: Duration = Duration::from_secs(20);

/// How often the path is looked at: one into the VPN itself may be chosen as long as what was sent before the VPN was up is
/// answered.
const PATH_LOOK: Duration = Duration::from_secs(1);

/// Before a server is asked again that has no address to give.
const FULL_PAUSE: Duration = Duration::from_secs(10);

pub(super) async fn run(args: VpnClientArgs) -> Outcome {
    let VpnClientConfig { peer, routes, force_routes, mtu, keepalive } = args.resolve()?;
    let PeerConfig { endpoint: mut config, server, ticket, token, grace, health } = peer;
    let shutdown = signals::shutdown_with_terminal().map_err(Failure::failed)?;
    let lock = ClientLock::acquire().map_err(Failure::failed)?;
    // First: what it says where this process is not root is what a user can do something with.
    let device = TunDevice::create(mtu).map_err(Failure::failed)?;
    clear_leftovers(Some(&lock))?;
    let bypass = Bypass::new().map_err(Failure::failed)?;
    let _undone = Undone(bypass.clone());
    let engine = EngineConfig { role: End::Client, addresses: Vec::new(), client_to_client: false };
    let (join, handle) = Join::new(engine);

    // Before anything is dialled, so that nothing that carries the VPN ever goes into it.
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for host in config.server_hosts() {
        match host {
            ServerHost::Name(name) => names.push(name),
            ServerHost::Address(address) => addresses.push(address),
        }
    }
    bypass.add_servers(addresses).map_err(Failure::failed)?;
    let dns = DnsForwarder::start(bypass.clone(), &names).await.map_err(Failure::failed)?;
    config.nameserver = Some(dns.address());
    let (around, told) = (bypass.clone(), handle.clone());
    config.on_bound = Some(OnBound::new(move |sockets| {
        told.set_transport_ports(ports(sockets));
        if let Err(error) = around.set_udp_sockets(sockets) {
            tracing::error!("{error}");
        }
    }));
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    let endpoint = Endpoint::bind(config, Role::Client).await.map_err(Failure::failed)?;

    tracing::info!("connecting to {server}");
    let events = health.events();
    let log = tokio::spawn(log_events(events.subscribe()));
    let dialer = IrohDialer::new(endpoint.clone(), server, ticket);
    let told = health.counting(notice);
    let link =
        Link::new(dialer, Some(token), Vec::new(), grace, events, told).map_err(Failure::failed)?;
    let open = Arc::new(AtomicBool::new(false));
    let is_open = Arc::clone(&open);
    follow_use(&health, &link, &shutdown, move || {
        (!is_open.load(Ordering::Relaxed)).then(|| "the VPN is not open".to_owned())
    });
    let (carrying, over) = carry(join, &device);
    let mut client = Client {
        network: ClientNetwork::new(&device, bypass.clone()),
        device: device.clone(),
        handle,
        routes,
        force_routes,
        mtu,
        keepalive,
        opened: 0,
        open,
    };
    let outcome = tokio::select! {
        failed = client.keep(&link) => Err(failed),
        error = link.run() => Err(failure(&error)),
        refused = refusal::hopeless(&endpoint, Arc::clone(&link)) => Err(refused),
        () = over.cancelled() => Ok(()),
        () = shutdown.cancelled() => Ok(()),
    };
    link.close();
    let gone = over.is_cancelled();
    // First, so that nothing goes into a VPN any more that carries nothing.
    drop(client);
    let _ = tokio::time::timeout(FAREWELL, endpoint.close()).await;
    drop((link, health));
    let _ = tokio::time::timeout(FAREWELL, log).await;
    if gone {
        return outcome.and(device_gone(carrying, device.name()).await);
    }
    carrying.abort();
    drop(dns);
    outcome
}

/// Removes the rules when dropped: clones of the bypass live in tasks that end some time later, or not before the process.
struct Undone(Bypass);

impl Drop for Undone {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// What stays when a session ends and the next one begins.
struct Client {
    network: ClientNetwork,
    device: TunDevice,
    handle: Handle,
    routes: Vec<IpNet>,
    force_routes: bool,
    mtu: u16,
    keepalive: u16,
    /// How often the VPN has been open.
    opened: u64,
    /// Whether it is open now.
    open: Arc<AtomicBool>,
}

impl Client {
    /// Opens the VPN on each session in turn, until that is hopeless.
    async fn keep(&mut self, link: &Link<IrohDialer>) -> Failure {
        loop {
            let begun = Instant::now();
            match self.open(link).await {
                Ok(why) => {
                    if let Some(failure) = ended(&why) {
                        // Where the token was taken back the session ends as well, and says so.
                        tokio::time::sleep(SESSION_END).await;
                        return failure;
                    }
                    tracing::warn!("the VPN is interrupted: {why}; opening it again");
                    tokio::time::sleep(AGAIN.saturating_sub(begun.elapsed())).await;
                }
                Err(Attempt::Hopeless(failure)) => return failure,
                Err(Attempt::Again(why, pause)) => {
                    tracing::warn!("{why}; asking again in {:.1} s", pause.as_secs_f64());
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Opens the VPN on the next session, and comes back when it has ended.
    async fn open(&mut self, link: &Link<IrohDialer>) -> Result<FlowEnd, Attempt> {
        let key = PrivateKey::generate().map_err(hopeless)?;
        let request = VpnRequest { public_key: key.public().0, routes: self.routes.clone() };
        let id = PeerId(self.opened);
        let opening = link.open_vpn(&request, self.handle.arrivals(), id.0);
        let mut vpn = match opening.await {
            Ok(vpn) => vpn,
            // As if it had been open.
            Err(VpnError::Lost(why @ (FlowEnd::Revoked | FlowEnd::Replaced))) => return Ok(why),
            Err(error) => return Err(self.not_opened(error)),
        };
        let mtu = self.mtu.min(vpn.opened.mtu);
        self.configure(&vpn, mtu)?;
        let preshared = vpn.secret.preshared_key(&key.public().0, &vpn.opened.public_key);
        let preshared = PresharedKey::new(*preshared);
        let end = TunnelEnd::Initiator { keepalive: self.keepalive };
        let server = PublicKey(vpn.opened.public_key);
        let member = Member {
            name: "the server".to_owned(),
            tunnel: Tunnel::new(&key, server, &preshared, end),
            networks: self.networks(&vpn),
            reach: Vec::new(),
            carrier: vpn.carrier.clone(),
        };
        self.handle.set_addresses(vpn.opened.addresses.clone());
        self.handle.add(id, member);
        self.opened += 1;
        self.open.store(true, Ordering::Relaxed);
        self.report(&vpn, mtu);
        let mut look = tokio::time::interval(RULES_LOOK);
        let mut paths = tokio::time::interval(PATH_LOOK);
        let why = loop {
            tokio::select! {
                why = vpn.ended() => break why,
                _ = paths.tick() => {
                    if leads_inside(&vpn) {
                        tracing::info!("the path to the server is one that the VPN hides: connecting anew");
                        vpn.carrier.leave();
                    }
                }
                _ = look.tick() => {
                    if let Err(error) = self.network.refresh() {
                        tracing::warn!("{error}");
                    }
                }
            }
        };
        self.open.store(false, Ordering::Relaxed);
        self.handle.remove(id);
        Ok(why)
    }

    /// What is reached through the VPN.
    fn networks(&self, vpn: &Vpn) -> Vec<IpNet> {
        let mut networks: Vec<_> = vpn.opened.addresses.iter().map(IpNet::trunc).collect();
        networks.extend(self.routes.iter().filter(|route| !vpn_has(vpn, route)));
        networks
    }

    /// Gives this machine its addresses and routes.
    fn configure(&mut self, vpn: &Vpn, mtu: u16) -> Result<(), Attempt> {
        if !self.force_routes {
            let wanted = self.networks(vpn);
            if let Some(overlap) = self.network.overlap(&wanted).map_err(hopeless)? {
                // Who was in before waits for this machine to leave the network that it has come to.
                return Err(match self.opened {
                    0 => hopeless(overlap),
                    _ => Attempt::Again(overlap.to_string(), FULL_PAUSE),
                });
            }
        }
        if self.device.mtu() != mtu {
            self.device.set_mtu(mtu).map_err(hopeless)?;
        }
        let plan = ClientPlan {
            addresses: vpn.opened.addresses.clone(),
            routes: self.routes.iter().filter(|route| !vpn_has(vpn, route)).copied().collect(),
        };
        self.network.apply(&plan).map_err(hopeless)
    }

    fn report(&self, vpn: &Vpn, mtu: u16) {
        let opened = &vpn.opened;
        let path = vpn.carrier.path().map(|path| format!(", path {path}")).unwrap_or_default();
        tracing::info!(
            "VPN up on {}: address {}, server {}, routes {}, MTU {mtu}{path}",
            self.device.name(),
            list(&opened.addresses),
            list(&opened.server),
            list(self.networks(vpn)),
        );
    }

    fn not_opened(&self, error: VpnError) -> Attempt {
        match &error {
            VpnError::Refused(refusal) => match refusal.reason {
                Reason::NotAllowed => Attempt::Hopeless(Failure::SourceRefused(error.to_string())),
                // Who was in before waits for an address to come back; who starts is told.
                Reason::NoAddress if self.opened > 0 => {
                    Attempt::Again(error.to_string(), FULL_PAUSE)
                }
                _ => Attempt::Hopeless(Failure::Failed(error.to_string())),
            },
            VpnError::NotOffered | VpnError::Malformed(_) => {
                Attempt::Hopeless(Failure::Failed(error.to_string()))
            }
            VpnError::Lost(_) => Attempt::Again(error.to_string(), AGAIN),
        }
    }
}

/// Whether the path to the server is to its address in the VPN. Outside of it such a path works where the way to that address
/// leads by the server's host, which answers at all of its addresses. With the VPN up nothing can be sent there any more, and
/// what the server sends still comes, so that the path does not count as silent.
fn leads_inside(vpn: &Vpn) -> bool {
    match vpn.carrier.path() {
        Some(PathReport { kind: PathKind::Direct(address), .. }) => {
            let ip = address.ip().to_canonical();
            vpn.opened.addresses.iter().any(|network| network.contains(&ip))
        }
        _ => false,
    }
}

/// Whether a route lies in the VPN's own network, which is reached without it.
fn vpn_has(vpn: &Vpn, route: &IpNet) -> bool {
    vpn.opened.addresses.iter().any(|address| address.trunc().contains(route))
}

/// Why there is no VPN.
enum Attempt {
    /// Asking again may help, after this time.
    Again(String, Duration),
    /// It cannot.
    Hopeless(Failure),
}

fn hopeless(error: impl std::fmt::Display) -> Attempt {
    Attempt::Hopeless(Failure::failed(error))
}

/// What an ended VPN is to the user, where it cannot be opened again.
fn ended(why: &FlowEnd) -> Option<Failure> {
    match why {
        FlowEnd::Revoked => {
            let text = "the server's rules no longer allow this VPN or one of its routes";
            Some(Failure::SourceRefused(text.to_owned()))
        }
        FlowEnd::Replaced => {
            Some(Failure::Failed(format!("{why}: give each client a --secret-file of its own")))
        }
        _ => None,
    }
}
