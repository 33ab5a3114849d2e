//! Which pairs of networks connect, and how fast.

use super::nat::NatKind::{AddressRestricted, FullCone, None as Public, PortRestricted, Symmetric};
use super::*;

/// As the lab's oracle has it (`crates/testlab/src/nat/oracle.rs`): IPv6 is not translated, and over IPv4 a side that maps
/// each peer to another port cannot reach one that lets in none but the ports it has sent to.
fn connects(a: (NatKind, Family), b: (NatKind, Family)) -> bool {
    use NatKind::UdpBlocked;
    let ((a, family_a), (b, family_b)) = (a, b);
    if a == UdpBlocked || b == UdpBlocked {
        return false;
    }
    let hopeless =
        matches!((a, b), (Symmetric, Symmetric | PortRestricted) | (PortRestricted, Symmetric));
    (family_a.has_v6() && family_b.has_v6())
        || (family_a.has_v4() && family_b.has_v4() && !hopeless)
}

fn try_all(seeds: u64, loss: f64, limit: Duration) {
    for a in NatKind::ALL {
        for b in NatKind::ALL {
            for seed in 0..seeds {
                let families = (Family::ALL[seed as usize % 3], Family::ALL[seed as usize / 3 % 3]);
                let title = format!("{a:?} {:?} to {b:?} {:?}", families.0, families.1);
                let mut network = Network::new(title, seed);
                network.all_links(|link| {
                    link.jitter = ms(10);
                    link.loss = loss;
                    link.duplication = loss;
                });
                let sites = [network.add_site(a), network.add_site(b)];
                network.attach(A, sites[0], families.0);
                network.attach(B, sites[1], families.1);
                network.introduce(ms(100));
                let took = network.run_until(limit, |network| network.both_are(State::Up));
                assert_eq!(took.is_some(), connects((a, families.0), (b, families.1)));
                if took.is_none() {
                    let up = network.hosts.iter().any(|host| host.state != State::Searching);
                    assert!(!up, "one side believes to have a path");
                }
            }
        }
    }
}

#[test]
fn connects_where_nats_allow_it() {
    try_all(100, 0.0, secs(2));
}

#[test]
fn connects_over_links_that_lose_packets() {
    try_all(100, 0.1, secs(10));
}

/// The answering side checks on meanwhile, and mappings end that are not used.
#[test]
fn answer_may_come_late() {
    let pairs = [
        (Public, Public),
        (FullCone, Symmetric),
        (AddressRestricted, PortRestricted),
        (PortRestricted, PortRestricted),
        (Symmetric, AddressRestricted),
        (AddressRestricted, Symmetric),
    ];
    for late in [secs(60), secs(300)] {
        for (a, b) in pairs {
            for seed in 0..50 {
                let title = format!("{a:?} to {b:?}, {late:?} late");
                let (mut network, sites, other) = network(title, seed, &[a], b);
                for site in &mut network.sites {
                    site.lifetime = secs(30);
                }
                let delay = ms(network.rng.u64(5..100));
                network.link(sites[0], other).delay = delay;
                let more = ms(network.rng.u64(0..7_000));
                network.introduce(late + more);
                let took = network.expect_paths(secs(20));
                assert!(took < secs(2), "a path is found after {took:?}");
            }
        }
    }
}

/// Who hears from the peer does not wait for the next check of its own to be due (RFC 8445 section 7.3.1.4).
#[test]
fn check_is_answered_with_a_check() {
    for (a, b) in [(PortRestricted, PortRestricted), (AddressRestricted, FullCone)] {
        for seed in 0..50 {
            let title = format!("{a:?} to {b:?}, the answer comes late");
            let (mut network, ..) = network(title, seed, &[a], b);
            let late = ms(network.rng.u64(60_000..70_000));
            network.introduce(late);
            let took = network.expect_paths(secs(3));
            // Two round trips of 40 ms, and the checks of other pairs in between.
            assert!(took < ms(300), "a path is found after {took:?}");
        }
    }
}

#[test]
fn same_seed_gives_the_same_run() {
    let run = || {
        let (mut network, sites, _) = network("one seed", 7, &[Symmetric, Symmetric], FullCone);
        network.all_links(|link| (link.loss, link.jitter) = (0.2, ms(30)));
        network.introduce(ms(100));
        for _ in 0..5 {
            network.run(secs(40));
            sites.iter().for_each(|site| network.sites[*site].forget());
        }
        let events = network.hosts.each_ref().map(|host| {
            let since =
                |(at, event): &(_, _)| (network.now.duration_since(*at), format!("{event:?}"));
            host.events.iter().map(since).collect::<Vec<_>>()
        });
        (events, network.hosts.each_ref().map(|host| (host.wakes, host.sent)))
    };
    assert_eq!(run(), run());
}
