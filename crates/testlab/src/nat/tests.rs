use super::*;

/// The table of the pairs over IPv4: a row and a column for each of `Nat::ALL`.
const TABLE: [&str; 10] = [
    "DDDDDDDDDR", // None
    "DDDDDDDDDR", // FullCone
    "DDDDDDDDDR", // AddressRestricted
    "DDDDRDRDER", // PortRestricted
    "DDDRRRRRRR", // Symmetric
    "DDDDRDRDER", // CarrierGradePortRestricted
    "DDDRRRRRRR", // CarrierGradeSymmetric
    "DDDDRDRDER", // Expiring
    "DDDEREREER", // Masquerade
    "RRRRRRRRRR", // UdpBlocked
];

/// The table of the families, all behind port-restricted NATs and stateful firewalls.
const FAMILIES: [&str; 4] = [
    "DRDR", // V4
    "RDDD", // V6
    "DDDD", // Dual
    "RDDD", // V6Nat64
];

fn outcome(cell: char) -> Outcome {
    match cell {
        'D' => Outcome::Direct,
        'R' => Outcome::Relay,
        _ => Outcome::Either,
    }
}

fn everything() -> Vec<Access> {
    let all = Nat::ALL.into_iter();
    all.flat_map(|nat| Family::ALL.map(|family| Access { nat, family })).collect()
}

#[test]
fn the_oracle_agrees_with_the_table() {
    for (a, row) in Nat::ALL.into_iter().zip(TABLE) {
        for (b, cell) in Nat::ALL.into_iter().zip(row.chars()) {
            assert_eq!(expected(a, b), outcome(cell), "{a} and {b}");
        }
    }
}

#[test]
fn the_oracle_agrees_with_the_table_of_families() {
    let behind = |family| Access { nat: Nat::PortRestricted, family };
    for (a, row) in Family::ALL.into_iter().zip(FAMILIES) {
        for (b, cell) in Family::ALL.into_iter().zip(row.chars()) {
            assert_eq!(expected(behind(a), behind(b)), outcome(cell), "{a} and {b}");
        }
    }
}

#[test]
fn two_hosts_with_ipv6_need_udp_only() {
    for a in everything().into_iter().filter(|a| a.family.has_v6()) {
        for b in everything().into_iter().filter(|b| b.family.has_v6()) {
            let blocked = a.nat == Nat::UdpBlocked || b.nat == Nat::UdpBlocked;
            let outcome = if blocked { Outcome::Relay } else { Outcome::Direct };
            assert_eq!(expected(a, b), outcome, "{a} and {b}");
        }
    }
}

#[test]
fn the_order_of_the_sides_does_not_matter() {
    for a in everything() {
        for b in everything() {
            assert_eq!(expected(a, b), expected(b, a), "{a} and {b}");
        }
    }
}

#[test]
fn only_the_relay_is_missed_where_there_is_none() {
    for (with, without) in [
        (Outcome::Direct, Outcome::Direct),
        (Outcome::Relay, Outcome::Impossible),
        (Outcome::Impossible, Outcome::Impossible),
        (Outcome::Either, Outcome::Either),
    ] {
        assert_eq!(with.without_relay(), without);
    }
}

#[test]
fn only_a_public_address_needs_no_rules() {
    for nat in Nat::ALL {
        let address = Ipv4Addr::new(198, 51, 100, 2);
        assert_eq!(rules::translation(nat, "wan", address).is_none(), nat == Nat::None, "{nat}");
        assert_eq!(firewall(nat, "wan").is_none(), nat == Nat::None, "{nat}");
    }
}

#[test]
fn the_ports_of_two_generations_do_not_overlap() {
    let address = Ipv4Addr::new(198, 51, 100, 2);
    let [first, _] = expiry::rules("wan", address, 0);
    assert!(first.ends_with("snat to 198.51.100.2:20000-20999"), "{first}");
    let [second, _] = expiry::rules("wan", address, 1);
    assert!(second.ends_with("snat to 198.51.100.2:21000-21999"), "{second}");
    assert_eq!(expiry::rules("wan", address, 40)[0], first);
}
