//! The kinds of NAT as scripts of nft.

use std::net::Ipv4Addr;

use super::{Nat, expiry};

/// The rules of one router for IPv4, whose outer interface is `uplink`, with this address; nothing for `None`.
pub(super) fn translation(nat: Nat, uplink: &str, address: Ipv4Addr) -> Option<String> {
    let chains = match nat {
        Nat::None => return None,
        Nat::FullCone => {
            let accept = format!("iif {uplink} meta l4proto udp");
            [mappings(), translate_in(&accept), translate_out(uplink, address), no_input(uplink)]
                .concat()
        }
        Nat::AddressRestricted => {
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
        Nat::PortRestricted | Nat::CarrierGradePortRestricted => {
            [masquerade(uplink, ""), no_input(uplink)].concat()
        }
        Nat::Symmetric | Nat::CarrierGradeSymmetric => {
            [masquerade(uplink, "random"), no_input(uplink)].concat()
        }
        Nat::Expiring => {
            let rules = expiry::rules(uplink, address, 0);
            [postrouting(&rules.join("\n")), no_input(uplink)].concat()
        }
        Nat::Masquerade => masquerade(uplink, ""),
        Nat::UdpBlocked => [masquerade(uplink, ""), no_input(uplink), dns_only(uplink)].concat(),
    };
    Some(format!("table ip nat {{\n{chains}}}\n"))
}

/// The rules of a home router for IPv6: a stateful firewall (RFC 6092 section 3.2); nothing for `None`.
pub(crate) fn firewall(nat: Nat, uplink: &str) -> Option<String> {
    let no_udp = match nat {
        Nat::None => return None,
        Nat::UdpBlocked => dns_only(uplink),
        _ => String::new(),
    };
    Some(format!(
        "table ip6 firewall {{\n\
         chain inbound {{ type filter hook forward priority filter;\n\
         iif {uplink} ct state new,invalid drop\n\
         }}\n\
         {no_udp}}}\n"
    ))
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
    postrouting(&format!(
        "oif {uplink} meta l4proto udp \
         update @mappings {{ udp sport timeout 300s : ip saddr . udp sport }}\n\
         oif {uplink} snat to {address}"
    ))
}

fn masquerade(uplink: &str, ports: &str) -> String {
    postrouting(&format!("oif {uplink} masquerade {ports}"))
}

fn postrouting(rules: &str) -> String {
    format!("chain postrouting {{ type nat hook postrouting priority srcnat;\n{rules}\n}}\n")
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
