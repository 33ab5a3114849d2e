//! The end of a log file.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::log_file::older;

/// How much of the end of a log is looked at, in bytes, and how many lines of it are shown.
const TAIL: u64 = 16 * 1024;
const LINES: usize = 10;

/// The last lines, in words of `status`.
pub(super) fn shown(path: &Path) -> Vec<String> {
    match since(path, 0) {
        Ok(last) if last.is_empty() => vec![format!("{} is empty", path.display())],
        Ok(last) => std::iter::once(format!("Last lines of {}:", path.display()))
            .chain(last.iter().map(|line| format!("  {line}")))
            .collect(),
        Err(error) => vec![format!("{} cannot be read: {error}", path.display())],
    }
}

/// The last lines of those behind a place in the file.
///
/// # Errors
///
/// Where it cannot be read.
pub(super) fn since(path: &Path, place: u64) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    // One that is shorter is another one, begun since.
    let place = if place > length { 0 } else { place };
    file.seek(SeekFrom::Start(place.max(length.saturating_sub(TAIL))))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    Ok(lines[lines.len().saturating_sub(LINES)..].to_vec())
}

/// The time in front of the last line that ends with this, in a log or the older part of it.
pub(super) fn time_of_last(path: &Path, end: &str) -> Option<String> {
    time_in(path, end).or_else(|| time_in(&older(path), end))
}

fn time_in(path: &Path, end: &str) -> Option<String> {
    let mut time = None;
    for line in BufReader::new(File::open(path).ok()?).split(b'\n') {
        let line = line.ok()?;
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        if line.ends_with(end.as_bytes()) {
            let line = String::from_utf8_lossy(line);
            time = line.split_whitespace().next().map(str::to_owned).or(time);
        }
    }
    time
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_shown_and_a_time_is_found_in_the_older_part_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        assert!(shown(&path)[0].contains("cannot be read"));
        std::fs::write(&path, "").unwrap();
        assert!(shown(&path)[0].ends_with("is empty"));
        let lines: Vec<_> =
            (0..5000).map(|number| format!("T{number} INFO line {number}")).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let last = shown(&path);
        assert_eq!((last.len(), last[1].as_str()), (11, "  T4990 INFO line 4990"));
        let length = lines[..4995].join("\n").len() as u64 + 1;
        assert_eq!(since(&path, length).unwrap(), lines[4995..]);
        assert_eq!(since(&path, 1 << 40).unwrap(), lines[4990..]);
        assert_eq!(time_of_last(&path, "line 7").unwrap(), "T7");
        std::fs::rename(&path, older(&path)).unwrap();
        std::fs::write(&path, "T9 INFO line 8\n").unwrap();
        assert_eq!(time_of_last(&path, "line 7").unwrap(), "T7");
        assert_eq!(time_of_last(&path, "line 8").unwrap(), "T9");
        assert_eq!(time_of_last(&path, "none"), None);
    }
}
