//! What a router does to the packets of the network behind it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// A router's behaviour for UDP over IPv4 (RFC 4787 sections 4.1 and 5). IPv6 is not translated: all but the first have a
/// stateful firewall there (RFC 6092 section 3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NatKind {
    /// There is none: the hosts have public addresses.
    None,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address and port-dependent filtering.
    PortRestricted,
    /// Address and port-dependent mapping and filtering.
    Symmetric,
    /// No UDP leaves, of either family.
    UdpBlocked,
}

impl NatKind {
    pub(super) const ALL: [Self; 6] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::UdpBlocked,
    ];
}

/// An inner endpoint, and the outer one that a symmetric NAT keeps a mapping for.
type Key = (SocketAddr, Option<SocketAddr>);

struct Mapping {
    port: u16,
    used: Instant,
    /// When a packet last went to each address.
    contacted: HashMap<SocketAddr, Instant>,
}

pub(super) struct Nat {
    pub(super) kind: NatKind,
    /// Mappings and permissions last for so long after the last packet that went out (RFC 4787 section 4.3).
    pub(super) lifetime: Duration,
    /// Whether the outer port is the inner one where that is free (RFC 4787 section 4.2.1).
    pub(super) keeps_ports: bool,
    outside: IpAddr,
    mappings: HashMap<Key, Mapping>,
    ports: HashMap<u16, Key>,
    /// What the IPv6 hosts have sent to.
    firewall: HashMap<(SocketAddr, SocketAddr), Instant>,
}

impl Nat {
    pub(super) fn new(kind: NatKind, outside: IpAddr) -> Self {
        Self {
            kind,
            lifetime: Duration::from_secs(120),
            keeps_ports: false,
            outside,
            mappings: HashMap::new(),
            ports: HashMap::new(),
            firewall: HashMap::new(),
        }
    }

    /// Forgets everything, as a router that starts anew does.
    pub(super) fn forget(&mut self) {
        self.mappings.clear();
        self.ports.clear();
        self.firewall.clear();
    }

    /// Forgets everything, and has another address from here on.
    pub(super) fn move_to(&mut self, outside: IpAddr) {
        self.forget();
        self.outside = outside;
    }

    /// Where a packet seems to come from when it has left; none if it may not leave.
    pub(super) fn outbound(
        &mut self,
        inside: SocketAddr,
        to: SocketAddr,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<SocketAddr> {
        match self.kind {
            NatKind::UdpBlocked => return None,
            NatKind::None => return Some(inside),
            _ if inside.is_ipv6() => {
                self.firewall.insert((inside, to), now);
                return Some(inside);
            }
            _ => {}
        }
        let key = (inside, (self.kind == NatKind::Symmetric).then_some(to));
        let lasts = |mapping: &Mapping| now < mapping.used + self.lifetime;
        if !self.mappings.get(&key).is_some_and(lasts) {
            let same = self.keeps_ports.then_some(inside.port());
            let others = std::iter::repeat_with(|| rng.u16(1024..));
            let port = same
                .into_iter()
                .chain(others)
                .find(|port| !self.ports.contains_key(port))
                .expect("an endless iterator");
            self.ports.insert(port, key);
            let mapping = Mapping { port, used: now, contacted: HashMap::new() };
            if let Some(old) = self.mappings.insert(key, mapping) {
                self.ports.remove(&old.port);
            }
        }
        let mapping = self.mappings.get_mut(&key)?;
        mapping.used = now;
        mapping.contacted.insert(to, now);
        Some(SocketAddr::new(self.outside, mapping.port))
    }

    /// Whom a packet from outside goes to; none if it may not come in.
    pub(super) fn inbound(
        &self,
        to: SocketAddr,
        from: SocketAddr,
        now: Instant,
    ) -> Option<SocketAddr> {
        let lasts = |used: Instant| now < used + self.lifetime;
        match self.kind {
            NatKind::UdpBlocked => return None,
            NatKind::None => return Some(to),
            _ if to.is_ipv6() => {
                return self.firewall.get(&(to, from)).is_some_and(|at| lasts(*at)).then_some(to);
            }
            _ => {}
        }
        if to.ip() != self.outside {
            return None;
        }
        let key = self.ports.get(&to.port())?;
        let mapping = self.mappings.get(key).filter(|mapping| lasts(mapping.used))?;
        let mut contacted = mapping.contacted.iter().filter(|(_, at)| lasts(**at));
        let may_enter = match self.kind {
            NatKind::FullCone => true,
            NatKind::AddressRestricted => contacted.any(|(addr, _)| addr.ip() == from.ip()),
            _ => contacted.any(|(addr, _)| *addr == from),
        };
        may_enter.then_some(key.0)
    }
}
