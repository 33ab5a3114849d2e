//! Two STUN servers on the internet of a lab.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Result, netns::Namespace, services::Coturn};

/// Stops a process until it is told to continue (signal(7)).
const SIGSTOP: i32 = 19;

/// Two STUN servers (coturn), each at an IPv4 and an IPv6 address of its own: how a NAT maps shows only to those
/// who ask two (RFC 5780 section 4.3).
#[derive(Debug)]
pub struct StunServers {
    servers: [Coturn; 2],
}

impl StunServers {
    /// What the hosts of both sites know the servers by, in their /etc/hosts; each name has both addresses.
    pub const NAMES: [&str; 2] = ["stun1.lab.test", "stun2.lab.test"];

    /// The IPv4 addresses, one of each server.
    pub const V4: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 11), Ipv4Addr::new(192, 0, 2, 12)];

    /// The IPv6 addresses, one of each server.
    pub const V6: [Ipv6Addr; 2] = [
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x12),
    ];

    /// Starts them on a host of the internet, which gets the addresses on this interface.
    pub(super) fn start(host: &Namespace, interface: &str) -> Result<Self> {
        let addresses = Self::V4.iter().map(|address| format!("{address}/24"));
        let addresses = addresses.chain(Self::V6.iter().map(|address| format!("{address}/64")));
        let commands: Vec<_> =
            addresses.map(|address| format!("address add {address} dev {interface}")).collect();
        host.ip_batch(&commands)?;
        let start = |number| Coturn::start(host, &Self::addresses(number));
        Ok(Self { servers: [start(0)?, start(1)?] })
    }

    /// What they are called on a command line: `HOST:PORT` of each.
    pub fn list(&self) -> [String; 2] {
        Self::NAMES.map(|name| format!("{name}:{}", Coturn::PORT))
    }

    /// Makes the first (0) or the second (1) fall silent from now on: what is sent to it gets neither an answer
    /// nor an error.
    pub fn silence(&self, number: usize) -> Result<()> {
        // The kernel goes on taking packets for a socket whose program has stopped.
        self.servers[number].process.signal(SIGSTOP)
    }

    /// The addresses and names for a file of hosts.
    pub(super) fn hosts() -> Vec<(IpAddr, &'static str)> {
        let named = |(number, name)| Self::addresses(number).map(|address| (address, name));
        Self::NAMES.into_iter().enumerate().flat_map(named).collect()
    }

    fn addresses(number: usize) -> [IpAddr; 2] {
        [Self::V4[number].into(), Self::V6[number].into()]
    }
}
