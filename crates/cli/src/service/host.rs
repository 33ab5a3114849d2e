//! The machine as a service manager's tools and files show it; another one in tests.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ServiceError;

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
}

impl Host {
    /// This machine.
    pub(super) fn this() -> Self {
        Self { root: PathBuf::from("/"), runner: Box::new(run) }
    }

    /// A machine below a folder, whose commands are answered by a function.
    #[cfg(test)]
    pub(super) fn new(root: &Path, runner: Box<Runner>) -> Self {
        Self { root: root.to_owned(), runner }
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
