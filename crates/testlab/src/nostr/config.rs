use std::{
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{NostrClient, NostrServer};
use crate::{
    Error, Result,
    net::StunServers,
    netns::Namespace,
    process::{Proc, run},
    tunnel::{self, START_LIMIT, wait_forwards},
};

/// How to start `tunnel-rs-ice` in nostr mode: what both sides have in common.
#[derive(Clone, Debug)]
pub struct NostrConfig {
    binary: PathBuf,
    both: Vec<String>,
}

/// A lasting key: a file, for as long as this is there, and the public key.
#[derive(Debug)]
pub struct NostrKey {
    npub: String,
    file: PathBuf,
    _folder: TempDir,
}

/// How to start `tunnel-rs-ice server nostr`; it allows nothing yet.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    binary: PathBuf,
    arguments: Vec<String>,
}

/// How to start `tunnel-rs-ice client nostr`; it forwards nothing yet.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    binary: PathBuf,
    arguments: Vec<String>,
    forwards: usize,
}

impl NostrKey {
    /// Lets the program make one.
    fn generate(binary: &Path) -> Result<Self> {
        let folder = TempDir::new().map_err(Error::io("create a folder for a key"))?;
        let file = folder.path().join("key");
        let mut command = Command::new(binary);
        command.arg("generate-nostr-key").arg("--output").arg(&file);
        let printed = run(&mut command, START_LIMIT)?;
        match printed.trim_end() {
            npub if npub.starts_with("npub1") && !npub.contains(char::is_whitespace) => {
                Ok(Self { npub: npub.to_owned(), file, _folder: folder })
            }
            _ => Err(Error::Malformed { what: "the npub of a new key", text: printed }),
        }
    }

    /// The public key, as `npub1…`.
    pub fn npub(&self) -> &str {
        &self.npub
    }

    fn arguments(&self) -> [String; 2] {
        ["--nsec-file".to_owned(), self.file.to_string_lossy().into_owned()]
    }
}

impl NostrConfig {
    /// For the program at `binary`. Both sides ask these STUN servers, or with none nobody (`--no-stun`).
    pub fn new(binary: impl AsRef<Path>, stun: Option<&StunServers>) -> Self {
        let both = match stun {
            Some(stun) => stun.list().map(|server| ["--stun-server".to_owned(), server]).concat(),
            None => vec!["--no-stun".to_owned()],
        };
        Self { binary: binary.as_ref().to_owned(), both }
    }

    /// Both sides use this relay, and no public one.
    pub fn relay(mut self, url: &str) -> Self {
        self.both.extend(["--relay".to_owned(), url.to_owned()]);
        self
    }

    /// Makes a lasting key.
    pub fn key(&self) -> Result<NostrKey> {
        NostrKey::generate(&self.binary)
    }

    /// A server with this key, and clients that may come.
    pub fn server<'a>(
        &self,
        key: &NostrKey,
        peers: impl IntoIterator<Item = &'a NostrKey>,
    ) -> ServerConfig {
        let mut arguments = [&key.arguments()[..], &self.both].concat();
        for peer in peers {
            arguments.extend(["--peer-npub".to_owned(), peer.npub.clone()]);
        }
        ServerConfig { binary: self.binary.clone(), arguments }
    }

    /// A client with this key, and the server that it looks for.
    pub fn client(&self, key: &NostrKey, server: &NostrKey) -> ClientConfig {
        let mut arguments = [&key.arguments()[..], &self.both].concat();
        arguments.extend(["--peer-npub".to_owned(), server.npub.clone()]);
        ClientConfig { binary: self.binary.clone(), arguments, forwards: 0 }
    }
}

impl ServerConfig {
    /// Lets clients reach a network (CIDR) by TCP and by UDP.
    pub fn allow(self, network: &str) -> Self {
        self.arguments(["--allowed-tcp", network, "--allowed-udp", network])
    }

    /// Adds any other arguments.
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Starts it. It may not have reached a relay yet.
    pub fn start(&self, namespace: Option<&Namespace>) -> Result<NostrServer> {
        let mut command = tunnel::command(namespace, &self.binary, "server");
        let process = Proc::spawn(command.arg("nostr").args(&self.arguments))?;
        Ok(NostrServer { process })
    }
}

impl ClientConfig {
    /// Forwards `target` (`HOST:PORT`; the port may be 0) to `source` (`tcp://HOST:PORT` or `udp://…`).
    pub fn forward(mut self, source: &str, target: &str) -> Self {
        self.forwards += 1;
        self.arguments(["--source", source, "--target", target])
    }

    /// Adds any other arguments.
    pub fn arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.arguments.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Starts it and waits until it listens on all its targets. The session may still have to open.
    pub fn start(&self, namespace: Option<&Namespace>) -> Result<NostrClient> {
        let mut command = tunnel::command(namespace, &self.binary, "client");
        let process = Proc::spawn(command.arg("nostr").args(&self.arguments))?;
        let forwards = wait_forwards(&process, self.forwards, START_LIMIT)?;
        Ok(NostrClient { forwards, process })
    }
}
