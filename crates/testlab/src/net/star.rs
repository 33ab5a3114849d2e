//! Many hosts around one.

use std::net::Ipv4Addr;

use super::HOST;
use crate::{
    Result,
    netns::{Interface, Namespace, connect},
};

/// The bridge of the hub, to which all cables lead.
const BRIDGE: &str = "br0";

/// A host in the middle of one network, 10.76.0.0/24, and many others on it.
#[derive(Debug)]
pub struct StarLab {
    /// The others.
    pub hosts: Vec<Namespace>,
    /// The one in the middle, at `StarLab::HUB`.
    pub hub: Namespace,
}

impl StarLab {
    /// The address of the host in the middle. The others have those behind it.
    pub const HUB: Ipv4Addr = Ipv4Addr::new(10, 76, 0, 1);

    /// With so many hosts around it.
    pub fn new(count: u8) -> Result<Self> {
        let hub = Namespace::new("hub")?;
        hub.ip(&["link", "add", "name", BRIDGE, "type", "bridge"])?;
        hub.add_address(BRIDGE, Self::HUB.into(), 24)?;
        hub.ip(&["link", "set", "dev", BRIDGE, "up"])?;
        let mut lab = Self { hosts: Vec::new(), hub };
        for number in 0..count {
            let host = Namespace::new("host")?;
            let name = format!("to-{number}");
            connect(
                Interface { namespace: &lab.hub, name: &name },
                Interface { namespace: &host, name: HOST },
            )?;
            lab.hub.ip(&["link", "set", "dev", &name, "master", BRIDGE])?;
            host.add_address(HOST, Ipv4Addr::new(10, 76, 0, number + 2).into(), 24)?;
            lab.hosts.push(host);
        }
        Ok(lab)
    }
}
