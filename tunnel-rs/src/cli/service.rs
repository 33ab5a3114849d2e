//! What `service` sets up, and how a configuration file is known to be good.

use std::path::Path;

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
        // `Runs` has no others.
        _ => Err(Failure::Usage("this runs by no configuration file".to_owned())),
    }
}
