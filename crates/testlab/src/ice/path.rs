//! The paths that either side names.

use std::{
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    Result,
    process::{Line, Proc, Stream},
};

/// How the addresses of a path came to be known, as the program words it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IceKind {
    /// Both are addresses of the machines themselves.
    Host,
    /// One or both are what a STUN server saw.
    ServerReflexive,
    /// One or both are what the peer alone saw.
    PeerReflexive,
}

/// The path that a session takes, as one side sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcePath {
    /// Its kind.
    pub kind: IceKind,
    /// The address of this side.
    pub local: SocketAddr,
    /// The address of the other one, as this side reaches it.
    pub remote: SocketAddr,
}

impl IceKind {
    const ALL: [Self; 3] = [Self::Host, Self::ServerReflexive, Self::PeerReflexive];
}

impl IcePath {
    /// Parses a line of standard output: `Path: KIND, LOCAL to REMOTE`.
    fn parse(line: &str) -> Option<Self> {
        let (kind, addresses) = line.strip_prefix("Path: ")?.split_once(", ")?;
        let kind = IceKind::ALL.into_iter().find(|known| known.to_string() == kind)?;
        let (local, remote) = addresses.split_once(" to ")?;
        Some(Self { kind, local: local.parse().ok()?, remote: remote.parse().ok()? })
    }
}

/// The paths that a program has named, in order, each with the time.
pub fn paths(process: &Proc) -> Vec<(IcePath, Instant)> {
    named(&process.lines()).collect()
}

/// Waits until the path that a program named last is one that the predicate accepts; returns it with the time.
pub fn wait_path(
    process: &Proc,
    accept: impl Fn(&IcePath) -> bool,
    limit: Duration,
) -> Result<(IcePath, Instant)> {
    process.wait_lines(|lines| named(lines).last().filter(|(path, _)| accept(path)), limit)
}

fn named(lines: &[Line]) -> impl Iterator<Item = (IcePath, Instant)> {
    let printed = lines.iter().filter(|line| line.stream == Stream::Stdout);
    printed.filter_map(|line| Some((IcePath::parse(&line.text)?, line.at)))
}

impl fmt::Display for IceKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Host => "Direct (Host)",
            Self::ServerReflexive => "NAT Traversal (Server Reflexive)",
            Self::PeerReflexive => "NAT Traversal (Peer Reflexive)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_path_is_parsed() {
        let text = "Path: Direct (Host), [fd77::1]:4000 to [fd77::2]:5000";
        let path = IcePath {
            kind: IceKind::Host,
            local: SocketAddr::from(([0xfd77, 0, 0, 0, 0, 0, 0, 1], 4000)),
            remote: SocketAddr::from(([0xfd77, 0, 0, 0, 0, 0, 0, 2], 5000)),
        };
        assert_eq!(IcePath::parse(text), Some(path));
        let text = "Path: NAT Traversal (Peer Reflexive), 192.168.1.2:1 to 203.0.113.2:2";
        assert_eq!(IcePath::parse(text).map(|path| path.kind), Some(IceKind::PeerReflexive));
    }

    #[test]
    fn what_is_no_path_is_none() {
        for text in [
            "",
            "Path: ",
            "Path: Relay, 192.0.2.1:1 to 192.0.2.2:2",
            "Path: Direct (Host), 192.0.2.1 to 192.0.2.2:2",
            "Path: Direct (Host), 192.0.2.1:1",
            "Direct (Host), 192.0.2.1:1 to 192.0.2.2:2",
        ] {
            assert_eq!(IcePath::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn the_last_path_counts_and_only_what_is_printed() -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(10);
        let script = "echo 'Path: Direct (Host), 192.0.2.1:1 to 192.0.2.2:1'; \
                      echo 'Path: Direct (Host), 192.0.2.1:1 to 192.0.2.2:2'; \
                      echo 'Path: Direct (Host), 192.0.2.1:1 to 192.0.2.2:3' >&2; \
                      exec sleep 100";
        let process = Proc::spawn(Command::new("sh").args(["-c", script]))?;
        wait_path(&process, |path| path.remote.port() == 2, LIMIT)?;
        let before = wait_path(&process, |path| path.remote.port() == 1, Duration::ZERO);
        assert!(before.is_err(), "{before:?}");
        assert_eq!(paths(&process).len(), 2);
        Ok(())
    }
}
