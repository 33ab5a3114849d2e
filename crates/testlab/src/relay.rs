//! The relay of the lab: this package's `lab-relay` program in a namespace.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use crate::{
    Result, bin,
    netns::{Namespace, command_in},
    process::Proc,
};

/// It makes its key and certificate first.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running relay; what a server and a client need to use it.
#[derive(Debug)]
pub struct Relay {
    /// For `--relay-url`.
    pub url: String,
    /// For `--relay-ca`: `sha256:` and the pin.
    pub pin: String,
    /// The program.
    pub process: Proc,
}

impl Relay {
    /// Starts `lab-relay` on the address and waits until it has named its URL and its pin.
    ///
    /// The program must have been built: `cargo build --package tunnel-testlab --bin lab-relay`.
    pub fn start(namespace: Option<&Namespace>, listen: IpAddr) -> Result<Self> {
        Self::spawn(namespace, &["--listen", &listen.to_string()])
    }

    /// Starts `lab-relay` on all addresses of the namespace, IPv4 and IPv6. Its URL has this name, which those
    /// who use it must be able to resolve. Otherwise as `start`.
    pub fn start_named(namespace: &Namespace, name: &str) -> Result<Self> {
        let every = Ipv6Addr::UNSPECIFIED.to_string();
        Self::spawn(Some(namespace), &["--listen", &every, "--name", name])
    }

    fn spawn(namespace: Option<&Namespace>, arguments: &[&str]) -> Result<Self> {
        let mut command = command_in(namespace, bin::path("lab-relay")?);
        let process = Proc::spawn(command.args(arguments))?;
        let url = process.wait_value("Relay: ", START_LIMIT)?;
        let pin = process.wait_value("Pin: ", START_LIMIT)?;
        Ok(Self { url, pin, process })
    }
}
