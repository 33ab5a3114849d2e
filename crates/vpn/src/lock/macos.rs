//! Held as a lock of a file, which the system opens when the process ends, however it ends (flock(2)).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::LockError;
use crate::network::STATE_DIR;

/// Held as long as this process is the client.
#[derive(Debug)]
pub struct ClientLock {
    _file: File,
}

impl ClientLock {
    /// Takes the lock, or says who has it.
    pub fn acquire() -> Result<Self, LockError> {
        acquire(Path::new(STATE_DIR)).map_err(|error| match error {
            LockError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                LockError::Permission
            }
            other => other,
        })
    }
}

fn acquire(folder: &Path) -> Result<ClientLock, LockError> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let path = folder.join("client");
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(false).mode(0o644).open(&path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(std::process::id().to_string().as_bytes())?;
            Ok(ClientLock { _file: file })
        }
        Err(TryLockError::WouldBlock) => {
            // Its holder writes it when it has the lock.
            let pid = fs::read_to_string(&path).ok().and_then(|text| text.parse().ok());
            Err(LockError::Held { pid })
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
