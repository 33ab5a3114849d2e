use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tempfile::TempDir;

use super::{START_LIMIT, folder};
use crate::{Result, enter::bind_udp, netns::Namespace, process::Proc};

mod binding;

pub use binding::binding;

/// For an answer over links without a delay.
const ANSWER: Duration = Duration::from_millis(50);

/// A STUN server (coturn): it tells everybody who asks which address the request came from.
///
/// It has neither a configuration file nor a log file, and none of the machine's own coturn.
#[derive(Debug)]
pub struct Coturn {
    /// Where it listens, for UDP.
    pub addresses: Vec<SocketAddr>,
    /// The program.
    pub process: Proc,
    _folder: TempDir,
}

impl Coturn {
    /// The usual port for STUN over UDP (RFC 8489 section 8.1).
    pub const PORT: u16 = 3478;

    /// Starts it on addresses that the namespace has, and waits until it answers on each.
    pub fn start(namespace: &Namespace, addresses: &[IpAddr]) -> Result<Self> {
        let folder = folder()?;
        let mut command = namespace.command("turnserver");
        command.args(["-n", "--stun-only", "--no-tcp", "--no-tls", "--no-dtls", "--no-cli"]);
        // One thread does. RFC 5780 takes two addresses of one server, and makes its answers longer.
        command.args(["--relay-threads=0", "--no-rfc5780", "--log-file=stdout"]);
        command.arg(format!("--listening-port={}", Self::PORT));
        for address in addresses {
            command.arg(format!("--listening-ip={address}"));
        }
        // It makes both, and would make them in folders of the machine.
        for (option, name) in [("pidfile", "pid"), ("userdb", "users")] {
            command.arg(format!("--{option}={}", folder.path().join(name).display()));
        }
        let process = Proc::spawn(&mut command)?;
        let addresses: Vec<_> =
            addresses.iter().map(|address| SocketAddr::new(*address, Self::PORT)).collect();
        let coturn = Self { addresses, process, _folder: folder };
        for address in &coturn.addresses {
            coturn.wait_answer(namespace, *address)?;
        }
        Ok(coturn)
    }

    fn wait_answer(&self, namespace: &Namespace, address: SocketAddr) -> Result<()> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = bind_udp(namespace, SocketAddr::new(any, 0))?;
        // An address that is not there is one that it tries again and again.
        self.process.wait_for(|| binding(&socket, address, ANSWER).ok(), START_LIMIT).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    #[test]
    fn it_tells_the_address_that_a_request_came_from() -> Result<()> {
        let namespace = Namespace::new("stun")?;
        let localhost = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let coturn = Coturn::start(&namespace, &localhost)?;
        for (server, ip) in coturn.addresses.iter().zip(localhost) {
            let socket = bind_udp(&namespace, SocketAddr::new(ip, 0))?;
            let own = socket.local_addr().map_err(Error::io("read an address"))?;
            assert_eq!(binding(&socket, *server, START_LIMIT)?, own);
        }
        Ok(())
    }
}
