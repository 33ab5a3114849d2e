//! What `service` sets up, and how a configuration file is known to be good.

use std::path::Path;
#[cfg(windows)]
use std::path::PathBuf;

use clap::ValueEnum;
use tunnel_cli::service::{Role, of_file};
use tunnel_cli::{Failure, Outcome};

use crate::config::client::{ClientArgs, ClientConfig};
use crate::config::server::{ServerArgs, ServerConfig};

/// What runs as a service.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub(super) enum Runs {
    /// tunnel-rs-ice server, in nostr mode
    Server,
    /// tunnel-rs-ice client, in nostr mode
    Client,
}

impl From<Runs> for Role {
    fn from(runs: Runs) -> Self {
        match runs {
            Runs::Server => Self::Server,
            Runs::Client => Self::Client,
        }
    }
}

/// Does what a service is for.
#[cfg(windows)]
pub(super) async fn work(role: Role, path: PathBuf) -> Outcome {
    match role {
        Role::Server => super::serve(of_file(&path)?).await,
        Role::Client => super::connect(of_file(&path)?).await,
        _ => Err(none()),
    }
}

/// Of a role that `Runs` does not have.
fn none() -> Failure {
    Failure::Usage("this runs by no configuration file".to_owned())
}

/// Reads a configuration file, and the files that it names.
pub(super) fn check(role: Role, path: &Path) -> Outcome {
    match role {
        Role::Server => {
            let args: ServerArgs = of_file(path)?;
            match args.resolve()? {
                ServerConfig::Nostr(config) => config.rules.load().map(drop),
                ServerConfig::Manual(_) => manual(path),
            }
        }
        Role::Client => {
            let args: ClientArgs = of_file(path)?;
            match args.resolve()? {
                ClientConfig::Nostr(_) => Ok(()),
                ClientConfig::Manual(_) => manual(path),
            }
        }
        _ => Err(none()),
    }
}

fn manual(path: &Path) -> Outcome {
    Err(Failure::Usage(format!(
        "{}: mode = \"manual\" takes people who copy blocks, for each session: a service needs mode = \"nostr\"",
        path.display()
    )))
}
