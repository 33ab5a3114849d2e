//! Hosts whose addresses come and go.

use proptest::prelude::*;

use super::nat::NatKind::{AddressRestricted, FullCone, None as Public, PortRestricted, Symmetric};
use super::*;

#[test]
fn hosts_may_move_while_connected() {
    for kind in [Public, FullCone, AddressRestricted, PortRestricted, Symmetric] {
        for seed in 0..10 {
            let title = format!("moving between networks behind {kind:?}");
            let (mut network, sites, other) = network(title, seed, &[Public], Public);
            network.connect();
            let mut at = [sites[0], other];
            for _ in 0..10 {
                for id in [A, B] {
                    let next = network.add_site(if id == A { kind } else { FullCone });
                    // The new address is there before the old one goes.
                    network.attach(id, next, Family::V4);
                    network.run(secs(3));
                    let since = network.now;
                    network.detach(id, at[id]);
                    at[id] = next;
                    network.expect_paths(secs(2));
                    network.run(secs(3));
                    assert!(network.both_are(State::Up));
                    let gone = |host: &super::host::Host| {
                        let gone = crate::driver::Event::Gone;
                        host.events.iter().any(|(at, event)| *at >= since && *event == gone)
                    };
                    assert!(!network.hosts.iter().any(gone), "the path was gone meanwhile");
                }
            }
        }
    }
}

#[test]
fn host_may_vanish_and_appear_elsewhere() {
    for id in [A, B] {
        for seed in 0..20 {
            let title = format!("host {id} goes elsewhere");
            let mut network = Network::new(title, seed);
            let site = network.add_site(AddressRestricted);
            network.attach(id, site, Family::V4);
            let other = network.add_site(Public);
            network.attach(1 - id, other, Family::V4);
            network.connect();
            network.run(secs(10));
            let mut at = site;
            for kind in [Symmetric, Public, PortRestricted] {
                network.detach(id, at);
                assert_ne!(network.hosts[id].state, State::Up, "a path without a socket");
                let time = ms(network.rng.u64(0..20_000));
                network.run(time);
                at = network.add_site(kind);
                network.attach(id, at, Family::V4);
                network.run(ms(50));
                network.expect_paths(secs(6));
                network.run(secs(5));
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Action {
    Attach(usize, usize),
    Detach(usize, usize),
    Cut(usize, usize),
    Restore(usize, usize),
    Lose(u8),
    Delay(u64),
    Reboot(usize),
    Busy(bool),
    Wait(u64),
}

/// Networks of the offering side; the answering one's come behind them.
const NETWORKS: [NatKind; 6] =
    [PortRestricted, Public, Symmetric, AddressRestricted, Public, FullCone];

fn actions() -> impl Strategy<Value = Action> {
    let host = 0..2_usize;
    let site = 0..3_usize;
    prop_oneof![
        2 => (host.clone(), site.clone()).prop_map(|(host, site)| Action::Attach(host, site)),
        2 => (host, site.clone()).prop_map(|(host, site)| Action::Detach(host, site)),
        2 => (site.clone(), site.clone()).prop_map(|(a, b)| Action::Cut(a, b)),
        1 => (site.clone(), site.clone()).prop_map(|(a, b)| Action::Restore(a, b)),
        1 => (0..50_u8).prop_map(Action::Lose),
        1 => (1..300_u64).prop_map(Action::Delay),
        1 => (0..NETWORKS.len()).prop_map(Action::Reboot),
        1 => any::<bool>().prop_map(Action::Busy),
        4 => (0..40_000_u64).prop_map(Action::Wait),
    ]
}

/// The answering host's public address, which stays: two hosts that have both moved unseen cannot find each other.
const HOME: (usize, usize) = (B, 1);

fn act(network: &mut Network, action: &Action) {
    let site = |host: usize, nth: usize| 1 + host * 3 + nth;
    let is_attached = |network: &Network, host: usize, site: SiteId| {
        network.hosts[host].bases.iter().any(|(_, known)| *known == site)
    };
    match *action {
        Action::Attach(host, nth) if !is_attached(network, host, site(host, nth)) => {
            network.attach(host, site(host, nth), Family::V4);
        }
        Action::Detach(host, nth) if (host, nth) != HOME => network.detach(host, site(host, nth)),
        Action::Cut(a, b) => network.cut(site(A, a), site(B, b)),
        Action::Restore(a, b) => network.restore(site(A, a), site(B, b)),
        Action::Lose(percent) => network.all_links(|link| link.loss = f64::from(percent) / 100.0),
        Action::Delay(delay) => network.all_links(|link| link.delay = ms(delay)),
        Action::Reboot(site) => network.sites[1 + site].forget(),
        Action::Busy(busy) => network.set_busy(busy),
        Action::Wait(time) => network.run(ms(time)),
        Action::Attach(..) | Action::Detach(..) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn path_is_found_when_the_network_heals(
        seed in any::<u64>(),
        actions in proptest::collection::vec(actions(), 0..24),
    ) {
        let mut network = Network::new("hosts that roam", seed);
        for kind in NETWORKS {
            network.add_site(kind);
        }
        for (host, nth) in [(A, 0), (A, 1), (B, 0), HOME] {
            act(&mut network, &Action::Attach(host, nth));
        }
        network.connect();
        for action in &actions {
            act(&mut network, action);
        }
        network.all_links(|link| *link = Link::ms(20));
        if network.hosts[A].bases.is_empty() {
            act(&mut network, &Action::Attach(A, 0));
        }
        // A path that the loss of an address has ended shows at once, another one when it is asked for.
        network.run(secs(15));
        for host in &network.hosts {
            prop_assert_eq!(host.state, State::Up);
            let path = host.path().unwrap();
            let answer = host.answers[&(path.local, path.remote)];
            prop_assert!(network.now.duration_since(answer) < secs(3), "nobody answers");
        }
    }
}
