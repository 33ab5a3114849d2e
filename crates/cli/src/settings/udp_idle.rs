use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use super::seconds;
use crate::Outcome;

/// In seconds, up to a day: whoever means longer means a flow that never ends.
const BOUNDS: RangeInclusive<u64> = 1..=86_400;

/// When UDP flows end, by a flag.
#[derive(Args, Debug, Default)]
pub struct UdpIdleArgs {
    /// Ends a UDP flow without packets after so long [default: 60]
    #[arg(long, value_name = "SECS", env = "TUNNEL_RS_UDP_IDLE_TIMEOUT", value_parser = clap::value_parser!(u64).range(BOUNDS))]
    udp_idle_timeout: Option<u64>,
}

impl UdpIdleArgs {
    /// The flag's time, or else that of the file, which is given in seconds.
    ///
    /// # Errors
    ///
    /// Where the file's is not from 1 s to a day.
    pub fn resolve(&self, file: Option<u64>) -> Outcome<Option<Duration>> {
        seconds("udp_idle_timeout", self.udp_idle_timeout, file, &BOUNDS)
    }
}
