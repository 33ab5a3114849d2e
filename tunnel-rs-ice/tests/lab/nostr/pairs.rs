//! Two hosts behind pairs of NATs and families come to what the oracle says. `lab-matrix --mode nostr` runs all pairs.

use std::{path::Path, time::Duration};

use tunnel_testlab::{
    figures,
    matrix::{self, Nostr, Pair, Plan},
    nat::{Access, Family, Nat},
};

use crate::support::{TUNNEL_RS_ICE, alone};

/// From the start of both sides to the first byte: 5 s as a goal, and a busy machine's time for the starts.
const FIRST_BYTE: Duration = Duration::from_secs(15);

#[test]
fn the_quick_pairs_come_out_as_the_oracle_says() {
    run(&Nostr::new(Path::new(TUNNEL_RS_ICE)), &matrix::quick(), "one relay");
}

#[test]
fn two_of_three_relays_may_die_in_mid_signaling() {
    let behind = |family| Access { nat: Nat::PortRestricted, family };
    let pairs = [
        Pair::new(Nat::PortRestricted, Nat::PortRestricted),
        Pair::new(Nat::Symmetric, Nat::AddressRestricted),
        Pair::new(Nat::None, Nat::CarrierGradePortRestricted),
        Pair::new(behind(Family::Dual), behind(Family::V6)),
    ];
    run(&Nostr::with_dying_relays(Path::new(TUNNEL_RS_ICE)), &pairs, "two of three relays die");
}

fn run(mode: &Nostr, pairs: &[Pair], name: &str) {
    let _alone = alone();
    // Where there is no path, a lab mostly waits for its client to give up.
    let rows = matrix::run(mode, pairs, Plan { runs: 1, parallel: 4 }, &|_, _| ());
    let mut slow = Vec::new();
    for row in &rows {
        for time in row.runs.iter().flatten().filter_map(|run| run.first_byte) {
            figures::record(&format!("{name}: {}: first byte after the start", row.pair), time);
            if time > FIRST_BYTE {
                slow.push(row.pair.to_string());
            }
        }
    }
    matrix::assert_as_expected(&rows);
    assert!(slow.is_empty(), "no byte within {FIRST_BYTE:?}: {}", slow.join(", "));
}
