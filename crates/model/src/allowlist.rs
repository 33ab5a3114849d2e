use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use crate::Protocol;

/// A network in CIDR notation without host bits, such as `10.0.0.0/8` or `fd00::/8`.
///
/// A network of IPv4-mapped IPv6 addresses is held as the IPv4 network it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr(IpNet);

/// Why a network was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CidrError {
    /// Not of the form `ADDRESS/PREFIX`.
    #[error("'{0}' is not a network: write ADDRESS/PREFIX, such as 10.0.0.0/8 or fd00::/8")]
    Malformed(String),
    /// An address without a prefix.
    #[error("'{0}' has no prefix: for this one address write {0}/{1}")]
    NoPrefix(String, u8),
    /// The address has bits behind the prefix.
    #[error("'{given}' has host bits set: the network is {network}")]
    HostBits {
        /// As written.
        given: String,
        /// Without the host bits.
        network: String,
    },
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(s: &str) -> Result<Self, CidrError> {
        if let Ok(ip) = s.parse::<IpAddr>() {
            return Err(CidrError::NoPrefix(s.to_owned(), if ip.is_ipv4() { 32 } else { 128 }));
        }
        let net: IpNet = s.parse().map_err(|_| CidrError::Malformed(s.to_owned()))?;
        if net.addr() != net.network() {
            let network = net.trunc().to_string();
            return Err(CidrError::HostBits { given: s.to_owned(), network });
        }
        if let (IpNet::V6(v6), IpAddr::V4(v4)) = (net, net.addr().to_canonical())
            && let Some(prefix) = v6.prefix_len().checked_sub(96)
            && let Ok(mapped) = Ipv4Net::new(v4, prefix)
        {
            return Ok(Self(mapped.into()));
        }
        Ok(Self(net))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Cidr {
    /// The network itself.
    pub fn network(&self) -> IpNet {
        self.0
    }

    /// Whether the canonical form of `ip` lies in this network.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.contains(&ip.to_canonical())
    }
}

/// The networks that clients may reach. Empty means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist {
    /// Reachable over TCP.
    pub tcp: Vec<Cidr>,
    /// Reachable over UDP.
    pub udp: Vec<Cidr>,
}

impl Allowlist {
    /// The networks of one protocol.
    pub fn networks(&self, protocol: Protocol) -> &[Cidr] {
        match protocol {
            Protocol::Tcp => &self.tcp,
            Protocol::Udp => &self.udp,
        }
    }

    /// Whether `ip` may be reached. Unspecified, multicast and broadcast addresses never are.
    pub fn allows(&self, protocol: Protocol, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        !never_a_destination(ip) && self.networks(protocol).iter().any(|net| net.contains(ip))
    }
}

/// Unspecified addresses reach the server itself on many systems (CVE-2020-26262); multicast and broadcast would
/// make it send to many.
fn never_a_destination(ip: IpAddr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(tcp: &[&str]) -> Allowlist {
        Allowlist { tcp: tcp.iter().map(|s| s.parse().unwrap()).collect(), udp: Vec::new() }
    }

    #[test]
    fn wrong_networks_say_what_to_write() {
        let error = |s: &str| s.parse::<Cidr>().unwrap_err();
        assert!(matches!(error("10.0.0.0/33"), CidrError::Malformed(_)));
        assert!(matches!(error("ten/8"), CidrError::Malformed(_)));
        assert!(error("10.0.0.1").to_string().contains("10.0.0.1/32"));
        assert!(error("10.0.0.1/8").to_string().contains("10.0.0.0/8"));
        assert!(error("fd00::1/64").to_string().contains("fd00::/64"));
    }

    #[test]
    fn nothing_is_allowed_by_an_empty_list() {
        assert!(!Allowlist::default().allows(Protocol::Tcp, "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn protocols_are_kept_apart() {
        let list = list(&["127.0.0.0/8"]);
        assert!(list.allows(Protocol::Tcp, "127.0.0.1".parse().unwrap()));
        assert!(!list.allows(Protocol::Udp, "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn mapped_addresses_and_networks_count_as_ipv4() {
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().unwrap();
        assert!(list(&["127.0.0.0/8"]).allows(Protocol::Tcp, mapped));
        assert!(!list(&["::/0"]).allows(Protocol::Tcp, mapped));
        assert!(
            list(&["::ffff:127.0.0.0/104"]).allows(Protocol::Tcp, "127.9.9.9".parse().unwrap())
        );
    }

    #[test]
    fn some_destinations_are_refused_whatever_the_list_says() {
        let all = list(&["0.0.0.0/0", "::/0"]);
        for ip in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "255.255.255.255",
            "::ffff:255.255.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "::ffff:224.0.0.1",
            "ff02::1",
            "ff0e::1",
        ] {
            assert!(!all.allows(Protocol::Tcp, ip.parse().unwrap()), "{ip} was allowed");
        }
        for ip in ["1.1.1.1", "::1", "169.254.169.254", "fe80::1"] {
            assert!(all.allows(Protocol::Tcp, ip.parse().unwrap()), "{ip} was refused");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_allowed_only_inside_a_listed_network(bits: u32, net: u32, prefix in 0u8..=32) {
            let network = Ipv4Net::new(net.into(), prefix).unwrap().trunc();
            let ip = Ipv4Addr::from(bits);
            let allowed = list(&[&network.to_string()]).allows(Protocol::Tcp, ip.into());
            let inside = prefix == 0 || (bits ^ net) >> (32 - u32::from(prefix)) == 0;
            prop_assert_eq!(allowed, inside && !never_a_destination(ip.into()));
            let mapped = ip.to_ipv6_mapped();
            prop_assert_eq!(allowed, list(&[&network.to_string()]).allows(Protocol::Tcp, mapped.into()));
        }

        #[test]
        fn nothing_panics(s in "\\PC{0,40}") {
            let _ = s.parse::<Cidr>();
        }
    }
}
