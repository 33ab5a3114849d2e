//! Networks that this machine has already.

use ipnet::IpNet;

/// A network that is to be routed into the VPN and that this machine has already, wholly or in part.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the network {wanted} of the VPN overlaps with {existing}, which this machine has already{}: take another network, or \
     route it all the same with --force-routes",
    .device.as_ref().map(|device| format!(" ({device})")).unwrap_or_default()
)]
pub struct Overlap {
    /// What is to be routed.
    pub wanted: IpNet,
    /// What is there.
    pub existing: IpNet,
    /// The interface that it is at, if it is at one.
    pub device: Option<String>,
}

/// Finds the first of `wanted` that overlaps with one of `existing`. Default routes overlap with nothing, as every other route
/// comes before them; nor does what belongs to each link by itself (RFC 4291 sections 2.5.3, 2.5.6 and 2.7, RFC 1122 section 3.2.1.3).
pub(super) fn find<T>(
    wanted: &[IpNet],
    existing: impl Iterator<Item = (IpNet, T)> + Clone,
) -> Option<(&IpNet, IpNet, T)> {
    wanted.iter().filter(|wanted| wanted.prefix_len() > 0).find_map(|wanted| {
        let mut there = existing.clone().filter(|(network, _)| counts(network));
        let found = there.find(|(there, _)| there.contains(wanted) || wanted.contains(there));
        found.map(|(existing, at)| (wanted, existing, at))
    })
}

fn counts(network: &IpNet) -> bool {
    let address = network.addr();
    let of_link = match network {
        IpNet::V6(v6) => v6.addr().is_unicast_link_local(),
        IpNet::V4(_) => false,
    };
    network.prefix_len() > 0 && !address.is_multicast() && !address.is_loopback() && !of_link
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn found(wanted: &str, existing: &[&str]) -> Option<String> {
        let existing = existing.iter().map(|text| (net(text), ()));
        find(&[net(wanted)], existing).map(|(_, existing, ())| existing.to_string())
    }

    #[test]
    fn either_can_hold_the_other() {
        assert_eq!(found("10.0.0.0/24", &["10.0.0.0/8"]).unwrap(), "10.0.0.0/8");
        assert_eq!(found("10.0.0.0/8", &["192.0.2.0/24", "10.9.9.9/32"]).unwrap(), "10.9.9.9/32");
        assert_eq!(found("fd00::/64", &["fd00::/64"]).unwrap(), "fd00::/64");
        assert_eq!(found("10.0.0.0/24", &["10.0.1.0/24", "fd00::/64"]), None);
    }

    #[test]
    fn default_routes_and_what_each_link_has_count_for_nothing() {
        let each = ["0.0.0.0/0", "::/0", "fe80::/64", "ff00::/8", "224.0.0.0/4"];
        for wanted in ["10.0.0.0/24", "fe80::/64", "0.0.0.0/0", "::/0"] {
            assert_eq!(found(wanted, &each), None, "{wanted}");
        }
        assert_eq!(found("0.0.0.0/0", &["10.0.0.0/8"]), None);
    }

    proptest! {
        #[test]
        fn networks_overlap_when_an_address_is_in_both(a: u32, b: u32, x in 1u8..=32, y in 1u8..=32) {
            let (a, b) = (net(&format!("{}/{x}", std::net::Ipv4Addr::from(a))), net(&format!("{}/{y}", std::net::Ipv4Addr::from(b))));
            let common = a.trunc().contains(&b.network()) || b.trunc().contains(&a.network());
            prop_assume!(counts(&b.trunc()));
            prop_assert_eq!(find(&[a.trunc()], std::iter::once((b.trunc(), ()))).is_some(), common);
        }
    }
}
