//! Which of the machine's addresses a peer may be able to reach.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use netwatch::interfaces::IpNet;
use netwatch::netmon::{Monitor, State};
use tokio::time::sleep;

/// Addresses of each family that sockets are opened on. Each pairs with all of the peer's; more than these are those of
/// containers and virtual machines.
const MAX_OF_FAMILY: usize = 5;

/// An address that cannot be used yet is looked at again after this: duplicate address detection takes a second
/// (RFC 4862 section 5.4, `RetransTimer`), and its end is not always told.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// The addresses of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// Those that something new may begin on.
    pub(crate) usable: Vec<IpAddr>,
    /// All; what has begun on one goes on for as long as it is there, also when it is no longer preferred (RFC 4862
    /// section 5.5.4).
    pub(crate) present: BTreeSet<IpAddr>,
    /// Whether one is still being checked for duplicates.
    tentative: bool,
}

/// Follows the addresses of the machine.
pub(crate) struct Interfaces {
    monitor: Option<(Monitor, n0_watcher::Direct<State>)>,
    look_again: bool,
}

impl Interfaces {
    /// The addresses of the moment, and what tells of changes.
    pub(crate) async fn watch() -> (Self, Addresses) {
        let (monitor, state) = match Monitor::new().await {
            Ok(monitor) => {
                use n0_watcher::Watcher as _;
                let mut watcher = monitor.interface_state();
                let state = watcher.get();
                (Some((monitor, watcher)), state)
            }
            Err(error) => {
                tracing::warn!("changes of the network will not be noticed: {error}");
                (None, State::new().await)
            }
        };
        let mut interfaces = Self { monitor, look_again: false };
        let addresses = interfaces.take(&state);
        (interfaces, addresses)
    }

    fn take(&mut self, state: &State) -> Addresses {
        let addresses = addresses(state);
        self.look_again = addresses.tentative;
        addresses
    }

    /// Looks again in a moment: an address could not be used although it is there.
    pub(crate) fn look_again(&mut self, again: bool) {
        self.look_again |= again;
    }

    /// The addresses after the next change.
    pub(crate) async fn changed(&mut self) -> Addresses {
        let told = async {
            use n0_watcher::Watcher as _;
            if let Some((_, watcher)) = &mut self.monitor
                && let Ok(state) = watcher.updated().await
            {
                return state;
            }
            std::future::pending().await
        };
        let state = tokio::select! {
            state = told => state,
            () = sleep(LOOK_AGAIN), if self.look_again => State::new().await,
        };
        self.take(&state)
    }
}

/// Tells when the machine's addresses change.
pub struct NetworkWatch {
    interfaces: Interfaces,
    last: Addresses,
}

impl NetworkWatch {
    /// Begins to watch.
    pub async fn start() -> Self {
        let (interfaces, last) = Interfaces::watch().await;
        Self { interfaces, last }
    }

    /// Resolves after the next change.
    pub async fn changed(&mut self) {
        loop {
            let now = self.interfaces.changed().await;
            if now.usable != self.last.usable {
                self.last = now;
                return;
            }
        }
    }
}

fn addresses(state: &State) -> Addresses {
    let default = state.default_route_interface.as_deref();
    let up = state.interfaces.values().filter(|interface| interface.is_up());
    let nets = up.flat_map(|interface| {
        let first = default == Some(interface.name());
        interface.addrs().map(move |net| (first, net))
    });
    choose(&nets.collect::<Vec<_>>())
}

/// Sorts addresses out; `true` stands beside those of the default route's interface. Those of one link alone are left
/// out, and so is loopback (RFC 8445 section 5.1.1.1) unless there is nothing else: then both sides can only be on this
/// machine.
fn choose(all: &[(bool, IpNet)]) -> Addresses {
    let reachable = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => !(ip.is_link_local() || ip.is_unspecified() || ip.is_broadcast()),
        IpAddr::V6(ip) => !(ip.is_unicast_link_local() || ip.is_unspecified()),
    };
    let reachable = all.iter().filter(|(_, net)| reachable(net.addr()));
    let mut addresses = Addresses::default();
    let (mut loopback, mut others) = (Vec::new(), Vec::new());
    for (first, net) in reachable {
        let ip = net.addr();
        addresses.present.insert(ip);
        if let IpNet::V6 { flags, .. } = net {
            addresses.tentative |= flags.tentative && !flags.duplicated;
            if flags.deprecated || flags.tentative || flags.duplicated {
                continue;
            }
        }
        if ip.is_loopback() { &mut loopback } else { &mut others }.push((!first, ip));
    }
    let mut chosen = if others.is_empty() { loopback } else { others };
    chosen.sort_unstable();
    chosen.dedup();
    let of = |v4: bool| chosen.iter().filter(move |(_, ip)| ip.is_ipv4() == v4).take(MAX_OF_FAMILY);
    addresses.usable = of(true).chain(of(false)).map(|(_, ip)| *ip).collect();
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(addresses: &[&str]) -> Vec<String> {
        let nets: Vec<_> = addresses
            .iter()
            .map(|address| match address.parse().unwrap() {
                ip @ IpAddr::V4(_) => net(ip, 24),
                ip @ IpAddr::V6(_) => net(ip, 64),
            })
            .collect();
        let nets: Vec<_> = nets.into_iter().map(|net| (false, net)).collect();
        choose(&nets).usable.iter().map(ToString::to_string).collect()
    }

    fn net(ip: IpAddr, prefix: u8) -> IpNet {
        match ip {
            IpAddr::V4(ip) => IpNet::V4(ipnet::Ipv4Net::new(ip, prefix).unwrap()),
            IpAddr::V6(ip) => IpNet::V6 {
                net: ipnet::Ipv6Net::new(ip, prefix).unwrap(),
                scope_id: 0,
                flags: Default::default(),
            },
        }
    }

    #[test]
    fn addresses_of_one_link_are_left_out() {
        let all = ["127.0.0.1", "::1", "169.254.7.7", "fe80::1", "192.168.1.2", "2001:db8::2"];
        assert_eq!(chosen(&all), ["192.168.1.2", "2001:db8::2"]);
    }

    #[test]
    fn loopback_is_better_than_nothing() {
        assert_eq!(chosen(&["127.0.0.1", "::1", "fe80::1"]), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn the_default_routes_addresses_are_never_crowded_out() {
        let bridge = |n: u8| (false, net(IpAddr::from([172, n, 0, 1]), 16));
        let mut all: Vec<_> = (17..40).map(bridge).collect();
        all.push((true, net("192.168.1.2".parse().unwrap(), 24)));
        all.push((false, net("2001:db8::2".parse().unwrap(), 64)));
        let chosen = choose(&all);
        assert_eq!(chosen.usable[0], IpAddr::from([192, 168, 1, 2]));
        assert!(chosen.usable.iter().any(IpAddr::is_ipv6));
        assert_eq!((chosen.usable.len(), chosen.present.len()), (MAX_OF_FAMILY + 1, 25));
    }

    #[test]
    fn an_address_that_is_no_longer_preferred_keeps_what_it_has() {
        let flags = netwatch::interfaces::Ipv6AddrFlags { deprecated: true, ..Default::default() };
        let address = ipnet::Ipv6Net::new("2001:db8::3".parse().unwrap(), 64).unwrap();
        let chosen = choose(&[(true, IpNet::V6 { net: address, scope_id: 0, flags })]);
        assert!(chosen.usable.is_empty() && chosen.present.len() == 1);
    }
}
