use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use tunnel_session::limits::{DEFAULT_GRACE, MAX_GRACE};

use super::seconds;
use crate::Outcome;

/// In seconds.
const BOUNDS: RangeInclusive<u64> = 0..=MAX_GRACE.as_secs();

/// How long sessions outlive their connections, by a flag.
#[derive(Args, Debug, Default)]
pub struct SessionGraceArgs {
    /// How long open connections wait for a network that is gone; 0 for not at all. The lesser time of both sides counts
    /// [default: 900]
    #[arg(long, value_name = "SECS", env = "TUNNEL_RS_SESSION_GRACE", value_parser = clap::value_parser!(u64).range(BOUNDS))]
    session_grace: Option<u64>,
}

impl SessionGraceArgs {
    /// The flag's time, or else that of the file, which is given in seconds, or else [`DEFAULT_GRACE`].
    ///
    /// # Errors
    ///
    /// Where the file's is longer than [`MAX_GRACE`].
    pub fn resolve(&self, file: Option<u64>) -> Outcome<Duration> {
        let grace = seconds("session_grace", self.session_grace, file, &BOUNDS)?;
        Ok(grace.unwrap_or(DEFAULT_GRACE))
    }
}
