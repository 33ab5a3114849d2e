use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;

use super::seconds;
use crate::Outcome;

/// The longest time, in seconds: a day. Whoever means longer does not mean to end.
pub(crate) const LONGEST: u64 = 86_400;

const BOUNDS: RangeInclusive<u64> = 0..=LONGEST;

/// How long a server drains, by a flag.
#[derive(Args, Debug, Default)]
pub struct DrainArgs {
    /// On SIGTERM, or when a service of Windows is stopped, go on with open connections for so long and take no new ones; 0 is to end at once [default: 0]
    #[arg(long, value_name = "SECS", env = "TUNNEL_RS_DRAIN_TIMEOUT", value_parser = clap::value_parser!(u64).range(BOUNDS))]
    drain_timeout: Option<u64>,
}

impl DrainArgs {
    /// The flag's time, or else that of the file, which is given in seconds, or else none.
    ///
    /// # Errors
    ///
    /// Where the file's is longer than a day.
    pub fn resolve(&self, file: Option<u64>) -> Outcome<Duration> {
        let time = seconds("drain_timeout", self.drain_timeout, file, &BOUNDS)?;
        Ok(time.unwrap_or_default())
    }
}
