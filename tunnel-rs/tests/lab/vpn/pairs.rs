//! Two hosts behind twenty pairs of NATs and families reach each other in the VPN, over the path that the oracle says.

use std::path::Path;

use tunnel_testlab::matrix::{self, Plan, Vpn};

use crate::support::{TUNNEL_RS, alone};

#[test]
fn the_quick_pairs_come_out_as_the_oracle_says() {
    let _alone = alone();
    // They mostly wait.
    let plan = Plan { runs: 1, parallel: 4 };
    let rows = matrix::run(&Vpn::new(Path::new(TUNNEL_RS)), &matrix::quick(), plan, &|_, _| ());
    matrix::assert_as_expected(&rows);
}
