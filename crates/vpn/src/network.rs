//! Addresses, routes and rules of this machine.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod dns;
#[cfg(target_os = "linux")]
pub(crate) mod linux;
#[cfg(any(target_os = "macos", all(test, unix)))]
mod macos;
mod overlap;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use dns::DnsForwarder;
#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;
pub use overlap::Overlap;
#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use system::{Bypass, BypassedUdp, ClientNetwork, ServerNetwork, clean_up, overlap};

/// Where processes note what they change on this machine, so that the next start can put it back. Emptied when it starts.
pub const STATE_DIR: &str =
    if cfg!(target_os = "macos") { "/var/run/tunnel-rs" } else { "/run/tunnel-rs" };

/// What changing the network takes.
const ROOT: &str = if cfg!(target_os = "macos") {
    "root: run it with sudo"
} else {
    "root (CAP_NET_ADMIN): run it with sudo; in a container, with --cap-add NET_ADMIN"
};

/// What a client's machine is to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientPlan {
    /// Its addresses inside, each with the prefix of its VPN network, which is routed by itself.
    pub addresses: Vec<IpNet>,
    /// Further networks to route into the VPN, default routes among them.
    pub routes: Vec<IpNet>,
}

impl ClientPlan {
    /// All networks that are routed, each once.
    #[cfg(any(target_os = "linux", target_os = "macos", test))]
    fn networks(&self) -> Result<Vec<IpNet>, NetworkError> {
        let mut networks: Vec<IpNet> = self.addresses.iter().map(IpNet::trunc).collect();
        for route in &self.routes {
            let is_of_family = |address: &IpNet| address.addr().is_ipv4() == route.addr().is_ipv4();
            if !self.addresses.iter().any(is_of_family) {
                return Err(NetworkError::NoAddress { route: *route });
            }
            networks.push(route.trunc());
        }
        networks.sort_unstable();
        networks.dedup();
        Ok(networks)
    }
}

/// What a server's machine is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerPlan {
    /// Its addresses inside, each with the prefix of its VPN network.
    pub addresses: Vec<IpNet>,
    /// Whether packets go on from here to other networks, of the families of `addresses`.
    pub forward: bool,
    /// Whether those packets get an address of this machine as their source. Needs `forward`.
    pub masquerade: bool,
    /// [`STATE_DIR`], or another one in tests.
    pub state: PathBuf,
}

/// What this machine's network does not do.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The kernel lets root change its network, and nobody else.
    #[error("cannot {action}: changing this machine's network needs {ROOT}")]
    Permission {
        /// What was tried.
        action: String,
    },
    /// A request to the kernel that it refused.
    #[error("cannot {action}: {source}")]
    Kernel {
        /// What was tried, with what it was tried on.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A route of a family in which there is no address.
    #[error(
        "the route {route} needs an IPv{} address in the VPN, and the server assigns none: give the server an IPv{} network \
         with --network",
        family(.route.addr()), family(.route.addr())
    )]
    NoAddress {
        /// The route.
        route: IpNet,
    },
    /// IPv6 is turned off on this machine.
    #[error(
        "cannot set the address {address}: IPv6 is turned off on this machine (net.ipv6.conf.all.disable_ipv6 is 1, or the \
         kernel has none)"
    )]
    NoIpv6 {
        /// The address.
        address: IpNet,
    },
    /// A kernel whose rules cannot tell the transport's packets from others.
    #[error(
        "this kernel's routing rules know no ports, so the packets that carry the VPN cannot be told from those that it \
         carries: use Linux 4.17 or later, with CONFIG_IP_MULTIPLE_TABLES"
    )]
    OldKernel,
    /// A kernel parameter that cannot be set.
    #[error(
        "forwarding needs the kernel parameter {key} to be {value}, and it cannot be set: {source}; set it before the start, \
         by `sysctl -w {key}={value}` or, for a container, with --sysctl {key}={value}"
    )]
    Sysctl {
        /// Its name, as sysctl(8) takes it.
        key: String,
        /// What it is to be.
        value: String,
        /// What the system said.
        source: io::Error,
    },
    /// What is changed cannot be noted, so that it could not be put back.
    #[error(
        "cannot note in {} which kernel parameters are changed: {source}; make that folder writable, or turn forwarding on \
         yourself", .path.display()
    )]
    Journal {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is changed cannot be noted, so that it could not be undone.
    #[error(
        "cannot note in {} what is changed of this machine's network: {source}; make that folder writable",
        .path.display()
    )]
    Notes {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The packet filter of macOS did not do it.
    #[error("pfctl cannot set up masquerading: {0}")]
    Pf(String),
    /// nft is not there.
    #[error(
        "--masquerade needs the program `nft`, which is not installed: install the package nftables, or leave \
         --masquerade out"
    )]
    NoNft,
    /// nft did not do it.
    #[error("nft cannot set up masquerading: {0}")]
    Nft(String),
}

impl NetworkError {
    /// An error of the kernel, told apart where it is about who asks.
    #[cfg(target_os = "linux")]
    fn kernel(action: impl Into<String>, source: io::Error) -> Self {
        let action = action.into();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { action },
            _ => Self::Kernel { action, source },
        }
    }
}

impl NetworkError {
    /// Of the program that lists routes.
    #[cfg(any(target_os = "macos", all(test, unix)))]
    fn list(source: io::Error) -> Self {
        Self::Kernel { action: "list this machine's routes (`netstat -rn`)".to_owned(), source }
    }
}

/// 4 or 6.
fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}
