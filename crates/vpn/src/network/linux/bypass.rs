//! What goes around the VPN: the packets that carry it.
//!
//! A rule in front of the VPN's own leads past them, so that such a packet goes as if there were no VPN. It is found by its
//! UDP port, as the sockets of the transport are not ours to mark; or by TCP and its destination. The kernel looks at the
//! same, the other way round, when it checks where a packet that comes in should have come from, so a strict `rp_filter`
//! (RFC 3704 section 2.2) lets the answers in.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use nix::errno::Errno;
use tokio::net::UdpSocket;

use super::NetworkError;
use super::netlink::Netlink;
use super::rule::{self, Family, Rule, What};

/// Servers at most; the kernel goes through all rules for each packet whose route it does not know.
const MAX_SERVERS: usize = 256;

/// Leads the transport's own packets around the VPN. The rules are gone with the last clone.
#[derive(Clone, Debug)]
pub struct Bypass {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    netlink: Netlink,
    /// Those that the kernel has rules for.
    families: Vec<Family>,
    /// What [`Bypass::set_udp_sockets`] was told last.
    sockets: Vec<(Family, u16)>,
    /// How many have asked for a rule.
    ports: HashMap<(Family, u16), usize>,
    servers: VecDeque<IpAddr>,
    /// The VPN's own networks.
    inside: Vec<IpNet>,
}

impl Bypass {
    /// Makes the rule that all others lead to. Needs CAP_NET_ADMIN.
    pub fn new() -> Result<Self, NetworkError> {
        let failed = |error| NetworkError::kernel("add a routing rule (`ip rule`)", error);
        let netlink = Netlink::new().map_err(failed)?;
        let mut state = State {
            netlink,
            families: Vec::new(),
            sockets: Vec::new(),
            ports: HashMap::new(),
            servers: VecDeque::new(),
            inside: Vec::new(),
        };
        for family in Family::BOTH {
            match Rule::end(family).add(&mut state.netlink) {
                Ok(()) => state.families.push(family),
                Err(error) if family == Family::V6 && is_unknown(&error) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let bypass = Self { inner: Arc::new(Inner { state: Mutex::new(state) }) };
        // What a rule does not know it leaves out in silence, and matches too much.
        if !rule::are_understood(&mut bypass.inner.state().netlink).map_err(failed)? {
            return Err(NetworkError::OldKernel);
        }
        Ok(bypass)
    }

    /// UDP from the ports of these local sockets goes around, from now on; that from ports named in an earlier call and not in
    /// this one does not any more. To be told before the sockets send, and again after they have been bound anew.
    pub fn set_udp_sockets(&self, sockets: &[SocketAddr]) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        let mut wanted: Vec<_> = sockets.iter().map(port_of).filter(|(_, p)| *p != 0).collect();
        wanted.sort_unstable();
        wanted.dedup();
        for port in &wanted {
            if !state.sockets.contains(port) {
                let failed = |error| {
                    let action = format!("route UDP port {} around the VPN", port.1);
                    NetworkError::kernel(action, error)
                };
                state.hold(*port).map_err(failed)?;
                state.sockets.push(*port);
            }
        }
        let gone: Vec<_> = state.sockets.extract_if(.., |port| !wanted.contains(port)).collect();
        for port in gone {
            state.release(port);
            let inside = state.inside.clone();
            for network in inside.into_iter().filter(|network| Family::of(*network) == port.0) {
                state.delete(Rule::unreachable(port.1, network));
            }
        }
        let unreachable = state.unreachable();
        state.add_all(unreachable)
    }

    /// TCP to these addresses goes around, whoever sends it. Of more than 256 the first are forgotten.
    pub fn add_servers(
        &self,
        servers: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        for server in servers {
            // A server named again is in use: it goes to the end.
            if let Some(at) = state.servers.iter().position(|known| *known == server) {
                state.servers.remove(at);
                state.servers.push_back(server);
                continue;
            }
            let rule = to_server(server);
            if server.is_loopback() || !state.families.contains(&rule.family) {
                continue;
            }
            rule.add(&mut state.netlink).map_err(|error| {
                NetworkError::kernel(format!("route TCP to {server} around the VPN"), error)
            })?;
            state.servers.push_back(server);
            if state.servers.len() > MAX_SERVERS
                && let Some(oldest) = state.servers.pop_front()
            {
                state.delete(to_server(oldest));
            }
        }
        Ok(())
    }

    /// The transport sends nothing to these networks, the VPN's own, from now on: the peer's addresses there are among those
    /// that the two transports try, and what a router outside has there is none of the peer's.
    pub(super) fn keep_out(&self, networks: &[IpNet]) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        let before = state.unreachable();
        state.inside = networks.to_vec();
        let after = state.unreachable();
        for rule in before.iter().filter(|rule| !after.contains(rule)) {
            state.delete(*rule);
        }
        state.add_all(after)
    }

    /// Makes rules again that others have removed.
    pub(super) fn refresh(&self) -> Result<(), NetworkError> {
        let mut state = self.inner.state();
        let rules = state.rules();
        state.add_all(rules)
    }

    /// A UDP socket of a free port that is connected to an address, around the VPN.
    pub async fn udp(&self, to: SocketAddr) -> io::Result<BypassedUdp> {
        let any: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        let port = port_of(&socket.local_addr()?);
        self.inner.state().hold(port)?;
        let held = Held { bypass: self.clone(), port };
        socket.connect(to).await?;
        Ok(BypassedUdp { socket, _held: held })
    }

    /// Removes all rules now, whoever still has a clone. From then on nothing goes around any more.
    pub fn remove(&self) {
        self.inner.state().remove();
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn hold(&mut self, port: (Family, u16)) -> io::Result<()> {
        if !self.families.contains(&port.0) {
            return Ok(());
        }
        let count = self.ports.entry(port).or_default();
        if *count == 0 {
            Rule::around(port.0, What::UdpFrom(port.1)).add(&mut self.netlink)?;
        }
        *count += 1;
        Ok(())
    }

    fn release(&mut self, port: (Family, u16)) {
        let Some(count) = self.ports.get_mut(&port) else { return };
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.ports.remove(&port);
            self.delete(Rule::around(port.0, What::UdpFrom(port.1)));
        }
    }

    fn add_all(&mut self, rules: Vec<Rule>) -> Result<(), NetworkError> {
        for rule in rules {
            rule.add(&mut self.netlink)
                .map_err(|error| NetworkError::kernel("add a routing rule (`ip rule`)", error))?;
        }
        Ok(())
    }

    /// Those that keep the transport out of the VPN's networks.
    fn unreachable(&self) -> Vec<Rule> {
        let known = |network: &&IpNet| self.families.contains(&Family::of(**network));
        let of = |network: &IpNet| {
            let (network, family) = (*network, Family::of(*network));
            let ports = self.sockets.iter().filter(move |(socket, _)| *socket == family);
            ports.map(move |(_, port)| Rule::unreachable(*port, network))
        };
        self.inside.iter().filter(known).flat_map(of).collect()
    }

    /// All that there are, the one that others lead to last.
    fn rules(&self) -> Vec<Rule> {
        let ports =
            self.ports.keys().map(|(family, port)| Rule::around(*family, What::UdpFrom(*port)));
        let servers = self.servers.iter().map(|server| to_server(*server));
        let around = self.unreachable().into_iter().chain(ports);
        around.chain(servers).chain(self.families.iter().copied().map(Rule::end)).collect()
    }

    fn remove(&mut self) {
        for rule in self.rules() {
            self.delete(rule);
        }
        self.ports.clear();
        self.sockets.clear();
        self.inside.clear();
        self.servers.clear();
        self.families.clear();
    }

    fn delete(&mut self, rule: Rule) {
        if let Err(error) = rule.delete(&mut self.netlink) {
            tracing::debug!(%error, ?rule, "rule not removed");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner).remove();
    }
}

/// A connected UDP socket whose packets go around the VPN.
#[derive(Debug)]
pub struct BypassedUdp {
    socket: UdpSocket,
    _held: Held,
}

impl std::ops::Deref for BypassedUdp {
    type Target = UdpSocket;

    fn deref(&self) -> &UdpSocket {
        &self.socket
    }
}

/// Keeps the rule of a port.
#[derive(Debug)]
struct Held {
    bypass: Bypass,
    port: (Family, u16),
}

impl Drop for Held {
    fn drop(&mut self) {
        self.bypass.inner.state().release(self.port);
    }
}

fn port_of(socket: &SocketAddr) -> (Family, u16) {
    (if socket.is_ipv4() { Family::V4 } else { Family::V6 }, socket.port())
}

/// Without ports: with them a message of ICMP about a smaller path (RFC 1191 section 3) would be taken for one of the VPN's
/// route, as the kernel looks that up by addresses and protocol.
fn to_server(server: IpAddr) -> Rule {
    let network = IpNet::from(server);
    Rule::around(Family::of(network), What::TcpTo(network))
}

/// Whether the kernel lacks the family.
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP].map(|errno| errno as i32);
    error.raw_os_error().is_some_and(|errno| unknown.contains(&errno))
}
