//! Settings that the programs share: flags and the environment, then the file.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::Deserialize;

use crate::{Failure, Outcome};

mod allowed;
mod command;
mod drain;
mod forwards;
mod health;
mod session_grace;
mod udp_idle;
pub mod variable_files;

pub use allowed::{AllowArgs, AllowFile, AllowedSources};
pub use command::{FileArgs, ModeName, Program, RoleName};
pub use drain::DrainArgs;
pub(crate) use drain::LONGEST as LONGEST_DRAIN;
pub use forwards::{ForwardArgs, ForwardFile, TunnelFile};
pub use health::HealthArgs;
pub use session_grace::SessionGraceArgs;
pub use udp_idle::UdpIdleArgs;

/// A key that takes a value or a list of them.
#[derive(Deserialize, Debug)]
#[serde(untagged, expecting = "expected a value or a list of values of the right kind")]
pub enum OneOrMany<T> {
    /// A value.
    One(T),
    /// A list.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Many(many) if many.is_empty())
    }
}

impl<T> From<OneOrMany<T>> for Vec<T> {
    fn from(value: OneOrMany<T>) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// Which of the settings `names` come from the environment although another of them is on the command line.
pub fn from_environment<const N: usize>(matches: &ArgMatches, names: [&str; N]) -> [bool; N] {
    let sources = names.map(|name| matches.value_source(name));
    let by_hand = sources.contains(&Some(ValueSource::CommandLine));
    // None of them has a default of its own but for flags that are off; what else is one came from a variable's file.
    let variable = [Some(ValueSource::EnvVariable), Some(ValueSource::DefaultValue)];
    sources.map(|source| by_hand && variable.contains(&source))
}

/// A list of the file, unless flags or the environment give one.
pub fn list<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

/// Parses the value of the file's key `name`.
///
/// # Errors
///
/// What is wrong with it, behind the key.
pub fn key<T: FromStr<Err: Display>>(name: &str, text: &str) -> Outcome<T> {
    text.parse().map_err(|error| Failure::Usage(format!("{name}: {error}")))
}

/// Seconds of a flag, whose parser knows the bounds, or else of the file's key `name`.
///
/// # Errors
///
/// Where the file's are out of bounds.
pub fn seconds(
    name: &str,
    flag: Option<u64>,
    file: Option<u64>,
    bounds: &RangeInclusive<u64>,
) -> Outcome<Option<Duration>> {
    match flag.or(file) {
        Some(seconds) if !bounds.contains(&seconds) => {
            let (least, most) = (bounds.start(), bounds.end());
            let text = format!("{name}: {seconds} is not from {least} to {most}");
            Err(Failure::Usage(text))
        }
        seconds => Ok(seconds.map(Duration::from_secs)),
    }
}
