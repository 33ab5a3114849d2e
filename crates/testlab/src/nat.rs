//! NATs of every behaviour of RFC 4787, as nft rules, and what can come of each pair.

use std::net::Ipv4Addr;

use crate::{Result, netns::Namespace};

/// What a site's router does to the traffic of the host behind it.
///
/// Mapping and filtering are for UDP; TCP and ICMP are masqueraded in every kind but `None`.
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
    /// What a hostile router's bare `masquerade` does: as `PortRestricted`, until a packet of the peer comes
    /// in before one went out, which gives the flow to that peer another port.
    Masquerade,
    /// As `PortRestricted`, but UDP leaves to port 53 only.
    UdpBlocked,
}

/// What kind of path two hosts can come to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Hole punching succeeds.
    Direct,
    /// It cannot succeed, so the relay carries everything.
    Relay,
    /// It is a matter of timing.
    Either,
}

impl Nat {
    /// Every kind, for tests of all pairs.
    pub const ALL: [Self; 7] = [
        Self::None,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Symmetric,
        Self::Masquerade,
        Self::UdpBlocked,
    ];

    /// Makes the router such a NAT; `uplink` is its outer interface and `address` the one it has there.
    pub fn apply(self, router: &Namespace, uplink: &str, address: Ipv4Addr) -> Result<()> {
        match self.rules(uplink, address) {
            Some(rules) => router.nft(&rules),
            None => Ok(()),
        }
    }

    fn rules(self, uplink: &str, address: Ipv4Addr) -> Option<String> {
        let chains = match self {
            Self::None => return None,
            Self::FullCone => {
                let accept = format!("iif {uplink} meta l4proto udp");
                [
                    mappings(),
                    translate_in(&accept),
                    translate_out(uplink, address),
                    no_input(uplink),
                ]
                .concat()
            }
            Self::AddressRestricted => {
                let accept = format!("iif {uplink} udp dport . ip saddr @contacted");
                [
                    mappings(),
                    contacted(uplink),
                    translate_in(&accept),
                    translate_out(uplink, address),
                    no_input(uplink),
                ]
                .concat()
            }
            Self::PortRestricted => [masquerade(uplink, ""), no_input(uplink)].concat(),
            Self::Symmetric => [masquerade(uplink, "random"), no_input(uplink)].concat(),
            Self::Masquerade => masquerade(uplink, ""),
            Self::UdpBlocked => {
                [masquerade(uplink, ""), no_input(uplink), dns_only(uplink)].concat()
            }
        };
        Some(format!("table ip nat {{\n{chains}}}\n"))
    }
}

/// What must come of a pair of NATs once both hosts know the address that the other one has at the relay and
/// learn more from the packets that reach them.
///
/// Only the relay is left where a side has no UDP, and where one side is symmetric and the other does not
/// accept packets from a port that it never sent to. The order of the two does not matter.
pub fn expected(a: Nat, b: Nat) -> Outcome {
    use Nat::{Masquerade, PortRestricted, Symmetric, UdpBlocked};
    match (a, b) {
        (UdpBlocked, _) | (_, UdpBlocked) => Outcome::Relay,
        (Symmetric, Symmetric | PortRestricted | Masquerade)
        | (PortRestricted | Masquerade, Symmetric) => Outcome::Relay,
        (Masquerade, PortRestricted | Masquerade) | (PortRestricted, Masquerade) => Outcome::Either,
        _ => Outcome::Direct,
    }
}

/// Which inner endpoint an outer port belongs to, whoever it talks to.
fn mappings() -> String {
    "map mappings { type inet_service : ipv4_addr . inet_service; \
     flags dynamic,timeout; timeout 300s; size 65536; }\n"
        .to_owned()
}

/// Which addresses an outer port has sent to.
fn contacted(uplink: &str) -> String {
    format!(
        "set contacted {{ type inet_service . ipv4_addr; \
         flags dynamic,timeout; timeout 300s; size 65536; }}\n\
         chain remember {{ type filter hook postrouting priority mangle;\n\
         oif {uplink} meta l4proto udp update @contacted {{ udp sport . ip daddr timeout 300s }}\n\
         }}\n"
    )
}

fn translate_in(accept: &str) -> String {
    format!(
        "chain prerouting {{ type nat hook prerouting priority dstnat;\n\
         {accept} dnat to udp dport map @mappings\n\
         }}\n"
    )
}

fn translate_out(uplink: &str, address: Ipv4Addr) -> String {
    format!(
        "chain postrouting {{ type nat hook postrouting priority srcnat;\n\
         oif {uplink} meta l4proto udp \
         update @mappings {{ udp sport timeout 300s : ip saddr . udp sport }}\n\
         oif {uplink} snat to {address}\n\
         }}\n"
    )
}

fn masquerade(uplink: &str, ports: &str) -> String {
    format!(
        "chain postrouting {{ type nat hook postrouting priority srcnat;\n\
         oif {uplink} masquerade {ports}\n\
         }}\n"
    )
}

/// A packet of the peer that comes before one went out would otherwise be taken for the router's own; its
/// conntrack entry then occupies the very port that the host's flow to this peer needs.
fn no_input(uplink: &str) -> String {
    format!(
        "chain input {{ type filter hook input priority filter;\n\
         iif {uplink} meta l4proto udp drop\n\
         }}\n"
    )
}

fn dns_only(uplink: &str) -> String {
    format!(
        "chain forward {{ type filter hook forward priority filter;\n\
         oif {uplink} udp dport != 53 drop\n\
         }}\n"
    )
}

#[cfg(test)]
mod tests;
