//! Secrets from the command line, and files that hold secrets.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{LazyLock, Mutex, PoisonError};

use serde::Deserialize;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use crate::file::decode;

// What it decides is tested everywhere.
#[cfg(any(windows, test))]
mod access;
#[cfg(windows)]
mod windows;

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

/// Reads a file that may hold secrets. What comes through a pipe (`<(...)`, `/dev/stdin`) can be read only once: it is kept,
/// and the same whenever that path is read again.
///
/// # Errors
///
/// As [`read`].
pub fn read_quietly(path: &Path) -> Result<Zeroizing<String>, SecretFileError> {
    static PIPED: LazyLock<Mutex<HashMap<PathBuf, Zeroizing<String>>>> =
        LazyLock::new(Mutex::default);
    let piped = || PIPED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(text) = piped().get(path) {
        return Ok(text.clone());
    }
    let failed = |error| SecretFileError::Io { verb: "read", path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    let once = !file.metadata().map_err(failed)?.is_file();
    let text = read_text(file).map_err(failed)?;
    if once {
        piped().insert(path.to_owned(), text.clone());
    }
    Ok(text)
}

fn read_text(file: File) -> io::Result<Zeroizing<String>> {
    let invalid = |text| io::Error::new(io::ErrorKind::InvalidData, text);
    let mut bytes = Zeroizing::new(Vec::new());
    let read = file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    if read as u64 > MAX_SIZE {
        return Err(invalid("larger than 1 MiB"));
    }
    decode(&bytes).ok_or_else(|| invalid("it is no text in UTF-8, or in UTF-16 with a mark"))
}

/// Warns, once for each file, where others than its owner can read a file that holds a secret. On Unix a group may read what
/// is root's; on Windows the system, administrators and services may read what they have been given.
pub fn warn_if_open_to_others(path: &Path) {
    static WARNED: LazyLock<Mutex<HashSet<PathBuf>>> = LazyLock::new(Mutex::default);
    let Some((who, command)) = open_to(path) else { return };
    if WARNED.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        let path = path.display();
        tracing::warn!("{path} holds a secret and others can read it ({who}): {command}");
    }
}

/// Who else can use a file, and the command that keeps them out, where there is somebody.
#[cfg(unix)]
fn open_to(path: &Path) -> Option<(String, String)> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let metadata = std::fs::metadata(path).ok()?;
    let mode = metadata.permissions().mode();
    // A pipe of the shell (<(...)) belongs to this process alone, whatever its mode says.
    let open = metadata.is_file() && is_open(metadata.uid(), mode);
    open.then(|| (format!("mode {:03o}", mode & 0o777), format!("chmod 600 {}", path.display())))
}

/// Who else can use a file, and the command that keeps them out, where there is somebody.
#[cfg(windows)]
fn open_to(path: &Path) -> Option<(String, String)> {
    // A console or a pipe is no file whose access could be changed.
    if !std::fs::metadata(path).ok()?.is_file() {
        return None;
    }
    let access = windows::access(path).ok()?;
    access.is_open().then(|| (access.named_others(), access.mended(path)))
}

/// Whether others than those whom a file is meant for can use it. One of root's that a group may read is how secrets are
/// handed to a program that is not root: by Kubernetes (fsGroup), or in /etc.
#[cfg(unix)]
fn is_open(owner: u32, mode: u32) -> bool {
    let allowed = if owner == 0 { 0o740 } else { 0o700 };
    mode & 0o777 & !allowed != 0
}

/// Writes a file that only its owner can use, from its first moment on, and which was not there before unless `force`. On
/// Windows its owner is the account that this program runs as, and nothing of its folder's access list holds for it.
///
/// # Errors
///
/// Where it is there already or cannot be written.
pub fn write(path: &Path, text: &str, force: bool) -> Result<(), SecretFileError> {
    let failed = |error| SecretFileError::Io { verb: "write", path: path.to_owned(), error };
    if force {
        return replace(path, text).map_err(failed);
    }
    match create_whole(path, text) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(SecretFileError::Exists(path.to_owned()))
        }
        created => created.map_err(failed),
    }
}

/// Beside where the file is to be and then by its name as well, which fails where there is one: nobody finds half of it,
/// whatever interrupts this.
fn create_whole(path: &Path, text: &str) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let beside = beside(path);
    let written = write_new(&beside, text).and_then(|()| match std::fs::hard_link(&beside, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // Some file systems have no second names.
        Err(_) => std::fs::rename(&beside, path),
        Ok(()) => Ok(()),
    });
    let _ = std::fs::remove_file(&beside);
    written
}

/// Beside the old file and then in its place, so that an interrupted run leaves one of the two whole.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = beside(path);
    let written = write_new(&beside, text).and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Where a file is written before it gets its name.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.tmp", std::process::id()));
    PathBuf::from(beside)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn create_new(path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        File::options().write(true).create_new(true).mode(0o600).open(path)
    }
    #[cfg(windows)]
    windows::create_file(path)
}

/// Makes a folder for secrets, where it is missing, with those that it is in: for their owner alone. One that is there stays
/// as it is.
///
/// # Errors
///
/// Where it cannot be made, or something else is there.
pub fn make_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
    }
    #[cfg(windows)]
    windows::create_folders(path)
}

/// Keeps everybody but its owner out of a folder from now on. On Windows one stays as it is in which nobody but the account
/// that this program runs as, the system, administrators and services can do anything: it has been given to the service that
/// uses it.
///
/// # Errors
///
/// Where the system refuses; on Windows also where the folder belongs to another user, who could give himself what was taken
/// from him.
pub fn restrict_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
    }
    #[cfg(windows)]
    {
        let access = windows::access(path)?;
        if let Some(owner) = access.strange_owner() {
            let text = format!(
                "it belongs to {owner}; icacls /setowner gives it to the account that this program runs as"
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        if access.is_open() { windows::restrict_folder(path) } else { Ok(()) }
    }
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

    #[test]
    fn folders_are_made_with_those_that_they_are_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a").join("b");
        for _ in 0..2 {
            make_folder(&path).unwrap();
            restrict_folder(&path).unwrap();
            assert!(path.is_dir());
        }
        write(&path.join("key"), "x", false).unwrap();
        assert!(make_folder(&path.join("key")).is_err());
        assert!(make_folder(&path.join("key").join("c")).is_err());
    }

    #[cfg(windows)]
    #[test]
    fn what_is_made_can_be_used_by_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, path) = (folder.path().join("folder"), folder.path().join("key"));
        make_folder(&inner).unwrap();
        let long = inner.join("a".repeat(200)).join("b".repeat(200));
        make_folder(&long).unwrap();
        for force in [false, true] {
            for path in [&path, &long.join("key")] {
                write(path, "x", force).unwrap();
                assert_eq!(*read(path).unwrap(), "x");
            }
        }
        for path in [&inner, &long, &path, &long.join("key")] {
            let access = windows::access(path).unwrap();
            assert_eq!(access.owner, access.user);
            assert!(!access.grants.is_empty());
            // Wine says of every file that the system may use it.
            let meant = |sid: &str| sid == access.user || sid == "S-1-5-18";
            let own = access.grants.iter().all(|grant| meant(&grant.sid) && !grant.inherited);
            assert!(own, "{access:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_can_be_read_again() {
        use std::os::fd::AsRawFd;
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(b"one").unwrap();
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()));
        for _ in 0..2 {
            assert_eq!(*read(&path).unwrap(), "one");
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
