//! What `service` sets up, and how a configuration file is known to be good.

use std::path::Path;
#[cfg(windows)]
use std::path::PathBuf;

use clap::ValueEnum;
use tunnel_cli::service::{Role, of_file};
use tunnel_cli::{Failure, Outcome};

/// What runs as a service.
#[derive(ValueEnum, Clone, Copy, Debug)]
pub(super) enum Runs {
    /// tunnel-rs server
    Server,
    /// tunnel-rs client
    Client,
    /// tunnel-rs relay
    #[cfg(feature = "relay")]
    Relay,
}

impl From<Runs> for Role {
    fn from(runs: Runs) -> Self {
        match runs {
            Runs::Server => Self::Server,
            Runs::Client => Self::Client,
            #[cfg(feature = "relay")]
            Runs::Relay => Self::Relay,
        }
    }
}

/// Does what a service is for.
#[cfg(windows)]
pub(super) async fn work(role: Role, path: PathBuf) -> Outcome {
    match role {
        Role::Server => super::server::run(of_file(&path)?).await,
        Role::Client => super::client::run(of_file(&path)?).await,
        #[cfg(feature = "relay")]
        Role::Relay => super::relay::run(of_file(&path)?).await,
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
            let args: crate::config::server::ServerArgs = of_file(path)?;
            super::server::require_tokens(&args.resolve()?.rules.load()?)
        }
        Role::Client => {
            let args: crate::config::client::ClientArgs = of_file(path)?;
            args.resolve().map(drop)
        }
        #[cfg(feature = "relay")]
        Role::Relay => super::relay::check(of_file(path)?),
        _ => Err(none()),
    }
}
