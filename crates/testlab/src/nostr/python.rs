use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Error, Result, enter::connect_tcp, netns::Namespace, process::Proc, services::free_port,
};

/// For an interpreter to start twice and to load some libraries.
const START_LIMIT: Duration = Duration::from_secs(60);

/// For a connection within a namespace.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A Nostr relay that has nothing in common with this program and its libraries: nostr-relay, in Python.
///
/// Unlike others, it keeps events of the kinds that are not to be kept, and hands them out to who asks for them later.
#[derive(Debug)]
pub struct PythonRelay {
    /// For `--relay`.
    pub url: String,
    /// The program.
    pub process: Proc,
    _folder: TempDir,
}

impl PythonRelay {
    /// Starts it on an address of the namespace, with an empty database, and waits until it takes connections.
    ///
    /// `.ci/install` installs it.
    pub fn start(namespace: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let program = program();
        if !program.is_file() {
            return Err(Error::NotBuilt { path: program, build: ".ci/install".to_owned() });
        }
        let folder = TempDir::new().map_err(Error::io("create a folder for a relay"))?;
        let port = free_port(Some(namespace), address.into())?;
        let file = folder.path().join("relay.yaml");
        let database = folder.path().join("events.sqlite3");
        let settings = format!(
            "storage:\n\
             \x20 sqlalchemy.url: sqlite+aiosqlite:///{}\n\
             \x20 validators:\n\
             \x20   - nostr_relay.validators.is_not_too_large\n\
             \x20   - nostr_relay.validators.is_signed\n\
             \x20   - nostr_relay.validators.is_recent\n\
             purple:\n\
             \x20 host: {address}\n\
             \x20 port: {port}\n\
             \x20 workers: 1\n",
            database.display(),
        );
        fs::write(&file, settings).map_err(Error::io(format!("write {}", file.display())))?;
        let mut command = namespace.command(program);
        command.arg("--config").arg(&file).args(["serve", "--use-purple"]);
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line.contains("Starting server"), START_LIMIT)?;
        // It says so before it does.
        let at = SocketAddr::from((address, port));
        process.wait_for(|| connect_tcp(namespace, at, CONNECT_LIMIT).ok(), START_LIMIT)?;
        Ok(Self { url: format!("ws://{at}"), process, _folder: folder })
    }
}

/// Where `.ci/install` puts it.
fn program() -> PathBuf {
    let set = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = set("XDG_CACHE_HOME")
        .unwrap_or_else(|| set("HOME").unwrap_or_else(|| "/root".into()).join(".cache"));
    cache.join("tunnel-rs/nostr-relay/bin/nostr-relay")
}
