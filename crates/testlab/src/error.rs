use std::{io, path::PathBuf, process::ExitStatus, time::Duration};

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
