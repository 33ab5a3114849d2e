//! A hole in the network that swallows UDP between two hosts and says nothing.

use std::net::IpAddr;

use crate::{Result, netns::Namespace};

/// UDP between two addresses, which a router between them forwards or silently drops.
///
/// The addresses are those that the packets have at that router, so outside of a NAT its outer ones.
#[derive(Clone, Copy, Debug)]
pub struct UdpBlackhole {
    one: IpAddr,
    other: IpAddr,
}

impl UdpBlackhole {
    /// For two addresses of the same family; nothing is dropped yet.
    pub fn between(one: IpAddr, other: IpAddr) -> Self {
        Self { one, other }
    }

    /// Makes the router drop. A router has one black hole at a time: a second one replaces the first.
    pub fn on(&self, router: &Namespace) -> Result<()> {
        let family = if self.one.is_ipv4() { "ip" } else { "ip6" };
        let (one, other) = (self.one, self.other);
        router.nft(&format!(
            "{EMPTY}\
             table inet blackhole {{\n\
             chain forward {{ type filter hook forward priority filter - 10;\n\
             {family} saddr {one} {family} daddr {other} meta l4proto udp drop\n\
             {family} saddr {other} {family} daddr {one} meta l4proto udp drop\n\
             }}\n\
             }}\n"
        ))
    }

    /// Makes the router forward again.
    pub fn off(&self, router: &Namespace) -> Result<()> {
        router.nft(EMPTY)
    }
}

/// Deletes the table, and is no error where there is none.
const EMPTY: &str = "table inet blackhole {}\ndelete table inet blackhole\n";
