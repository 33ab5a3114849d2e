//! Networks of namespaces: two hosts on one cable, or two sites and a relay on an internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    Result,
    blackhole::UdpBlackhole,
    nat::Nat,
    netns::{Interface, Namespace, connect},
};

/// The interface of a host, wherever it is.
const HOST: &str = "eth0";
/// A router's interface to the internet.
const WAN: &str = "wan";
/// A router's interface to its host.
const LAN: &str = "lan";

/// Two hosts joined by one cable, with IPv4 and IPv6 addresses and no way to anywhere else.
#[derive(Debug)]
pub struct PairLab {
    /// The one host; the client's, where there is one.
    pub a: Namespace,
    /// The other host.
    pub b: Namespace,
}

impl PairLab {
    /// The IPv4 address of `a`, in 10.77.0.0/24.
    pub const A4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    /// The IPv4 address of `b`.
    pub const B4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
    /// The IPv6 address of `a`, in fd77::/64.
    pub const A6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);
    /// The IPv6 address of `b`.
    pub const B6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2);

    /// Creates the two hosts and the cable.
    pub fn new() -> Result<Self> {
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        connect(Interface { namespace: &a, name: HOST }, Interface { namespace: &b, name: HOST })?;
        for (host, v4, v6) in [(&a, Self::A4, Self::A6), (&b, Self::B4, Self::B6)] {
            host.add_address(HOST, v4.into(), 24)?;
            host.add_address(HOST, v6.into(), 64)?;
        }
        Ok(Self { a, b })
    }
}

/// Two hosts, each behind a router that may be a NAT, and a relay's host, on one internet (IPv4).
///
/// ```text
///  a.host ── a.router ──┐             ┌── b.router ── b.host
///           198.51.100.2├── internet ─┤203.0.113.2
///                       └─────┬───────┘
///                           relay 192.0.2.2
/// ```
#[derive(Debug)]
pub struct NatLab {
    /// The one site; the client's, where there is one.
    pub a: Site,
    /// The other site.
    pub b: Site,
    /// The router between the sites and the relay; it knows public addresses only.
    pub internet: Namespace,
    /// A host on the internet, at `NatLab::RELAY`.
    pub relay: Namespace,
}

/// A host and its router.
#[derive(Debug)]
pub struct Site {
    /// The host.
    pub host: Namespace,
    /// The router, with the NAT.
    pub router: Namespace,
    /// The host's own address.
    pub address: Ipv4Addr,
    /// The address that the internet sees the host's packets come from.
    pub public: Ipv4Addr,
}

impl NatLab {
    /// The address of the relay's host.
    pub const RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

    /// Creates the internet and the two sites on it, with their NATs.
    pub fn new(a: Nat, b: Nat) -> Result<Self> {
        let internet = Namespace::new("internet")?;
        internet.forward_ipv4()?;
        let relay = Namespace::new("relay")?;
        let gateway = Ipv4Addr::new(192, 0, 2, 1);
        connect(
            Interface { namespace: &internet, name: "to-relay" },
            Interface { namespace: &relay, name: HOST },
        )?;
        internet.add_address("to-relay", gateway.into(), 24)?;
        relay.add_address(HOST, Self::RELAY.into(), 24)?;
        relay.add_route("default", gateway.into())?;
        let a = Site::new("a", &internet, Subnet([198, 51, 100]), Subnet([192, 168, 1]), a)?;
        let b = Site::new("b", &internet, Subnet([203, 0, 113]), Subnet([192, 168, 2]), b)?;
        Ok(Self { a, b, internet, relay })
    }

    /// Silently drops all UDP between the two sites from now on; the relay remains in reach of both.
    pub fn cut_direct(&self) -> Result<()> {
        self.direct().on(&self.internet)
    }

    /// Undoes `cut_direct`.
    pub fn restore_direct(&self) -> Result<()> {
        self.direct().off(&self.internet)
    }

    fn direct(&self) -> UdpBlackhole {
        UdpBlackhole::between(IpAddr::V4(self.a.public), IpAddr::V4(self.b.public))
    }
}

impl Site {
    /// The site's public network is two of 128 addresses: the link to the internet, and, without a NAT, the
    /// host's own network.
    fn new(
        name: &str,
        internet: &Namespace,
        public: Subnet,
        private: Subnet,
        nat: Nat,
    ) -> Result<Self> {
        let host = Namespace::new(name)?;
        let router = Namespace::new(&format!("{name}-router"))?;
        router.forward_ipv4()?;

        let port = format!("to-{name}");
        let (gateway, outer) = (public.address(1), public.address(2));
        connect(
            Interface { namespace: internet, name: &port },
            Interface { namespace: &router, name: WAN },
        )?;
        internet.add_address(&port, gateway.into(), 25)?;
        router.add_address(WAN, outer.into(), 25)?;
        router.add_route("default", gateway.into())?;

        let (inner, address, prefix) = if nat == Nat::None {
            internet.add_route(&format!("{}/25", public.address(128)), outer.into())?;
            (public.address(129), public.address(130), 25)
        } else {
            (private.address(1), private.address(2), 24)
        };
        connect(
            Interface { namespace: &router, name: LAN },
            Interface { namespace: &host, name: HOST },
        )?;
        router.add_address(LAN, inner.into(), prefix)?;
        host.add_address(HOST, address.into(), prefix)?;
        host.add_route("default", inner.into())?;

        nat.apply(&router, WAN, outer)?;
        let public = if nat == Nat::None { address } else { outer };
        Ok(Self { host, router, address, public })
    }
}

/// A network of 256 addresses.
#[derive(Clone, Copy)]
struct Subnet([u8; 3]);

impl Subnet {
    fn address(self, host: u8) -> Ipv4Addr {
        let [a, b, c] = self.0;
        Ipv4Addr::new(a, b, c, host)
    }
}
