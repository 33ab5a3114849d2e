//! Settings: from flags and the environment, then from a file, to a configuration with nothing left open.

use std::path::PathBuf;

use clap::Args;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tunnel_cli::settings::{FileArgs, ModeName, Program, RoleName};
use tunnel_cli::{Failure, Outcome, file};

pub(crate) mod channel;
pub(crate) mod client;
pub(crate) mod server;
mod stun;

const PROGRAM: Program = Program {
    modes: &[ModeName::Manual, ModeName::Nostr],
    others: "mode = \"iroh\" is for tunnel-rs",
};

/// Which mode, and where the configuration file is.
#[derive(Args, Debug, Default)]
struct ModeArgs {
    /// How the two sides find each other: manual, by an offer and an answer that people copy and paste [default: as the configuration file says]
    #[arg(value_parser = mode)]
    mode: Option<ModeName>,
    #[command(flatten)]
    file: FileArgs,
}

fn mode(word: &str) -> Result<ModeName, &'static str> {
    match word {
        "manual" => Ok(ModeName::Manual),
        "nostr" => Err("not in this version; the mode is manual"),
        "iroh" => Err("that is a mode of tunnel-rs; here the mode is manual"),
        _ => Err("the mode is manual"),
    }
}

/// A configuration file of one role.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct RoleFile<T> {
    // Checked before, by way of `Program`; here they are keys that may be there.
    #[serde(rename = "role")]
    _role: Option<RoleName>,
    #[serde(rename = "mode")]
    _mode: Option<ModeName>,
    manual: Option<T>,
    iroh: Option<IgnoredAny>,
    nostr: Option<IgnoredAny>,
}

/// Where settings come from that are not given by flags or variables.
#[derive(Clone, Debug)]
struct Settings {
    role: RoleName,
    /// As given on the command line.
    mode: Option<ModeName>,
    path: Option<PathBuf>,
}

impl ModeArgs {
    fn settings(self, role: RoleName) -> Outcome<Settings> {
        let default_name = match role {
            RoleName::Server => "server_ice.toml",
            RoleName::Client => "client_ice.toml",
        };
        Ok(Settings { role, mode: self.mode, path: self.file.path(default_name)? })
    }
}

impl Settings {
    /// Reads the `[manual]` section of a file that is meant for this role; the default where there is no file.
    fn read<T: DeserializeOwned + Default>(&self) -> Outcome<T> {
        let command = match self.role {
            RoleName::Server => "tunnel-rs-ice server manual",
            RoleName::Client => "tunnel-rs-ice client manual",
        };
        let usage = |text: String| Err(Failure::Usage(text));
        let Some(path) = &self.path else {
            return match self.mode {
                Some(_) => Ok(T::default()),
                None => usage(format!(
                    "no mode: write '{command}', or give a configuration file with mode = \"manual\""
                )),
            };
        };
        let (in_file, shown) = (PROGRAM.mode(path, self.role)?, path.display());
        if in_file == Some(ModeName::Nostr) {
            return usage(format!("{shown}: mode = \"nostr\" is not in this version"));
        }
        if self.mode.or(in_file).is_none() {
            return usage(format!(
                "{shown} names no mode: write mode = \"manual\" into it, or '{command}'"
            ));
        }
        let RoleFile { manual, iroh, nostr, .. } =
            file::read::<RoleFile<T>>(path).map_err(Failure::usage)?;
        if iroh.is_some() {
            return usage(format!("{shown}: [iroh] is for tunnel-rs"));
        }
        if nostr.is_some() {
            return usage(format!("{shown}: [nostr] is not in this version"));
        }
        Ok(manual.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use clap::{Args, Parser};
    use tunnel_cli::{Failure, Outcome};

    #[derive(Parser)]
    struct Line<A: Args> {
        #[command(flatten)]
        args: A,
    }

    /// Arguments from a command line.
    pub(super) fn parse<A: Args>(words: &[&str]) -> Result<A, clap::Error> {
        let line = ["tunnel-rs-ice"].into_iter().chain(words.iter().copied());
        Line::try_parse_from(line).map(|line| line.args)
    }

    /// Arguments from a command line that names a file with this text. The file lasts as long as what is kept beside.
    pub(super) fn parse_with<A: Args>(text: &str, words: &[&str]) -> (tempfile::TempDir, A) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ice.toml");
        std::fs::write(&path, text).unwrap();
        let words = [&["--config", path.to_str().unwrap()], words].concat();
        let args = parse(&words).unwrap();
        (folder, args)
    }

    /// What is said of a wrong command line or file.
    pub(super) fn usage<T>(outcome: Outcome<T>) -> String {
        match outcome {
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("accepted"),
        }
    }

    /// A shipped example with all keys that it only shows.
    pub(super) fn with_every_key(example: &str) -> String {
        let shown = |line: &str| line.starts_with('#') && !line[1..].starts_with(' ');
        let bare =
            |line: &str| line[usize::from(shown(line) && line.len() > 1)..].to_owned() + "\n";
        example.lines().map(bare).collect()
    }
}
