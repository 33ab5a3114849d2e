//! Variables that name a file which holds the value: `TUNNEL_RS_TICKET_FILE` for `TUNNEL_RS_TICKET`, as secrets and
//! configuration are mounted into containers.

use std::any::TypeId;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Arg, Command};

use crate::{Failure, Outcome, file, secret};

/// What `--help` says of them.
pub const HELP: &str = "Each variable TUNNEL_RS_... of a value can be given as TUNNEL_RS_..._FILE as well: \
                        the file that holds the value.";

/// Has the command of `program` that `words` begin with take the values of such files where it would take those of the
/// variables: `words` are those of the command line behind the program's name. Files of other commands are not read.
///
/// An argument that names a file itself has none. Where another argument has the variable, as `--auth-tokens-file` has
/// that of `--auth-tokens`, it is that argument's, and so is the warning where others can read a secret: all secrets are
/// of that kind.
///
/// # Errors
///
/// Where a value and its file are both given, or the file cannot be read.
pub fn apply(program: Command, words: &[OsString]) -> Outcome<Command> {
    apply_from(program, words, |name| std::env::var_os(name))
}

fn apply_from(
    program: Command,
    words: &[OsString],
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Outcome<Command> {
    let mut failed = None;
    let program = descend(program, words, &variable, &mut failed);
    failed.map_or(Ok(program), Err)
}

/// Gives the values to each command on the way that `words` name.
fn descend(
    command: Command,
    words: &[OsString],
    variable: &impl Fn(&OsStr) -> Option<OsString>,
    failed: &mut Option<Failure>,
) -> Command {
    let Some((word, rest)) = words.split_first() else { return command };
    let name = command.get_subcommands().map(Command::get_name).find(|name| word == *name);
    let Some(name) = name.map(str::to_owned) else { return command };
    command.mut_subcommand(name, |command| {
        descend(with_values(command, variable, failed), rest, variable, failed)
    })
}

fn with_values(
    command: Command,
    variable: &impl Fn(&OsStr) -> Option<OsString>,
    failed: &mut Option<Failure>,
) -> Command {
    let own: Vec<OsString> =
        command.get_arguments().filter_map(Arg::get_env).map(OsStr::to_owned).collect();
    command.mut_args(|arg| {
        let value = value_of(&arg, &own, variable).unwrap_or_else(|error| {
            failed.get_or_insert(error);
            None
        });
        match value {
            Some(value) => {
                // clap refuses to hide the default of a flag that takes no value.
                let hidden = arg.get_action().takes_values();
                arg.default_value(value).hide_default_value(hidden)
            }
            None => arg,
        }
    })
}

/// The value that an argument has by such a file, if there is one.
fn value_of(
    arg: &Arg,
    own: &[OsString],
    variable: impl Fn(&OsStr) -> Option<OsString>,
) -> Outcome<Option<String>> {
    let Some(name) = arg.get_env() else { return Ok(None) };
    let mut of_file = name.to_owned();
    of_file.push("_FILE");
    let names_a_file = arg.get_value_parser().type_id() == TypeId::of::<PathBuf>();
    if names_a_file || own.contains(&of_file) {
        return Ok(None);
    }
    let Some(path) = variable(&of_file) else { return Ok(None) };
    let (name, of_file) = (name.to_string_lossy(), of_file.to_string_lossy());
    if variable(OsStr::new(&*name)).is_some() {
        let text = format!("{name} and {of_file} are both given: leave one of them");
        return Err(Failure::Usage(text));
    }
    let text = secret::read_quietly(&file::expand(Path::new(&path)));
    let text = text.map_err(|error| Failure::Usage(format!("{of_file}: {error}")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(Some(match arg.get_value_delimiter() {
        // A list has a value a line, or is written as in the variable.
        Some(delimiter) => {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            lines.collect::<Vec<_>>().join(&delimiter.to_string())
        }
        None => text.to_owned(),
    }))
}

#[cfg(test)]
mod tests {
    use clap::{Args, FromArgMatches, Parser, Subcommand};

    use super::*;
    use crate::SecretText;
    use crate::settings::from_environment;

    #[derive(Parser)]
    struct Line {
        #[command(subcommand)]
        command: Words,
    }

    #[derive(Subcommand)]
    enum Words {
        Serve(ServeArgs),
        #[command(subcommand)]
        Inner(InnerWords),
        Other,
    }

    #[derive(Subcommand)]
    enum InnerWords {
        Serve(ServeArgs),
        Other,
    }

    #[derive(Args, Debug, Default)]
    struct ServeArgs {
        #[arg(long, env = "VT_TICKET")]
        ticket: Option<String>,
        #[arg(long, env = "VT_COUNT", default_value_t = 7)]
        count: usize,
        #[arg(long, env = "VT_NETWORKS", value_delimiter = ',')]
        networks: Vec<String>,
        #[arg(long, env = "VT_PLAIN")]
        plain: bool,
        #[arg(long, env = "VT_TOKEN")]
        token: Option<SecretText>,
        #[arg(long, env = "VT_TOKEN_FILE")]
        token_file: Option<PathBuf>,
        #[arg(long, env = "VT_STATE")]
        state: Option<PathBuf>,
        /// Whether the ticket is from the environment, and another of both by hand.
        #[arg(skip)]
        overruled: [bool; 2],
    }

    /// Files that variables of these names lead to.
    struct Files {
        folder: tempfile::TempDir,
        variables: Vec<(String, OsString)>,
    }

    impl Files {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let write = |(name, text): &(&str, &str)| {
                let path = folder.path().join(name);
                std::fs::write(&path, text).unwrap();
                ((*name).to_owned(), path.into_os_string())
            };
            let variables = files.iter().map(write).collect();
            Self { folder, variables }
        }

        fn parse(&self, words: &[&str]) -> Result<ServeArgs, String> {
            use clap::CommandFactory;
            let variable = |name: &OsStr| {
                let found = self.variables.iter().find(|(given, _)| **given == *name);
                found.map(|(_, path)| path.clone())
            };
            let given: Vec<OsString> = words.iter().map(OsString::from).collect();
            let program = apply_from(Line::command(), &given, variable);
            let program = program.map_err(|error| error.to_string())?;
            let words = ["program"].iter().chain(words);
            let matches = program.try_get_matches_from(words).map_err(|error| error.to_string())?;
            match Line::from_arg_matches(&matches).unwrap().command {
                Words::Serve(args) => {
                    let (_, matches) = matches.subcommand().unwrap();
                    let overruled = from_environment(matches, ["ticket", "token"]);
                    Ok(ServeArgs { overruled, ..args })
                }
                Words::Inner(InnerWords::Serve(args)) => Ok(args),
                Words::Inner(InnerWords::Other) | Words::Other => Ok(ServeArgs::default()),
            }
        }
    }

    #[test]
    fn a_file_holds_the_value_without_its_last_line_break() {
        for text in ["a b", "a b\n", "a b\r\n"] {
            let files = Files::new(&[("VT_TICKET_FILE", text), ("VT_COUNT_FILE", "3\n")]);
            let args = files.parse(&["serve"]).unwrap();
            assert_eq!((args.ticket.as_deref(), args.count), (Some("a b"), 3));
        }
        let files = Files::new(&[("VT_PLAIN_FILE", "true\n")]);
        assert!(files.parse(&["serve"]).unwrap().plain);
        let files = Files::new(&[("VT_NETWORKS_FILE", "a,b\n\n c\n")]);
        assert_eq!(files.parse(&["serve"]).unwrap().networks, ["a", "b", "c"]);
        let args = Files::new(&[]).parse(&["serve"]).unwrap();
        assert!((args.ticket, args.count, args.plain) == (None, 7, false));
    }

    #[test]
    fn a_command_within_another_has_them_too() {
        let files = Files::new(&[("VT_TICKET_FILE", "x"), ("VT_COUNT_FILE", "3")]);
        let args = files.parse(&["inner", "serve", "--plain"]).unwrap();
        assert_eq!((args.ticket.as_deref(), args.count, args.plain), (Some("x"), 3, true));
    }

    #[test]
    fn flags_win_over_it_and_over_that_of_what_they_stand_in_for() {
        let files = Files::new(&[("VT_TICKET_FILE", "x"), ("VT_NETWORKS_FILE", "a")]);
        let words = ["serve", "--ticket", "y", "--networks", "b"];
        let args = files.parse(&words).unwrap();
        assert_eq!((args.ticket.as_deref(), &*args.networks), (Some("y"), &["b".to_owned()][..]));
        assert_eq!(args.overruled, [false, false]);
        let args = files.parse(&["serve", "--token", "t"]).unwrap();
        assert_eq!(args.overruled, [true, false], "the file's ticket is the environment's");
        assert!(!files.parse(&["serve"]).unwrap().overruled[0]);
    }

    #[test]
    fn a_value_and_its_file_exclude_one_another() {
        let files = Files::new(&[("VT_TICKET_FILE", "x"), ("VT_TICKET", "y")]);
        let error = files.parse(&["serve"]).unwrap_err();
        assert!(error.contains("VT_TICKET and VT_TICKET_FILE are both"), "{error}");
    }

    #[test]
    fn arguments_that_name_files_have_none_and_keep_their_own() {
        let files = Files::new(&[("VT_STATE_FILE", "x"), ("VT_TOKEN_FILE", "y")]);
        let args = files.parse(&["serve"]).unwrap();
        assert!(args.state.is_none() && args.token.is_none() && args.token_file.is_none());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named_and_other_commands_do_not_care() {
        let files = Files::new(&[("VT_TICKET_FILE", "x")]);
        std::fs::remove_file(files.folder.path().join("VT_TICKET_FILE")).unwrap();
        for words in [&["serve"][..], &["inner", "serve"]] {
            let error = files.parse(words).unwrap_err();
            assert!(error.contains("VT_TICKET_FILE: cannot read "), "{error}");
        }
        assert!(files.parse(&["other"]).is_ok() && files.parse(&["inner", "other"]).is_ok());
    }
}
