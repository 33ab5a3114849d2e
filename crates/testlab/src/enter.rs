//! Code of the test itself inside a namespace: sockets that belong to a host of the lab.
//!
//! A socket stays in the namespace that its maker was in (network_namespaces(7)), so what is made here can
//! be used by any thread afterwards.

use std::{
    fs::File,
    io,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic,
    path::Path,
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};

use crate::{Error, Result, netns::Namespace};

/// Where `ip netns` keeps the namespaces that it names (ip-netns(8)).
const FOLDER: &str = "/run/netns";

/// Runs a closure on a thread of its own that is moved into the namespace first, and returns its result.
///
/// The threads of the caller stay where they are. Threads that the closure starts are in the namespace too.
/// A panic of the closure goes on in the caller.
pub fn enter<T: Send>(namespace: &Namespace, run: impl FnOnce() -> T + Send) -> Result<T> {
    let path = Path::new(FOLDER).join(namespace.name());
    let file = File::open(&path).map_err(Error::io(format!("open {}", path.display())))?;
    let entered = thread::scope(|scope| {
        let moved = move || setns(&file, CloneFlags::CLONE_NEWNET).map(|()| run());
        let thread = thread::Builder::new().spawn_scoped(scope, moved)?;
        let ended = thread.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked));
        ended.map_err(io::Error::from)
    });
    entered.map_err(Error::io(format!("enter the namespace {}", namespace.name())))
}

/// Connects from the namespace to the address within `limit`, which must not be zero.
pub fn connect_tcp(
    namespace: &Namespace,
    address: SocketAddr,
    limit: Duration,
) -> Result<TcpStream> {
    enter(namespace, || TcpStream::connect_timeout(&address, limit))?
        .map_err(Error::io(format!("connect from {} to {address}", namespace.name())))
}

/// Listens in the namespace on the address; port 0 takes one that is free there.
pub fn listen_tcp(namespace: &Namespace, address: SocketAddr) -> Result<TcpListener> {
    enter(namespace, || TcpListener::bind(address))?
        .map_err(Error::io(format!("listen in {} on TCP {address}", namespace.name())))
}

/// Binds a UDP socket in the namespace to the address; port 0 takes one that is free there.
pub fn bind_udp(namespace: &Namespace, address: SocketAddr) -> Result<UdpSocket> {
    enter(namespace, || UdpSocket::bind(address))?
        .map_err(Error::io(format!("bind UDP {address} in {}", namespace.name())))
}
