//! A log of bounded size, for a program that nobody gives an output.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// How long a log may become, in bytes. There is one older one, so that both take twice as much.
const LIMIT: u64 = 10 * 1024 * 1024;

/// How much more is written before a log that could not be moved aside is tried again, in bytes.
const AGAIN: u64 = LIMIT / 10;

/// A file that lines are added to. Once it is full it becomes the older one, whose name ends in `.old`, and a new one is begun.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    /// Closed only while it is moved.
    file: Option<File>,
    length: u64,
    /// At which length it is moved aside.
    full: u64,
    limit: u64,
}

/// Where the older part of a log is.
pub fn older(path: &Path) -> PathBuf {
    let mut older = path.as_os_str().to_owned();
    older.push(".old");
    older.into()
}

impl LogFile {
    /// Opens a log, or begins one.
    ///
    /// # Errors
    ///
    /// Where the system refuses.
    pub fn open(path: PathBuf) -> io::Result<Self> {
        Self::with_limit(path, LIMIT)
    }

    fn with_limit(path: PathBuf, limit: u64) -> io::Result<Self> {
        let (file, length) = open(&path)?;
        Ok(Self { path, file: Some(file), length, full: limit, limit })
    }

    /// The open file; a new one where this one has no room for so many bytes.
    fn with_room(&mut self, bytes: usize) -> io::Result<&mut File> {
        let wanted = self.length.saturating_add(bytes as u64);
        if self.file.is_some() && self.length > 0 && wanted > self.full {
            self.file = None;
            // Somebody may read it in a way that keeps it from being moved; a long log is better than none.
            let moved = fs::rename(&self.path, older(&self.path)).is_ok();
            self.full = if moved { self.limit } else { wanted.saturating_add(AGAIN) };
        }
        match &mut self.file {
            Some(file) => Ok(file),
            none => {
                let (file, length) = open(&self.path)?;
                self.length = length;
                Ok(none.insert(file))
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

impl Write for LogFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.with_room(bytes.len())?.write(bytes)?;
        self.length = self.length.saturating_add(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_becomes_the_older_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let mut log = LogFile::with_limit(path.clone(), 10).unwrap();
        for line in ["one\n", "two\n", "three\n", "longer than a log may be\n", "x\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "x\n");
        assert_eq!(read(&older(&path)), "longer than a log may be\n");
        drop(log);
        // One that is there is gone on with, and its length counts.
        let mut log = LogFile::with_limit(path.clone(), 10).unwrap();
        log.write_all(b"1234567\n").unwrap();
        assert_eq!(read(&path), "x\n1234567\n");
        log.write_all(b"y\n").unwrap();
        assert_eq!(read(&path), "y\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_log_that_cannot_be_moved_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        // No file can take the place of a folder.
        fs::create_dir(older(&path)).unwrap();
        let mut log = LogFile::with_limit(path.clone(), 4).unwrap();
        for line in ["one\n", "two\n", "six\n"] {
            log.write_all(line.as_bytes()).unwrap();
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\nsix\n");
    }
}
