//! Kernel parameters of this network namespace (sysctl(8)).

use std::fs;
use std::io;
use std::path::PathBuf;

/// The names of interfaces that a parameter exists for, without `all` and `default`.
pub(super) fn interfaces(family: &str) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(path(&format!("net/{family}/conf")))? {
        // A name that is no text is written in no journal.
        names.extend(entry?.file_name().into_string().ok());
    }
    names.retain(|name| name != "all" && name != "default");
    Ok(names)
}

/// Its value, as `sysctl -n` shows it. Keys are paths below /proc/sys, as interfaces' names may hold dots.
pub(super) fn get(key: &str) -> io::Result<String> {
    fs::read_to_string(path(key)).map(|value| value.trim_end().to_owned())
}

pub(super) fn set(key: &str, value: &str) -> io::Result<()> {
    fs::write(path(key), value)
}

/// The key as sysctl(8) takes it.
pub(super) fn name(key: &str) -> String {
    // sysctl(8) swaps the two characters.
    key.chars()
        .map(|c| {
            if c == '/' {
                '.'
            } else if c == '.' {
                '/'
            } else {
                c
            }
        })
        .collect()
}

fn path(key: &str) -> PathBuf {
    PathBuf::from("/proc/sys").join(key)
}
