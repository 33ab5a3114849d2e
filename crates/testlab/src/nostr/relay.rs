use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use super::Manner;
use crate::{Result, bin, netns::Namespace, process::Proc, services::free_port};

/// For the program to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A Nostr relay of the lab: this package's `lab-nostr-relay` program in a namespace, on all of its addresses.
#[derive(Debug)]
pub struct NostrRelay {
    /// For `--relay`.
    pub url: String,
    /// The TCP port.
    pub port: u16,
    /// The program.
    pub process: Proc,
    manner: Manner,
}

impl NostrRelay {
    /// Starts it and waits until it listens. Its URL has this name or address of the namespace, which those who use it
    /// must be able to resolve.
    ///
    /// The program must have been built: `cargo build --package tunnel-testlab --bin lab-nostr-relay`.
    pub fn start(namespace: &Namespace, name: &str, manner: Manner) -> Result<Self> {
        let port = free_port(Some(namespace), Ipv6Addr::UNSPECIFIED.into())?;
        let process = spawn(namespace, port, manner)?;
        Ok(Self { url: format!("ws://{name}:{port}"), port, process, manner })
    }

    /// Starts it again on the same port, once its process has ended.
    pub fn restart(&mut self, namespace: &Namespace) -> Result<()> {
        self.process = spawn(namespace, self.port, self.manner)?;
        Ok(())
    }

    /// Where it is for programs in its own namespace.
    pub fn local(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

fn spawn(namespace: &Namespace, port: u16, manner: Manner) -> Result<Proc> {
    let mut command = namespace.command(bin::path("lab-nostr-relay")?);
    command.args(["--listen", &Ipv6Addr::UNSPECIFIED.to_string()]);
    command.args(["--port", &port.to_string(), "--manner", &manner.to_string()]);
    let process = Proc::spawn(&mut command)?;
    process.wait_value("Listening: ", START_LIMIT)?;
    Ok(process)
}
