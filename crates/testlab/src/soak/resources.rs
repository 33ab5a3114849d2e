use std::fs;

use crate::{Error, Result, nostr::memory, process::Proc};

/// How much memory an idle program may have at the end, for each byte at the start.
const FACTOR: f64 = 1.5;

/// And that much more, in bytes: what an allocator keeps of a load that comes and goes.
const MORE: f64 = 30.0 * 1024.0 * 1024.0;

/// How many more open files it may have.
const MORE_FILES: usize = 10;

/// What a program occupies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// In bytes: what of its memory is present (VmRSS of proc_pid_status(5)).
    pub memory: u64,
    /// How many file descriptors are open.
    pub files: usize,
}

impl Resources {
    /// Of a running program, at this moment.
    pub(super) fn of(process: &Proc) -> Result<Self> {
        let path = format!("/proc/{}/fd", process.pid());
        let files = fs::read_dir(&path).map_err(Error::io(format!("list {path}")))?.count();
        Ok(Self { memory: memory(process)?, files })
    }

    /// What has grown too much since `start`.
    pub fn growth(&self, start: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        #[expect(clippy::cast_precision_loss, reason = "a limit need not be exact to the byte")]
        if self.memory as f64 > start.memory as f64 * FACTOR + MORE {
            grown.push(format!("memory grew from {} to {} bytes", start.memory, self.memory));
        }
        if self.files > start.files + MORE_FILES {
            grown.push(format!("file descriptors grew from {} to {}", start.files, self.files));
        }
        grown
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Command, time::Duration};

    use super::*;

    #[test]
    fn the_files_of_a_program_are_counted() -> Result<()> {
        let script = "exec 3</dev/null 4</dev/null; echo ready; exec sleep 100";
        let process = Proc::spawn(Command::new("sh").args(["-c", script]))?;
        process.wait_line(|line| line == "ready", Duration::from_secs(10))?;
        assert!(Resources::of(&process)?.files >= 5);
        Ok(())
    }

    #[test]
    fn growth_is_seen_and_a_little_more_is_none() {
        let start = Resources { memory: 20 << 20, files: 20 };
        for (memory, files, grown) in [(20, 20, 0), (59, 30, 0), (61, 30, 1), (61, 31, 2)] {
            let end = Resources { memory: memory << 20, files };
            assert_eq!(end.growth(&start).len(), grown, "{end:?}");
        }
    }
}
