//! Two hosts behind twenty pairs of NATs and families come to what the oracle says, without a relay. `lab-matrix`
//! runs all pairs.

use std::path::Path;

use tunnel_testlab::{
    figures,
    matrix::{self, Manual, Plan},
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
    matrix::assert_as_expected(&rows);
}
