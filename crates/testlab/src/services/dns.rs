use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{START_LIMIT, free_address};
use crate::{
    Result,
    netns::{Namespace, command_in},
    process::Proc,
};

/// A DNS server (dnsmasq) for UDP and TCP that knows one name and asks nobody.
#[derive(Debug)]
pub struct Dns {
    /// Where it listens, for both protocols.
    pub address: SocketAddr,
    /// The program.
    pub process: Proc,
}

impl Dns {
    /// The name that it knows.
    pub const NAME: &str = "service.lab.test";

    /// The name's only A record.
    pub const ANSWER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);

    /// Starts it.
    pub fn start(namespace: Option<&Namespace>, address: IpAddr) -> Result<Self> {
        let address = free_address(namespace, address)?;
        let mut command = command_in(namespace, "dnsmasq");
        command.args(["--keep-in-foreground", "--log-facility=-", "--pid-file=", "--user=root"]);
        command.args(["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"]);
        command.arg(format!("--listen-address={}", address.ip()));
        command.arg(format!("--port={}", address.port()));
        command.arg(format!("--host-record={},{}", Self::NAME, Self::ANSWER));
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line.contains(": started, version"), START_LIMIT)?;
        Ok(Self { address, process })
    }
}
