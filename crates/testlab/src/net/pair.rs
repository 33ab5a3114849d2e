//! Two hosts side by side, with no router between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::HOST;
use crate::{
    Result,
    netns::{Interface, Namespace, connect},
};

/// The interface of a host to the second cable.
const SECOND: &str = "eth1";

/// Two hosts joined by one cable, with IPv4 and IPv6 addresses and no way to anywhere else.
///
/// They can have a second cable, with other networks on it.
#[derive(Debug)]
pub struct PairLab {
    /// The one host; the client's, where there is one.
    pub a: Namespace,
    /// The other host.
    pub b: Namespace,
}

/// One of the cables between two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// The one that is always there: 10.77.0.0/24 and fd77::/64.
    First,
    /// The one that can be added: 10.78.0.0/24 and fd78::/64.
    Second,
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
        let lab = Self { a: Namespace::new("a")?, b: Namespace::new("b")? };
        lab.add(Cable::First)?;
        Ok(lab)
    }

    /// Joins the hosts by the second cable too, from now on. Once a lab.
    pub fn add_second_cable(&self) -> Result<()> {
        self.add(Cable::Second)
    }

    /// Gives each host a default route, of both families, that leads onto the first cable: what a program sends to
    /// addresses elsewhere is to be seen there. The other host does not pass it on.
    pub fn add_default_routes(&self) -> Result<()> {
        for (host, other) in [(&self.a, Cable::First.b()), (&self.b, Cable::First.a())] {
            for address in other {
                host.add_route("default", address)?;
            }
        }
        Ok(())
    }

    /// Silently drops all UDP that comes over these cables from now on, at both ends, and over no others.
    pub fn cut(&self, cables: &[Cable]) -> Result<()> {
        let interfaces: Vec<_> = cables.iter().map(|cable| cable.interface()).collect();
        // What is dropped on its way out would be an error for its sender (nf_hook_slow: EPERM).
        let script = format!(
            "{NOT_CUT}\
             table inet cut {{\n\
             chain input {{ type filter hook input priority filter;\n\
             iifname {{ {} }} meta l4proto udp drop\n\
             }}\n\
             }}\n",
            interfaces.join(", "),
        );
        self.a.nft(&script)?;
        self.b.nft(&script)
    }

    /// Undoes `cut`.
    pub fn restore(&self) -> Result<()> {
        self.a.nft(NOT_CUT)?;
        self.b.nft(NOT_CUT)
    }

    fn add(&self, cable: Cable) -> Result<()> {
        let name = cable.interface();
        connect(Interface { namespace: &self.a, name }, Interface { namespace: &self.b, name })?;
        for (host, [v4, v6]) in [(&self.a, cable.a()), (&self.b, cable.b())] {
            host.add_address(name, v4, 24)?;
            host.add_address(name, v6, 64)?;
        }
        Ok(())
    }
}

/// Deletes the table, and is no error where there is none.
const NOT_CUT: &str = "table inet cut {}\ndelete table inet cut\n";

impl Cable {
    /// The interface of each host to it.
    pub fn interface(self) -> &'static str {
        match self {
            Self::First => HOST,
            Self::Second => SECOND,
        }
    }

    /// The addresses of `a` on it, IPv4 and IPv6.
    pub fn a(self) -> [IpAddr; 2] {
        match self {
            Self::First => [PairLab::A4.into(), PairLab::A6.into()],
            Self::Second => [[10, 78, 0, 1].into(), [0xfd78, 0, 0, 0, 0, 0, 0, 1].into()],
        }
    }

    /// The addresses of `b` on it.
    pub fn b(self) -> [IpAddr; 2] {
        match self {
            Self::First => [PairLab::B4.into(), PairLab::B6.into()],
            Self::Second => [[10, 78, 0, 2].into(), [0xfd78, 0, 0, 0, 0, 0, 0, 2].into()],
        }
    }

    /// The cable on which a host has this address.
    pub fn of(address: IpAddr) -> Option<Self> {
        let has = |cable: &Self| cable.a().contains(&address) || cable.b().contains(&address);
        [Self::First, Self::Second].into_iter().find(has)
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}
