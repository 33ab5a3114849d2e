//! The `tunnel-rs` program as its users run it: a server, and clients that hold a token.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Error, Result,
    netns::{Namespace, command_in},
    process::{Line, Proc, Stream},
};

mod client;
mod server;
mod vpn;

pub use client::{Client, ClientConfig, Forward};
pub(crate) use client::{target, wait_forwards};
pub use server::{Server, ServerConfig};
pub use vpn::{VpnUp, lasting_key};

/// The token that servers accept and clients show unless a test says otherwise.
pub const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";

/// For either side to print what it prints at its start.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);

/// What carries a session at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Packets from host to host.
    Direct,
    /// A relay.
    Relay,
}

/// What a server and its clients are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Forwarding,
    Vpn,
}

impl Kind {
    fn command(self, namespace: Option<&Namespace>, binary: &Path, role: &str) -> Command {
        match self {
            Self::Forwarding => command(namespace, binary, role),
            Self::Vpn => {
                let mut command = command(namespace, binary, "vpn");
                command.arg(role);
                command
            }
        }
    }
}

/// Where a relay is, as flags.
fn relay_flags(command: &mut Command, relays: &[(String, String)]) {
    for (url, pin) in relays {
        command.args(["--relay-url", url, "--relay-ca", pin]);
    }
}

/// A command that takes nothing from the environment of the test, but `LAB_LOG` as its log filter: a failing test shows the log.
pub(crate) fn command(namespace: Option<&Namespace>, binary: &Path, role: &str) -> Command {
    let mut command = command_in(namespace, binary);
    command.arg(role).env_remove("RUST_LOG").env("NO_COLOR", "1");
    if let Some(filter) = env::var_os("LAB_LOG") {
        command.env("RUST_LOG", filter);
    }
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("TUNNEL_RS_") {
            command.env_remove(name);
        }
    }
    command
}

/// Writes the token where only its owner can read it, in a folder that lasts as long as the program.
fn token_file(token: &str) -> Result<(TempDir, PathBuf)> {
    let folder = TempDir::new().map_err(Error::io("create a folder for the token"))?;
    let path = folder.path().join("token");
    fs::write(&path, format!("{token}\n"))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)))
        .map_err(Error::io(format!("write {}", path.display())))?;
    Ok((folder, path))
}

fn wait_session_open(process: &Proc, limit: Duration) -> Result<()> {
    process.wait_line(opens_session, limit).map(drop)
}

/// Whether a line of either side's log says that a session is open.
pub(crate) fn opens_session(line: &str) -> bool {
    line.contains("session open")
}

/// The kinds of path that a program has logged, in order.
fn paths(lines: &[Line]) -> Vec<PathKind> {
    let logged = lines.iter().filter(|line| line.stream == Stream::Stderr);
    logged.filter_map(|line| path_kind(&line.text)).collect()
}

fn wait_path(process: &Proc, kind: PathKind, limit: Duration) -> Result<()> {
    process.wait_lines(|lines| (paths(lines).last() == Some(&kind)).then_some(()), limit)
}

/// The kind that a log line names behind the word `path`, whatever else the line holds.
pub(crate) fn path_kind(line: &str) -> Option<PathKind> {
    let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.find(|word| *word == "path")?;
    words.find_map(|word| match word {
        "direct" => Some(PathKind::Direct),
        "relay" => Some(PathKind::Relay),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_named_behind_the_word() {
        for (line, kind) in [
            ("INFO session{id=1}: path direct 203.0.113.2:4433 rtt=12ms", Some(PathKind::Direct)),
            ("INFO path=relay url=https://direct.example", Some(PathKind::Relay)),
            ("INFO path changed: now direct, was relay", Some(PathKind::Direct)),
            ("INFO relay connected", None),
            ("INFO tunnel_iroh::paths: relay connected", None),
            ("INFO path lost", None),
        ] {
            assert_eq!(path_kind(line), kind, "{line}");
        }
    }
}
