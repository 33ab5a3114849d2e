//! Files to transfer, and whether they arrived whole.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result, process};

/// Long enough for gigabytes on a slow disk.
const FILE_LIMIT: Duration = Duration::from_secs(300);

/// How often a file is looked at that another program writes.
const POLL: Duration = Duration::from_millis(20);

/// Writes `size` bytes that nothing can compress and that are the same for the same `seed`.
pub fn write_pseudo_random(path: &Path, size: u64, seed: u64) -> Result<()> {
    let seed = format!("{seed:032x}");
    let script = r#"head -c "$1" /dev/zero | openssl enc -aes-128-ctr -K "$2" -iv "$2" -out "$3""#;
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh", &size.to_string(), &seed]);
    process::run(command.arg(path), FILE_LIMIT)?;
    wait_for_size(path, size, Duration::ZERO)
}

/// The file's SHA-256 in hex.
pub fn sha256(path: &Path) -> Result<String> {
    let mut command = Command::new("openssl");
    command.args(["dgst", "-sha256", "-r"]).arg(path);
    let line = process::run(&mut command, FILE_LIMIT)?;
    match line.split_once(' ') {
        Some((hash, _)) if hash.len() == 64 => Ok(hash.to_owned()),
        _ => Err(Error::Malformed { what: "the hash that openssl printed", text: line }),
    }
}

/// Waits until another program has written at least `size` bytes to the file.
pub fn wait_for_size(path: &Path, size: u64, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if fs::metadata(path).is_ok_and(|file| file.len() >= size) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(Error::TooSmall { path: path.to_owned(), size, limit });
        }
        thread::sleep(POLL);
    }
}
