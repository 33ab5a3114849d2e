//! NATs of every behaviour of RFC 4787, what a host's access to the internet is made of, and what can come of
//! each pair.

use std::{fmt, net::Ipv4Addr, sync::Arc};

use crate::{Result, netns::Namespace};

mod access;
mod expiry;
mod oracle;
mod rules;

pub use access::{Access, Family};
pub use expiry::Expiry;
pub use oracle::{Outcome, expected};
pub(crate) use rules::firewall;

/// What a site's routers do to the traffic of the host behind them.
///
/// Mapping and filtering are for UDP over IPv4; TCP and ICMP are masqueraded in every kind but `None`. IPv6 is
/// never translated: every kind but `None` has a stateful firewall there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Nat {
    /// None: the host has a public address.
    None,
    /// Endpoint-independent mapping and filtering: a mapped port is open to everybody.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    AddressRestricted,
    /// Endpoint-independent mapping, address and port-dependent filtering.
    PortRestricted,
    /// Address and port-dependent mapping and filtering.
    Symmetric,
    /// A `PortRestricted` NAT at home behind another one of the carrier, with addresses of 100.64.0.0/10 (RFC
    /// 6598) between them.
    CarrierGradePortRestricted,
    /// A `PortRestricted` NAT at home behind a `Symmetric` one of the carrier, with the same addresses between.
    CarrierGradeSymmetric,
    /// As `PortRestricted`, but every `Expiry::LIFETIME` all mappings end, however busy, and get another port.
    Expiring,
    /// What a hostile router's bare `masquerade` does: as `PortRestricted`, until a packet of the peer comes
    /// in before one went out, which gives the flow to that peer another port.
    Masquerade,
    /// As `PortRestricted`, but UDP leaves to port 53 only; over IPv6 too.
    UdpBlocked,
}

impl Nat {
    /// Every kind, for tests of all pairs.
    pub const ALL: [Self; 10] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::CarrierGradePortRestricted,
        Self::CarrierGradeSymmetric,
        Self::Expiring,
        Self::Masquerade,
        Self::UdpBlocked,
    ];

    /// The NAT of the router that the host is connected to.
    pub fn home(self) -> Self {
        if self.carrier().is_some() { Self::PortRestricted } else { self }
    }

    /// The NAT of the carrier's router between that one and the internet, where there is one.
    pub fn carrier(self) -> Option<Self> {
        match self {
            Self::CarrierGradePortRestricted => Some(Self::PortRestricted),
            Self::CarrierGradeSymmetric => Some(Self::Symmetric),
            _ => None,
        }
    }

    /// Makes one router such a NAT for IPv4; `uplink` is its outer interface and `address` the one it has
    /// there. Of a carrier-grade kind each router has its own part: `home` or `carrier`.
    ///
    /// What is returned keeps the mappings of `Expiring` expiring.
    pub(crate) fn apply(
        self,
        router: &Arc<Namespace>,
        uplink: &'static str,
        address: Ipv4Addr,
    ) -> Result<Option<Expiry>> {
        if let Some(rules) = rules::translation(self, uplink, address) {
            router.nft(&rules)?;
        }
        match self {
            Self::Expiring => Expiry::start(Arc::clone(router), uplink, address).map(Some),
            _ => Ok(None),
        }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::None => "none",
            Self::FullCone => "full cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Symmetric => "symmetric",
            Self::CarrierGradePortRestricted => "carrier-grade port-restricted",
            Self::CarrierGradeSymmetric => "carrier-grade symmetric",
            Self::Expiring => "expiring",
            Self::Masquerade => "bare masquerade",
            Self::UdpBlocked => "no UDP",
        })
    }
}

#[cfg(test)]
mod tests;
