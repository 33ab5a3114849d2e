//! The command line.

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tunnel_cli::Outcome;
use tunnel_cli::output::print;
#[cfg(windows)]
use tunnel_cli::service::{Role, Started, started};
use tunnel_cli::settings::variable_files;
use tunnel_cli::shell::{CompletionsArgs, ManPagesArgs};

mod client;
#[cfg(feature = "relay")]
mod demo;
mod keys;
mod refusal;
#[cfg(feature = "relay")]
mod relay;
mod server;
mod service;
#[cfg(all(feature = "vpn", any(target_os = "linux", target_os = "macos")))]
mod vpn;

/// What services call it.
const NAME: &str = "tunnel-rs";

/// TCP and UDP between machines that cannot reach each other: no public address, no open port, no account.
#[derive(Parser, Debug)]
#[command(version, max_term_width = 100, after_help = variable_files::HELP)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Let clients reach services of this machine and its networks
    Server(Box<crate::config::server::ServerArgs>),
    /// Listen here for services that a server reaches
    Client(Box<crate::config::client::ClientArgs>),
    /// Join networks: WireGuard over a session, addresses assigned
    #[cfg(all(feature = "vpn", any(target_os = "linux", target_os = "macos")))]
    #[command(subcommand)]
    Vpn(vpn::VpnCommand),
    /// Run a relay and discovery server of your own
    #[cfg(feature = "relay")]
    Relay(Box<crate::config::relay::RelayArgs>),
    /// Make a lasting identity for a server or a client
    GenerateServerKey(keys::GenerateKeyArgs),
    /// Show the EndpointId of a secret key
    ShowServerId(keys::ShowIdArgs),
    /// Make tokens that let clients in
    GenerateToken(keys::GenerateTokenArgs),
    #[cfg(feature = "relay")]
    /// Show what it does: relay, server and client in one process, on loopback, with real traffic
    Demo(demo::DemoArgs),
    /// Set up a server, a client or a relay as a service of this system
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
            #[cfg(all(feature = "vpn", any(target_os = "linux", target_os = "macos")))]
            (Command::Vpn(command), Some((_, matches))) => command.prefer_command_line(matches),
            #[cfg(feature = "relay")]
            (Command::Relay(args), Some((_, matches))) => args.prefer_command_line(matches),
            _ => {}
        }
        cli
    }

    /// How many threads carry bytes. One session is faster on one thread: its tasks hand each packet on to the next, and
    /// between two threads each such step wakes the other core up. So a client has one; a server has one for every two
    /// cores, as the kernel needs about as much time for the packets as this program does. The demo is both at once.
    pub(crate) fn worker_threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        match self.command {
            Command::Server(_) => cores.div_ceil(2),
            #[cfg(all(feature = "vpn", any(target_os = "linux", target_os = "macos")))]
            Command::Vpn(vpn::VpnCommand::Server(_)) => cores.div_ceil(2),
            #[cfg(feature = "relay")]
            Command::Relay(_) | Command::Demo(_) => cores,
            #[cfg(windows)]
            Command::Run(ref started) => match started.role() {
                Role::Server => cores.div_ceil(2),
                Role::Relay => cores,
                _ => 1,
            },
            _ => 1,
        }
    }
}

pub(crate) async fn run(cli: Cli) -> Outcome {
    match cli.command {
        Command::Server(args) => server::run(*args).await,
        Command::Client(args) => client::run(*args).await,
        #[cfg(all(feature = "vpn", any(target_os = "linux", target_os = "macos")))]
        Command::Vpn(command) => vpn::run(command).await,
        Command::GenerateServerKey(args) => keys::generate_key(&args),
        Command::ShowServerId(args) => keys::show_id(&args),
        Command::GenerateToken(args) => keys::generate_token(&args),
        #[cfg(feature = "relay")]
        Command::Relay(args) => relay::run(*args).await,
        #[cfg(feature = "relay")]
        Command::Demo(args) => demo::run(&args).await,
        Command::Service(args) => args.run(NAME, service::check),
        #[cfg(windows)]
        Command::Run(started) => started.run(service::check, service::work).await,
        Command::Completions(args) => args.run(Cli::command()),
        Command::ManPages(args) => args.run(Cli::command()),
    }
}

fn print_json(value: &serde_json::Value) -> Outcome {
    print(&value.to_string())
}
