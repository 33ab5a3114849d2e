use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    Error, Result,
    process::{Proc, Stream},
    tunnel::{self, START_LIMIT, opens_session},
};

/// How long a client has, from when it has the answer, to connect or to say that and why it cannot: it gives up after 9 s.
pub const NO_PATH_LIMIT: Duration = Duration::from_secs(20);

/// What the short code stands behind, on both sides.
const CODE: &str = "Code: ";

/// What the reason stands behind, in the client's log.
const NO_PATH: &str = "no path: ";

/// A client and a server that have each other's blocks.
///
/// Fields are dropped in this order, so that the client says its farewell to a server that hears it.
#[derive(Debug)]
pub struct Manual {
    /// The client.
    pub client: Proc,
    /// The server.
    pub server: Proc,
    /// When the client could have the answer.
    pub answered: Instant,
    pub(super) forwards: usize,
    pub(super) _folder: TempDir,
}

/// What came of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A session.
    Connected,
    /// An orderly end of the client, and the reason that it gave.
    NoPath(String),
}

impl Manual {
    /// Waits until a session is open, with the same code on both sides, or the client has ended with exit code 1
    /// because there is no path. An error if neither has come by `NO_PATH_LIMIT` after the answer.
    pub fn attempt(&self) -> Result<Attempt> {
        let left = NO_PATH_LIMIT.saturating_sub(self.answered.elapsed());
        match self.client.wait_line(opens_session, left) {
            Ok(_) => self.compare_codes().map(|()| Attempt::Connected),
            Err(Error::Ended { .. }) => self.no_path().map(Attempt::NoPath),
            Err(error) => Err(error),
        }
    }

    /// As `attempt`, where it is an error that there is no path.
    pub fn wait_connected(&self) -> Result<()> {
        match self.attempt()? {
            Attempt::Connected => Ok(()),
            Attempt::NoPath(_) => self.client.finish(Duration::ZERO).map(drop),
        }
    }

    /// Where the client listens for a source, as `ManualConfig::forward` was given it.
    pub fn target(&self, source: &str) -> Result<SocketAddr> {
        let forwards = tunnel::wait_forwards(&self.client, self.forwards, START_LIMIT)?;
        tunnel::target(&forwards, source)
    }

    fn compare_codes(&self) -> Result<()> {
        let client = self.client.wait_value(CODE, START_LIMIT)?;
        let server = self.server.wait_value(CODE, START_LIMIT)?;
        if client == server && is_code(&client) {
            return Ok(());
        }
        let what = "the code that client and server show, which is to be the same,";
        Err(Error::Malformed { what, text: format!("{client} and {server}") })
    }

    /// The reason why a client that has ended has found no path.
    fn no_path(&self) -> Result<String> {
        let status = self.client.wait_exit(Duration::ZERO)?;
        let lines = self.client.lines();
        let mut logged = lines.iter().filter(|line| line.stream == Stream::Stderr);
        let why = logged.find_map(|line| line.text.split_once(NO_PATH));
        match (status.code(), why) {
            (Some(1), Some((_, why))) => Ok(why.to_owned()),
            _ => {
                let text = self.client.finish(Duration::ZERO)?;
                let what = "the output of a client that ended with neither a session nor a reason";
                Err(Error::Malformed { what, text })
            }
        }
    }
}

/// Whether it is two times three digits.
fn is_code(text: &str) -> bool {
    let three = |digits: &str| digits.len() == 3 && digits.bytes().all(|b| b.is_ascii_digit());
    text.split_once(' ').is_some_and(|(one, other)| three(one) && three(other))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What comes of a client that prints and ends like this, and a server that shows this code.
    fn attempt(client: &str, code: &str) -> Result<Attempt> {
        let shell = |script: &str| Proc::spawn(Command::new("sh").args(["-c", script]));
        let manual = Manual {
            client: shell(client)?,
            server: shell(&format!("echo 'Code: {code}'; exec sleep 100"))?,
            answered: Instant::now(),
            forwards: 0,
            _folder: TempDir::new().map_err(Error::io("create a folder"))?,
        };
        manual.attempt()
    }

    #[test]
    fn a_session_needs_the_same_code() -> Result<()> {
        let client = "echo 'Code: 012 345'; echo 'INFO session open: 1' >&2; exec sleep 100";
        assert_eq!(attempt(client, "012 345")?, Attempt::Connected);
        for code in ["012 346", "012345", "012 34x"] {
            assert!(matches!(attempt(client, code), Err(Error::Malformed { .. })), "{code}");
        }
        Ok(())
    }

    #[test]
    fn a_client_without_a_path_says_why() -> Result<()> {
        let why = Attempt::NoPath("no common address family".to_owned());
        let no_path = "echo 'Error: no path: no common address family'";
        assert_eq!(attempt(&format!("{no_path} >&2; exit 1"), "")?, why);
        for other in [format!("{no_path} >&2; exit 2"), "exit 1".to_owned()] {
            let ended = attempt(&other, "");
            assert!(matches!(ended, Err(Error::Failed { .. })), "{other}: {ended:?}");
        }
        for other in [format!("{no_path} >&2"), format!("{no_path}; true")] {
            let ended = attempt(&other, "");
            assert!(matches!(ended, Err(Error::Malformed { .. })), "{other}: {ended:?}");
        }
        Ok(())
    }
}
