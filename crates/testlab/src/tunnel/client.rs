use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::{Kind, PathKind, START_LIMIT, TOKEN};
use crate::{
    Error, Result,
    netns::Namespace,
    process::{Proc, Stream},
    relay::Relay,
};

/// How to start `tunnel-rs client`, which forwards nothing yet, or `tunnel-rs vpn client`.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    binary: PathBuf,
    kind: Kind,
    token: String,
    relays: Vec<(String, String)>,
    forwards: usize,
    arguments: Vec<String>,
}

/// A running client, which listens on all its targets.
#[derive(Debug)]
pub struct Client {
    /// What it forwards, as it printed it.
    pub forwards: Vec<Forward>,
    /// The program.
    pub process: Proc,
    _token: TempDir,
}

/// One forward of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Where the client listens; the port is the real one.
    pub target: SocketAddr,
    /// Where it leads to: `tcp://HOST:PORT` or `udp://HOST:PORT`.
    pub source: String,
}

impl ClientConfig {
    /// For a server that is known by its ticket.
    pub fn with_ticket(binary: impl AsRef<Path>, ticket: &str) -> Self {
        Self::new(Kind::Forwarding, binary.as_ref(), ["--ticket", ticket])
    }

    /// For the server of a VPN that is known by its ticket.
    pub fn vpn(binary: impl AsRef<Path>, ticket: &str) -> Self {
        Self::new(Kind::Vpn, binary.as_ref(), ["--ticket", ticket])
    }

    /// For a server that is known by its EndpointId.
    pub fn with_id(binary: impl AsRef<Path>, endpoint_id: &str) -> Self {
        Self::new(Kind::Forwarding, binary.as_ref(), ["--server-node-id", endpoint_id])
    }

    fn new(kind: Kind, binary: &Path, server: [&str; 2]) -> Self {
        let config = Self {
            binary: binary.to_owned(),
            kind,
            token: TOKEN.to_owned(),
            relays: Vec::new(),
            forwards: 0,
            arguments: Vec::new(),
        };
        config.arguments(server)
    }

    /// Forwards `target` (`HOST:PORT`; the port may be 0) to `source` (`tcp://HOST:PORT` or `udp://…`).
    pub fn forward(mut self, source: &str, target: &str) -> Self {
        self.forwards += 1;
        self.arguments(["--source", source, "--target", target])
    }

    /// Adds a forward in ssh's form: `[BIND:]PORT:HOST:PORT[/udp]`.
    pub fn local(mut self, forward: &str) -> Self {
        self.forwards += 1;
        self.arguments(["-L", forward])
    }

    /// Names an own relay, where the ticket does not.
    pub fn relay(mut self, relay: &Relay) -> Self {
        self.relays.push((relay.url.clone(), relay.pin.clone()));
        self
    }

    /// Shows another token in place of `TOKEN`.
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// Adds any other arguments.
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Gives it the lasting identity in a file.
    pub fn secret_file(self, path: &Path) -> Self {
        self.arguments(["--secret-file", &path.to_string_lossy()])
    }

    /// Starts it and waits until it listens on all its targets. The session may still have to open.
    pub fn start(&self, namespace: Option<&Namespace>) -> Result<Client> {
        let (folder, token) = super::token_file(&self.token)?;
        let mut command = self.kind.command(namespace, &self.binary, "client");
        command.arg("--auth-token-file").arg(token);
        super::relay_flags(&mut command, &self.relays);
        let process = Proc::spawn(command.args(&self.arguments))?;
        let forwards = wait_forwards(&process, self.forwards, START_LIMIT)?;
        Ok(Client { forwards, process, _token: folder })
    }
}

impl Client {
    /// Where the client listens for a source, as `ClientConfig::forward` was given it.
    pub fn target(&self, source: &str) -> Result<SocketAddr> {
        target(&self.forwards, source)
    }

    /// Waits for the first session.
    pub fn wait_session_open(&self, limit: Duration) -> Result<()> {
        super::wait_session_open(&self.process, limit)
    }

    /// Waits until the path is of this kind.
    pub fn wait_path(&self, kind: PathKind, limit: Duration) -> Result<()> {
        super::wait_path(&self.process, kind, limit)
    }

    /// The kinds of path that it has logged, in order.
    pub fn paths(&self) -> Vec<PathKind> {
        super::paths(&self.process.lines())
    }
}

/// Waits until a client has named so many forwards, which it does once it listens, and returns them.
pub(crate) fn wait_forwards(process: &Proc, count: usize, limit: Duration) -> Result<Vec<Forward>> {
    let printed = process.wait_lines(
        |lines| {
            let printed = lines.iter().filter(|line| line.stream == Stream::Stdout);
            let printed = printed.filter_map(|line| line.text.strip_prefix("Forwarding "));
            let printed: Vec<_> = printed.map(str::to_owned).collect();
            (printed.len() >= count).then_some(printed)
        },
        limit,
    )?;
    printed.into_iter().map(Forward::parse).collect()
}

/// Where a client listens for a source.
pub(crate) fn target(forwards: &[Forward], source: &str) -> Result<SocketAddr> {
    let forward = forwards.iter().find(|forward| forward.source == source);
    let forward = forward.ok_or_else(|| Error::NoForward { source_url: source.to_owned() })?;
    Ok(forward.target)
}

impl Forward {
    /// Parses what stands behind `Forwarding `: `SCHEME://TARGET to SOURCE`.
    fn parse(text: String) -> Result<Self> {
        let parts = text.split_once(" to ").and_then(|(target, source)| {
            let (scheme, address) = target.split_once("://")?;
            let source_scheme = source.split_once("://")?.0;
            let target = address.parse().ok()?;
            (scheme == source_scheme).then(|| Self { target, source: source.to_owned() })
        });
        let what = "the forward that the client printed";
        parts.ok_or(Error::Malformed { what, text })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_parsed() -> Result<()> {
        let forward = Forward::parse("udp://[::1]:41234 to udp://[fd77::2]:53".to_owned())?;
        let target = SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 41234));
        assert_eq!(forward, Forward { target, source: "udp://[fd77::2]:53".to_owned() });
        Ok(())
    }

    #[test]
    fn what_is_no_forward_is_an_error() {
        for text in ["", "tcp://127.0.0.1:1", "tcp://127.0.0.1:1 to udp://127.0.0.1:2", "a to b"] {
            assert!(Forward::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
