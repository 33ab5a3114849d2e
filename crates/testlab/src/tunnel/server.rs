use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use super::{Kind, PathKind, START_LIMIT, TOKEN};
use crate::{Result, netns::Namespace, process::Proc, relay::Relay};

/// How to start `tunnel-rs server` or `tunnel-rs vpn server`; it allows nothing yet.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    binary: PathBuf,
    kind: Kind,
    token: String,
    relays: Vec<(String, String)>,
    arguments: Vec<String>,
}

/// A running server that waits for clients.
#[derive(Debug)]
pub struct Server {
    /// Its identity, as it printed it.
    pub endpoint_id: String,
    /// Its ticket.
    pub ticket: String,
    /// The command that it tells its users to run.
    pub client_command: String,
    /// The program.
    pub process: Proc,
    _token: TempDir,
}

impl ServerConfig {
    /// For the program at `binary`, with `TOKEN` as the only token.
    pub fn new(binary: impl AsRef<Path>) -> Self {
        Self::of(Kind::Forwarding, binary.as_ref())
    }

    /// The same for the server of a VPN.
    pub fn vpn(binary: impl AsRef<Path>) -> Self {
        Self::of(Kind::Vpn, binary.as_ref())
    }

    fn of(kind: Kind, binary: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            kind,
            token: TOKEN.to_owned(),
            relays: Vec::new(),
            arguments: Vec::new(),
        }
    }

    /// Lets clients reach a network (CIDR) by TCP.
    pub fn allow_tcp(self, network: &str) -> Self {
        self.arguments(["--allowed-tcp", network])
    }

    /// Lets clients reach a network (CIDR) by UDP.
    pub fn allow_udp(self, network: &str) -> Self {
        self.arguments(["--allowed-udp", network])
    }

    /// Names an own relay, in place of the public ones.
    pub fn relay(mut self, relay: &Relay) -> Self {
        self.relays.push((relay.url.clone(), relay.pin.clone()));
        self
    }

    /// Gives it the lasting identity in a file.
    pub fn secret_file(self, path: &Path) -> Self {
        self.arguments(["--secret-file", &path.to_string_lossy()])
    }

    /// Binds its UDP socket.
    pub fn bind(self, address: SocketAddr) -> Self {
        self.arguments(["--bind", &address.to_string()])
    }

    /// Accepts another token in place of `TOKEN`.
    pub fn token(mut self, token: &str) -> Self {
        token.clone_into(&mut self.token);
        self
    }

    /// Adds any other arguments.
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Starts it and waits until it waits for clients.
    pub fn start(&self, namespace: Option<&Namespace>) -> Result<Server> {
        let (process, folder) = self.spawn(namespace)?;
        process.wait_line(|line| line == "Waiting for clients to connect...", START_LIMIT)?;
        let id = match self.kind {
            Kind::Forwarding => "EndpointId: ",
            Kind::Vpn => "VPN Server Node ID: ",
        };
        Ok(Server {
            endpoint_id: process.wait_value(id, START_LIMIT)?,
            ticket: process.wait_value("Ticket: ", START_LIMIT)?,
            client_command: process.wait_value("Client: ", START_LIMIT)?,
            process,
            _token: folder,
        })
    }

    /// Starts it and waits for nothing. The folder holds its token, and is to live as long as it.
    pub fn spawn(&self, namespace: Option<&Namespace>) -> Result<(Proc, TempDir)> {
        let (folder, token) = super::token_file(&self.token)?;
        let mut command = self.kind.command(namespace, &self.binary, "server");
        command.arg("--auth-tokens-file").arg(token);
        super::relay_flags(&mut command, &self.relays);
        Ok((Proc::spawn(command.args(&self.arguments))?, folder))
    }
}

impl Server {
    /// Waits for the first session.
    pub fn wait_session_open(&self, limit: Duration) -> Result<()> {
        super::wait_session_open(&self.process, limit)
    }

    /// The kinds of path that it has logged, in order; of all sessions.
    pub fn paths(&self) -> Vec<PathKind> {
        super::paths(&self.process.lines())
    }
}
