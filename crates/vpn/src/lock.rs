//! One VPN client a machine; on Linux, a network namespace, as that is what it changes.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use std::io;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;

#[cfg(target_os = "linux")]
pub(crate) use linux::CleanerLock;
#[cfg(target_os = "linux")]
pub use linux::ClientLock;
#[cfg(target_os = "macos")]
pub use macos::ClientLock;

/// Why this process cannot be the client.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process is.
    #[error(
        "a VPN client is running on this machine already{}: end it first{OR_ELSE}",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Held {
        /// Its process id, if this process can see it: a container sees no others.
        pid: Option<i32>,
    },
    /// The lock is a file that root alone may write.
    #[error("a VPN client needs root: run it with sudo")]
    Permission,
    /// Anything else.
    #[error("cannot find out whether a VPN client is running on this machine: {0}")]
    Io(#[from] io::Error),
}

/// What else to do about another client.
const OR_ELSE: &str =
    if cfg!(target_os = "linux") { ", or start this one in another network namespace" } else { "" };
