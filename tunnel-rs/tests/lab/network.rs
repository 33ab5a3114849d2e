//! Two hosts behind NATs keep their flows while networks, relays and the server change under them.
//!
//! Each test has a stream with known bytes in both directions under way, disturbs it, and waits until it has
//! carried bytes that were sent after that. The times are recorded; what is asserted is that it goes on at
//! all, within limits that a busy machine keeps.

use std::time::Duration;

use tunnel_testlab::{
    figures,
    stream::{ENOUGH, FLOW_LIMIT, Stream, goes_on, settled},
};

use crate::support::TestResult;

mod outages;
mod paths;
mod relays;
mod restarts;
mod roaming;
mod scene;

use scene::Scene;

/// For a path to be found or found lost, and for the log to say so.
const PATH_LIMIT: Duration = Duration::from_secs(60);

/// What a pause must not exceed while there is a path. The goal is 2 s for another network and 3 s for a path that is
/// lost; this one is kept on a machine with other things to do too.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// For the last bytes of a stream.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// Waits until all that was sent has arrived, and requires that something was.
fn finished(stream: Stream) -> TestResult {
    let totals = stream.finish(FINISH_LIMIT)?;
    assert!(totals.up > ENOUGH && totals.down > ENOUGH, "{totals:?}");
    Ok(())
}
