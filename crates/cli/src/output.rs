//! Standard output, which is for what scripts read, and standard error. Both are one file where a program has neither.

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crate::log_file::LogFile;
use crate::{Failure, Outcome};

static FILE: OnceLock<Mutex<LogFile>> = OnceLock::new();

/// From now on writes what is for standard output and standard error to a file. The first one stays.
///
/// # Errors
///
/// Where it cannot be opened.
pub fn into_file(path: PathBuf) -> io::Result<()> {
    let file = LogFile::open(path)?;
    FILE.get_or_init(|| Mutex::new(file));
    Ok(())
}

fn file() -> Option<MutexGuard<'static, LogFile>> {
    FILE.get().map(|file| file.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Writes a line. A reader that has gone ends the program, as a broken pipe ends others.
///
/// # Errors
///
/// Where it cannot be written.
pub fn print(line: &str) -> Outcome {
    if let Some(mut file) = file() {
        // A full disk is no reason to end a service.
        let _ = file.write_all(format!("{line}\n").as_bytes());
        return Ok(());
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Failed(format!("cannot write to standard output: {error}")))
}

/// Where the log goes.
pub(crate) fn log() -> impl Write {
    file().map_or_else(|| Log::Error(io::stderr()), Log::File)
}

enum Log {
    Error(io::Stderr),
    File(MutexGuard<'static, LogFile>),
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Error(error) => error.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Error(error) => error.flush(),
            Self::File(file) => file.flush(),
        }
    }
}
