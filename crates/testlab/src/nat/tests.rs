use super::*;

/// The table of the measured pairs: a row and a column for each of `Nat::ALL`.
const TABLE: [&str; 7] = [
    "DDDDDDR", // None
    "DDDDDDR", // FullCone
    "DDDDDDR", // AddressRestricted
    "DDDDRER", // PortRestricted
    "DDDRRRR", // Symmetric
    "DDDERER", // Masquerade
    "RRRRRRR", // UdpBlocked
];

#[test]
fn the_oracle_agrees_with_the_table() {
    for (a, row) in Nat::ALL.into_iter().zip(TABLE) {
        for (b, cell) in Nat::ALL.into_iter().zip(row.chars()) {
            let outcome = match cell {
                'D' => Outcome::Direct,
                'R' => Outcome::Relay,
                _ => Outcome::Either,
            };
            assert_eq!(expected(a, b), outcome, "{a:?} and {b:?}");
        }
    }
}

#[test]
fn the_order_of_the_sides_does_not_matter() {
    for a in Nat::ALL {
        for b in Nat::ALL {
            assert_eq!(expected(a, b), expected(b, a), "{a:?} and {b:?}");
        }
    }
}

#[test]
fn only_a_public_address_needs_no_rules() {
    for nat in Nat::ALL {
        let rules = nat.rules("wan", Ipv4Addr::new(198, 51, 100, 2));
        assert_eq!(rules.is_none(), nat == Nat::None, "{nat:?}");
    }
}
