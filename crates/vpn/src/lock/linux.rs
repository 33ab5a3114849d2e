//! Held as the names of sockets.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use socket2::{Domain, SockAddr, Socket, Type};

use super::LockError;

// Such names have no files (unix(7), abstract). They are a network namespace's own, and are free again when the process ends,
// however it ends.

/// Of the process that is the client.
const CLIENT: &str = "tunnel-rs/vpn/client";

/// Of the process that removes what others left.
const CLEANER: &str = "tunnel-rs/vpn/cleaner";

/// Cleaning up takes milliseconds.
const CLEANER_LIMIT: Duration = Duration::from_secs(10);

/// How often it is tried.
const POLL: Duration = Duration::from_millis(5);

/// Held as long as this process is the client.
#[derive(Debug)]
pub struct ClientLock {
    _listener: UnixListener,
}

impl ClientLock {
    /// Takes the lock, or says who has it.
    pub fn acquire() -> Result<Self, LockError> {
        match bind(CLIENT)? {
            Some(listener) => Ok(Self { _listener: listener }),
            None => Err(LockError::Held { pid: holder().ok() }),
        }
    }

    /// Whether some process has it.
    pub(crate) fn is_held() -> bool {
        !matches!(holder(), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
    }
}

/// Held by whoever removes what others left.
///
/// A client takes it after [`ClientLock`], and before it has anything that could be removed. So who finds, with this lock,
/// that there is no client will meet nothing of one.
#[derive(Debug)]
pub(crate) struct CleanerLock {
    _listener: UnixListener,
}

impl CleanerLock {
    /// Waits until it is free.
    pub(crate) fn acquire() -> io::Result<Self> {
        let deadline = Instant::now() + CLEANER_LIMIT;
        loop {
            if let Some(listener) = bind(CLEANER)? {
                return Ok(Self { _listener: listener });
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(POLL);
        }
    }
}

/// A socket of the name; none where another one has it.
fn bind(name: &str) -> io::Result<Option<UnixListener>> {
    match UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

/// The process that is the client, as the kernel tells whoever connects to its socket (unix(7), SO_PEERCRED).
fn holder() -> io::Result<i32> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Nobody takes connections, so one that finds no place would wait for ever.
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(format!("\0{CLIENT}"))?)?;
    let pid = getsockopt(&socket, PeerCredentials)?.pid();
    // Of a process that this one cannot see, the kernel says 0 (pid_namespaces(7)).
    if pid > 0 { Ok(pid) } else { Err(io::ErrorKind::NotFound.into()) }
}
