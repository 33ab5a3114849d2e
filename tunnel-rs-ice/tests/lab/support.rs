//! What the tests have in common.

use std::time::Duration;

pub(crate) use tunnel_testlab::testing::{TestResult, alone};

use tunnel_testlab::stream::{ENOUGH, Stream};

/// The program under test.
pub(crate) const TUNNEL_RS_ICE: &str = env!("CARGO_BIN_EXE_tunnel-rs-ice");

/// For a path to be found, and for the program to say so.
pub(crate) const PATH_LIMIT: Duration = Duration::from_secs(30);

/// For the last bytes of a stream.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// Waits until all that was sent has arrived, and requires that something was.
pub(crate) fn finished(stream: Stream) -> TestResult {
    let totals = stream.finish(FINISH_LIMIT)?;
    assert!(totals.up >= ENOUGH && totals.down >= ENOUGH, "{totals:?}");
    Ok(())
}
