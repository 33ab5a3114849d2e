//! The command line.

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tunnel_cli::Outcome;

mod accept;
mod manual;
mod path;

/// TCP and UDP between two machines that cannot reach each other, straight from one to the other: no relay, no account.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Let a client reach services of this machine and its networks
    Server(Box<crate::config::server::ServerArgs>),
    /// Listen here for services that a server reaches
    Client(Box<crate::config::client::ClientArgs>),
}

impl Cli {
    /// Reads the command line and the environment; ends the process where they are wrong.
    pub(crate) fn read() -> Self {
        let matches = Self::command().get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        match (&mut cli.command, matches.subcommand()) {
            (Command::Server(args), Some((_, matches))) => args.prefer_command_line(matches),
            (Command::Client(args), Some((_, matches))) => args.prefer_command_line(matches),
            (_, None) => {}
        }
        cli
    }

    /// How many threads carry bytes. One session is faster on one thread: its tasks hand each packet on to the next, and
    /// between two threads each such step wakes the other core up. So a client has one; a server has one for every two
    /// cores, as the kernel needs about as much time for the packets as this program does.
    pub(crate) fn worker_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match self.command {
            Command::Server(_) => cores.div_ceil(2),
            Command::Client(_) => 1,
        }
    }
}

pub(crate) async fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Server(args) => manual::serve(args.resolve()?).await,
        Command::Client(args) => manual::connect(args.resolve()?).await,
    }
}
