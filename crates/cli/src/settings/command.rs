use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args};
use serde::Deserialize;

use super::from_environment;
use crate::{Failure, Outcome, file};

/// Where the configuration file is.
#[derive(Args, Debug, Default)]
pub struct FileArgs {
    /// Read settings from this TOML file; flags win over it
    #[arg(short, long, value_name = "FILE", env = "TUNNEL_RS_CONFIG")]
    config: Option<PathBuf>,
    #[cfg_attr(not(windows), doc = "Read settings from the file in ~/.config/tunnel-rs")]
    #[cfg_attr(windows, doc = r"Read settings from the file in %APPDATA%\tunnel-rs")]
    #[arg(long)]
    default_config: bool,
}

impl FileArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let [config, _] = from_environment(matches, ["config", "default_config"]);
        self.config = self.config.take().filter(|_| !config);
    }

    /// The file, where one is to be read; `default_name` is the one that `--default-config` means.
    ///
    /// # Errors
    ///
    /// Where both are given, or there is no home directory to look for that one in.
    pub fn path(&self, default_name: &str) -> Outcome<Option<PathBuf>> {
        if self.default_config {
            if self.config.is_some() {
                let text = "give either --config FILE or --default-config";
                return Err(Failure::Usage(text.to_owned()));
            }
            return file::default_path(default_name).map(Some).map_err(Failure::usage);
        }
        Ok(self.config.as_deref().map(file::expand))
    }
}

/// A file's `role`: the command that it is for.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RoleName {
    /// The side that reaches the services.
    Server,
    /// The side with the listeners.
    Client,
}

/// A file's `mode`: how the two sides find each other.
#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// By the server's id, over iroh.
    Iroh,
    /// By blocks that people copy and paste.
    Manual,
    /// By Nostr relays.
    Nostr,
}

/// A program, by its modes.
#[derive(Debug)]
pub struct Program {
    /// Those that it has.
    pub modes: &'static [ModeName],
    /// What to say where a file is for one of the others.
    pub others: &'static str,
}

/// Only what tells whether a file is meant for a command, whatever else is in it.
#[derive(Deserialize)]
struct Head {
    role: Option<RoleName>,
    mode: Option<ModeName>,
}

impl Program {
    /// Reads which mode a file is for. To be called before the rest is read, so that a client's file given to a server is
    /// called that, and not a file with unknown keys.
    ///
    /// # Errors
    ///
    /// Where the file cannot be read, or is for another role or program.
    pub fn mode(&self, path: &Path, role: RoleName) -> Outcome<Option<ModeName>> {
        let Head { role: given, mode } = file::read(path).map_err(Failure::usage)?;
        let shown = path.display();
        if given.is_some_and(|given| given != role) {
            let (is, wanted) = match role {
                RoleName::Server => ("client", "server"),
                RoleName::Client => ("server", "client"),
            };
            let text = format!("{shown}: role = \"{is}\", but the command is '{wanted}'");
            return Err(Failure::Usage(text));
        }
        if mode.is_some_and(|mode| !self.modes.contains(&mode)) {
            return Err(Failure::Usage(format!("{shown}: {}", self.others)));
        }
        Ok(mode)
    }
}
