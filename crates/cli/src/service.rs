//! `service`: a program as a service of the system, run by a configuration file.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand, ValueEnum};

use crate::output::print;
use crate::settings::LONGEST_DRAIN;
use crate::{Outcome, file};

mod account;
mod entry;
mod error;
mod host;
mod launchd;
mod manager;
#[cfg(windows)]
mod process;
mod scm;
mod systemd;
mod tail;
#[cfg(test)]
mod tests;
mod unit;
mod windows;

use account::Account;
pub use error::ServiceError;
use host::Host;
use manager::Manager;
#[cfg(windows)]
pub use process::{Started, started};

/// The user that services of the system run as where nothing else is said, as in the units of `systemd/`.
const USER: &str = "tunnel-rs";

/// A command that runs as a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `server`.
    Server,
    /// `client`.
    Client,
    /// `relay`.
    Relay,
    /// `vpn server`.
    VpnServer,
    /// `vpn client`.
    VpnClient,
}

impl Role {
    /// The words of the command line.
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Server => &["server"],
            Self::Client => &["client"],
            Self::Relay => &["relay"],
            Self::VpnServer => &["vpn", "server"],
            Self::VpnClient => &["vpn", "client"],
        }
    }

    /// The exit codes after which starting it again would come to the same.
    fn lasting(self) -> &'static [u8] {
        match self {
            Self::Client | Self::VpnClient => &[2, 3, 4],
            Self::Server | Self::Relay | Self::VpnServer => &[2],
        }
    }

    /// How long it may take to end, in seconds, where that is longer than service managers wait by themselves: servers
    /// drain for as long as their configuration says, and then tell their clients.
    fn stop_time(self) -> Option<u64> {
        match self {
            Self::Server | Self::VpnServer => Some(LONGEST_DRAIN + 60),
            Self::Client | Self::Relay | Self::VpnClient => None,
        }
    }
}

/// What `service` takes; `R` is what the program can be set up as.
#[derive(Args, Debug)]
pub struct ServiceArgs<R: ValueEnum + Send + Sync + 'static> {
    #[command(subcommand)]
    command: ServiceCommand<R>,
}

#[derive(Subcommand, Debug)]
enum ServiceCommand<R: ValueEnum + Send + Sync + 'static> {
    /// Set a service up: it starts now, at every boot, and again when it has failed
    Install(InstallArgs<R>),
    /// Stop a service, and remove what install has written
    Uninstall(WhichArgs<R>),
    /// Show whether a service runs, since when, and the last lines of its log
    Status(WhichArgs<R>),
    /// Check a configuration file as a service reads it: without flags and environment variables
    Check(CheckArgs<R>),
}

#[derive(Args, Debug)]
struct InstallArgs<R: ValueEnum + Send + Sync + 'static> {
    #[command(flatten)]
    which: WhichArgs<R>,
    /// The configuration file that it runs by
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[cfg_attr(
        not(windows),
        doc = "The user to run it as [default: tunnel-rs; on macOS it must be given]"
    )]
    #[cfg_attr(
        windows,
        doc = "The account to run it as, one without a password: LocalService, NetworkService, LocalSystem, or a group \
               managed service account [default: NT SERVICE\\NAME, its own]"
    )]
    #[arg(long, value_name = "USER", conflicts_with = "user")]
    run_as: Option<String>,
    /// Replace a service of this name that this program has not set up
    #[arg(long)]
    force: bool,
}

#[derive(Args, Debug)]
struct WhichArgs<R: ValueEnum + Send + Sync + 'static> {
    /// What it is
    #[arg(value_enum)]
    role: R,
    /// A service of this user, which needs no root, instead of one of the system
    #[arg(long)]
    #[cfg_attr(windows, arg(hide = true))]
    user: bool,
    /// Which one, where there are several: a part of the service's name
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
}

#[derive(Args, Debug)]
struct CheckArgs<R: ValueEnum + Send + Sync + 'static> {
    /// What it is for
    #[arg(value_enum)]
    role: R,
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

/// Names of units and labels may have other characters as well; these need no thought anywhere.
fn name(text: &str) -> Result<String, &'static str> {
    let usual = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if (1..=64).contains(&text.len())
        && text.chars().all(usual)
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
    {
        return Ok(text.to_owned());
    }
    Err(
        "a name has up to 64 letters of ASCII, digits, - and _, and begins with one of the former two",
    )
}

/// A path as service managers can be told of it.
///
/// # Errors
///
/// Where it is no Unicode, or would look like something else in their files.
fn plain(path: &Path) -> Result<&str, ServiceError> {
    let text = path.to_str().filter(|text| !text.chars().any(char::is_control));
    text.ok_or_else(|| ServiceError::Path(path.to_owned()))
}

fn id(program: &str, role: Role, name: Option<&str>) -> String {
    let words = [&[program], role.words()].concat().join("-");
    name.map_or(words.clone(), |name| format!("{words}-{name}"))
}

/// One service.
#[derive(Debug)]
struct Service {
    /// The program's name.
    program: &'static str,
    role: Role,
    name: Option<String>,
    /// Whether it is a user's, and not the system's.
    user: bool,
    /// The home directory of whoever runs this.
    home: PathBuf,
    /// Where that user's configuration is: `$XDG_CONFIG_HOME`, or `.config` in the home directory.
    config_home: PathBuf,
    /// The number of that user; 0 is root.
    own_id: u32,
}

/// What a service is to run.
#[derive(Debug)]
struct Plan {
    exe: PathBuf,
    config: PathBuf,
    /// The user, for a service of the system.
    run_as: Option<String>,
}

/// How a service is.
#[derive(Debug)]
struct State {
    running: bool,
    /// What to show of it.
    lines: Vec<String>,
}

impl Service {
    fn new<R: Into<Role> + ValueEnum + Send + Sync>(
        program: &'static str,
        which: WhichArgs<R>,
    ) -> Result<Self, ServiceError> {
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        // The system's services are nobody's home's.
        let home = home.or_else(|| (!which.user).then(PathBuf::new)).ok_or(ServiceError::NoHome)?;
        let config_home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
        let config_home = config_home.filter(|folder| folder.is_absolute());
        Ok(Self {
            program,
            role: which.role.into(),
            name: which.name,
            user: which.user,
            config_home: config_home.unwrap_or_else(|| home.join(".config")),
            home,
            own_id: account::own_id(),
        })
    }

    /// Its name among the services of the system or the user.
    fn id(&self) -> String {
        id(self.program, self.role, self.name.as_deref())
    }

    /// What to type to have something done with it.
    fn command(&self, verb: &str) -> String {
        let mut text = format!("{} service {verb} {}", self.program, self.role.words().join("-"));
        if self.user {
            text += " --user";
        }
        if let Some(name) = &self.name {
            text += &format!(" --name {name}");
        }
        text
    }
}

impl<R: ValueEnum + Into<Role> + Send + Sync + 'static> ServiceArgs<R> {
    /// Does what was asked for. `program` is the name of the program; `check` reads a configuration file as the command of
    /// that role does, and fails where the command would.
    ///
    /// # Errors
    ///
    /// Where the service cannot be set up, removed or asked for, or does not run; and what `check` says.
    pub fn run(self, program: &'static str, check: impl FnOnce(Role, &Path) -> Outcome) -> Outcome {
        let host = Host::this();
        match self.command {
            ServiceCommand::Install(args) => {
                let service = Service::new(program, args.which)?;
                let exe = std::env::current_exe().map_err(ServiceError::Exe)?;
                let config = std::path::absolute(file::expand(&args.config));
                let config = config.map_err(|_| ServiceError::Path(args.config))?;
                let plan = Plan { exe, config, run_as: args.run_as };
                for line in install(&host, &service, plan, args.force, &check_apart)? {
                    print(&line)?;
                }
                Ok(())
            }
            ServiceCommand::Uninstall(which) => {
                let service = Service::new(program, which)?;
                print(&uninstall(&host, &service)?)
            }
            ServiceCommand::Status(which) => {
                let service = Service::new(program, which)?;
                let state = status(&host, &service)?;
                for line in &state.lines {
                    print(line)?;
                }
                if state.running {
                    Ok(())
                } else {
                    Err(ServiceError::NotRunning(service.id()).into())
                }
            }
            ServiceCommand::Check(args) => {
                let role: Role = args.role.into();
                check(role, &file::expand(&args.config))?;
                let command = [&[program], role.words()].concat().join(" ");
                print(&format!("{} is a configuration of '{command}'", args.config.display()))
            }
        }
    }
}

/// Arguments that name a configuration file and nothing else, whatever the environment says.
///
/// # Errors
///
/// None for arguments that have `--config`, and of which none has to be there.
pub fn of_file<A: Args>(path: &Path) -> Outcome<A> {
    let command = A::augment_args(clap::Command::new("")).no_binary_name(true);
    let command = command.mut_args(|argument| argument.env(None));
    let words = ["--config".as_ref(), path.as_os_str()];
    let matches = command.try_get_matches_from(words).map_err(crate::Failure::usage)?;
    A::from_arg_matches(&matches).map_err(crate::Failure::usage)
}

/// Checks a configuration in a process of its own: as the service's user, in its home, and where it starts.
type Check = dyn Fn(&Service, &Plan, Option<&Account>) -> Result<(), ServiceError>;

fn check_apart(service: &Service, plan: &Plan, who: Option<&Account>) -> Result<(), ServiceError> {
    let mut command = Command::new(&plan.exe);
    command.args(["service", "check"]).arg(service.role.words().join("-"));
    command.arg("--config").arg(&plan.config);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // Where service managers start the services of a user, and those of the system.
    command.current_dir(match std::env::var_os("SystemRoot").filter(|_| cfg!(windows)) {
        Some(system) => Path::new(&system).join("System32"),
        None if service.user => service.home.clone(),
        None => PathBuf::from("/"),
    });
    if let Some(account) = who {
        command.env("HOME", account.home());
        account.run(&mut command);
    }
    let program = plan.exe.display().to_string();
    let done = command.status().map_err(|error| ServiceError::Start { program, error })?;
    if done.success() {
        return Ok(());
    }
    let (config, user) = (plan.config.clone(), plan.run_as.clone());
    Err(match user.filter(|_| who.is_some()) {
        Some(user) => ServiceError::Unusable { config, user },
        None => ServiceError::Wrong(config),
    })
}

fn install(
    host: &Host,
    service: &Service,
    plan: Plan,
    force: bool,
    check: &Check,
) -> Result<Vec<String>, ServiceError> {
    install_by(&Manager::of(host, service)?, service, plan, force, check)
}

fn install_by(
    manager: &Manager<'_>,
    service: &Service,
    mut plan: Plan,
    force: bool,
    check: &Check,
) -> Result<Vec<String>, ServiceError> {
    // Before anything is asked of the system, so that nothing has changed where one cannot be in its files.
    plain(&plan.exe)?;
    plain(&plan.config)?;
    manager.check_places(&plan)?;
    let before = manager.require_own(force)?;
    check(service, &plan, None)?;
    if !service.user {
        let (name, account) = manager.user(plan.run_as.take())?;
        plan.run_as = Some(name);
        if let Some(account) = &account {
            check(service, &plan, Some(account))?;
        }
    }
    let more = manager.install(&plan, &before)?;
    let who = plan.run_as.as_ref().map(|user| format!(", as user {user}")).unwrap_or_default();
    let (exe, config) = (plan.exe.display(), plan.config.display());
    let mut lines = vec![format!("Installed and started {}: {exe} by {config}{who}", service.id())];
    lines.extend(manager.file().map(|file| format!("File: {file}")));
    lines.extend(more);
    lines.push(format!("See how it is: {}", service.command("status")));
    lines.push(format!("Undo: {}", service.command("uninstall")));
    Ok(lines)
}

fn uninstall(host: &Host, service: &Service) -> Result<String, ServiceError> {
    uninstall_by(&Manager::of(host, service)?, service)
}

fn uninstall_by(manager: &Manager<'_>, service: &Service) -> Result<String, ServiceError> {
    manager.require_installed()?;
    manager.uninstall()?;
    let (id, title) = (service.id(), manager.title());
    Ok(format!("Stopped {id}, and removed {title}. Configuration, keys and logs stay"))
}

fn status(host: &Host, service: &Service) -> Result<State, ServiceError> {
    // Everyone may ask.
    let manager = Manager::for_reading(host, service)?;
    manager.require_known()?;
    manager.status()
}
