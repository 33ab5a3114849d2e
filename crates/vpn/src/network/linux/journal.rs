//! A journal of changed kernel parameters, which outlives the process.
//!
//! It lies in a folder for each network namespace. Beside it each process that wants the changes has a file that it holds
//! locked; the kernel opens the lock when the process ends, however it ends. Whoever is the last one puts everything back,
//! and otherwise the next start does.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{NetworkError, sysctl};

/// The names of the files that are held locked begin with this.
const HOLDER: &str = "holder-";

/// One parameter that was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Its path below /proc/sys.
    pub(super) key: String,
    pub(super) original: String,
    /// What it was set to. Where it has another value later, somebody else has set it, and it is left alone.
    pub(super) set: String,
    /// Parameters that the kernel changes together with this one, and their originals.
    pub(super) dependent: Vec<(String, String)>,
}

/// A share in the changes. They are put back with the last one.
#[derive(Debug)]
pub(super) struct Share {
    journal: Journal,
    path: PathBuf,
    /// Locked.
    _file: File,
}

/// The journal of this network namespace.
#[derive(Clone, Debug)]
struct Journal {
    folder: PathBuf,
}

impl Journal {
    fn of_this_namespace(state: &Path) -> Result<Self, NetworkError> {
        let path = PathBuf::from("/proc/thread-self/ns/net");
        let found = fs::metadata(&path).map_err(failed(&path))?;
        Ok(Self { folder: state.join(format!("vpn-{}", found.ino())) })
    }

    fn file(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Nobody else reads or writes the journal as long as the file lives.
    fn lock(&self) -> Result<File, NetworkError> {
        let path = self.folder.join("lock");
        let file = open(&path).map_err(failed(&path))?;
        file.lock().map_err(failed(&path))?;
        Ok(file)
    }

    /// Whether a living process wants the changes. Files of dead ones are removed.
    fn is_held(&self) -> Result<bool, NetworkError> {
        let mut held = false;
        for entry in fs::read_dir(&self.folder).map_err(failed(&self.folder))? {
            let path = entry.map_err(failed(&self.folder))?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(HOLDER) {
                continue;
            }
            let file = File::open(&path).map_err(failed(&path))?;
            match file.try_lock() {
                Ok(()) => fs::remove_file(&path).map_err(failed(&path))?,
                Err(TryLockError::WouldBlock) => held = true,
                Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
            }
        }
        Ok(held)
    }

    /// What has been changed, in the order of the changes. Of another boot nothing holds any more.
    fn read(&self) -> Result<Vec<Change>, NetworkError> {
        let path = self.file();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(&path)(error)),
        };
        let mut lines = text.lines();
        if lines.next() != Some(&boot()) {
            return Ok(Vec::new());
        }
        let mut changes: Vec<Change> = Vec::new();
        for line in lines {
            let words: Vec<&str> = line.split('\t').collect();
            match (words.as_slice(), changes.last_mut()) {
                (["set", key, original, set], _) => changes.push(Change {
                    key: (*key).to_owned(),
                    original: (*original).to_owned(),
                    set: (*set).to_owned(),
                    dependent: Vec::new(),
                }),
                (["with", key, original], Some(change)) => {
                    change.dependent.push(((*key).to_owned(), (*original).to_owned()));
                }
                _ => tracing::warn!(path = %path.display(), line, "a line that means nothing"),
            }
        }
        // What would lead out of the folder of parameters is not this program's.
        changes.retain(|change| {
            change.keys().all(|key| key.starts_with("net/") && !key.contains(".."))
        });
        Ok(changes)
    }

    /// Replaces the journal, in one step.
    fn write(&self, changes: &[Change]) -> Result<(), NetworkError> {
        let mut text = boot() + "\n";
        for Change { key, original, set, dependent } in changes {
            text += &format!("set\t{key}\t{original}\t{set}\n");
            for (key, original) in dependent {
                text += &format!("with\t{key}\t{original}\n");
            }
        }
        let (path, beside) = (self.file(), self.folder.join("journal.new"));
        fs::write(&beside, text).map_err(failed(&beside))?;
        fs::rename(&beside, &path).map_err(failed(&path))
    }

    /// Puts everything back and forgets it.
    fn restore(&self) -> Result<(), NetworkError> {
        for change in self.read()?.iter().rev() {
            change.restore();
        }
        match fs::remove_file(self.file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed(&self.file())(error))
            }
            _ => Ok(()),
        }
    }
}

impl Change {
    fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::once(self.key.as_str()).chain(self.dependent.iter().map(|(key, _)| key.as_str()))
    }

    fn restore(&self) {
        // An interface may be gone.
        let Ok(now) = sysctl::get(&self.key) else { return };
        // With the original, a process that was killed has begun to put back what belongs together.
        if now != self.set && now != self.original {
            tracing::debug!(key = self.key, now, "changed by somebody else, and left so");
            return;
        }
        let dependent = self.dependent.iter().map(|(key, original)| (key, original));
        for (key, original) in std::iter::once((&self.key, &self.original)).chain(dependent) {
            if let Ok(now) = sysctl::get(key)
                && now != *original
                && let Err(error) = sysctl::set(key, original)
            {
                tracing::warn!(%error, "cannot set {} back to {original}", sysctl::name(key));
            }
        }
    }
}

impl Share {
    /// Makes changes that others may have made already. `wanted` looks at the parameters and tells what is to be changed, in
    /// that order.
    ///
    /// None where nothing is to be changed and nothing can be noted either: in containers that are set up from outside.
    pub(super) fn take(
        state: &Path,
        wanted: impl FnOnce() -> io::Result<Vec<Change>>,
    ) -> Result<Option<Self>, NetworkError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let journal = Journal::of_this_namespace(state)?;
        let folder = &journal.folder;
        let proc = Path::new("/proc/sys/net");
        let created = fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
        if let Err(error) = created {
            let is_needed = !wanted().map_err(failed(proc))?.is_empty();
            return if is_needed { Err(failed(folder)(error)) } else { Ok(None) };
        }
        let _lock = journal.lock()?;
        if !journal.is_held()? {
            journal.restore()?;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("{HOLDER}{}-{number}", std::process::id()));
        let file = open(&path).map_err(failed(&path))?;
        file.lock().map_err(failed(&path))?;
        // From here on its end puts back what has been changed so far.
        let share = Self { journal: journal.clone(), path, _file: file };
        let mut changes = journal.read()?;
        for change in wanted().map_err(failed(proc))? {
            changes.push(change.clone());
            journal.write(&changes)?;
            // An interface may be gone meanwhile.
            if let Err(source) = sysctl::set(&change.key, &change.set)
                && source.kind() != io::ErrorKind::NotFound
            {
                let (key, value) = (sysctl::name(&change.key), change.set);
                drop(_lock);
                drop(share);
                return Err(NetworkError::Sysctl { key, value, source });
            }
        }
        Ok(Some(share))
    }

    fn end(&self) -> Result<(), NetworkError> {
        let _lock = self.journal.lock()?;
        fs::remove_file(&self.path).map_err(failed(&self.path))?;
        if !self.journal.is_held()? {
            self.journal.restore()?;
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::warn!(%error, "kernel parameters are as the VPN set them");
        }
    }
}

/// Puts back what processes changed that were killed.
pub(super) fn recover(state: &Path) -> Result<(), NetworkError> {
    let journal = Journal::of_this_namespace(state)?;
    if !journal.folder.exists() {
        return Ok(());
    }
    let _lock = journal.lock()?;
    if journal.is_held()? { Ok(()) } else { journal.restore() }
}

/// This boot of the machine (random(4)).
fn boot() -> String {
    sysctl::get("kernel/random/boot_id").unwrap_or_default()
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> NetworkError + use<> {
    let path = path.to_owned();
    move |source| NetworkError::Journal { path: path.clone(), source }
}
