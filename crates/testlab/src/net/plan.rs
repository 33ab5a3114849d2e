//! Which addresses the parts of an uplink have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    Result,
    netns::{Interface, Namespace},
};

/// Where IPv4 addresses are reached from behind a NAT64 (RFC 6052 section 2.1).
pub(super) const WELL_KNOWN: &str = "64:ff9b::/96";

/// One uplink of one site; every address follows from it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// The site: 0 or 1.
    pub(super) site: u8,
    /// The uplink: 0 is the first.
    pub(super) number: u8,
}

/// A network with the addresses of the two ends of a cable in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link<A> {
    /// Of the end that is nearer to the internet.
    pub(super) outer: A,
    /// Of the other end.
    pub(super) inner: A,
    /// The length of the network's prefix.
    pub(super) prefix: u8,
}

impl Plan {
    /// The public IPv4 network between the internet and the outermost router: the lower half of 256.
    pub(super) fn public(self) -> Link<Ipv4Addr> {
        Link { outer: self.public4(1), inner: self.public4(2), prefix: 25 }
    }

    /// The public IPv4 network of a host without a NAT: the upper half of the same.
    pub(super) fn public_lan(self) -> Link<Ipv4Addr> {
        Link { outer: self.public4(129), inner: self.public4(130), prefix: 25 }
    }

    /// `public_lan` as CIDR.
    pub(super) fn public_lan_network(self) -> String {
        format!("{}/25", self.public4(128))
    }

    /// The private IPv4 network of a host behind a NAT.
    pub(super) fn private_lan(self) -> Link<Ipv4Addr> {
        let network = 10 * self.number + self.site + 1;
        let address = |host| Ipv4Addr::new(192, 168, network, host);
        Link { outer: address(1), inner: address(2), prefix: 24 }
    }

    /// Between a carrier's NAT and the home's (RFC 6598).
    pub(super) fn shared() -> Link<Ipv4Addr> {
        let address = |host| Ipv4Addr::new(100, 64, 0, host);
        Link { outer: address(1), inner: address(2), prefix: 10 }
    }

    /// The IPv6 network between the internet and the outermost router.
    pub(super) fn public6(self) -> Link<Ipv6Addr> {
        self.link6(0)
    }

    /// The IPv6 network of the host.
    pub(super) fn lan6(self) -> Link<Ipv6Addr> {
        self.link6(1)
    }

    /// The IPv6 network between a carrier's router and the home's.
    pub(super) fn carrier6(self) -> Link<Ipv6Addr> {
        self.link6(2)
    }

    /// The IPv6 network between the home's router, which is its outer end, and the NAT64.
    pub(super) fn nat64(self) -> Link<Ipv6Addr> {
        self.link6(3)
    }

    /// All IPv6 networks of the uplink, as CIDR.
    pub(super) fn networks6(self) -> String {
        format!("{}/56", self.address6(0, 0))
    }

    /// What the translator of the NAT64 puts before IPv4 addresses, as CIDR.
    pub(super) fn translated(self) -> String {
        format!("{}/96", self.address6(4, 0))
    }

    fn link6(self, subnet: u8) -> Link<Ipv6Addr> {
        Link { outer: self.address6(subnet, 1), inner: self.address6(subnet, 2), prefix: 64 }
    }

    fn public4(self, host: u8) -> Ipv4Addr {
        match (self.number, self.site) {
            (0, 0) => Ipv4Addr::new(198, 51, 100, host),
            (0, _) => Ipv4Addr::new(203, 0, 113, host),
            (number, site) => Ipv4Addr::new(198, 18 + site, number, host),
        }
    }

    fn address6(self, subnet: u8, host: u16) -> Ipv6Addr {
        let network = u16::from_be_bytes([self.number, subnet]);
        Ipv6Addr::new(0x2001, 0xdb8, 0xa + u16::from(self.site), network, 0, 0, 0, host)
    }
}

impl<A: Into<IpAddr> + Copy> Link<A> {
    /// Gives the addresses to the two ends of a cable.
    pub(super) fn number(self, outer: Interface<'_>, inner: Interface<'_>) -> Result<()> {
        outer.namespace.add_address(outer.name, self.outer.into(), self.prefix)?;
        inner.namespace.add_address(inner.name, self.inner.into(), self.prefix)
    }

    /// As `number`, and routes everything that the inner end has no other route for to the outer one.
    pub(super) fn number_and_route(self, outer: Interface<'_>, inner: Interface<'_>) -> Result<()> {
        self.number(outer, inner)?;
        inner.namespace.add_route("default", self.outer.into())
    }
}

/// An interface, for short.
pub(super) fn end<'a>(namespace: &'a Namespace, name: &'a str) -> Interface<'a> {
    Interface { namespace, name }
}
