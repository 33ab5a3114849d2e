//! Two hosts behind twenty pairs of NATs and families reach each other in the VPN, over the path that the oracle says.

use std::path::Path;

use tunnel_testlab::matrix::{self, Plan, Row, Vpn};

use crate::support::{TUNNEL_RS, alone};

#[test]
fn the_quick_pairs_come_out_as_the_oracle_says() {
    let _alone = alone();
    // They mostly wait.
    let plan = Plan { runs: 1, parallel: 4 };
    let rows = matrix::run(&Vpn::new(Path::new(TUNNEL_RS)), &matrix::quick(), plan, &|_, _| ());
    let errors = rows.iter().flat_map(|row| &row.runs).filter_map(|run| run.as_ref().err());
    let errors: Vec<_> = errors.map(ToString::to_string).collect();
    assert!(
        rows.iter().all(Row::as_expected),
        "not every pair is as expected:\n{}\n{}",
        matrix::table(&rows),
        errors.join("\n"),
    );
}
