use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::Failure;

/// Why a service is not what it was to be.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// There is nothing that runs services.
    #[error(
        "{0}: have whatever starts programs on this system run the command itself; docs/INSTALL.md has more"
    )]
    NoManager(&'static str),
    /// Only root may change the system's services.
    #[error(
        "a service of the system takes root: run this with sudo, or add --user for a service of yours"
    )]
    NotRoot,
    /// Only administrators may change services.
    #[error(
        "services take an administrator: run this in a prompt opened by 'Run as administrator'"
    )]
    NotAdministrator,
    /// Windows has no services of users.
    #[error(
        "Windows has no services of one user: leave --user out, in a prompt opened by 'Run as administrator'"
    )]
    NoUserServices,
    /// The program is in a user's own folder.
    #[error(
        "{} is a user's own file, who could change what the service runs: install the program for all users \
         (install.ps1 -System)", .0.display()
    )]
    UsersProgram(PathBuf),
    /// An account that is no service's.
    #[error(
        "'{asked}' would need a password, which is not asked for: leave --run-as out for {own}, an account of the service's \
         own, or give LocalService, NetworkService or LocalSystem"
    )]
    NeedsPassword {
        /// The account.
        asked: String,
        /// The one that needs none.
        own: String,
    },
    /// Something else is where a folder is to be.
    #[error("{} is no folder of its own, but something else or a link: remove it", .0.display())]
    NoFolder(PathBuf),
    /// The service's account cannot use the configuration.
    #[error(
        "the account {account} cannot run by {}; {left}. It said:{said}\nWhere it may not read a file: \
         icacls FILE /grant \"{grantee}:R\"", config.display()
    )]
    UnusableAccount {
        /// The file.
        config: PathBuf,
        /// The account.
        account: String,
        /// The account as `icacls` takes it.
        grantee: String,
        /// What is there now.
        left: &'static str,
        /// The lines of its log.
        said: String,
    },
    /// A service has ended before it ran.
    #[error("{id} did not start; {left}: {how}{said}")]
    DoesNotStart {
        /// Its name.
        id: String,
        /// What is there now.
        left: &'static str,
        /// How it ended.
        how: String,
        /// The lines of its log.
        said: String,
    },
    /// A service goes on after it was told to end.
    #[error(
        "{id} has been told to end, and still runs after {seconds} s: end its process, and try again"
    )]
    DoesNotEnd {
        /// Its name.
        id: String,
        /// For how long that was waited for.
        seconds: u64,
    },
    /// The service control manager refuses something.
    #[error("cannot {verb} {id}: {error}")]
    Service {
        /// What was tried.
        verb: &'static str,
        /// With which service.
        id: String,
        /// What the system says.
        error: io::Error,
    },
    /// Somebody typed what is for the service control manager.
    #[error(
        "'service run' is what Windows starts a service by; type '{0}' instead, or 'service install'"
    )]
    NotByManager(String),
    /// Root has services of the system.
    #[error("--user as root would be a service of root's own: leave sudo out, or --user")]
    RootsOwn,
    /// There is no home directory.
    #[error("there is no home directory to put a service of this user into: set HOME")]
    NoHome,
    /// A path that cannot be in a service's file.
    #[error("{} cannot be the path of a service's file: it is not plain text in one line", .0.to_string_lossy().escape_debug())]
    Path(PathBuf),
    /// systemd refuses such a path.
    #[error("systemd starts no program with quotes or backslashes in its path: move {} elsewhere", .0.display())]
    Program(PathBuf),
    /// It is not known where this program is.
    #[error("cannot tell where this program is: {0}")]
    Exe(io::Error),
    /// The sandbox hides the program.
    #[error(
        "{} is not there for a service of the system, which sees no home directories and temporary files: install the \
         program for all users (install.sh --system)", .0.display()
    )]
    HiddenProgram(PathBuf),
    /// The sandbox hides the configuration.
    #[error(
        "{} is not there for a service of the system, which sees no home directories and temporary files: put it, and \
         the files that it names, into /etc/tunnel-rs", .0.display()
    )]
    HiddenConfig(PathBuf),
    /// The configuration file is wrong.
    #[error("{} is no configuration to run by, as was just said; nothing was installed", .0.display())]
    Wrong(PathBuf),
    /// The service's user cannot use it.
    #[error(
        "the user {user} cannot run by {}, as was just said; no service was installed. Where it may not read a file: \
         chown {user} FILE", config.display()
    )]
    Unusable {
        /// The file.
        config: PathBuf,
        /// The user.
        user: String,
    },
    /// Somebody else's service is there.
    #[error(
        "{0} is there already, and not by 'service install': choose another --name, or give --force to replace it"
    )]
    Others(String),
    /// Somebody else's service is to be removed.
    #[error("{0} is not by 'service install', and is kept")]
    NotOurs(String),
    /// There is no such service.
    #[error("there is no service {id}: '{install}' makes one")]
    NotInstalled {
        /// Its name.
        id: String,
        /// What makes one.
        install: String,
    },
    /// It does not run.
    #[error("{0} does not run")]
    NotRunning(String),
    /// There is no such user.
    #[error("there is no user '{0}': make one, or name another one by --run-as")]
    NoUser(String),
    /// The user of services is not there.
    #[error(
        "there is no user tunnel-rs, which services of the system run as: make it (useradd --system --home-dir \
         /etc/tunnel-rs --shell /usr/sbin/nologin tunnel-rs), give it the configuration (chown -R tunnel-rs \
         /etc/tunnel-rs), and try again; or name another user by --run-as"
    )]
    NoOwnUser,
    /// No user was named, and there is no usual one.
    #[error("whose rights shall it have? Give --run-as USER, or --user for a service of yours")]
    WhichUser,
    /// The list of users cannot be read.
    #[error("cannot look up the user {name}: {reason}")]
    Account {
        /// The user.
        name: String,
        /// What the system says.
        reason: String,
    },
    /// A file of the service manager's.
    #[error("cannot {verb} {}: {error}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A program of the system cannot be started.
    #[error("cannot start {program}: {error}")]
    Start {
        /// Which one.
        program: String,
        /// What the system says.
        error: io::Error,
    },
    /// A program of the system has failed.
    #[error("'{command}' failed: {said}")]
    Command {
        /// What was called.
        command: String,
        /// What it said.
        said: String,
    },
    /// There is no manager of the user's services.
    #[error(
        "'{command}' failed: {said}\nA service of a user takes a login of that user, not by su or sudo: log in by ssh or \
         at the screen"
    )]
    NoBus {
        /// What was called.
        command: String,
        /// What it said.
        said: String,
    },
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Wrong(_)
            | ServiceError::Path(_)
            | ServiceError::RootsOwn
            | ServiceError::NoUserServices
            | ServiceError::NeedsPassword { .. }
            | ServiceError::NotByManager(_)
            | ServiceError::NoUser(_)
            | ServiceError::WhichUser => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
