//! Two hosts behind NATs keep their flows while networks, relays and the server change under them.
//!
//! Each test has a stream with known bytes in both directions under way, disturbs it, and waits until it has
//! carried bytes that were sent after that. The times are recorded; what is asserted is that it goes on at
//! all, within limits that a busy machine keeps.

use std::time::Duration;

use tunnel_testlab::stream::{Mark, Stream};

use crate::support::{Failure, TestResult};

mod figures;
mod paths;
mod relays;
mod restarts;
mod roaming;
mod scene;

use scene::Scene;

/// For a path to be found or found lost, and for the log to say so.
const PATH_LIMIT: Duration = Duration::from_secs(60);

/// For a flow to go on after its network changed under it.
const FLOW_LIMIT: Duration = Duration::from_secs(60);

/// For the last bytes of a stream.
const FINISH_LIMIT: Duration = Duration::from_secs(30);

/// How much must be carried before a disturbance is over, or may begin: 0.6 s at the pace of a stream.
const ENOUGH: u64 = 1 << 20;

/// Waits until the stream has carried as much as a stream does that is not disturbed, and marks that.
fn settled(stream: &Stream) -> std::result::Result<Mark, Failure> {
    stream.wait_beyond(stream.mark(), ENOUGH, FLOW_LIMIT)?;
    Ok(stream.mark())
}

/// Waits until the stream has carried bytes that were sent after the mark, and records the longest pause since.
fn goes_on(name: &str, stream: &Stream, mark: Mark) -> std::result::Result<Duration, Failure> {
    stream.wait_beyond(mark, ENOUGH, FLOW_LIMIT)?;
    let pauses = stream.pauses(mark.at);
    figures::record(&format!("{name}: pause to the server's side"), pauses.up);
    figures::record(&format!("{name}: pause to the client's side"), pauses.down);
    Ok(pauses.longest())
}

/// Waits until all that was sent has arrived, and requires that something was.
fn finished(stream: Stream) -> TestResult {
    let totals = stream.finish(FINISH_LIMIT)?;
    assert!(totals.up > ENOUGH && totals.down > ENOUGH, "{totals:?}");
    Ok(())
}
