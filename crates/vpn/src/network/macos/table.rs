//! The routing table, as netstat(1) prints it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::system::System;

/// One route of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) network: IpNet,
    /// A letter for each property (netstat(1)).
    flags: String,
    gateway: String,
    pub(super) device: String,
}

/// The next step on the way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) device: String,
    /// Where the destination is not on the link itself, as route(8) takes it.
    pub(super) gateway: Option<String>,
}

impl Route {
    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    /// Whether it is of use for those alone that ask for its interface.
    fn is_scoped(&self) -> bool {
        self.has('I')
    }

    /// Whether the system made it of another one, for a single destination.
    pub(super) fn is_cloned(&self) -> bool {
        self.has('W')
    }

    /// Where it leads.
    pub(super) fn hop(&self) -> Hop {
        let gateway = self.has('G').then(|| self.gateway.clone());
        Hop { device: self.device.clone(), gateway }
    }

    fn leads_nowhere(&self) -> bool {
        self.has('R') || self.has('B')
    }
}

/// Reads the whole table.
pub(super) fn read(system: &dyn System) -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in ["inet", "inet6"] {
        let printed = system.run("/usr/sbin/netstat", &["-rn", "-f", family])?;
        // It says nothing of it where it could not read the table.
        let parsed = parse(&printed, family == "inet");
        routes.extend(parsed.ok_or_else(|| io::Error::other("netstat has printed no table"))?);
    }
    Ok(routes)
}

/// The routes of one family; none without the line of headings. Lines that are no routes are left out.
fn parse(printed: &str, is_v4: bool) -> Option<Vec<Route>> {
    let mut lines = printed.lines().map(str::split_ascii_whitespace);
    // Before macOS 10.15 there are more columns in front of it.
    let device = lines.find_map(|mut headings| {
        (headings.next() == Some("Destination"))
            .then(|| headings.position(|heading| heading == "Netif"))
            .flatten()
    })?;
    let routes = lines.filter_map(|mut words| {
        let network = network(words.next()?, is_v4)?;
        let rest: Vec<&str> = words.collect();
        let [gateway, flags, device] = [*rest.first()?, *rest.get(1)?, *rest.get(device)?];
        let [gateway, flags, device] = [gateway, flags, device].map(str::to_owned);
        Some(Route { network, flags, gateway, device })
    });
    Some(routes.collect())
}

/// A destination: `default`, and otherwise an address, which may lack its last zeros, its interface, or the length of its prefix.
fn network(text: &str, is_v4: bool) -> Option<IpNet> {
    if text == "default" {
        let any: IpAddr =
            if is_v4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        return IpNet::new(any, 0).ok();
    }
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse().ok()?)),
        None => (text, None),
    };
    let address = address.split('%').next()?;
    if !is_v4 {
        let length = length.unwrap_or(128);
        return Some(Ipv6Net::new(address.parse().ok()?, length).ok()?.trunc().into());
    }
    let mut octets = [0; 4];
    let mut count = 0;
    for part in address.split('.') {
        *octets.get_mut(usize::from(count))? = part.parse().ok()?;
        count += 1;
    }
    // Left out where the length is that of the address's class, and so of the octets that are shown.
    let length = length.unwrap_or(8 * count);
    Some(Ipv4Net::new(octets.into(), length).ok()?.trunc().into())
}

/// The way to an address as if one's own device was not there.
pub(super) fn way(routes: &[Route], own: Option<&str>, to: IpAddr) -> Option<Hop> {
    let mut best: Option<&Route> = None;
    for route in routes {
        let counts = !route.is_scoped() && !route.leads_nowhere() && own != Some(&*route.device);
        let longer = best.is_none_or(|best| route.network.prefix_len() > best.network.prefix_len());
        if counts && longer && route.network.contains(&to) {
            best = Some(route);
        }
    }
    best.map(Route::hop)
}

/// The device of the default route of a family, other than one's own.
pub(super) fn default_device(routes: &[Route], own: Option<&str>, is_v4: bool) -> Option<String> {
    let mut defaults = routes.iter().filter(|route| {
        route.network.prefix_len() == 0
            && route.network.addr().is_ipv4() == is_v4
            && !route.is_scoped()
            && !route.leads_nowhere()
            && own != Some(&*route.device)
    });
    defaults.next().map(|route| route.device.clone())
}

/// Both halves of a network. They come before a route to the whole of it, which can stay as it is. A single address has none.
pub(super) fn halves(network: IpNet) -> Option<[IpNet; 2]> {
    let mut subnets = network.subnets(network.prefix_len() + 1).ok()?;
    Some([subnets.next()?, subnets.next()?])
}

/// A network that begins at the unspecified address, without its first 1/256 (of IPv6 1/65536): macOS takes every route to
/// 0.0.0.0 or :: for the default route, however long its prefix is (`SA_DEFAULT` of bsd/net/route.c in xnu), and a socket that is
/// bound to another interface then finds no way any more. What is left out is assigned to nobody (RFC 1122 section 3.2.1.3, RFC
/// 4291 section 2.5), but for addresses of IPv4 in IPv6 below 64:ff9b::/96, which is left in.
pub(super) fn without_first(network: IpNet) -> Vec<IpNet> {
    let longest = if network.addr().is_ipv4() { 8 } else { 16 };
    let (mut parts, mut rest) = (Vec::new(), network);
    while rest.addr().is_unspecified()
        && rest.prefix_len() < longest
        && let Some([low, high]) = halves(rest)
    {
        parts.push(high);
        rest = low;
    }
    parts
}

/// The words of route(8) for an address family.
pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "-inet" } else { "-inet6" }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: &str = "\
Routing tables

Internet:
Destination        Gateway            Flags               Netif Expire
default            192.168.1.1        UGScg                 en0
default            link#18            UCSIg           bridge100      !
10.9/16            10.8.0.1           UGSc                utun3
127                127.0.0.1          UCS                   lo0
127.0.0.1          127.0.0.1          UH                    lo0
169.254            link#6             UCS                   en0      !
192.0.2            link#6             URS                   en0
192.168.1          link#6             UCS                   en0      !
192.168.1.1/32     link#6             UCS                   en0      !
192.168.1.1        0:11:22:33:44:55   UHLWIir               en0   1176
203.0.113          link#19            UCSI                  en1
224.0.0/4          link#6             UmCS                  en0      !
255.255.255.255/32 link#6             UCS                   en0      !
";
    const V6: &str = "\
Routing tables

Internet6:
Destination                             Gateway                                 Flags               Netif Expire
default                                 fe80::1%en0                             UGcg                  en0
default                                 fe80::%utun0                            UGcIg               utun0
::1                                     ::1                                     UHL                   lo0
2001:db8:1::/64                         link#6                                  UC                    en0
fe80::%lo0/64                           fe80::1%lo0                             UcI                   lo0
fe80::1%lo0                             link#1                                  UHLI                  lo0
ff00::/8                                ::1                                     UmCI                  lo0
";

    fn table() -> Vec<Route> {
        let mut routes = parse(V4, true).unwrap();
        routes.extend(parse(V6, false).unwrap());
        routes
    }

    fn hop(to: &str) -> Option<(String, Option<String>)> {
        way(&table(), Some("utun3"), to.parse().unwrap()).map(|hop| (hop.device, hop.gateway))
    }

    fn by(device: &str, gateway: Option<&str>) -> Option<(String, Option<String>)> {
        Some((device.to_owned(), gateway.map(str::to_owned)))
    }

    #[test]
    fn destinations_are_read_as_netstat_shortens_them() {
        let networks: Vec<_> = table().iter().map(|route| route.network.to_string()).collect();
        assert_eq!(
            networks,
            [
                "0.0.0.0/0",
                "0.0.0.0/0",
                "10.9.0.0/16",
                "127.0.0.0/8",
                "127.0.0.1/32",
                "169.254.0.0/16",
                "192.0.2.0/24",
                "192.168.1.0/24",
                "192.168.1.1/32",
                "192.168.1.1/32",
                "203.0.113.0/24",
                "224.0.0.0/4",
                "255.255.255.255/32",
                "::/0",
                "::/0",
                "::1/128",
                "2001:db8:1::/64",
                "fe80::/64",
                "fe80::1/128",
                "ff00::/8",
            ]
        );
        assert_eq!(network("0/1", true).unwrap().to_string(), "0.0.0.0/1");
        assert_eq!(network("128.0/1", true).unwrap().to_string(), "128.0.0.0/1");
        for none in ["Destination", "10.0.0.0.0", "10/33", "256", "", "10/", "::1"] {
            assert_eq!(network(none, true), None, "{none}");
        }
    }

    #[test]
    fn the_longest_route_leads_on_without_ones_own_and_without_scoped_ones() {
        assert_eq!(hop("198.51.100.1"), by("en0", Some("192.168.1.1")));
        assert_eq!(hop("192.168.1.20"), by("en0", None));
        assert_eq!(hop("203.0.113.1"), by("en0", Some("192.168.1.1")));
        assert_eq!(hop("2001:db8:2::1"), by("en0", Some("fe80::1%en0")));
        assert_eq!(hop("2001:db8:1::1"), by("en0", None));
        // By the VPN's own device alone.
        assert_eq!(hop("10.9.0.1"), by("en0", Some("192.168.1.1")));
        // Its network is rejected.
        assert_eq!(hop("192.0.2.1"), by("en0", Some("192.168.1.1")));
        assert_eq!(default_device(&table(), None, true).as_deref(), Some("en0"));
        assert_eq!(default_device(&table(), Some("en0"), true), None);
    }

    #[test]
    fn the_device_is_found_by_its_heading() {
        let before = "Destination Gateway Flags Refs Use Netif Expire\n\
                      default 192.168.1.1 UGSc 53 0 en0\nLine of something else\n";
        let routes = parse(before, true).unwrap();
        assert_eq!(routes.iter().map(|route| &*route.device).collect::<Vec<_>>(), ["en0"]);
        assert_eq!(parse("Routing tables\n", true), None);
        assert_eq!(parse("Destination Gateway Flags\ndefault 192.168.1.1 UGSc en0\n", true), None);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(address: u32, length in 0u8..=32) {
            let net = Ipv4Net::new(address.into(), length).unwrap().trunc();
            prop_assert_eq!(network(&net.to_string(), true), Some(net.into()));
        }

        #[test]
        fn halves_are_the_whole(address: u32, length in 0u8..=31) {
            let net = IpNet::from(Ipv4Net::new(address.into(), length).unwrap().trunc());
            let [low, high] = halves(net).unwrap();
            prop_assert!(!low.contains(&high) && net.contains(&low) && net.contains(&high));
            prop_assert_eq!(low.prefix_len(), length + 1);
        }

        #[test]
        fn what_begins_at_zero_is_covered_but_for_its_first_part(length in 0u8..8, address: u32) {
            let net = IpNet::from(Ipv4Net::new(Ipv4Addr::UNSPECIFIED, length).unwrap());
            let parts = without_first(net);
            let address = IpAddr::from(Ipv4Addr::from(address));
            let inside = parts.iter().filter(|part| part.contains(&address)).count();
            let expected = net.contains(&address) && address >= IpAddr::from([1, 0, 0, 0]);
            prop_assert_eq!(inside, usize::from(expected));
        }

        #[test]
        fn anything_else_is_no_panic(text in "\\PC{0,200}") {
            let _ = parse(&text, true);
            let _ = parse(&text, false);
        }
    }
}
