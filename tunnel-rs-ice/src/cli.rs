//! The command line.

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tunnel_cli::Outcome;
#[cfg(windows)]
use tunnel_cli::service::{Role, Started, started};
use tunnel_cli::settings::variable_files;
use tunnel_cli::shell::{CompletionsArgs, ManPagesArgs};

use crate::config::client::{ClientArgs, ClientConfig};
use crate::config::server::{ServerArgs, ServerConfig};

mod accept;
mod keys;
mod manual;
mod nostr;
mod path;
mod rules;
mod service;

/// What services call it.
const NAME: &str = "tunnel-rs-ice";

/// TCP and UDP between two machines that cannot reach each other, straight from one to the other: no relay, no account.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100, after_help = variable_files::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Let clients reach services of this machine and its networks
    Server(Box<ServerArgs>),
    /// Listen here for services that a server reaches
    Client(Box<ClientArgs>),
    /// Make a lasting key for signaling through Nostr relays
    GenerateNostrKey(keys::GenerateKeyArgs),
    /// Show the npub of a secret key
    ShowNpub(keys::ShowNpubArgs),
    /// Set up a server or a client in nostr mode as a service of this system
    Service(tunnel_cli::service::ServiceArgs<service::Runs>),
    /// Print what a shell needs to complete commands and flags
    Completions(CompletionsArgs),
    /// Write the manual pages
    ManPages(ManPagesArgs),
    /// This process is a service.
    #[cfg(windows)]
    #[command(skip)]
    Run(Started),
}

impl Cli {
    /// Reads the command line and the environment; ends the process where they are wrong.
    pub(crate) fn read() -> Self {
        let words: Vec<_> = std::env::args_os().skip(1).collect();
        #[cfg(windows)]
        if let Some(started) = started::<service::Runs>(NAME, &words) {
            let command = Command::Run(started.unwrap_or_else(|error| error.exit()));
            return Self { command };
        }
        let command = variable_files::apply(Self::command(), &words);
        let command = command.unwrap_or_else(|failure| {
            Self::command().error(ErrorKind::ValueValidation, failure).exit()
        });
        let matches = command.get_matches();
        let mut cli = Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        match (&mut cli.command, matches.subcommand()) {
            (Command::Server(args), Some((_, matches))) => args.prefer_command_line(matches),
            (Command::Client(args), Some((_, matches))) => args.prefer_command_line(matches),
            _ => {}
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
            #[cfg(windows)]
            Command::Run(ref started) => match started.role() {
                Role::Server => cores.div_ceil(2),
                _ => 1,
            },
            _ => 1,
        }
    }
}

async fn serve(args: ServerArgs) -> Outcome {
    match args.resolve()? {
        ServerConfig::Manual(config) => manual::serve(config).await,
        ServerConfig::Nostr(config) => nostr::serve(config).await,
    }
}

async fn connect(args: ClientArgs) -> Outcome {
    match args.resolve()? {
        ClientConfig::Manual(config) => manual::connect(config).await,
        ClientConfig::Nostr(config) => nostr::connect(config).await,
    }
}

pub(crate) async fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Server(args) => serve(*args).await,
        Command::Client(args) => connect(*args).await,
        Command::GenerateNostrKey(args) => keys::generate_key(&args),
        Command::ShowNpub(args) => keys::show_npub(&args),
        Command::Service(args) => args.run(NAME, service::check),
        #[cfg(windows)]
        Command::Run(started) => started.run(service::check, service::work).await,
        Command::Completions(args) => args.run(Cli::command()),
        Command::ManPages(args) => args.run(Cli::command()),
    }
}
