//! What shells and `man` are told of a command line, both from its one definition.

use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::output::print;
use crate::{Failure, Outcome, file};

/// What `completions` takes.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell that is to read them
    shell: Shell,
}

impl CompletionsArgs {
    /// Prints the completions of a program, as a script for the shell.
    ///
    /// # Errors
    ///
    /// Where it cannot be printed.
    pub fn run(&self, mut program: Command) -> Outcome {
        let name = program.get_name().to_owned();
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        print(String::from_utf8_lossy(&script).trim_end())
    }
}

/// What `man-pages` takes.
#[derive(Args, Debug)]
pub struct ManPagesArgs {
    /// Where to write them; made if it is not there
    #[arg(long, value_name = "FOLDER")]
    output: PathBuf,
}

impl ManPagesArgs {
    /// Writes a page for a program and one for each of its commands, such as `tunnel-rs-server.1`. Pages of these names
    /// are replaced.
    ///
    /// # Errors
    ///
    /// Where the folder cannot be made or written to.
    pub fn run(&self, program: Command) -> Outcome {
        let folder = file::expand(&self.output);
        std::fs::create_dir_all(&folder)
            .and_then(|()| clap_mangen::generate_to(program, &folder))
            .map_err(|error| {
                Failure::Failed(format!("cannot write to {}: {error}", folder.display()))
            })
    }
}
