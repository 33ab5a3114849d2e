//! A relay of one's own, as its users run it: `tunnel-rs relay` on a host of the internet, a server and a client behind
//! NATs.

use std::{net::IpAddr, time::Duration};

use tempfile::TempDir;
use tunnel_testlab::{Result, netns::Namespace, process::Proc};

use crate::support::{TUNNEL_RS, TestResult};

mod capture;
mod certificate;
mod dns;
mod interop;
mod proxy;

/// For programs to start and to end.
const LIMIT: Duration = Duration::from_secs(30);

const SIGTERM: i32 = 15;

/// A running `tunnel-rs relay`.
pub(crate) struct OwnRelay {
    process: Proc,
    /// What it says that a server is given.
    flags: Vec<String>,
}

/// A folder that is gone with the test.
fn folder() -> TestResult<TempDir> {
    Ok(TempDir::new()?)
}

impl OwnRelay {
    /// Starts it with its state in the folder.
    pub(crate) fn start(
        namespace: &Namespace,
        state: &TempDir,
        arguments: &[&str],
    ) -> Result<Self> {
        let mut command = namespace.command(TUNNEL_RS);
        command.args(["relay", "--state-dir"]).arg(state.path()).args(arguments);
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line == "Waiting for clients to connect...", LIMIT)?;
        let flags = process.wait_value("Flags: ", LIMIT)?;
        Ok(Self { process, flags: flags.split(' ').map(str::to_owned).collect() })
    }

    fn flags(&self) -> impl Iterator<Item = &str> {
        self.flags.iter().map(String::as_str)
    }
}

/// Ends a program in order.
fn end(process: &Proc) -> Result<()> {
    process.signal(SIGTERM)?;
    let status = process.wait_exit(LIMIT)?;
    assert_eq!(status.code(), Some(0), "{}", process.output());
    Ok(())
}

/// Whether an address is of this host's own link: multicast, broadcast and loopback.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_multicast() || ip.is_unicast_link_local(),
    }
}
