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
        "{} is there already, and not by 'service install': choose another --name, or give --force to replace it", .0.display()
    )]
    Others(PathBuf),
    /// Somebody else's service is to be removed.
    #[error("{} is not by 'service install', and is kept", .0.display())]
    NotOurs(PathBuf),
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
            | ServiceError::NoUser(_)
            | ServiceError::WhichUser => Self::Usage(error.to_string()),
            _ => Self::Failed(error.to_string()),
        }
    }
}
