//! Configuration files.

use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use thiserror::Error;
use zeroize::Zeroizing;

/// Why a configuration file is of no use.
#[derive(Debug, Error)]
pub enum ConfigFileError {
    /// It cannot be read.
    #[error("cannot read {path}: {error}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// It is not TOML, has an unknown key, or a value of the wrong kind. The text names the line, and an unknown key.
    #[error("{path}: {error}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        error: String,
    },
    /// There is no home directory to look in.
    #[error("there is no home directory to look for {0} in: give --config FILE")]
    NoHome(String),
}

/// A path as users write it: `~` and `~/...` are in the home directory.
pub fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::home_dir()) {
        (Ok(rest), Some(home)) => home.join(rest),
        _ => path.to_owned(),
    }
}

/// Tells whether a file has been written or replaced since it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    modified: SystemTime,
    length: u64,
    /// A file that is replaced within a tick of the file system's clock by one of the same length is still another one.
    inode: u64,
}

impl Stamp {
    /// How a file is now.
    ///
    /// # Errors
    ///
    /// What the system says; also where it keeps no times.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Ok(Self { modified: metadata.modified()?, length: metadata.len(), inode })
    }

    /// The same, of nothing but a regular file.
    ///
    /// # Errors
    ///
    /// As [`Self::of`], and where it is something else.
    pub fn of_file(path: &Path) -> io::Result<Self> {
        if !std::fs::metadata(path)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Self::of(path)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

/// Where `--default-config` looks: `~/.config/tunnel-rs/NAME`, on Windows `%APPDATA%\tunnel-rs\NAME`.
///
/// # Errors
///
/// Where there is no home directory.
pub fn default_path(name: &str) -> Result<PathBuf, ConfigFileError> {
    let folder = if cfg!(windows) {
        of_profile("APPDATA", "AppData\\Roaming")
    } else {
        std::env::home_dir().map(|home| home.join(".config"))
    };
    folder
        .map(|folder| folder.join("tunnel-rs").join(name))
        .ok_or_else(|| ConfigFileError::NoHome(name.to_owned()))
}

/// Where these programs keep what they have to remember: `~/.local/state/tunnel-rs`, on Windows `%LOCALAPPDATA%\tunnel-rs`.
/// `None` where there is no home directory.
pub fn state_folder() -> Option<PathBuf> {
    let folder = if cfg!(windows) {
        of_profile("LOCALAPPDATA", "AppData\\Local")
    } else {
        std::env::home_dir().map(|home| home.join(".local/state"))
    };
    folder.map(|folder| folder.join("tunnel-rs"))
}

/// A folder of a user of Windows: that of the variable, or where it usually is in the home directory.
fn of_profile(variable: &str, usual: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    folder.or_else(|| std::env::home_dir().map(|home| home.join(usual)))
}

/// A text as programs of Windows write it, too: UTF-8, UTF-16 with a byte order mark, or UTF-8 with one. `None` where it is
/// neither. PowerShell 5 redirects output as UTF-16, and its `Set-Content -Encoding UTF8` writes the mark.
pub fn decode(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let units = |bytes: &[u8], of: fn([u8; 2]) -> u16| {
        let (pairs, rest) = bytes.as_chunks::<2>();
        let units: Zeroizing<Vec<u16>> =
            pairs.iter().map(|pair| of(*pair)).collect::<Vec<_>>().into();
        let text = Zeroizing::new(String::from_utf16(&units).ok()?);
        rest.is_empty().then_some(text)
    };
    match bytes {
        [0xff, 0xfe, text @ ..] => units(text, u16::from_le_bytes),
        [0xfe, 0xff, text @ ..] => units(text, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, text @ ..] | text => {
            std::str::from_utf8(text).ok().map(|text| Zeroizing::new(text.to_owned()))
        }
    }
}

/// The bytes of a file: as UTF-8 where it is a text as [`decode`] takes it, and otherwise as they are.
///
/// # Errors
///
/// Where it cannot be read.
pub fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    let bytes = std::fs::read(path)?;
    Ok(decode(&bytes).map_or(bytes, |text| text.as_bytes().to_vec()))
}

/// Reads a configuration file.
///
/// # Errors
///
/// Where it cannot be read or understood.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigFileError> {
    let text = crate::secret::read_quietly(path).map_err(|error| match error {
        crate::secret::SecretFileError::Io { path, error, .. } => {
            ConfigFileError::Unreadable { path, error }
        }
        other => ConfigFileError::Malformed { path: path.to_owned(), error: other.to_string() },
    })?;
    toml::from_str(&text).map_err(|error| {
        // Not the parser's own picture of the line: a token may stand in it.
        let line = error
            .span()
            .map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
        let line = match error.span() {
            Some(span) if text[..span.start].ends_with('\n') => line + 1,
            _ => line,
        };
        let message = without_value(error.message()).replace('\n', " ");
        ConfigFileError::Malformed {
            path: path.to_owned(),
            error: format!("line {line}: {message}"),
        }
    })
}

/// The message of a wrong value without the value, which may be a token under the wrong key. The name of an unknown
/// key stays: it is what the user has to find.
fn without_value(message: &str) -> String {
    if message.starts_with("unknown field") {
        return message.to_owned();
    }
    let quoting = ["invalid type:", "invalid value:", "invalid length", "unknown variant"];
    match message.find("expected ") {
        Some(at) if quoting.iter().any(|start| message.starts_with(start)) => {
            format!("wrong kind of value: {}", &message[at..])
        }
        // Every second part stands between quotes.
        _ => message
            .split('"')
            .enumerate()
            .map(|(nth, part)| if nth % 2 == 1 { "\"...\"" } else { part })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it can be read is asked")]
    struct Sample {
        known: Option<u16>,
    }

    fn error(text: &str) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sample.toml");
        std::fs::write(&path, text).unwrap();
        read::<Sample>(&path).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let error = error("known = 1\nknwon = 2\n");
        assert!(error.contains("line 2") && error.contains("knwon"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_not_quoted_with_its_line() {
        let error = error("# first\n\nknown = \"ikAdvudu_ZxNXhNLCD\" # secret\n");
        assert!(error.contains("line 3") && !error.contains("Advudu"), "{error}");
        assert!(error.contains("expected u16"), "{error}");
    }

    #[test]
    fn no_message_quotes_a_value() {
        for message in [
            "invalid type: string \"secret\", expected u16",
            "unknown variant `secret`, expected `bbr` or `cubic`",
            "relative URL without a base: \"secret\"",
        ] {
            let text = without_value(message);
            assert!(!text.contains("secret"), "{text}");
        }
        assert!(without_value("unknown field `secert`").contains("secert"));
    }

    #[test]
    fn the_home_directory_is_expanded_only_in_front() {
        assert_eq!(expand(Path::new("/a/~/b")), Path::new("/a/~/b"));
        assert_eq!(expand(Path::new("a/b")), Path::new("a/b"));
        if let Some(home) = std::env::home_dir() {
            assert_eq!(expand(Path::new("~/x")), home.join("x"));
        }
    }
}
