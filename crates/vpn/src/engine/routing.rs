//! Which peer has an address: WireGuard's cryptokey routing, by the longest prefix.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;

/// Networks and what each leads to.
pub(super) struct Routes<T> {
    /// Single addresses, which most clients have and nothing else.
    hosts: HashMap<IpAddr, T>,
    /// The others, the longest prefix first.
    networks: Vec<(IpNet, T)>,
}

impl Routes<()> {
    /// A set of networks.
    pub(super) fn of(nets: &[IpNet]) -> Self {
        let mut routes = Self::new();
        nets.iter().for_each(|net| routes.insert(net, ()));
        routes
    }
}

impl<T: Copy + PartialEq> Routes<T> {
    pub(super) fn new() -> Self {
        Self { hosts: HashMap::new(), networks: Vec::new() }
    }

    pub(super) fn get(&self, address: IpAddr) -> Option<T> {
        let by_network = || self.networks.iter().find(|(net, _)| net.contains(&address));
        self.hosts.get(&address).copied().or_else(|| by_network().map(|(_, to)| *to))
    }

    /// What this very network leads to.
    pub(super) fn exact(&self, net: &IpNet) -> Option<T> {
        let net = net.trunc();
        if is_single(&net) {
            return self.hosts.get(&net.addr()).copied();
        }
        self.networks.iter().find(|(present, _)| *present == net).map(|(_, to)| *to)
    }

    pub(super) fn insert(&mut self, net: &IpNet, to: T) {
        let net = net.trunc();
        if is_single(&net) {
            self.hosts.insert(net.addr(), to);
            return;
        }
        self.networks.retain(|(present, _)| *present != net);
        let at = self.networks.partition_point(|(n, _)| n.prefix_len() >= net.prefix_len());
        self.networks.insert(at, (net, to));
    }

    pub(super) fn remove(&mut self, to: T) {
        self.hosts.retain(|_, present| *present != to);
        self.networks.retain(|(_, present)| *present != to);
    }
}

fn is_single(net: &IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(routes: &Routes<u8>, address: &str) -> Option<u8> {
        routes.get(address.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_decides_whatever_the_order() {
        let nets = [("0.0.0.0/0", 1), ("10.1.0.0/16", 2), ("10.1.2.3/32", 3), ("10.0.0.0/8", 4)];
        for skip in 0..nets.len() {
            let mut routes = Routes::new();
            for (net, to) in nets.iter().cycle().skip(skip).take(nets.len()) {
                routes.insert(&net.parse().unwrap(), *to);
            }
            assert_eq!(at(&routes, "10.1.2.3"), Some(3));
            assert_eq!(at(&routes, "10.1.2.4"), Some(2));
            assert_eq!(at(&routes, "10.2.2.4"), Some(4));
            assert_eq!(at(&routes, "192.0.2.1"), Some(1));
            assert_eq!(at(&routes, "::ffff:10.1.2.3"), None);
            routes.remove(3);
            assert_eq!(at(&routes, "10.1.2.3"), Some(2));
        }
    }

    #[test]
    fn a_network_is_found_again_however_it_was_written() {
        let mut routes = Routes::new();
        routes.insert(&"10.1.2.3/16".parse().unwrap(), 1);
        routes.insert(&"fd00::7/128".parse().unwrap(), 2);
        assert_eq!(routes.exact(&"10.1.0.0/16".parse().unwrap()), Some(1));
        assert_eq!(routes.exact(&"10.1.0.0/17".parse().unwrap()), None);
        assert_eq!(routes.exact(&"fd00::7/128".parse().unwrap()), Some(2));
    }
}
