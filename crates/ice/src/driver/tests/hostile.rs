//! Packets of others than the peer, and the peer's own from the wrong place or at the wrong time.

use std::net::SocketAddr;

use super::nat::NatKind::{AddressRestricted, None as Public, PortRestricted};
use super::network::{Heard, is_answer};
use super::*;
use crate::driver::{Driver, Side};
use crate::{Candidate, CandidateKind, Credentials};

/// Behind the part of a message that is authenticated stands FINGERPRINT (RFC 8489 section 14.7).
const FINGERPRINT: usize = 8;

fn elsewhere(network: &mut Network) -> SocketAddr {
    let last = network.rng.u8(100..);
    SocketAddr::new([203, 0, 9, last].into(), network.rng.u16(1024..))
}

fn connected(title: &str, seed: u64) -> (Network, SiteId, SiteId) {
    let (mut network, sites, other) = network(title, seed, &[AddressRestricted], Public);
    network.connect();
    (network, sites[0], other)
}

/// The path of a host, and how much it has said and whom it trusts.
type Standing = (Option<(SocketAddr, SocketAddr)>, usize, usize);

/// The paths of both sides, and how many things have happened.
fn standing(network: &Network) -> [Standing; 2] {
    network.hosts.each_ref().map(|host| {
        let path = host.path().map(|path| (path.local, path.remote));
        (path, host.events.len(), host.trusted.len())
    })
}

#[test]
fn strangers_change_nothing() {
    for seed in 0..20 {
        for knows_names in [false, true] {
            let title = format!("a stranger who knows the names: {knows_names}");
            let (mut network, ..) = connected(&title, seed);
            let before = standing(&network);
            // The user name fragments are in every packet, the passwords are not.
            let claimed = |network: &Network, id: usize| {
                let mut bytes = Credentials::generate().unwrap().to_bytes();
                if knows_names {
                    bytes[..4].copy_from_slice(&network.hosts[id].credentials.to_bytes()[..4]);
                }
                Credentials::from_bytes(&bytes)
            };
            for (to, side) in [(A, Side::Answering), (B, Side::Offering)] {
                let mut stranger = Driver::new(side, &claimed(&network, 1 - to), network.now);
                let from = elsewhere(&mut network);
                let local = network.hosts[to].bases[0].0;
                stranger.add_local(Candidate { kind: CandidateKind::Host, addr: from }, from);
                stranger.set_remote(&claimed(&network, to));
                stranger.add_remote(Candidate { kind: CandidateKind::Host, addr: local });
                for _ in 0..10 {
                    stranger.handle_timeout(network.now);
                    while let Some(transmit) = stranger.poll_transmit() {
                        let contents = transmit.contents;
                        let packet = Heard { to, local, remote: from, contents };
                        assert!(!network.inject(&packet), "a stranger is taken for the peer");
                    }
                    network.run(ms(100));
                }
            }
            assert_eq!(standing(&network), before);
        }
    }
}

#[test]
fn altered_packets_change_nothing() {
    for seed in 0..20 {
        let (mut network, ..) = connected("altered packets", seed);
        network.run(secs(5));
        let before = standing(&network);
        for _ in 0..100 {
            network.run(ms(100));
            for packet in network.heard.clone() {
                let mut altered = packet.clone();
                let place = network.rng.usize(..packet.contents.len() - FINGERPRINT);
                altered.contents[place] ^= 1 << network.rng.u8(..8);
                let mut shortened = packet;
                let end = network.rng.usize(..shortened.contents.len());
                shortened.contents.truncate(end);
                for mut forged in [altered, shortened] {
                    if network.rng.bool() {
                        forged.remote = elsewhere(&mut network);
                    }
                    assert!(!network.inject(&forged), "{forged:?} is taken for the peer's");
                }
            }
        }
        assert_eq!(standing(&network), before);
    }
}

#[test]
fn replayed_packets_do_not_keep_a_path() {
    for seed in 0..20 {
        let (mut network, site, other) = connected("a path of replayed packets", seed);
        network.run(secs(20));
        network.cut(site, other);
        let recorded = network.heard.clone();
        let cut = network.now;
        while !network.both_are(State::Gone) {
            for packet in &recorded {
                network.inject(packet);
            }
            network.run(ms(50));
            let took = network.now.duration_since(cut);
            assert!(took <= secs(5), "the loss is not noticed");
        }
        for packet in &recorded {
            network.inject(packet);
        }
        assert!(network.both_are(State::Gone));
        network.restore(site, other);
        network.expect_paths(secs(6));
    }
}

#[test]
fn copied_answers_give_no_trust() {
    for seed in 0..20 {
        let (mut network, ..) = connected("answers from elsewhere", seed);
        let before = standing(&network);
        for _ in 0..100 {
            network.run(ms(100));
            let answers: Vec<_> =
                network.heard.iter().filter(|heard| is_answer(&heard.contents)).cloned().collect();
            for mut copy in answers {
                copy.remote = elsewhere(&mut network);
                network.inject(&copy);
            }
        }
        assert_eq!(standing(&network), before);
    }
}

/// Who hears a packet and is faster than it is.
#[test]
fn copied_answers_do_not_displace_the_answer() {
    for seed in 0..20 {
        let (mut network, ..) = connected("faster answers from elsewhere", seed);
        network.run(secs(20));
        let before = network.hosts.each_ref().map(|host| host.events.len());
        network.copy_answers_from = Some(elsewhere(&mut network));
        network.run(secs(60));
        let after = network.hosts.each_ref().map(|host| host.events.len());
        assert!(network.both_are(State::Up), "the path is lost");
        assert_eq!(before, after);
    }
}

/// A request does not say where it comes from (RFC 8489 section 14.5), so that a copy is answered and its source checked;
/// but nobody there can answer.
#[test]
fn copied_requests_do_not_cost_the_path() {
    for seed in 0..5 {
        let (mut network, sites, other) =
            network("requests from elsewhere", seed, &[PortRestricted], AddressRestricted);
        network.connect();
        network.run(secs(20));
        let before = network.hosts.each_ref().map(|host| host.selections(network.start));
        for _ in 0..150 {
            for mut copy in network.heard.clone().into_iter().rev().take(16) {
                copy.remote = elsewhere(&mut network);
                network.hosts[copy.to].genuine.insert(copy.remote);
                network.inject(&copy);
            }
            network.run(ms(100));
        }
        let asked = network.sent_to.len();
        assert!(asked <= 300, "{asked} addresses are asked for copies of 2400 packets");
        // At once the driver still asks there.
        network.run(secs(60 * (seed % 2)));
        let after = network.hosts.each_ref().map(|host| host.selections(network.start));
        assert_eq!(before, after, "the path was left");
        network.cut(sites[0], other);
        let gone = network.run_until(secs(5), |network| network.both_are(State::Gone));
        assert!(gone.is_some(), "the loss is not noticed");
        network.restore(sites[0], other);
        network.expect_paths(secs(6));
    }
}
