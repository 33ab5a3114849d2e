//! Secrets from the command line, and files that hold secrets.

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::Deserialize;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::file::decode;

/// A secret as it was typed. Any text is one, so that no parser quotes it in an error; never printed by `Debug`.
#[derive(Clone, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct SecretText(String);

impl SecretText {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for SecretText {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl FromStr for SecretText {
    type Err = Infallible;

    fn from_str(s: &str) -> Result<Self, Infallible> {
        Ok(Self(s.to_owned()))
    }
}

impl std::fmt::Debug for SecretText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretText(..)")
    }
}

/// Why a file with a secret could not be read or written.
#[derive(Debug, Error)]
pub enum SecretFileError {
    /// It is there already.
    #[error("{0} exists already and is kept: give --force to replace it")]
    Exists(PathBuf),
    /// The system refuses.
    #[error("cannot {verb} {path}: {error}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

/// More than any file of tokens or keys needs, in bytes: a device or a log given by mistake is not read without end.
const MAX_SIZE: u64 = 1024 * 1024;

/// Reads a file that holds secrets, and warns once where others can read it too.
///
/// # Errors
///
/// Where it cannot be read, is no text, or is larger than a file of secrets can be.
pub fn read(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let text = read_quietly(path)?;
    warn_if_open_to_others(path);
    Ok(text)
}

/// Reads a file that may hold secrets.
///
/// # Errors
///
/// As [`read`].
pub fn read_quietly(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    let failed = |error| SecretFileError::Io { verb: "read", path: path.to_owned(), error };
    let invalid = |text| failed(io::Error::new(io::ErrorKind::InvalidData, text));
    let file = File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.take(MAX_SIZE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if read as u64 > MAX_SIZE {
        return Err(invalid("larger than 1 MiB"));
    }
    decode(&bytes).ok_or_else(|| invalid("it is no text in UTF-8, or in UTF-16 with a mark"))
}

/// Warns, once for each file, where others than its owner can read a file that holds a secret; of a file of root's, others
/// than its group.
#[cfg(unix)]
pub fn warn_if_open_to_others(path: &Path) {
    use std::collections::HashSet;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::{LazyLock, Mutex, PoisonError};
    static WARNED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mode = metadata.permissions().mode();
    // A pipe of the shell (<(...)) belongs to this process alone, whatever its mode says.
    let open = metadata.is_file() && is_open(metadata.uid(), mode);
    if open && WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        let mode = format!("{:03o}", mode & 0o777);
        let path = path.display();
        tracing::warn!(
            "{path} holds a secret and others can read it (mode {mode}): chmod 600 {path}"
        );
    }
}

/// Whether others than those whom a file is meant for can use it. One of root's that a group may read is how secrets are
/// handed to a program that is not root: by Kubernetes (fsGroup), or in /etc.
#[cfg(unix)]
fn is_open(owner: u32, mode: u32) -> bool {
    let allowed = if owner == 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

/// Warns where others than its owner can read a file that holds a secret; not known how on this system.
#[cfg(not(unix))]
pub fn warn_if_open_to_others(_: &Path) {}

/// Writes a file that only its owner can read, and which was not there before unless `force`. On Windows it has the access
/// list of its folder, which in a user's profile names that user, administrators and the system.
///
/// # Errors
///
/// Where it is there already or cannot be written.
pub fn write(path: &Path, text: &str, force: bool) -> Result<(), SecretFileError> {
    let failed = |error| SecretFileError::Io { verb: "write", path: path.to_owned(), error };
    if force {
        return replace(path, text).map_err(failed);
    }
    let mut file = match create_new(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return Err(SecretFileError::Exists(path.to_owned()));
        }
        created => created.map_err(failed)?,
    };
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Beside the old file and then in its place, so that an interrupted run leaves one of the two whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    let beside = PathBuf::from(beside);
    let written = create_new(&beside).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    });
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

fn create_new(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_shows_itself() {
        let secret: SecretText = "hunter2".parse().unwrap();
        assert!(!format!("{secret:?}").contains("hunter2"));
    }

    #[test]
    fn an_existing_file_is_kept_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        write(&path, "one", false).unwrap();
        let error = write(&path, "two", false).unwrap_err();
        assert!(matches!(error, SecretFileError::Exists(_)));
        assert_eq!(*read(&path).unwrap(), "one");
        write(&path, "two", true).unwrap();
        assert_eq!(*read(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn files_of_windows_programs_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let utf16 = |of: fn(u16) -> [u8; 2]| {
            let text = "\u{feff}a # \u{e4}\r\n".encode_utf16();
            text.flat_map(of).collect::<Vec<_>>()
        };
        let plain = "a # \u{e4}\r\n".as_bytes().to_vec();
        let marked = [b"\xef\xbb\xbf", &plain[..]].concat();
        for bytes in [plain, marked, utf16(u16::to_le_bytes), utf16(u16::to_be_bytes)] {
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(*read(&path).unwrap(), "a # \u{e4}\r\n");
        }
        for bytes in [&b"\xff\xfea"[..], b"\xff\xfe\x00\xd8", b"a\xff"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(read(&path).unwrap_err().to_string().contains("no text"), "{bytes:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn files_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for force in [false, true] {
            write(&path, "x", force).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_group_may_read_what_root_has_given_it_and_no_more() {
        for (owner, mode, open) in [
            (1000, 0o100_600, false),
            (1000, 0o100_640, true),
            (0, 0o100_640, false),
            (0, 0o100_440, false),
            (0, 0o100_644, true),
            (0, 0o100_660, true),
        ] {
            assert_eq!(is_open(owner, mode), open, "{owner} {mode:o}");
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_is_named() {
        let error = read(Path::new("/nonexistent/tokens")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tokens"));
    }
}
