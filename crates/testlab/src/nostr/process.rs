use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    Error, Result,
    process::{Line, Proc, Stream},
    tunnel::{self, Forward, START_LIMIT, opens_session},
};

/// What the reason stands behind, in the client's log.
const NO_PATH: &str = "no path: ";

/// A running `tunnel-rs-ice server nostr`.
#[derive(Debug)]
pub struct NostrServer {
    /// The program.
    pub process: Proc,
}

/// A running `tunnel-rs-ice client nostr` that listens on all its targets.
#[derive(Debug)]
pub struct NostrClient {
    /// What it forwards, as it printed it.
    pub forwards: Vec<Forward>,
    /// The program.
    pub process: Proc,
}

/// What came of a client's first attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// A session.
    Connected,
    /// The client has found the server and no path, and gave this reason.
    NoPath(String),
}

impl NostrServer {
    /// Waits until it hears what its clients say: a relay has taken its subscription.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = |line: &str| line == "Waiting for clients to connect...";
        self.process.wait_line(ready, START_LIMIT).map(drop)
    }

    /// How many sessions it has had.
    pub fn sessions(&self) -> usize {
        sessions(&self.process.lines()).count()
    }
}

impl NostrClient {
    /// Where the client listens for a source, as `ClientConfig::forward` was given it.
    pub fn target(&self, source: &str) -> Result<SocketAddr> {
        tunnel::target(&self.forwards, source)
    }

    /// How many sessions it has had.
    pub fn sessions(&self) -> usize {
        sessions(&self.process.lines()).count()
    }

    /// Waits until it has said so often that a session is open, and says when it did the last time.
    pub fn wait_sessions(&self, count: usize, limit: Duration) -> Result<Instant> {
        self.process.wait_lines(|lines| sessions(lines).nth(count - 1).map(|line| line.at), limit)
    }

    /// Waits until a session is open, or the client has said that there is no path. It goes on trying then.
    pub fn attempt(&self, limit: Duration) -> Result<Attempt> {
        let came = |line: &Line| match line.text.split_once(NO_PATH) {
            _ if line.stream != Stream::Stderr => None,
            _ if opens_session(&line.text) => Some(Attempt::Connected),
            Some((_, why)) => Some(Attempt::NoPath(why.to_owned())),
            None => None,
        };
        self.process.wait_lines(|lines| lines.iter().find_map(came), limit)
    }
}

impl AsRef<Proc> for NostrServer {
    fn as_ref(&self) -> &Proc {
        &self.process
    }
}

impl AsRef<Proc> for NostrClient {
    fn as_ref(&self) -> &Proc {
        &self.process
    }
}

fn sessions(lines: &[Line]) -> impl Iterator<Item = &Line> {
    let logged = lines.iter().filter(|line| line.stream == Stream::Stderr);
    logged.filter(|line| opens_session(&line.text))
}

/// How many bytes of memory a running program occupies (VmRSS of proc_pid_status(5)).
pub fn memory(process: &Proc) -> Result<u64> {
    let path = format!("/proc/{}/status", process.pid());
    let status = fs::read_to_string(&path).map_err(Error::io(format!("read {path}")))?;
    let occupied = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = occupied.and_then(|value| value.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024)
        .ok_or(Error::Malformed { what: "the status of a process", text: status })
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn client(script: &str) -> Result<NostrClient> {
        let process = Proc::spawn(Command::new("sh").args(["-c", script]))?;
        Ok(NostrClient { forwards: Vec::new(), process })
    }

    #[test]
    fn an_attempt_ends_with_a_session_or_a_reason() -> Result<()> {
        let open = "echo 'no path: of old'; echo 'INFO session open: 1' >&2; exec sleep 100";
        assert_eq!(client(open)?.attempt(LIMIT)?, Attempt::Connected);
        let none = "echo 'WARN no session: no path: both NATs' >&2; exec sleep 100";
        assert_eq!(client(none)?.attempt(LIMIT)?, Attempt::NoPath("both NATs".to_owned()));
        let ended = client("echo 'no session: no relay' >&2")?.attempt(LIMIT);
        assert!(matches!(ended, Err(Error::Ended { .. })), "{ended:?}");
        Ok(())
    }

    #[test]
    fn sessions_are_counted() -> Result<()> {
        let client = client("for i in 1 2; do echo 'session open: 1' >&2; done; exec sleep 100")?;
        let (first, second) = (client.wait_sessions(1, LIMIT)?, client.wait_sessions(2, LIMIT)?);
        assert!(first <= second);
        assert_eq!(client.sessions(), 2);
        assert!(client.wait_sessions(3, Duration::from_millis(50)).is_err());
        Ok(())
    }

    #[test]
    fn the_memory_of_a_program_is_read() -> Result<()> {
        // It stands still as what it is: one that becomes another program has next to none for a moment.
        let client = client("echo 'session open' >&2; kill -STOP $$")?;
        client.wait_sessions(1, LIMIT)?;
        let bytes = memory(&client.process)?;
        assert!((100_000..100_000_000).contains(&bytes), "{bytes}");
        Ok(())
    }
}
