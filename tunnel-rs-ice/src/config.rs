//! Settings: from flags and the environment, then from a file, to a configuration with nothing left open.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tunnel_cli::settings::{FileArgs, ModeName, Program, RoleName};
use tunnel_cli::{Failure, Outcome, file};

pub(crate) mod channel;
pub(crate) mod client;
pub(crate) mod nostr;
pub(crate) mod server;
mod stun;

const PROGRAM: Program = Program {
    modes: &[ModeName::Manual, ModeName::Nostr],
    others: "mode = \"iroh\" is for tunnel-rs",
};

/// How the two sides find each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Manual,
    Nostr,
}

impl Mode {
    /// The mode that a file is for.
    fn of_file(path: &Path, role: RoleName) -> Outcome<Option<Self>> {
        Ok(match PROGRAM.mode(path, role)? {
            Some(ModeName::Manual) => Some(Self::Manual),
            Some(ModeName::Nostr) => Some(Self::Nostr),
            // The former is no mode of this program, and an error already.
            Some(ModeName::Iroh) | None => None,
        })
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Manual => "manual",
            Self::Nostr => "nostr",
        })
    }
}

/// Which mode, and where the configuration file is.
#[derive(Args, Debug, Default)]
struct ModeArgs {
    /// How the two sides find each other: manual, by an offer and an answer that people copy and paste; nostr, by lasting keys, through Nostr relays [default: as the configuration file says]
    #[arg(value_parser = mode)]
    mode: Option<Mode>,
    #[command(flatten)]
    file: FileArgs,
    /// Flags on the command line that are for one mode alone.
    #[arg(skip)]
    bound: Vec<(Mode, String)>,
}

fn mode(word: &str) -> Result<Mode, &'static str> {
    match word {
        "manual" => Ok(Mode::Manual),
        "nostr" => Ok(Mode::Nostr),
        "iroh" => Err("that is a mode of tunnel-rs; here the modes are manual and nostr"),
        _ => Err("the modes are manual and nostr"),
    }
}

/// A configuration file of one role.
#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct RoleFile<M, N> {
    // Checked before, by way of `Program`; here they are keys that may be there.
    #[serde(rename = "role")]
    _role: Option<RoleName>,
    #[serde(rename = "mode")]
    _mode: Option<ModeName>,
    #[serde(default)]
    manual: M,
    #[serde(default)]
    nostr: N,
    iroh: Option<IgnoredAny>,
}

/// Where settings come from that are not given by flags or variables.
#[derive(Clone, Debug)]
struct Settings {
    role: RoleName,
    mode: Mode,
    path: Option<PathBuf>,
}

fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Server => "server",
        RoleName::Client => "client",
    }
}

impl ModeArgs {
    /// Notes which of the flags `A`, which are for `mode` alone, stand on the command line. Variables of the other mode
    /// do no harm: they stay set when the mode changes.
    fn note_flags<A: Args>(&mut self, mode: Mode, matches: &ArgMatches) {
        let command = A::augment_args(clap::Command::new(""));
        for argument in command.get_arguments() {
            let source = matches.value_source(argument.get_id().as_str());
            if let (Some(ValueSource::CommandLine), Some(flag)) = (source, argument.get_long()) {
                self.bound.push((mode, format!("--{flag}")));
            }
        }
    }

    /// Decides on the mode.
    fn settings(self, role: RoleName) -> Outcome<Settings> {
        let usage = |text: String| Err(Failure::Usage(text));
        let name = role_name(role);
        let path = self.file.path(&format!("{name}_ice.toml"))?;
        let in_file = match &path {
            Some(path) => Mode::of_file(path, role)?,
            None => None,
        };
        let Some(mode) = self.mode.or(in_file) else {
            let commands = format!("'tunnel-rs-ice {name} manual' or 'tunnel-rs-ice {name} nostr'");
            let keys = "mode = \"manual\" or mode = \"nostr\"";
            return usage(match &path {
                Some(path) => {
                    format!("{} names no mode: write {keys} into it, or {commands}", path.display())
                }
                None => {
                    format!("no mode: write {commands}, or give a configuration file with {keys}")
                }
            });
        };
        match self.bound.iter().find(|(of, _)| *of != mode) {
            Some((of, flag)) => usage(format!("{flag} is for {of} mode, and this is {mode} mode")),
            None => Ok(Settings { role, mode, path }),
        }
    }
}

impl Settings {
    /// Reads both modes' sections of a file that is meant for this role and mode; the default where there is no file.
    fn read<M, N>(&self) -> Outcome<RoleFile<M, N>>
    where
        M: DeserializeOwned + Default,
        N: DeserializeOwned + Default,
    {
        let Some(path) = &self.path else { return Ok(RoleFile::default()) };
        let shown = path.display();
        if let Some(other) = Mode::of_file(path, self.role)?.filter(|mode| *mode != self.mode) {
            let (role, mode) = (role_name(self.role), self.mode);
            let text = format!("{shown}: mode = \"{other}\", but this is '{role} {mode}'");
            return Err(Failure::Usage(text));
        }
        let read: RoleFile<M, N> = file::read(path).map_err(Failure::usage)?;
        if read.iroh.is_some() {
            return Err(Failure::Usage(format!("{shown}: [iroh] is for tunnel-rs")));
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use clap::{ArgMatches, Args, Command, CommandFactory, FromArgMatches, Parser};
    use tunnel_cli::{Failure, Outcome};

    use super::client::ClientArgs;
    use super::server::ServerArgs;

    #[derive(Parser)]
    struct Line<A: Args> {
        #[command(flatten)]
        args: A,
    }

    /// The arguments of a role.
    pub(super) trait RoleArgs: Args {
        fn prefer_command_line(&mut self, matches: &ArgMatches);
    }

    impl RoleArgs for ServerArgs {
        fn prefer_command_line(&mut self, matches: &ArgMatches) {
            self.prefer_command_line(matches);
        }
    }

    impl RoleArgs for ClientArgs {
        fn prefer_command_line(&mut self, matches: &ArgMatches) {
            self.prefer_command_line(matches);
        }
    }

    /// The command with these arguments.
    pub(super) fn command<A: Args>() -> Command {
        Line::<A>::command()
    }

    /// Arguments from a command line.
    pub(super) fn parse<A: RoleArgs>(words: &[&str]) -> Result<A, clap::Error> {
        let line = ["tunnel-rs-ice"].into_iter().chain(words.iter().copied());
        let matches = command::<A>().try_get_matches_from(line)?;
        let mut args = Line::<A>::from_arg_matches(&matches)?.args;
        args.prefer_command_line(&matches);
        Ok(args)
    }

    /// Arguments from a command line that names a file with this text. The file lasts as long as what is kept beside.
    pub(super) fn parse_with<A: RoleArgs>(text: &str, words: &[&str]) -> (tempfile::TempDir, A) {
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

    /// Runs the test of this name again with these variables, in a process of its own, as all tests share the
    /// environment of this one; there it does what is given.
    pub(super) fn with_variables(name: &str, variables: &[(&str, &str)], test: impl FnOnce()) {
        const MARK: &str = "TUNNEL_RS_TEST_WITH_VARIABLES";
        if std::env::var_os(MARK).is_some() {
            return test();
        }
        let mut again = std::process::Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", name]).envs(variables.iter().copied()).env(MARK, "1");
        let output = again.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && printed.contains("1 passed"), "{printed}");
    }

    /// A shipped example for this mode.
    pub(super) fn with_mode(example: &str, mode: &str) -> String {
        let shipped = "\nmode = \"manual\"\n";
        assert!(example.contains(shipped));
        example.replace(shipped, &format!("\nmode = \"{mode}\"\n"))
    }

    /// A shipped example with all keys that it only shows.
    pub(super) fn with_every_key(example: &str) -> String {
        let shown = |line: &str| line.starts_with('#') && !line[1..].starts_with(' ');
        let bare =
            |line: &str| line[usize::from(shown(line) && line.len() > 1)..].to_owned() + "\n";
        example.lines().map(bare).collect()
    }

    /// Checks that a mode's part of a shipped example names every key that can stand there, by what is said of one that
    /// cannot.
    pub(super) fn assert_names_every_key(
        example: &str,
        mode: &str,
        resolve: impl FnOnce(&str) -> String,
    ) {
        let error = resolve(&format!("mode = \"{mode}\"\n[{mode}]\nno_such_key = 0\n"));
        let (_, known) = error.split_once("expected one of ").unwrap();
        let known: Vec<_> = known.split(", ").map(|key| key.trim_matches('`')).collect();
        let (manual, nostr) = example.split_once("\n[nostr]\n").unwrap();
        let part = if mode == "nostr" { nostr } else { manual };
        let named: Vec<_> = part.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for key in known {
            assert!(named.contains(&key), "[{mode}] does not show {key}");
        }
    }
}
