//! How often drivers want to be called, and how much they send.

use std::net::SocketAddr;
use std::time::Instant;

use super::nat::NatKind::{AddressRestricted, None as Public, PortRestricted};
use super::*;
use crate::driver::{Driver, Side};
use crate::{Candidate, CandidateKind, Credentials};

/// Calls and packets of the busier host in a second.
fn rates(network: &mut Network, time: Duration) -> (f64, f64) {
    let counts = |network: &Network| network.hosts.each_ref().map(|host| (host.wakes, host.sent));
    let before = counts(network);
    network.run(time);
    let after = counts(network);
    let rate = |pick: fn((u64, u64)) -> u64| {
        let most = [A, B].map(|id| pick(after[id]) - pick(before[id])).into_iter().max().unwrap();
        most as f64 / time.as_secs_f64()
    };
    (rate(|count| count.0), rate(|count| count.1))
}

/// Each side in so many networks, all of which reach each other.
fn meshed(title: &str, seed: u64, interfaces: usize) -> Network {
    let mut network = Network::new(title, seed);
    for _ in 0..interfaces {
        for id in [A, B] {
            let site = network.add_site(Public);
            network.attach(id, site, Family::V4);
        }
    }
    network
}

#[test]
fn one_idle_pair_is_quiet() {
    for loss in [0.0, 0.1] {
        for seed in 0..10 {
            let (mut network, ..) = network("idle", seed, &[AddressRestricted], PortRestricted);
            network.all_links(|link| link.loss = loss);
            network.introduce(ms(100));
            network.expect_paths(secs(10));
            network.run(secs(10));
            let (wakes, sent) = rates(&mut network, secs(300));
            assert!(wakes < 20.0, "{wakes} calls in a second");
            // Some of the addresses are not reachable; three pairs are tried.
            assert!(sent < 3.0 * 3.0, "{sent} packets in a second");
            let fewest = 0.5;
            assert!(sent > fewest, "{sent} packets in a second keep no mapping");
        }
    }
}

#[test]
fn search_is_bounded() {
    for seed in 0..3 {
        let mut network = meshed("a search in vain", seed, 5);
        for a in 0..=10 {
            for b in 0..=10 {
                network.cut(a, b);
            }
        }
        network.introduce(ms(100));
        for (time, most) in [(1, 200.0), (14, 200.0), (60, 100.0), (600, 100.0)] {
            let (wakes, sent) = rates(&mut network, secs(time));
            assert!(wakes < most, "{wakes} calls in a second of {time} s");
            assert!(sent < most, "{sent} packets in a second of {time} s");
        }
    }
}

/// Checks are to leave 5 ms after each other at least (RFC 8445 section 14.2); what comes is answered besides.
#[test]
fn checks_are_spread() {
    for seed in 0..10 {
        let mut network = meshed("25 pairs to begin with", seed, 5);
        network.introduce(ms(100));
        let (_, sent) = rates(&mut network, ms(10));
        assert!(sent <= 400.0, "{sent} packets in a second");
    }
}

#[test]
fn many_idle_pairs_are_quiet() {
    let pairs = 25.0;
    for seed in 0..2 {
        let mut network = meshed("25 idle pairs", seed, 5);
        network.connect();
        network.run(secs(30));
        let (wakes, sent) = rates(&mut network, secs(120));
        assert!(wakes < 3.0 * pairs, "{wakes} calls in a second");
        assert!(sent < 3.0 * pairs, "{sent} packets in a second");
    }
}

#[test]
fn slow_path_is_given_up_without_haste() {
    for busy in [false, true] {
        for seed in 0..5 {
            let title = format!("a round trip of 800 ms, busy: {busy}");
            let (mut network, sites, other) = network(title, seed, &[Public], Public);
            *network.link(sites[0], other) = Link::ms(400);
            network.connect();
            network.set_busy(busy);
            let time = ms(network.rng.u64(40_000..80_000));
            network.run(time);
            network.cut(sites[0], other);
            for _ in 0..10 {
                let (wakes, _) = rates(&mut network, secs(1));
                assert!(wakes < 40.0, "{wakes} calls in a second");
            }
            assert!(network.both_are(State::Gone), "the loss is not noticed");
        }
    }
}

/// What a driver sends in this time to addresses where nobody is.
fn sent_by(driver: &mut Driver, from: Instant, time: Duration) -> usize {
    let (mut now, mut sent) = (from, 0);
    while now < from + time {
        driver.handle_timeout(now);
        sent += std::iter::from_fn(|| driver.poll_transmit()).count();
        now = driver.poll_timeout().expect("checks go on").max(now + ms(1));
    }
    sent
}

#[test]
fn search_that_begins_late_is_urgent() {
    let address = |last: u8| SocketAddr::new([203, 0, 1, last].into(), 1024);
    let host = |last| Candidate { kind: CandidateKind::Host, addr: address(last) };
    let start = Instant::now();
    let mut searches = [0, 3_600].map(|wait| {
        let own = Credentials::generate().unwrap();
        let mut driver = Driver::new(Side::Offering, &own, start);
        driver.add_local(host(1), address(1));
        driver.handle_timeout(start);
        driver.set_remote(&Credentials::generate().unwrap());
        driver.add_remote(host(2));
        let _ = sent_by(&mut driver, start, secs(30));
        // Whoever holds the driver need not call it before it wants to be called.
        driver.add_remote(host(3));
        sent_by(&mut driver, start + secs(30 + wait), secs(10))
    });
    searches.sort();
    assert!(searches[0] * 5 > searches[1] * 4, "{searches:?} packets");
}
