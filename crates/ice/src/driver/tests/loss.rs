//! Paths that end, and come back.

use super::nat::NatKind::{AddressRestricted, FullCone, None as Public, PortRestricted, Symmetric};
use super::*;

const PAIRS: [(NatKind, NatKind); 5] = [
    (Public, Public),
    (FullCone, Symmetric),
    (AddressRestricted, PortRestricted),
    (PortRestricted, PortRestricted),
    (Symmetric, AddressRestricted),
];

#[test]
fn lost_path_is_noticed_and_found_again() {
    for away in [secs(20), secs(180), secs(3_600)] {
        for (a, b) in PAIRS {
            for seed in 0..4 {
                let busy = seed % 2 == 0;
                let title = format!("{a:?} to {b:?}, away for {away:?}, busy: {busy}");
                let (mut network, sites, other) = network(title, seed, &[a], b);
                for site in &mut network.sites {
                    site.lifetime = secs(30);
                }
                let delay = ms(network.rng.u64(5..100));
                network.link(sites[0], other).delay = delay;
                network.connect();
                network.set_busy(busy);
                let time = ms(network.rng.u64(5_000..40_000));
                network.run(time);
                network.cut(sites[0], other);
                let gone = network.run_until(secs(5), |network| network.both_are(State::Gone));
                assert!(gone.is_some(), "the loss is not noticed");
                network.set_busy(false);
                network.run(away - gone.unwrap());
                assert!(network.both_are(State::Gone));
                network.restore(sites[0], other);
                network.expect_paths(secs(6));
            }
        }
    }
}

#[test]
fn short_interruption_is_no_loss() {
    for seed in 0..20 {
        let (mut network, sites, other) = network("200 ms", seed, &[Public], Public);
        network.connect();
        network.run(secs(1));
        let since = network.now;
        for _ in 0..50 {
            let time = ms(network.rng.u64(2_000..4_000));
            network.run(time);
            network.cut(sites[0], other);
            network.run(ms(200));
            network.restore(sites[0], other);
        }
        network.run(secs(3));
        let selections = network.hosts.each_ref().map(|host| host.selections(since));
        assert_eq!(selections, [0, 0], "the path was given up");
    }
}

/// Checks may be lost in a queue that data fills.
#[test]
fn data_that_comes_keeps_a_path_for_a_while() {
    for seed in 0..10 {
        let (mut network, sites, other) = network("checks are lost", seed, &[Public], Public);
        network.connect();
        network.set_busy(true);
        network.run(secs(20));
        let since = network.now;
        for (time, keeps) in [(3, true), (8, false)] {
            network.cut(sites[0], other);
            for _ in 0..time * 10 {
                for host in &mut network.hosts {
                    host.driver.heard(network.now);
                }
                network.run(ms(100));
            }
            assert_eq!(network.both_are(State::Up), keeps, "after {time} s");
            network.restore(sites[0], other);
            network.run(secs(6));
            if keeps {
                let selections = network.hosts.each_ref().map(|host| host.selections(since));
                assert_eq!(selections, [0, 0], "the path was left");
            }
        }
        // Data of the past says nothing.
        network.run(secs(2));
        network.cut(sites[0], other);
        let took = network.run_until(ms(2_500), |network| network.both_are(State::Stalled));
        assert!(took.is_some(), "the loss is not noticed");
    }
}

#[test]
fn many_addresses_do_not_crowd_out_the_path() {
    for count in [2, 5, 6] {
        for seed in 0..2 {
            let title = format!("{count} addresses of each family");
            let mut network = Network::new(title, seed);
            let sites = [network.add_site(PortRestricted), network.add_site(AddressRestricted)];
            for id in [A, B] {
                network.attach(id, sites[id], Family::V4);
                for nth in 0..count {
                    // Networks of containers, which lead nowhere.
                    let inner = network.add_site(NatKind::UdpBlocked);
                    let v6 = [0xfd00, inner as u16, 0, 0, 0, 0, 0, 1 + id as u16];
                    network.attach_address(id, inner, v6.into());
                    if nth > 0 {
                        network.attach_address(id, inner, [172, 16, inner as u8, 1].into());
                    }
                }
            }
            network.connect();
            let since = network.now;
            network.run(secs(100));
            let selections = network.hosts.each_ref().map(|host| host.selections(since));
            assert!(
                selections.iter().all(|count| *count <= 2),
                "the path was left: {selections:?}"
            );
            network.cut(sites[A], sites[B]);
            let gone = network.run_until(secs(5), |network| network.both_are(State::Gone));
            assert!(gone.is_some(), "the loss is not noticed");
            network.run(secs(20));
            network.restore(sites[A], sites[B]);
            network.expect_paths(secs(6));
        }
    }
}

/// As a carrier's NAT that gives a mapping another port now and then.
#[test]
fn mappings_may_change_all_day() {
    for (a, b) in [(Symmetric, FullCone), (PortRestricted, AddressRestricted)] {
        for seed in [0] {
            let title = format!("{a:?} to {b:?}, mappings change");
            let (mut network, sites, _) = network(title, seed, &[a], b);
            network.connect();
            for _ in 0..150 {
                network.run(secs(40));
                network.sites[sites[0]].forget();
                network.run(secs(5));
                assert!(network.both_are(State::Up), "no path 5 s after the change");
            }
        }
    }
}

/// As a router does whose second uplink takes over for a while, and which keeps the ports.
#[test]
fn address_that_was_taken_back_may_return() {
    for seed in 0..10 {
        let (mut network, sites, _) =
            network("a second uplink", seed, &[AddressRestricted], Public);
        let site = sites[0];
        network.sites[site].keeps_ports = true;
        network.connect();
        for uplink in [2, 1, 2, 1] {
            network.run(secs(60));
            assert!(network.both_are(State::Up));
            network.sites[site].move_to([203, 0, site as u8, uplink].into());
            // Long enough for the hosts to notice.
            network.run(secs(3));
            network.expect_paths(secs(6));
        }
    }
}

#[test]
fn address_may_be_taken_back_twice() {
    for seed in 0..10 {
        let (mut network, sites, other) =
            network("a host that comes and goes", seed, &[Public, Public], Public);
        network.connect();
        let all = network.hosts[A].candidates();
        let fewer: Vec<_> = all.iter().filter(|known| known.addr != all[1].addr).copied().collect();
        network.cut(sites[1], other);
        for _ in 0..3 {
            network.hosts[B].set_candidates(&fewer);
            network.run(ms(100));
            network.sent_to.clear();
            network.run(secs(40));
            assert_eq!(network.sent_to.get(&all[1].addr), None, "it is still asked");
            network.hosts[B].set_candidates(&all);
            network.attend(B);
            network.run(secs(3));
            assert!(network.sent_to.contains_key(&all[1].addr), "it is not asked");
        }
    }
}
