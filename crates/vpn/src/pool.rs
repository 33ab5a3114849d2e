//! Addresses for clients: the one free for longest, and the same one again for a client that comes back.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use thiserror::Error;

use crate::packet::is_host;

/// How long a released address is kept for its owner: a program that is started anew finds it again.
pub const LINGER: Duration = Duration::from_secs(30);

/// The places of a network that are given out, however large it is: many times the sessions that a server takes, so that what
/// is remembered of earlier owners is bounded (some 200 bytes each).
pub const MAX_PLACES: u32 = 65_536;

/// Networks that no pool can be made of.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PoolError {
    /// None at all.
    #[error("a VPN needs a network; give one such as 10.0.0.0/24")]
    NoNetwork,
    /// Two of one family.
    #[error("{0} and {1} are of one family; a VPN has at most one IPv4 and one IPv6 network")]
    SameFamily(IpNet, IpNet),
    /// Loopback, link-local, multicast or the like.
    #[error("{0} is no network for hosts")]
    NotForHosts(IpNet),
    /// Not enough addresses for a server and a client.
    #[error("{0} has no room for a server and a client")]
    TooSmall(IpNet),
    /// An address for the server that is in none of the networks, or not a host's there.
    #[error("{0} is not the address of a host in the VPN's network")]
    BadServer(IpAddr),
    /// Two addresses of one family for the server.
    #[error("{0} and {1} are of one family; the server has one address in each network")]
    TwoServers(IpAddr, IpAddr),
}

/// Every address is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("all {0} addresses of the VPN are taken")]
pub struct Full(
    /// How many there are.
    pub usize,
);

/// Tells the leases of a pool apart; none comes twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// What a client was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which lease it is.
    pub id: LeaseId,
    /// One address a network of the pool, with the network's prefix; IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The lease of the same owner that has these addresses no longer.
    pub replaces: Option<LeaseId>,
}

impl Lease {
    /// The addresses as networks of one host each, which is what the client may send from.
    pub fn hosts(&self) -> Vec<IpNet> {
        self.addresses.iter().map(|net| IpNet::from(net.addr())).collect()
    }
}

struct Network {
    net: IpNet,
    server: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Leased(LeaseId),
    Lingering,
    /// With the turn in [`Pool::free`].
    Free(u64),
}

struct Place {
    owner: Box<[u8]>,
    state: State,
}

/// The addresses of a VPN. A client has the same place in each of its networks.
pub struct Pool {
    networks: Vec<Network>,
    servers: Vec<IpNet>,
    capacity: usize,
    /// Places that have had an owner, by their number in the networks.
    places: HashMap<u32, Place>,
    /// The place that an owner has or had last.
    owners: HashMap<Box<[u8]>, u32>,
    leases: HashMap<LeaseId, u32>,
    /// Every place from here on has never been anybody's, and so has been free for longest.
    untouched: u32,
    /// Released places by the order in which they became free.
    free: BTreeMap<u64, u32>,
    turns: u64,
    /// Released places that are still their owners', with the end of that; the earliest first.
    lingering: VecDeque<(Instant, u32)>,
    issued: u64,
}

impl Pool {
    /// Makes a pool of at most one network a family. `servers` are the server's own addresses; where there is none for a
    /// network, it has the network's first.
    ///
    /// # Errors
    ///
    /// Where that cannot be.
    pub fn new(networks: &[IpNet], servers: &[IpAddr]) -> Result<Self, PoolError> {
        let mut nets: Vec<IpNet> = networks.iter().map(IpNet::trunc).collect();
        nets.sort_by_key(|net| net.addr().is_ipv6());
        if nets.is_empty() {
            return Err(PoolError::NoNetwork);
        }
        if let Some(pair) = nets.windows(2).find(|p| p[0].addr().is_ipv4() == p[1].addr().is_ipv4())
        {
            return Err(PoolError::SameFamily(pair[0], pair[1]));
        }
        for (at, one) in servers.iter().enumerate() {
            if let Some(other) = servers[..at].iter().find(|s| s.is_ipv4() == one.is_ipv4()) {
                return Err(PoolError::TwoServers(*other, *one));
            }
            if !nets.iter().any(|net| place_of(net, *one).is_some_and(|p| is_usable(net, p))) {
                return Err(PoolError::BadServer(*one));
            }
        }
        let networks = nets
            .into_iter()
            .map(|net| {
                if !is_host_network(&net) {
                    return Err(PoolError::NotForHosts(net));
                }
                let given = servers.iter().find(|server| net.contains(*server));
                let first = (0..2).find(|place| is_usable(&net, *place));
                let server = given.copied().or_else(|| address_at(&net, first?));
                Ok(Network { net, server: server.ok_or(PoolError::TooSmall(net))? })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let servers =
            networks.iter().filter_map(|n| IpNet::new(n.server, n.net.prefix_len()).ok()).collect();
        let mut pool = Self {
            networks,
            servers,
            capacity: 0,
            places: HashMap::new(),
            owners: HashMap::new(),
            leases: HashMap::new(),
            untouched: 0,
            free: BTreeMap::new(),
            turns: 0,
            lingering: VecDeque::new(),
            issued: 0,
        };
        pool.capacity =
            (0..).take_while(|p| pool.exists(*p)).filter(|p| pool.is_client(*p)).count();
        match pool.capacity {
            0 => Err(PoolError::TooSmall(pool.smallest())),
            _ => Ok(pool),
        }
    }

    /// The server's addresses, with the networks' prefixes; IPv4 first.
    pub fn server_addresses(&self) -> &[IpNet] {
        &self.servers
    }

    /// The VPN's networks; IPv4 first.
    pub fn networks(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.networks.iter().map(|network| network.net)
    }

    /// How many clients there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many leases there are at present.
    pub fn leased(&self) -> usize {
        self.leases.len()
    }

    /// Gives `owner` the address that it has had last, if that is its own still or nobody's; otherwise the one free for
    /// longest. An owner that holds a lease is given its address anew, and the older lease is no more.
    ///
    /// # Errors
    ///
    /// Where every address is leased, or kept for another owner.
    pub fn assign(&mut self, now: Instant, owner: &[u8]) -> Result<Lease, Full> {
        self.end_lingering(now);
        let at = match self.owners.get(owner) {
            Some(at) => *at,
            None => self.longest_free().ok_or(Full(self.capacity))?,
        };
        let id = LeaseId(self.issued);
        self.issued += 1;
        let place = Place { owner: owner.into(), state: State::Leased(id) };
        let mut replaces = None;
        if let Some(before) = self.places.insert(at, place) {
            match before.state {
                State::Leased(lease) => {
                    self.leases.remove(&lease);
                    replaces = Some(lease);
                }
                State::Lingering => self.lingering.retain(|(_, place)| *place != at),
                State::Free(turn) => _ = self.free.remove(&turn),
            }
            if *before.owner != *owner {
                self.owners.remove(&before.owner);
            }
        }
        self.owners.insert(owner.into(), at);
        self.leases.insert(id, at);
        let addresses = self
            .networks
            .iter()
            .filter_map(|n| IpNet::new(address_at(&n.net, at)?, n.net.prefix_len()).ok())
            .collect();
        Ok(Lease { id, addresses, replaces })
    }

    /// Gives an address back: for [`LINGER`] it is kept for its owner. Nothing happens where the lease is no more.
    pub fn release(&mut self, now: Instant, lease: LeaseId) {
        let Some(at) = self.leases.remove(&lease) else { return };
        if let Some(place) = self.places.get_mut(&at) {
            place.state = State::Lingering;
            self.lingering.push_back((now + LINGER, at));
        }
    }

    fn end_lingering(&mut self, now: Instant) {
        while let Some((_, at)) = self.lingering.front().copied().filter(|(end, _)| *end <= now) {
            self.lingering.pop_front();
            if let Some(place) = self.places.get_mut(&at) {
                place.state = State::Free(self.turns);
                self.free.insert(self.turns, at);
                self.turns += 1;
            }
        }
    }

    fn longest_free(&mut self) -> Option<u32> {
        while self.exists(self.untouched) {
            let at = self.untouched;
            self.untouched += 1;
            if self.is_client(at) {
                return Some(at);
            }
        }
        self.free.first_key_value().map(|(_, at)| *at)
    }

    /// Whether there is such a place in every network; from the first that does not exist on there are no more.
    fn exists(&self, place: u32) -> bool {
        place < MAX_PLACES && self.networks.iter().all(|n| address_at(&n.net, place).is_some())
    }

    fn is_client(&self, place: u32) -> bool {
        self.networks.iter().all(|n| {
            is_usable(&n.net, place) && address_at(&n.net, place).is_some_and(|a| a != n.server)
        })
    }

    fn smallest(&self) -> IpNet {
        let host_bits = |net: &IpNet| net.max_prefix_len() - net.prefix_len();
        self.networks.iter().map(|n| n.net).min_by_key(host_bits).unwrap_or_default()
    }
}

fn is_host_network(net: &IpNet) -> bool {
    let inside =
        |special: &str| special.parse().is_ok_and(|s: IpNet| s.contains(net) || net.contains(&s));
    is_host(net.addr())
        && !["127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "fe80::/10", "ff00::/8"]
            .into_iter()
            .any(inside)
}

/// The address at a place in a network, if the network has so many.
fn address_at(net: &IpNet, place: u32) -> Option<IpAddr> {
    let address = match net.network() {
        IpAddr::V4(first) => IpAddr::V4(u32::from(first).checked_add(place)?.into()),
        IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(place.into())?.into()),
    };
    net.contains(&address).then_some(address)
}

fn place_of(net: &IpNet, address: IpAddr) -> Option<u128> {
    match (net.network(), address) {
        _ if !net.contains(&address) => None,
        (IpAddr::V4(first), IpAddr::V4(at)) => Some((u32::from(at) - u32::from(first)).into()),
        (IpAddr::V6(first), IpAddr::V6(at)) => Some(u128::from(at) - u128::from(first)),
        _ => None,
    }
}

/// Whether a host may have a place: not the network's own address or broadcast (RFC 919), nor IPv6's anycast address of the
/// subnet's routers (RFC 4291 section 2.6.1). Networks of two have neither (RFC 3021, RFC 6164).
fn is_usable(net: &IpNet, place: impl Into<u128>) -> bool {
    let (place, host_bits) = (place.into(), net.max_prefix_len() - net.prefix_len());
    if host_bits < 2 {
        return true;
    }
    let broadcast = net.addr().is_ipv4() && place == (1 << host_bits) - 1;
    place != 0 && !broadcast
}

#[cfg(test)]
mod tests;
