//! What is to be undone when the process has ended, however it ended.
//!
//! Each process that changes something has a file, which it holds locked; the system opens the lock with the process's end.
//! A file that is not locked belongs to nobody any more: whoever starts next carries out what stands in it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::Uid;

use super::NetworkError;
use super::system::System;

/// The names of the files begin with this.
const FILE: &str = "undo-";

/// What begins a line: a step that is to be undone, and one that has been.
const OPEN: char = '+';
const DONE: char = '-';

/// The programs that undo something. No others are run, whatever a file says.
const PROGRAMS: [&str; 3] = ["/sbin/route", "/sbin/pfctl", "/usr/sbin/sysctl"];

/// A program and its arguments. None of them holds a tab or a line's end.
pub(super) type Command = Vec<String>;

/// The file of this process. What is left in it is carried out when this is dropped, the last step first.
pub(super) struct Undo {
    system: Arc<dyn System>,
    folder: PathBuf,
    path: PathBuf,
    /// Locked.
    file: File,
    steps: Vec<Command>,
}

impl std::fmt::Debug for Undo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Undo").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl Undo {
    /// An empty one, in a folder that root alone can write to.
    pub(super) fn begin(folder: &Path, system: Arc<dyn System>) -> Result<Self, NetworkError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(failed(folder))?;
        check_own(folder)?;
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{FILE}{}-{number}", std::process::id()));
        let _lock = lock(folder)?;
        let mut options = OpenOptions::new();
        options.create_new(true).append(true).mode(0o600);
        let file = options.open(&path).map_err(failed(&path))?;
        file.lock().map_err(failed(&path))?;
        Ok(Self { system, folder: folder.to_owned(), path, file, steps: Vec::new() })
    }

    /// Notes a step, before it is taken, by what undoes it.
    pub(super) fn note(&mut self, undo: Command) -> Result<(), NetworkError> {
        self.write(OPEN, &undo)?;
        self.steps.push(undo);
        Ok(())
    }

    /// Takes a note back, of a step that was not taken.
    pub(super) fn cancel(&mut self, undo: &Command) -> Result<(), NetworkError> {
        if let Some(at) = self.steps.iter().rposition(|step| step == undo) {
            self.steps.remove(at);
            self.write(DONE, undo)?;
        }
        Ok(())
    }

    /// Undoes a step now. An error of the program means that somebody else has done it.
    pub(super) fn undo(&mut self, undo: &Command) {
        if let Some(at) = self.steps.iter().rposition(|step| step == undo) {
            self.steps.remove(at);
            carry_out(&*self.system, undo);
            if let Err(error) = self.write(DONE, undo) {
                tracing::debug!(%error, "undone, and not noted");
            }
        }
    }

    /// Whether the file of another living process has the same step.
    pub(super) fn others_have(&self, undo: &Command) -> Result<bool, NetworkError> {
        let _lock = lock(&self.folder)?;
        let others = others(&self.folder, Some(&self.path))?;
        Ok(others.iter().any(|other| other.alive && other.steps.contains(undo)))
    }

    fn write(&mut self, mark: char, command: &Command) -> Result<(), NetworkError> {
        let line = format!("{mark}\t{}\n", command.join("\t"));
        self.file.write_all(line.as_bytes()).map_err(failed(&self.path))?;
        if mark == DONE && self.steps.is_empty() {
            // What is done need not be read any more.
            self.file.set_len(0).map_err(failed(&self.path))?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), NetworkError> {
        let _lock = lock(&self.folder)?;
        let others = others(&self.folder, Some(&self.path))?;
        finish(&*self.system, &self.steps, &others);
        self.steps.clear();
        fs::remove_file(&self.path).map_err(failed(&self.path))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "the VPN's changes of this machine's network stay until the next start");
        }
    }
}

/// Undoes what processes have left that were killed.
pub(super) fn recover(folder: &Path, system: &dyn System) -> Result<(), NetworkError> {
    if !folder.exists() {
        return Ok(());
    }
    check_own(folder)?;
    let _lock = lock(folder)?;
    let found = others(folder, None)?;
    let (alive, dead): (Vec<_>, Vec<_>) = found.into_iter().partition(|other| other.alive);
    for other in &dead {
        finish(system, &other.steps, &alive);
        fs::remove_file(&other.path).map_err(failed(&other.path))?;
        if !other.steps.is_empty() {
            tracing::info!(
                steps = other.steps.len(),
                "what a VPN that was killed has left is undone"
            );
        }
    }
    Ok(())
}

/// The file of another process.
struct Other {
    path: PathBuf,
    alive: bool,
    steps: Vec<Command>,
}

fn others(folder: &Path, own: Option<&Path>) -> Result<Vec<Other>, NetworkError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let path = entry.map_err(failed(folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !name.starts_with(FILE) || own == Some(&*path) {
            continue;
        }
        check_own(&path)?;
        let file = File::open(&path).map_err(failed(&path))?;
        let alive = match file.try_lock() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock) => true,
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        };
        let text = fs::read_to_string(&path).map_err(failed(&path))?;
        found.push(Other { path, alive, steps: parse(&text) });
    }
    Ok(found)
}

/// The steps that are open. A last line without its end was never written to the end, so its step was never taken.
fn parse(text: &str) -> Vec<Command> {
    let mut steps: Vec<Command> = Vec::new();
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let mut words = line.split('\t').map(str::to_owned);
        let mark = words.next().unwrap_or_default();
        let command: Command = words.collect();
        if mark.starts_with(OPEN) && !command.is_empty() {
            steps.push(command);
        } else if let Some(at) = steps.iter().rposition(|step| *step == command) {
            steps.remove(at);
        }
    }
    steps
}

/// Carries steps out, but for those that a living process has as well: it is the one that ends with them.
fn finish(system: &dyn System, steps: &[Command], others: &[Other]) {
    for step in steps.iter().rev() {
        if !others.iter().any(|other| other.alive && other.steps.contains(step)) {
            carry_out(system, step);
        }
    }
}

fn carry_out(system: &dyn System, command: &Command) {
    let Some((program, arguments)) = command.split_first() else { return };
    if !PROGRAMS.contains(&&**program) {
        tracing::warn!(?command, "not undone: no command of this program's");
        return;
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = system.run(program, &arguments) {
        tracing::debug!(%error, ?command, "not undone");
    }
}

/// What stands in there is run as root: nobody else may have written it.
fn check_own(path: &Path) -> Result<(), NetworkError> {
    let found = fs::symlink_metadata(path).map_err(failed(path))?;
    if found.uid() == Uid::effective().as_raw() && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    let why = "it belongs to another user, or others may write to it: remove it";
    Err(failed(path)(io::Error::other(why)))
}

/// Nobody else reads or writes the files as long as this one lives.
fn lock(folder: &Path) -> Result<File, NetworkError> {
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(failed(&path))?;
    file.lock().map_err(failed(&path))?;
    Ok(file)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> NetworkError + use<> {
    let path = path.to_owned();
    move |source| NetworkError::Notes { path: path.clone(), source }
}
