//! The machine as a service manager's tools and files show it; another one in tests.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ServiceError;
use super::scm::{self, Scm};

/// What a command came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    pub(super) success: bool,
    pub(super) out: String,
    pub(super) err: String,
}

type Runner = dyn Fn(&str, &[&str]) -> io::Result<Reply>;

/// A machine.
pub(super) struct Host {
    root: PathBuf,
    runner: Box<Runner>,
    scm: Box<dyn Scm>,
    log_files: PathBuf,
    profiles: Option<PathBuf>,
}

impl Host {
    /// This machine.
    pub(super) fn this() -> Self {
        let system = std::env::var_os("SystemRoot").map(PathBuf::from);
        let system = system.unwrap_or_else(|| PathBuf::from(r"C:\Windows"));
        let public = std::env::var_os("PUBLIC").map(PathBuf::from);
        Self {
            root: PathBuf::from("/"),
            runner: Box::new(run),
            scm: scm::this(),
            log_files: system.join("System32").join("LogFiles"),
            profiles: public.and_then(|public| public.parent().map(Path::to_owned)),
        }
    }

    /// A machine below a folder, whose commands are answered by a function, and whose services are those of `scm`.
    #[cfg(test)]
    pub(super) fn new(root: &Path, runner: Box<Runner>, scm: Box<dyn Scm>) -> Self {
        Self {
            root: root.to_owned(),
            runner,
            scm,
            log_files: root.join("LogFiles"),
            profiles: None,
        }
    }

    /// The service control manager of Windows.
    pub(super) fn scm(&self) -> &dyn Scm {
        &*self.scm
    }

    /// Where services of Windows have their logs, and only administrators make folders.
    pub(super) fn log_files(&self) -> &Path {
        &self.log_files
    }

    /// Where the folders of the users are, as Windows tells everybody: also the system itself, whose own is elsewhere.
    pub(super) fn profiles(&self) -> Option<&Path> {
        self.profiles.as_deref()
    }

    /// A program that comes with Windows, wherever else one of that name may be.
    pub(super) fn system_program(&self, name: &str) -> String {
        let root = std::env::var("SystemRoot").unwrap_or_else(|_| r"C:\Windows".to_owned());
        format!(r"{root}\System32\{name}")
    }

    /// Where an absolute path lies on this machine.
    pub(super) fn path(&self, absolute: &Path) -> PathBuf {
        match absolute.strip_prefix("/") {
            Ok(rest) => self.root.join(rest),
            Err(_) => absolute.to_owned(),
        }
    }

    /// Runs a command, whatever it comes to.
    ///
    /// # Errors
    ///
    /// Where it cannot be started.
    pub(super) fn ask(&self, program: &str, arguments: &[&str]) -> Result<Reply, ServiceError> {
        (self.runner)(program, arguments)
            .map_err(|error| ServiceError::Start { program: program.to_owned(), error })
    }

    /// Runs a command that has to succeed, and gives what it has printed.
    ///
    /// # Errors
    ///
    /// Where it cannot be started, or fails.
    pub(super) fn run(&self, program: &str, arguments: &[&str]) -> Result<String, ServiceError> {
        let reply = self.ask(program, arguments)?;
        if reply.success {
            return Ok(reply.out);
        }
        let command = [&[program], arguments].concat().join(" ");
        Err(ServiceError::Command { command, said: reply.err.trim().to_owned() })
    }
}

fn run(program: &str, arguments: &[&str]) -> io::Result<Reply> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Reply {
        success: output.status.success(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    })
}
