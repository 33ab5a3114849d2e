use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;

fn pool(networks: &[&str]) -> Pool {
    let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
    Pool::new(&networks, &[]).unwrap()
}

fn refused(networks: &[&str], servers: &[&str]) -> PoolError {
    let networks: Vec<IpNet> = networks.iter().map(|net| net.parse().unwrap()).collect();
    let servers: Vec<IpAddr> = servers.iter().map(|ip| ip.parse().unwrap()).collect();
    Pool::new(&networks, &servers).err().unwrap()
}

fn text(lease: &Lease) -> String {
    lease.addresses.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ")
}

#[test]
fn sixteen_addresses_are_thirteen_clients() {
    let mut pool = pool(&["10.0.0.0/28"]);
    let now = Instant::now();
    assert_eq!(pool.capacity(), 13);
    assert_eq!(pool.server_addresses(), ["10.0.0.1/28".parse().unwrap()]);
    let leases: Vec<_> = (0..13).map(|n| pool.assign(now, &[n]).unwrap()).collect();
    assert_eq!(text(&leases[0]), "10.0.0.2/28");
    assert_eq!(text(&leases[12]), "10.0.0.14/28");
    assert_eq!(leases[0].hosts(), ["10.0.0.2/32".parse().unwrap()]);
    for late in 13..20 {
        assert_eq!(pool.assign(now, &[late]), Err(Full(13)));
    }
    pool.release(now, leases[5].id);
    assert_eq!(pool.assign(now + LINGER - Duration::from_millis(1), b"late"), Err(Full(13)));
    assert_eq!(text(&pool.assign(now + LINGER, b"late").unwrap()), text(&leases[5]));
}

#[test]
fn a_client_has_the_same_place_in_both_families() {
    let mut pool = pool(&["fd00:1::/64", "10.0.0.0/24"]);
    assert_eq!(text(&pool.assign(Instant::now(), b"a").unwrap()), "10.0.0.2/24 fd00:1::2/64");
    assert_eq!(text(&pool.assign(Instant::now(), b"b").unwrap()), "10.0.0.3/24 fd00:1::3/64");
    assert_eq!(pool.capacity(), 253);
}

#[test]
fn a_large_network_is_not_counted_through() {
    let mut pool = pool(&["fd00:1::/64"]);
    assert_eq!(text(&pool.assign(Instant::now(), b"a").unwrap()), "fd00:1::2/64");
    assert_eq!(pool.capacity(), MAX_PLACES as usize - 2);
}

#[test]
fn networks_of_two_have_no_broadcast() {
    let mut pool = pool(&["10.0.0.0/31", "fd00::/127"]);
    assert_eq!(pool.capacity(), 1);
    assert_eq!(text(&pool.assign(Instant::now(), b"a").unwrap()), "10.0.0.1/31 fd00::1/127");
}

#[test]
fn the_server_may_have_another_address() {
    let net: IpNet = "10.0.0.7/29".parse().unwrap();
    let mut pool = Pool::new(&[net], &["10.0.0.3".parse().unwrap()]).unwrap();
    assert_eq!(pool.server_addresses(), ["10.0.0.3/29".parse().unwrap()]);
    let all: Vec<_> = (0..5).map(|n| text(&pool.assign(Instant::now(), &[n]).unwrap())).collect();
    let expected = ["10.0.0.1/29", "10.0.0.2/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29"];
    assert_eq!(all, expected);
}

#[test]
fn what_cannot_be_is_said() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    assert_eq!(refused(&[], &[]), PoolError::NoNetwork);
    let both = PoolError::SameFamily(net("10.0.0.0/24"), net("10.1.0.0/24"));
    assert_eq!(refused(&["10.0.0.0/24", "10.1.0.0/24"], &[]), both);
    for special in
        ["127.0.0.0/24", "169.254.0.0/16", "224.0.0.0/8", "0.0.0.0/0", "fe80::/64", "::/0"]
    {
        assert_eq!(refused(&[special], &[]), PoolError::NotForHosts(net(special)));
    }
    assert_eq!(refused(&["10.0.0.1/32"], &[]), PoolError::TooSmall(net("10.0.0.1/32")));
    for server in ["10.0.1.1", "10.0.0.0", "10.0.0.255", "fd00::1"] {
        assert_eq!(refused(&["10.0.0.0/24"], &[server]), PoolError::BadServer(ip(server)));
    }
    let two = PoolError::TwoServers(ip("10.0.0.1"), ip("10.0.0.2"));
    assert_eq!(refused(&["10.0.0.0/24"], &["10.0.0.1", "10.0.0.2"]), two);
}

#[test]
fn the_address_free_for_longest_is_given_out() {
    let mut pool = pool(&["10.0.0.0/29"]);
    let now = Instant::now();
    let first = pool.assign(now, b"a").unwrap();
    pool.release(now, first.id);
    // Those that were never anybody's come first, and then by the time of release.
    let later = now + LINGER;
    let others: Vec<_> = (0..4).map(|n| pool.assign(later, &[n]).unwrap()).collect();
    assert!(others.iter().all(|lease| lease.addresses != first.addresses));
    pool.release(later, others[2].id);
    pool.release(later, others[0].id);
    let end = later + LINGER;
    assert_eq!(text(&pool.assign(end, b"x").unwrap()), text(&first));
    assert_eq!(text(&pool.assign(end, b"y").unwrap()), text(&others[2]));
    assert_eq!(text(&pool.assign(end, b"z").unwrap()), text(&others[0]));
}

#[test]
fn an_owner_finds_its_address_again_until_another_has_it() {
    let mut pool = pool(&["10.0.0.0/29"]);
    let now = Instant::now();
    let mine = pool.assign(now, b"mine").unwrap();
    pool.release(now, mine.id);
    let soon = pool.assign(now + Duration::from_secs(1), b"mine").unwrap();
    assert_eq!((text(&soon), soon.replaces), (text(&mine), None));
    pool.release(now, soon.id);
    let later = pool.assign(now + 10 * LINGER, b"mine").unwrap();
    assert_eq!(text(&later), text(&mine));
    pool.release(now, later.id);
    for n in 0..5 {
        pool.assign(now + LINGER, &[n]).unwrap();
    }
    assert_eq!(pool.assign(now + LINGER, b"mine"), Err(Full(5)));
}

#[test]
fn a_second_lease_of_an_owner_takes_the_place_of_the_first() {
    let mut pool = pool(&["10.0.0.0/29"]);
    let now = Instant::now();
    let first = pool.assign(now, b"mine").unwrap();
    let second = pool.assign(now, b"mine").unwrap();
    assert_eq!((text(&second), second.replaces), (text(&first), Some(first.id)));
    // The first one's end says nothing about the second.
    pool.release(now, first.id);
    assert_eq!(pool.leased(), 1);
    for n in 0..4 {
        assert_ne!(text(&pool.assign(now + LINGER, &[n]).unwrap()), text(&second));
    }
}

proptest! {
    #[test]
    fn no_address_is_two_owners_and_all_are_used(
        steps in proptest::collection::vec((0u8..24, any::<bool>(), 0u64..20), 0..300),
    ) {
        let mut pool = pool(&["10.0.0.0/28", "fd00::/64"]);
        let mut now = Instant::now();
        let mut held: HashMap<u8, Lease> = HashMap::new();
        for (owner, take, pause) in steps {
            now += Duration::from_secs(pause);
            if take {
                match pool.assign(now, &[owner]) {
                    Ok(lease) => {
                        prop_assert_eq!(lease.replaces, held.get(&owner).map(|l| l.id));
                        held.insert(owner, lease);
                    }
                    Err(_) => prop_assert!(!held.contains_key(&owner)),
                }
            } else if let Some(lease) = held.remove(&owner) {
                pool.release(now, lease.id);
            }
            let distinct: HashSet<_> = held.values().map(|l| l.addresses.clone()).collect();
            prop_assert_eq!(distinct.len(), held.len());
            prop_assert_eq!(pool.leased(), held.len());
            prop_assert!(pool.places.len() <= 13 && pool.owners.len() <= 13);
            prop_assert!(pool.free.len() + pool.lingering.len() + pool.leases.len() == pool.places.len());
        }
        for (_, lease) in held {
            pool.release(now, lease.id);
        }
        for late in 100..113 {
            prop_assert!(pool.assign(now + LINGER, &[late]).is_ok());
        }
    }
}
