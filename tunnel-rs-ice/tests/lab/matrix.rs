//! Two hosts behind twenty pairs of NATs and families come to what the oracle says, without a relay. `lab-matrix`
//! runs all pairs.

use std::path::Path;

use tunnel_testlab::{
    figures,
    matrix::{self, Manual, Plan, Row},
};

use crate::support::{TUNNEL_RS_ICE, alone};

#[test]
fn the_quick_pairs_come_out_as_the_oracle_says() {
    let _alone = alone();
    // Where there is no path, a lab mostly waits for its client to give up.
    let plan = Plan { runs: 1, parallel: 4 };
    let mode = Manual::new(Path::new(TUNNEL_RS_ICE));
    let rows = matrix::run(&mode, &matrix::quick(), plan, &|_, _| ());
    for row in &rows {
        for time in row.runs.iter().flatten().filter_map(|run| run.first_byte) {
            figures::record(&format!("{}: first byte after the answer", row.pair), time);
        }
    }
    let errors = rows.iter().flat_map(|row| &row.runs).filter_map(|run| run.as_ref().err());
    let errors: Vec<_> = errors.map(ToString::to_string).collect();
    assert!(
        rows.iter().all(Row::as_expected),
        "not every pair is as expected:\n{}\n{}",
        matrix::table(&rows),
        errors.join("\n"),
    );
}
