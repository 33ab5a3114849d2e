//! Networks of namespaces: two hosts on a cable or two, or two sites, a relay and STUN servers on an internet.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    Result,
    nat::Access,
    netns::{Interface, Namespace, connect},
    relay::Relay,
};

mod capture;
mod idle;
mod nat64;
mod pair;
mod plan;
mod site;
mod star;
mod stun;
mod uplink;

pub use capture::{Capture, Packet};
pub use pair::{Cable, PairLab};
pub use site::Site;
pub use star::StarLab;
pub use stun::StunServers;
pub use uplink::Uplink;

/// The interface of a host to its first network, wherever it is.
const HOST: &str = "eth0";

/// Two hosts, each behind its routers, and a relay's host, on one internet of IPv4 and IPv6.
///
/// ```text
///  a.host ── a.router ──┐             ┌── b.router ── b.host
///           198.51.100.2├── internet ─┤203.0.113.2
///         2001:db8:a::2 └─────┬───────┘2001:db8:b::2
///                           relay 192.0.2.2, 2001:db8::2
/// ```
///
/// The STUN servers are on the relay's host too, at addresses of their own.
///
/// With a carrier-grade NAT the carrier's router, which then has the public address, is between the site's
/// router and the internet. A NAT64 is on the router and, for IPv4, on the internet. The addresses are those
/// kept for documentation (RFC 5737, RFC 3849), and of RFC 2544 for further uplinks.
#[derive(Debug)]
pub struct NatLab {
    /// The one site; the client's, where there is one.
    pub a: Site,
    /// The other site.
    pub b: Site,
    /// The router between the sites and the relay; it knows public addresses only.
    pub internet: Namespace,
    /// A host on the internet, at `NatLab::RELAY` and `NatLab::RELAY6`; also that of the STUN servers.
    pub relay: Namespace,
}

impl NatLab {
    /// The IPv4 address of the relay's host.
    pub const RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// The IPv6 address of the relay's host.
    pub const RELAY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
    /// The IPv4 address that `start_two_relays` adds to the relay's host, for the second relay.
    pub const SECOND_RELAY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
    /// What the hosts of both sites know `RELAY` and `RELAY6` by, in their /etc/hosts.
    pub const RELAY_NAME: &str = "relay.lab.test";

    /// Creates the internet and the two sites on it, with their NATs. A `Nat` alone has IPv4 only.
    pub fn new(a: impl Into<Access>, b: impl Into<Access>) -> Result<Self> {
        let internet = Namespace::new("internet")?;
        internet.forward()?;
        let relay = Namespace::new("relay")?;
        let port = "to-relay";
        connect(
            Interface { namespace: &internet, name: port },
            Interface { namespace: &relay, name: HOST },
        )?;
        let gateway = Ipv4Addr::new(192, 0, 2, 1).into();
        let gateway6 = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into();
        for (gateway, address, prefix) in
            [(gateway, Self::RELAY.into(), 24), (gateway6, Self::RELAY6.into(), 64)]
        {
            internet.add_address(port, gateway, prefix)?;
            relay.add_address(HOST, address, prefix)?;
            relay.add_route("default", gateway)?;
        }
        let a = Site::new("a", 0, &internet, a.into())?;
        let b = Site::new("b", 1, &internet, b.into())?;
        for site in [&a, &b] {
            let relay = [Self::RELAY.into(), Self::RELAY6.into()].map(|ip| (ip, Self::RELAY_NAME));
            site.host.set_hosts(&[&relay[..], &StunServers::hosts()].concat())?;
        }
        Ok(Self { a, b, internet, relay })
    }

    /// Starts the relay that every host reaches, whichever family it has: it listens on both addresses and is
    /// known by `RELAY_NAME`.
    pub fn start_relay(&self) -> Result<Relay> {
        Relay::start_named(&self.relay, Self::RELAY_NAME)
    }

    /// Starts two relays, at `RELAY` and at `SECOND_RELAY`, which know nothing of each other.
    pub fn start_two_relays(&self) -> Result<[Relay; 2]> {
        let (first, second) = (Self::RELAY.into(), Self::SECOND_RELAY.into());
        self.relay.add_address(HOST, second, 24)?;
        Ok([Relay::start(Some(&self.relay), first)?, Relay::start(Some(&self.relay), second)?])
    }

    /// Starts two STUN servers, which every host reaches, whichever family it has. Once a lab.
    pub fn start_stun(&self) -> Result<StunServers> {
        StunServers::start(&self.relay, HOST)
    }

    /// Silently drops all UDP between the two sites from now on, over every uplink that they have at this
    /// moment; the relay remains in reach of both.
    pub fn cut_direct(&self) -> Result<()> {
        let (a, b) = (ports(&self.a), ports(&self.b));
        self.internet.nft(&format!(
            "{NOT_CUT}\
             table inet direct {{\n\
             chain forward {{ type filter hook forward priority filter - 10;\n\
             iifname {{ {a} }} oifname {{ {b} }} meta l4proto udp drop\n\
             iifname {{ {b} }} oifname {{ {a} }} meta l4proto udp drop\n\
             }}\n\
             }}\n"
        ))
    }

    /// Undoes `cut_direct`.
    pub fn restore_direct(&self) -> Result<()> {
        self.internet.nft(NOT_CUT)
    }
}

/// Deletes the table, and is no error where there is none.
const NOT_CUT: &str = "table inet direct {}\ndelete table inet direct\n";

/// The interfaces of the internet that lead to a site, as a list for nft.
fn ports(site: &Site) -> String {
    let ports: Vec<_> = site.uplinks().iter().flat_map(Uplink::ports).map(String::as_str).collect();
    ports.join(", ")
}

#[cfg(test)]
mod tests;
