//! Which of several paths is taken.

use super::nat::NatKind::{AddressRestricted, FullCone, None as Public, PortRestricted, Symmetric};
use super::*;
use crate::CandidateKind;

/// Whether both sides go between these two networks.
fn go_through(network: &Network, a: SiteId, b: SiteId) -> bool {
    [(A, a, b), (B, b, a)].into_iter().all(|(id, own, other)| {
        let host = &network.hosts[id];
        host.path().is_some_and(|path| {
            host.site_of(path.local) == Some(own)
                && network.site_at(path.remote.ip()) == Some(other)
        })
    })
}

#[test]
fn direct_path_is_preferred() {
    for seed in 0..20 {
        let title = "a fast NAT and a slow public address";
        let (mut network, sites, other) = network(title, seed, &[FullCone, Public], Public);
        *network.link(sites[0], other) = Link::ms(5);
        *network.link(sites[1], other) = Link::ms(60);
        network.connect();
        let took = network.run_until(secs(10), |network| go_through(network, sites[1], other));
        assert!(took.is_some(), "the direct path is not taken");
        network.run(secs(120));
        assert!(go_through(&network, sites[1], other), "the direct path is left");
        for host in &network.hosts {
            assert_eq!(host.path().unwrap().kind, CandidateKind::Host);
        }
    }
}

#[test]
fn direct_path_is_found_later() {
    for seed in 0..20 {
        let title = "a public address that comes to work";
        let (mut network, sites, other) = network(title, seed, &[FullCone, Public], Public);
        network.cut(sites[1], other);
        network.connect();
        network.run(secs(100));
        assert!(go_through(&network, sites[0], other));
        network.restore(sites[1], other);
        let took = network.run_until(secs(40), |network| go_through(network, sites[1], other));
        assert!(took.is_some(), "the direct path is not taken");
    }
}

#[test]
fn faster_path_is_preferred() {
    for seed in 0..20 {
        let title = "two public addresses";
        let (mut network, sites, other) = network(title, seed, &[Public, Public], Public);
        *network.link(sites[0], other) = Link::ms(40);
        *network.link(sites[1], other) = Link::ms(15);
        network.connect();
        let took = network.run_until(secs(10), |network| go_through(network, sites[1], other));
        assert!(took.is_some(), "the faster path is not taken");
        network.run(secs(60));
        assert!(go_through(&network, sites[1], other), "the faster path is left");
        *network.link(sites[0], other) = Link::ms(15);
        *network.link(sites[1], other) = Link::ms(40);
        let took = network.run_until(secs(60), |network| go_through(network, sites[0], other));
        assert!(took.is_some(), "the path that became faster is not taken");
    }
}

#[test]
fn equal_paths_are_kept() {
    for seed in 0..20 {
        let title = "two equal addresses";
        let (mut network, ..) = network(title, seed, &[Public, Public], Public);
        network.all_links(|link| link.jitter = ms(10));
        network.connect();
        // The first samples of both may differ.
        network.run(secs(30));
        let since = network.now;
        network.run(secs(600));
        for host in &network.hosts {
            let switches = host.selections(since);
            assert!(switches <= 1, "{switches} changes of the path in 10 minutes");
        }
    }
}

/// Two packets in a hundred are lost, which happens to be four checks in a hundred.
#[test]
fn lost_packet_is_no_reason_to_leave() {
    for busy in [true, false] {
        for seed in 0..5 {
            let title = format!("a direct path that loses packets, busy: {busy}");
            let (mut network, ..) = network(title, seed, &[Public, FullCone], Public);
            network.all_links(|link| link.loss = 0.02);
            network.introduce(ms(100));
            network.set_busy(busy);
            network.run(secs(30));
            let since = network.now;
            network.run(secs(600));
            for host in &network.hosts {
                let switches = host.selections(since);
                assert!(switches <= 20, "{switches} changes of the path in 10 minutes");
            }
        }
    }
}

#[test]
fn second_path_takes_over() {
    for (busy, limit) in [(true, ms(1_500)), (false, ms(3_500))] {
        for second in [Public, PortRestricted] {
            for seed in 0..50 {
                let title = format!("a second path through {second:?}, busy: {busy}");
                let (mut network, sites, other) = network(title, seed, &[Public, second], Public);
                *network.link(sites[0], other) = Link::ms(10);
                *network.link(sites[1], other) = Link::ms(25);
                network.connect();
                network.set_busy(busy);
                network.run(secs(20));
                assert!(go_through(&network, sites[0], other));
                let time = ms(network.rng.u64(0..4_000));
                network.run(time);
                network.cut(sites[0], other);
                let took = network.run_until(limit, |network| go_through(network, sites[1], other));
                assert!(took.is_some(), "the second path is not taken within {limit:?}");
            }
        }
    }
}

#[test]
fn both_sides_agree_on_the_kind() {
    let kinds = [Public, FullCone, AddressRestricted, PortRestricted, Symmetric];
    for a in kinds {
        for b in kinds {
            for seed in 0..9 {
                let families = (Family::ALL[seed as usize % 3], Family::ALL[seed as usize / 3 % 3]);
                let title = format!("{a:?} {:?} to {b:?} {:?}", families.0, families.1);
                let mut network = Network::new(title, seed);
                network.all_links(|link| link.jitter = ms(5));
                let sites = [network.add_site(a), network.add_site(b)];
                network.attach(A, sites[0], families.0);
                network.attach(B, sites[1], families.1);
                network.introduce(ms(100));
                network.run(secs(40));
                let kinds = network.hosts.each_ref().map(|host| host.path().map(|path| path.kind));
                assert_eq!(kinds[0], kinds[1]);
            }
        }
    }
}

/// QUIC measures one path, so that both directions are to take the same.
#[test]
fn both_sides_take_the_same_path() {
    for kinds in [[Public, Public], [FullCone, FullCone], [Symmetric, FullCone], [Public, FullCone]]
    {
        for [first, second] in [[20, 20], [20, 21], [20, 23], [20, 30]] {
            for seed in 0..10 {
                let title = format!("{kinds:?} with {first} and {second} ms");
                let (mut network, sites, other) = network(title, seed, &kinds, Public);
                *network.link(sites[0], other) = Link::ms(first);
                *network.link(sites[1], other) = Link::ms(second);
                network.all_links(|link| link.jitter = ms(1));
                network.connect();
                network.run(secs(60));
                let common = sites.iter().any(|site| go_through(&network, *site, other));
                assert!(common, "{:?}", network.hosts.each_ref().map(|host| host.path()));
                let kinds = network.hosts.each_ref().map(|host| host.path().map(|path| path.kind));
                assert_eq!(kinds[0], kinds[1]);
            }
        }
    }
}
