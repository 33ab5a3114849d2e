//! What goes around the VPN: the packets that carry it.
//!
//! As long as nothing is routed into the VPN but its own networks, the transport's packets stay out of it by themselves.
//! Otherwise its UDP sockets are bound to the interface of the default route, by which the kernel looks only at routes of that
//! interface; and each server that is reached by TCP gets a route of its own. Both follow the machine from network to network.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::NetworkError;
use super::system::{System, Watch};
use super::table::{self, Hop, Route};
use super::undo::{Command, Undo};

const ROUTE: &str = "/sbin/route";

/// With which refreshing a route is tried again that could not be made: every five minutes, as a client refreshes every 20 s.
const TRY_AGAIN: u32 = 15;

/// Servers at most: each is a route that everybody's packets to it take.
const MAX_SERVERS: usize = 256;

/// Leads the transport's own packets around the VPN. What it has done is undone with the last clone.
#[derive(Clone)]
pub struct Bypass {
    inner: Arc<Inner>,
}

struct Inner {
    system: Arc<dyn System>,
    state: Mutex<State>,
}

struct State {
    undo: Undo,
    /// The VPN's.
    device: Option<String>,
    /// The VPN's own networks.
    inside: Vec<IpNet>,
    /// Whether more than these is routed into it.
    active: bool,
    sockets: Vec<SocketAddr>,
    /// Where the sockets of IPv4 and of IPv6 are bound to.
    bound: [Option<String>; 2],
    servers: VecDeque<Server>,
    /// What the interface of the default route has of IPv4.
    addresses: String,
    /// How often [`Bypass::refresh`] was called.
    looks: u32,
    _watch: Option<Watch>,
}

#[derive(Clone, Debug)]
struct Server {
    address: IpAddr,
    /// The way of the route to it that was made here.
    hop: Option<Hop>,
    /// A way by which none could be made.
    refused: Option<Hop>,
    /// Whether that was said.
    told: bool,
}

impl std::fmt::Debug for Bypass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bypass").finish_non_exhaustive()
    }
}

impl Bypass {
    /// Over that system, with its notes in a folder.
    pub(super) fn over(system: Arc<dyn System>, folder: &Path) -> Result<Self, NetworkError> {
        let state = State {
            undo: Undo::begin(folder, Arc::clone(&system))?,
            device: None,
            inside: Vec::new(),
            active: false,
            sockets: Vec::new(),
            bound: [None, None],
            servers: VecDeque::new(),
            addresses: String::new(),
            looks: 0,
            _watch: None,
        };
        Ok(Self { inner: Arc::new(Inner { system, state: Mutex::new(state) }) })
    }

    /// UDP from the ports of these local sockets goes around, from now on. To be told again after they have been bound anew.
    pub fn set_udp_sockets(&self, sockets: &[SocketAddr]) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        state.sockets = sockets.iter().filter(|socket| socket.port() != 0).copied().collect();
        // A socket that is new is bound to nothing.
        state.bound = [None, None];
        state.bring_about(&*self.inner.system)
    }

    /// TCP to these addresses goes around, whoever sends it; not to those that are no single machine's, or this one's. Of more
    /// than 256 the first are forgotten.
    pub fn add_servers(
        &self,
        servers: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        for address in servers.into_iter().filter(is_routable) {
            // A server named again is in use: it goes to the end.
            let known = state.servers.iter().position(|server| server.address == address);
            let server = known.and_then(|at| state.servers.remove(at));
            let server =
                server.unwrap_or(Server { address, hop: None, refused: None, told: false });
            state.servers.push_back(server);
            if state.servers.len() > MAX_SERVERS
                && let Some(oldest) = state.servers.pop_front()
            {
                state.forget(&oldest);
            }
        }
        state.bring_about(&*self.inner.system)
    }

    /// Names the VPN's device, whose routes lead into the VPN.
    pub(super) fn set_device(&self, device: &str) {
        self.inner.state().device = Some(device.to_owned());
    }

    /// Whether from now on more than the VPN's own networks, `inside`, is routed into it. To be told before that is so.
    pub(super) fn set_active(&self, active: bool, inside: &[IpNet]) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        if active && !state._watch.as_mut().is_some_and(Watch::is_alive) {
            let inner = Arc::downgrade(&self.inner);
            let watch = self.inner.system.watch(Box::new(move |changed| {
                let Some(inner) = inner.upgrade() else { return };
                let mut state = inner.state();
                let done = if changed { state.bring_about(&*inner.system) } else { Ok(()) };
                let again = state.bind_again(&*inner.system);
                if let Err(error) = done.and(again) {
                    tracing::debug!("{error}");
                }
            }));
            state._watch = Some(watch.map_err(|source| NetworkError::Kernel {
                action: "watch this machine's routes (`route monitor`)".to_owned(),
                source,
            })?);
        }
        state.active = active;
        state.inside = inside.to_vec();
        state.bring_about(&*self.inner.system)
    }

    /// Whether a route was made here.
    pub(super) fn is_own(&self, route: &Route) -> bool {
        self.inner.state().is_own(route)
    }

    /// Follows the machine's routes, where they have changed, and tries again what has failed.
    pub(super) fn refresh(&self) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        state.looks += 1;
        if state.looks.is_multiple_of(TRY_AGAIN) {
            for server in &mut state.servers {
                server.refused = None;
            }
        }
        state.bring_about(&*self.inner.system)?;
        state.bind_again(&*self.inner.system)
    }

    /// Undoes everything now, whoever still has a clone. From then on nothing goes around any more.
    pub fn remove(&self) {
        self.inner.state().remove(&*self.inner.system);
    }

    /// The device by which an address is reached around the VPN, if that must be said.
    fn device_to(&self, to: IpAddr) -> io::Result<Option<String>> {
        let state = self.inner.state();
        if !state.active || to.is_loopback() {
            return Ok(None);
        }
        let routes = table::read(&*self.inner.system)?;
        Ok(table::way(&routes, state.device.as_deref(), to).map(|hop| hop.device))
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        if let Ok(state) = self.state.try_lock() {
            return state;
        }
        // Whoever has it may run programs meanwhile.
        let mut state = None;
        self.system.wait(&mut || {
            state = Some(self.state.lock().unwrap_or_else(PoisonError::into_inner));
        });
        state.unwrap_or_else(|| self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// Makes true what is wanted, as the machine's routes are now.
    fn bring_about(&mut self, system: &dyn System) -> Result<(), NetworkError> {
        if !self.active {
            for at in 0..self.servers.len() {
                self.replace(at, None);
            }
            return self.bind(system, [None, None]);
        }
        let routes = table::read(system).map_err(NetworkError::list)?;
        let own = self.device.as_deref();
        let devices = [true, false].map(|is_v4| table::default_device(&routes, own, is_v4));
        // Servers have their routes whatever becomes of a socket.
        let bound = self.bind(system, devices);
        let moved = self.has_moved(system);
        // Its own routes to servers are no ways to them by themselves.
        let others: Vec<Route> =
            routes.iter().filter(|route| !self.is_own(route)).cloned().collect();
        let mut added = Vec::new();
        for at in 0..self.servers.len() {
            let Some(server) = self.servers.get(at).cloned() else { break };
            let wanted = self.wanted(&others, server.address);
            // With an interface that goes, if only for a moment, its routes go.
            let is_there =
                wanted.as_ref().is_none_or(|hop| is_routed(&routes, server.address, hop));
            // A route keeps the source address of when it was made.
            let keeps = server.hop == wanted && is_there && !(moved && server.address.is_ipv4());
            if keeps || wanted.is_some() && server.refused == wanted {
                continue;
            }
            self.withdraw(at, &routes)?;
            // The system has such a route by itself, to a router for one.
            let Some(hop) = wanted.filter(|hop| !is_routed(&others, server.address, hop)) else {
                continue;
            };
            self.undo.note(delete(server.address, &hop))?;
            let add = add(server.address, &hop);
            let words: Vec<&str> = add.iter().map(String::as_str).collect();
            let said = system.run(ROUTE, &words);
            self.replace(at, Some(hop));
            added.push((at, said));
        }
        if !added.is_empty() {
            self.check(system, added)?;
        }
        bound
    }

    /// Whether the interface of the default route has other addresses of IPv4 than when it was looked at last.
    fn has_moved(&mut self, system: &dyn System) -> bool {
        let [Some(device), _] = &self.bound else { return false };
        let Ok(listed) = system.run("/sbin/ifconfig", &[device, "inet"]) else { return false };
        let lines = listed.lines().map(str::trim).filter(|line| line.starts_with("inet "));
        let now = lines.collect::<Vec<_>>().join("\n");
        std::mem::replace(&mut self.addresses, now.clone()) != now
    }

    /// Looks whether routes are there that have been added; route(8) does not always say so.
    fn check(
        &mut self,
        system: &dyn System,
        added: Vec<(usize, io::Result<String>)>,
    ) -> Result<(), NetworkError> {
        let routes = table::read(system).map_err(NetworkError::list)?;
        for (at, said) in added {
            let Some(server) = self.servers.get_mut(at) else { continue };
            let Some(hop) = server.hop.clone() else { continue };
            if is_routed(&routes, server.address, &hop) {
                continue;
            }
            server.hop = None;
            server.refused = Some(hop.clone());
            let address = server.address;
            let first = !std::mem::replace(&mut server.told, true);
            if let Err(error) = self.undo.cancel(&delete(address, &hop)) {
                tracing::debug!("{error}");
            }
            let said = said.unwrap_or_else(|error| error.to_string());
            if !first {
                continue;
            }
            tracing::warn!(
                "{address} may be out of reach while the VPN is up: no route by {} can be made for it: {}",
                hop.device,
                said.trim()
            );
        }
        Ok(())
    }

    /// The way that a server is to have a route by.
    fn wanted(&self, others: &[Route], server: IpAddr) -> Option<Hop> {
        if self.inside.iter().any(|network| network.contains(&server)) {
            return None;
        }
        let hop = table::way(others, self.device.as_deref(), server)?;
        // For a neighbour that is reached by IPv6 no such route can be said to route(8).
        let can = server.is_ipv4() || hop.gateway.is_some() || has_no_neighbours(&hop.device);
        can.then_some(hop)
    }

    /// Removes the route to a server that was made here, if there is one, for another one that there may be.
    fn replace(&mut self, at: usize, hop: Option<Hop>) {
        let Some(server) = self.servers.get_mut(at) else { return };
        let before = Server { hop: std::mem::replace(&mut server.hop, hop), ..server.clone() };
        self.forget(&before);
    }

    /// Removes the route to a server that was made here. Where the table has it no more, another one to the server is somebody
    /// else's and stays.
    fn withdraw(&mut self, at: usize, routes: &[Route]) -> Result<(), NetworkError> {
        let Some(server) = self.servers.get_mut(at) else { return Ok(()) };
        let Some(hop) = server.hop.take() else { return Ok(()) };
        let undo = delete(server.address, &hop);
        if is_routed(routes, server.address, &hop) {
            self.undo.undo(&undo);
            Ok(())
        } else {
            self.undo.cancel(&undo)
        }
    }

    /// Whether it is a route to a server that stands here by this process's doing.
    fn is_own(&self, route: &Route) -> bool {
        let single = route.network.prefix_len() == route.network.max_prefix_len();
        let server = route.network.addr();
        single && self.servers.iter().any(|own| own.address == server && own.hop.is_some())
    }

    /// Binds sockets that have come in place of others meanwhile.
    fn bind_again(&self, system: &dyn System) -> Result<(), NetworkError> {
        let [v4, v6] = &self.bound;
        let mut outcome = Ok(());
        for socket in &self.sockets {
            if let Some(device) = if socket.is_ipv4() { v4 } else { v6 } {
                outcome = outcome.and(bind(system, *socket, Some(device)));
            }
        }
        outcome
    }

    fn bind(
        &mut self,
        system: &dyn System,
        devices: [Option<String>; 2],
    ) -> Result<(), NetworkError> {
        let mut outcome = Ok(());
        for socket in &self.sockets {
            let [v4, v6] = &devices;
            let [before_v4, before_v6] = &self.bound;
            let (device, before) = if socket.is_ipv4() { (v4, before_v4) } else { (v6, before_v6) };
            if device != before {
                outcome = outcome.and(bind(system, *socket, device.as_deref()));
            }
        }
        self.bound = devices;
        outcome
    }

    /// Removes the route to a server.
    fn forget(&mut self, server: &Server) {
        if let Some(hop) = &server.hop {
            self.undo.undo(&delete(server.address, hop));
        }
    }

    fn remove(&mut self, system: &dyn System) {
        self.active = false;
        self._watch = None;
        if let Err(error) = self.bind(system, [None, None]) {
            tracing::debug!(%error, "a socket stays bound");
        }
        for server in std::mem::take(&mut self.servers) {
            self.forget(&server);
        }
        self.sockets.clear();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        state.remove(&*self.system);
    }
}

/// Whether the table has a route to a server alone, by that way.
fn is_routed(routes: &[Route], server: IpAddr, hop: &Hop) -> bool {
    let is_it = |route: &Route| route.network == server.into() && !route.is_cloned();
    routes.iter().any(|route| is_it(route) && route.hop() == *hop)
}

fn bind(system: &dyn System, socket: SocketAddr, device: Option<&str>) -> Result<(), NetworkError> {
    system.bind_udp(socket, device).map_err(|source| {
        let action = format!("send from UDP port {} around the VPN", socket.port());
        NetworkError::Kernel { action, source }
    })
}

/// Whether what is sent to a device has one end to go to: other VPNs' devices and lines that are dialled.
fn has_no_neighbours(device: &str) -> bool {
    ["utun", "ppp", "ipsec"].iter().any(|kind| device.starts_with(kind))
}

/// Whether an address is that of one other machine. route(8) takes 0.0.0.0 and :: for the default route.
fn is_routable(address: &IpAddr) -> bool {
    let of_link = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(of_link || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// What names the destination to route(8): without the first of these words it guesses a network of some addresses.
fn destination(server: IpAddr, hop: &Hop) -> [String; 2] {
    if hop.gateway.is_some() || has_no_neighbours(&hop.device) {
        ["-host".to_owned(), server.to_string()]
    } else {
        // As a host it would get this machine's own hardware address.
        ["-net".to_owned(), IpNet::from(server).to_string()]
    }
}

/// What route(8) is told to make a route to a server.
fn add(server: IpAddr, hop: &Hop) -> Command {
    let [kind, destination] = destination(server, hop);
    let words = ["-q", "-n", "add", table::family(server), &kind, &destination];
    let by: &[&str] = match &hop.gateway {
        Some(gateway) => &["-gateway", gateway],
        None if has_no_neighbours(&hop.device) => &["-interface", &hop.device],
        // Its hardware address is asked for, as those of other neighbours are.
        None => &["-interface", &hop.device, "-cloning"],
    };
    words.iter().chain(by).map(|word| (*word).to_owned()).collect()
}

/// The program and what it is told to remove it. Where it leads does not matter to the kernel.
fn delete(server: IpAddr, hop: &Hop) -> Command {
    let [kind, destination] = destination(server, hop);
    let words = [ROUTE, "-q", "-n", "delete", table::family(server), &kind, &destination];
    words.map(str::to_owned).to_vec()
}

#[cfg(target_os = "macos")]
pub use mac::BypassedUdp;

#[cfg(target_os = "macos")]
mod mac {
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::num::NonZeroU32;
    use std::path::Path;
    use std::sync::Arc;

    use nix::net::if_::if_nametoindex;
    use socket2::SockRef;
    use tokio::net::UdpSocket;

    use super::super::NetworkError;
    use super::super::system::Mac;
    use super::Bypass;
    use crate::network::STATE_DIR;

    impl Bypass {
        /// One that does nothing yet. Needs root.
        pub fn new() -> Result<Self, NetworkError> {
            Self::over(Arc::new(Mac), Path::new(STATE_DIR))
        }

        /// A UDP socket of a free port that is connected to an address, around the VPN.
        pub async fn udp(&self, to: SocketAddr) -> io::Result<BypassedUdp> {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
            let bypass = self.clone();
            let find = move || bypass.device_to(to.ip());
            if let Some(device) = tokio::task::spawn_blocking(find).await?? {
                let index = NonZeroU32::new(if_nametoindex(&*device)?);
                let socket = SockRef::from(&socket);
                match to {
                    SocketAddr::V4(_) => socket.bind_device_by_index_v4(index)?,
                    SocketAddr::V6(_) => socket.bind_device_by_index_v6(index)?,
                }
            }
            socket.connect(to).await?;
            Ok(BypassedUdp { socket })
        }
    }

    /// A connected UDP socket whose packets go around the VPN.
    #[derive(Debug)]
    pub struct BypassedUdp {
        socket: UdpSocket,
    }

    impl std::ops::Deref for BypassedUdp {
        type Target = UdpSocket;

        fn deref(&self) -> &UdpSocket {
            &self.socket
        }
    }
}
