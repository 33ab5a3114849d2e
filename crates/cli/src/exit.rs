use std::fmt;
use std::process::ExitCode;

/// Why a command ended without doing what it was asked for, by exit code.
#[derive(Debug)]
pub enum Failure {
    /// 1: it failed.
    Failed(String),
    /// 2: the command line or the configuration is wrong.
    Usage(String),
    /// 3: the other side refused this one.
    Refused(String),
    /// 4: the source is refused.
    SourceRefused(String),
}

/// What a command comes to.
pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// A failure of the work itself.
    pub fn failed(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// A failure of the user's input.
    pub fn usage(error: impl fmt::Display) -> Self {
        Self::Usage(error.to_string())
    }

    /// The process's exit code.
    pub fn code(&self) -> ExitCode {
        self.number().into()
    }

    /// The process's exit code, as a number.
    pub fn number(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::SourceRefused(_) => 4,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(text)
            | Self::Usage(text)
            | Self::Refused(text)
            | Self::SourceRefused(text) => f.write_str(text),
        }
    }
}
