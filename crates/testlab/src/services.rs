//! Real servers of the kinds that people tunnel to, each with what its clients need.
//!
//! A service starts in a namespace, or on the machine itself where that is `None` (then on a loopback
//! address, please), on a port that is free there, and is ready when `start` returns: what these servers
//! print once they listen has been waited for.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use crate::{Error, Result, netns::Namespace};

mod coturn;
mod dns;
mod http;
mod iperf3;
mod redis;
mod sshd;

pub use coturn::{Coturn, binding};
pub use dns::Dns;
pub use http::Http;
pub use iperf3::{Iperf3, Report};
pub use redis::Redis;
pub use sshd::Sshd;

/// For a service to start, on a machine that is busy with other tests.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Picks a port that is free for TCP and for UDP.
///
/// In a namespace of ours only our services listen, so there the ports are counted up; they are below those
/// that the kernel gives to clients. On the machine itself somebody else may still take the port first.
pub fn free_port(namespace: Option<&Namespace>, address: IpAddr) -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    if namespace.is_some() {
        return Ok(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    let any = SocketAddr::new(address, 0);
    loop {
        let error = || Error::io(format!("find a free port of {address}"));
        let listener = TcpListener::bind(any).map_err(error())?;
        let local = listener.local_addr().map_err(error())?;
        if UdpSocket::bind(local).is_ok() {
            return Ok(local.port());
        }
    }
}

fn free_address(namespace: Option<&Namespace>, address: IpAddr) -> Result<SocketAddr> {
    Ok(SocketAddr::new(address, free_port(namespace, address)?))
}

fn folder() -> Result<TempDir> {
    TempDir::new().map_err(Error::io("create a folder for temporary files"))
}
