//! How a stream fares while what is under it changes.

use std::time::Duration;

use super::{Mark, Stream};
use crate::{Result, figures};

/// For a flow to go on after its network changed under it.
pub const FLOW_LIMIT: Duration = Duration::from_secs(60);

/// How much must be carried before a disturbance is over, or may begin: 0.6 s at the pace of a stream.
pub const ENOUGH: u64 = 1 << 20;

/// Waits until the stream has carried as much as a stream does that is not disturbed, and marks that.
pub fn settled(stream: &Stream) -> Result<Mark> {
    stream.wait_beyond(stream.mark(), ENOUGH, FLOW_LIMIT)?;
    Ok(stream.mark())
}

/// Waits until the stream has carried bytes that were sent after the mark, and records the longest pause since.
pub fn goes_on(name: &str, stream: &Stream, mark: Mark) -> Result<Duration> {
    stream.wait_beyond(mark, ENOUGH, FLOW_LIMIT)?;
    let pauses = stream.pauses(mark.at);
    figures::record(&format!("{name}: pause to the server's side"), pauses.up);
    figures::record(&format!("{name}: pause to the client's side"), pauses.down);
    Ok(pauses.longest())
}
