use std::path::{Path, PathBuf};

use tunnel_cli::{Failure, Outcome, file};

/// Where a block is read from or written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// Standard input or standard output.
    Standard,
    /// A file; one to be read may not be there yet.
    File(PathBuf),
}

impl Channel {
    /// `-` and nothing are the standard one.
    fn new(path: Option<PathBuf>) -> Self {
        match path {
            Some(path) if path != Path::new("-") => Self::File(file::expand(&path)),
            _ => Self::Standard,
        }
    }

    /// The channels of the offer and of the answer.
    pub(super) fn pair(offer: Option<PathBuf>, answer: Option<PathBuf>) -> Outcome<(Self, Self)> {
        let (offer, answer) = (Self::new(offer), Self::new(answer));
        match &offer {
            Self::File(path) if offer == answer => Err(Failure::Usage(format!(
                "--offer-file and --answer-file are both {}: give two files",
                path.display()
            ))),
            _ => Ok((offer, answer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dash_and_nothing_are_the_standard_one() {
        let dash = Some(PathBuf::from("-"));
        let pair = Channel::pair(dash, None).unwrap();
        assert_eq!(pair, (Channel::Standard, Channel::Standard));
        let file = Some(PathBuf::from("./-"));
        assert_eq!(Channel::pair(None, file).unwrap().1, Channel::File("./-".into()));
    }

    #[test]
    fn one_file_cannot_be_both() {
        let file = || Some(PathBuf::from("block"));
        let error = Channel::pair(file(), file()).unwrap_err().to_string();
        assert!(error.contains("--answer-file") && error.contains("block"), "{error}");
    }
}
