//! Two hosts behind twenty pairs of NATs and families come to the path that the oracle says. `lab-matrix` runs
//! all pairs.

use std::path::Path;

use tunnel_testlab::matrix::{self, Iroh, Plan};

use crate::support::{TUNNEL_RS, alone};

#[test]
fn the_quick_pairs_come_out_as_the_oracle_says() {
    let _alone = alone();
    let plan = Plan { runs: 1, parallel: 2 };
    let mode = Iroh::new(Path::new(TUNNEL_RS));
    let rows = matrix::run(&mode, &matrix::quick(), plan, &|_, _| ());
    matrix::assert_as_expected(&rows);
}
