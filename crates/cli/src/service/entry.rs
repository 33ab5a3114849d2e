//! The file that makes a service of a program, and whose it is.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::ServiceError;

/// In which of the first lines of a file of ours it says so.
const LINES: usize = 4;

/// What a file of ours says in one of its first lines, behind whatever begins a comment.
pub(super) fn mark(program: &str) -> String {
    format!("Written by '{program} service install'")
}

/// A file of a service manager.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    mark: String,
}

/// What is at the place of such a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing.
    Nothing,
    /// What an earlier `service install` of this program has written.
    Ours(String),
    /// Something else.
    Other,
}

impl Entry {
    pub(super) fn new(path: PathBuf, program: &str) -> Self {
        Self { path, mark: mark(program) }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, verb: &'static str) -> impl FnOnce(io::Error) -> ServiceError {
        let path = self.path.clone();
        move |error| ServiceError::File { verb, path, error }
    }

    /// Looks whose file is there.
    ///
    /// # Errors
    ///
    /// Where that cannot be seen.
    pub(super) fn look(&self) -> Result<Found, ServiceError> {
        match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(self.failed("read")(error)),
            // An alias or a mask of the manager's, perhaps of a file elsewhere.
            Ok(metadata) if !metadata.is_file() => return Ok(Found::Other),
            Ok(_) => {}
        }
        let bytes = fs::read(&self.path).map_err(self.failed("read"))?;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(Found::Other) };
        let ours = text.lines().take(LINES).any(|line| line.contains(&self.mark));
        Ok(if ours { Found::Ours(text) } else { Found::Other })
    }

    /// Writes the file for all to read: beside its place first, so that it is whole or not there.
    ///
    /// # Errors
    ///
    /// Where the system refuses.
    pub(super) fn write(&self, text: &str) -> Result<(), ServiceError> {
        let mut beside = self.path.clone().into_os_string();
        beside.push(format!(".{}.tmp", std::process::id()));
        let beside = PathBuf::from(beside);
        let written = self.try_write(&beside, text);
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        written.map_err(self.failed("write"))
    }

    fn try_write(&self, beside: &Path, text: &str) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o644);
        let mut file = options.open(beside)?;
        // Whatever the umask of whoever runs this: the manager reads it, and so may all.
        #[cfg(unix)]
        file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(beside, &self.path)
    }

    /// Removes the file.
    ///
    /// # Errors
    ///
    /// Where the system refuses.
    pub(super) fn remove(&self) -> Result<(), ServiceError> {
        fs::remove_file(&self.path).map_err(self.failed("remove"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_with_the_mark_are_ours() {
        let folder = tempfile::tempdir().unwrap();
        let entry = Entry::new(folder.path().join("new/a.service"), "tunnel-rs");
        assert_eq!(entry.look().unwrap(), Found::Nothing);
        let text = format!("# {}.\n[Unit]\n", mark("tunnel-rs"));
        entry.write(&text).unwrap();
        assert_eq!(entry.look().unwrap(), Found::Ours(text));
        entry.write(&format!("# {}.\n", mark("tunnel-rs-ice"))).unwrap();
        assert_eq!(entry.look().unwrap(), Found::Other);
        entry.write(&format!("1\n2\n3\n4\n# {}.\n", mark("tunnel-rs"))).unwrap();
        assert_eq!(entry.look().unwrap(), Found::Other);
        assert_eq!(fs::read_dir(folder.path().join("new")).unwrap().count(), 1);
        entry.remove().unwrap();
        assert_eq!(entry.look().unwrap(), Found::Nothing);
    }

    #[cfg(unix)]
    #[test]
    fn a_mask_is_not_ours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.service");
        std::os::unix::fs::symlink("/dev/null", &path).unwrap();
        assert_eq!(Entry::new(path, "tunnel-rs").look().unwrap(), Found::Other);
    }
}
