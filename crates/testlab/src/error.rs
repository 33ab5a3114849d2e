use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

use crate::stream::Direction;

/// Why a lab could not be built, or what a program in it did not do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces, interfaces and nft rules are for root only.
    #[error("the lab needs root, as it creates network namespaces: run these tests as root")]
    NotRoot,
    /// A file or a socket of the lab itself.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried, with what it was tried on.
        action: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program that is not installed, as a rule.
    #[error("cannot start `{command}` (are the packages of .ci/packages installed?): {source}")]
    Spawn {
        /// The whole command line.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program that was to succeed and did not.
    #[error("`{command}` failed ({status}); it printed:\n{output}")]
    Failed {
        /// The whole command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// All it had printed.
        output: String,
    },
    /// A program that ended instead of doing what was waited for.
    #[error(
        "`{command}` ended ({status}) before it did what was waited for; it printed:\n{output}"
    )]
    Ended {
        /// The whole command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// All it had printed.
        output: String,
    },
    /// A program that neither ended nor did what was waited for.
    #[error("`{command}` did not do within {limit:?} what was waited for; it printed:\n{output}")]
    TimedOut {
        /// The whole command line.
        command: String,
        /// How long it had.
        limit: Duration,
        /// All it had printed.
        output: String,
    },
    /// A file that did not grow to the size waited for.
    #[error("{path} did not reach {size} bytes within {limit:?}")]
    TooSmall {
        /// The file.
        path: PathBuf,
        /// The size waited for.
        size: u64,
        /// How long it had.
        limit: Duration,
    },
    /// Output of a program that is not what it is documented to be.
    #[error("{what} is malformed: {text:?}")]
    Malformed {
        /// Which output of which program.
        what: &'static str,
        /// The output.
        text: String,
    },
    /// A client without the forward that was asked for.
    #[error("the client does not forward to {source_url}")]
    NoForward {
        /// The source that was asked for.
        source_url: String,
    },
    /// A link that has not the delay, loss or rate that a lab asked for.
    #[error(
        "the {what} was to be {asked} and is {measured}: is there another way around the line, or \
         something else on it, or too much to do for this machine?"
    )]
    NotImpaired {
        /// Which figure between which namespaces.
        what: String,
        /// The figure that was asked for.
        asked: String,
        /// The figure that was measured.
        measured: String,
    },
    /// A host that was to change its network and has one only.
    #[error("{host} has one uplink only: give it another with `add_uplink` before it switches")]
    NoUplink {
        /// The host's namespace.
        host: String,
    },
    /// Bytes that did not come through a tunnel.
    #[error("cannot {action} through the tunnel: {source}; its client printed:\n{output}")]
    NotCarried {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
        /// All that the client had printed.
        output: String,
    },
    /// A connection that did not come out of a tunnel.
    #[error("no connection arrived at the service within {limit:?}: {source}")]
    NotArrived {
        /// How long it had.
        limit: Duration,
        /// What the system said.
        source: io::Error,
    },
    /// A stream that ended too early or carried something else than was sent.
    #[error("the stream {direction} broke at byte {position}: {why}")]
    Broken {
        /// Where it leads.
        direction: Direction,
        /// Where in the stream; of packets it is the number of one.
        position: u64,
        /// What happened there.
        why: String,
    },
    /// A stream that stands and carries nothing.
    #[error(
        "the stream did not come as far within {limit:?} as was waited for: what was sent arrived \
         up to {up} at the far end and up to {down} at the near end"
    )]
    Stalled {
        /// How long it had.
        limit: Duration,
        /// Up to where, of how much, on the way to the far end.
        up: String,
        /// The same on the way to the near end.
        down: String,
    },
    /// A connection that should have been reset.
    #[error("the connection was not reset within {limit:?}: {seen}")]
    NotReset {
        /// How long it had.
        limit: Duration,
        /// What happened to it instead.
        seen: String,
    },
    /// A program of this workspace that has not been built.
    #[error("there is no {path}: build it with `{build}`")]
    NotBuilt {
        /// Where it was looked for.
        path: PathBuf,
        /// The command that builds it.
        build: String,
    },
}

/// What the functions of the lab return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}
