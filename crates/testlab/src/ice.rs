//! The `tunnel-rs-ice` program as its users run it in manual mode: a client that makes an offer, a server that
//! answers it, and somebody who carries the blocks between them, here as files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    Error, Result,
    net::StunServers,
    netns::Namespace,
    process::Proc,
    tunnel::{self, START_LIMIT},
};

mod manual;
mod path;

pub use manual::{Attempt, Manual, NO_PATH_LIMIT};
pub use path::{IceKind, IcePath, paths, wait_path};

/// What the client writes and what the server reads, in a folder of theirs: neither sees what the other one changes
/// later, as people do not carry it.
const OFFER: &str = "offer";
const OFFER_TAKEN: &str = "offer-taken";

/// The same of the server and the client.
const ANSWER: &str = "answer";
const ANSWER_TAKEN: &str = "answer-taken";

/// How to start `tunnel-rs-ice client manual` and `server manual`. It forwards and allows nothing yet.
#[derive(Clone, Debug)]
pub struct ManualConfig {
    binary: PathBuf,
    both: Vec<String>,
    client: Vec<String>,
    server: Vec<String>,
    forwards: usize,
}

/// A client that has made its offer and waits for the answer.
#[derive(Debug)]
pub struct Offered {
    /// The client.
    pub client: Proc,
    /// From the start of the client's process until the offer was there.
    pub took: Duration,
    offer: String,
    config: ManualConfig,
    folder: TempDir,
}

/// A client that waits for the answer, and a server that has made it.
#[derive(Debug)]
pub struct Answered {
    /// The client.
    pub client: Proc,
    /// The server, which checks for paths already.
    pub server: Proc,
    forwards: usize,
    folder: TempDir,
}

impl ManualConfig {
    /// For the program at `binary`. Both sides ask these STUN servers, or with none contact nobody but each other
    /// (`--no-stun`).
    pub fn new(binary: impl AsRef<Path>, stun: Option<&StunServers>) -> Self {
        let both = match stun {
            Some(stun) => stun.list().map(|server| ["--stun-server".to_owned(), server]).concat(),
            None => vec!["--no-stun".to_owned()],
        };
        Self { both, ..Self::with_default_stun(binary) }
    }

    /// Both sides ask the STUN servers that they ask by default, which are public ones.
    pub fn with_default_stun(binary: impl AsRef<Path>) -> Self {
        Self {
            binary: binary.as_ref().to_owned(),
            both: Vec::new(),
            client: Vec::new(),
            server: Vec::new(),
            forwards: 0,
        }
    }

    /// Lets the client reach a network (CIDR) by TCP and by UDP.
    pub fn allow(self, network: &str) -> Self {
        self.server_arguments(["--allowed-tcp", network, "--allowed-udp", network])
    }

    /// Forwards `target` (`HOST:PORT`; the port may be 0) to `source` (`tcp://HOST:PORT` or `udp://…`).
    pub fn forward(mut self, source: &str, target: &str) -> Self {
        self.forwards += 1;
        self.client_arguments(["--source", source, "--target", target])
    }

    /// Adds a forward in ssh's form: `[BIND:]PORT:HOST:PORT[/udp]`.
    pub fn local(mut self, forward: &str) -> Self {
        self.forwards += 1;
        self.client_arguments(["-L", forward])
    }

    /// Adds any other arguments of the client.
    pub fn client_arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.client.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Adds any other arguments of the server.
    pub fn server_arguments<'a>(mut self, arguments: impl IntoIterator<Item = &'a str>) -> Self {
        self.server.extend(arguments.into_iter().map(str::to_owned));
        self
    }

    /// Starts the client and waits for its offer.
    pub fn offer(&self, namespace: Option<&Namespace>) -> Result<Offered> {
        let folder = TempDir::new().map_err(Error::io("create a folder for the blocks"))?;
        let mut command = self.command(namespace, "client", &folder, OFFER, ANSWER_TAKEN);
        let started = Instant::now();
        let client = Proc::spawn(command.args(&self.client))?;
        let offer = wait_block(&client, &folder.path().join(OFFER))?;
        let took = started.elapsed();
        Ok(Offered { client, took, offer, config: self.clone(), folder })
    }

    /// Either role, with the names of the files for its blocks.
    fn command(
        &self,
        namespace: Option<&Namespace>,
        role: &str,
        folder: &TempDir,
        offer: &str,
        answer: &str,
    ) -> Command {
        let mut command = tunnel::command(namespace, &self.binary, role);
        command.arg("manual").args(&self.both);
        command.arg("--offer-file").arg(folder.path().join(offer));
        command.arg("--answer-file").arg(folder.path().join(answer));
        command
    }
}

impl Offered {
    /// Waits until the client has made another offer in place of the one before; returns how long that was.
    pub fn wait_renewed(&mut self, limit: Duration) -> Result<Duration> {
        let (path, waiting) = (self.folder.path().join(OFFER), Instant::now());
        let renewed = || read(&path).filter(|offer| *offer != self.offer);
        self.offer = self.client.wait_for(renewed, limit)?;
        Ok(waiting.elapsed())
    }

    /// Starts the server with the offer and waits for its answer, which the client does not get yet.
    pub fn answer(self, namespace: Option<&Namespace>) -> Result<Answered> {
        let Self { client, offer, config, folder, .. } = self;
        fs::write(folder.path().join(OFFER_TAKEN), offer).map_err(Error::io("copy the offer"))?;
        let mut command = config.command(namespace, "server", &folder, OFFER_TAKEN, ANSWER);
        let server = Proc::spawn(command.args(&config.server))?;
        wait_block(&server, &folder.path().join(ANSWER))?;
        Ok(Answered { client, server, forwards: config.forwards, folder })
    }
}

impl Answered {
    /// Gives the client the answer: all of it in one moment.
    pub fn hand_over(self) -> Result<Manual> {
        let Self { client, server, forwards, folder } = self;
        let (made, taken) = (folder.path().join(ANSWER), folder.path().join(ANSWER_TAKEN));
        let answered = Instant::now();
        fs::rename(made, taken).map_err(Error::io("hand over the answer"))?;
        Ok(Manual { client, server, answered, forwards, _folder: folder })
    }
}

/// Waits for a block that a program writes to a file, and returns the text.
fn wait_block(process: &Proc, path: &Path) -> Result<String> {
    process.wait_for(|| read(path), START_LIMIT)
}

/// The block in a file; a program lets it appear whole.
fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok()
}
