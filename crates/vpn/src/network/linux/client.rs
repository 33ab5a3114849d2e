//! The addresses and routes of a VPN client.

use std::io;

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;

use super::bypass::Bypass;
use super::netlink::Netlink;
use super::rule::{self, Family, Rule, What};
use super::{ClientPlan, NetworkError, Overlap, overlap, sysctl};
use crate::device::{Device, TunDevice};

/// What IPv4 sends to everybody on a link or to a group (RFC 1122 section 3.2.1.3): a VPN of addresses has neither, so this
/// stays where it was.
const NOT_FOR_THE_VPN: [Ipv4Net; 2] = [
    Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 4),
    Ipv4Net::new_assert(std::net::Ipv4Addr::BROADCAST, 32),
];

/// What a client's machine has for the VPN. All of it is undone when this is dropped.
#[derive(Debug)]
pub struct ClientNetwork {
    index: u32,
    device: String,
    addresses: Vec<IpNet>,
    routes: Vec<IpNet>,
    rules: Vec<Rule>,
    /// Routes without it would take the transport's own packets into the VPN.
    bypass: Bypass,
}

impl ClientNetwork {
    /// For a device that nobody else configures. Nothing changes yet.
    pub fn new(device: &TunDevice, bypass: Bypass) -> Self {
        Self {
            index: device.index(),
            device: device.name().to_owned(),
            addresses: Vec::new(),
            routes: Vec::new(),
            rules: Vec::new(),
            bypass,
        }
    }

    /// Makes the plan true. What the previous plan had as well stays as it is, unless addresses change: then routes are made
    /// anew, within microseconds.
    pub fn apply(&mut self, plan: &ClientPlan) -> Result<(), NetworkError> {
        let routes = plan.networks()?;
        let rules = rules(&routes);
        let mut netlink = Netlink::new().map_err(|error| {
            NetworkError::kernel(format!("configure the device {}", self.device), error)
        })?;
        let inside: Vec<IpNet> = plan.addresses.iter().map(IpNet::trunc).collect();
        // First: from here on the peer's addresses inside are reached by nobody outside.
        self.bypass.keep_out(&inside)?;
        self.set_addresses(&mut netlink, &plan.addresses)?;
        self.set_routes(&mut netlink, routes)?;
        self.set_rules(&mut netlink, rules)
    }

    /// Makes again what others have removed of the plan and of the [`Bypass`]: programs that configure a network take rules
    /// and routes that they do not know away when they start (systemd.network(5), `ManageForeignRoutingPolicyRules=` and
    /// `ManageForeignRoutes=` of networkd.conf(5)). To be called when this machine's network has changed.
    pub fn refresh(&mut self) -> Result<(), NetworkError> {
        self.bypass.refresh()?;
        let plan = ClientPlan { addresses: self.addresses.clone(), routes: self.routes.clone() };
        self.apply(&plan)?;
        let mut netlink = Netlink::new().map_err(no_rule)?;
        self.rules.iter().try_for_each(|rule| rule.add(&mut netlink)).map_err(no_rule)
    }

    /// As [`overlap`](fn@overlap), without what is there for the VPN.
    pub fn overlap(&self, wanted: &[IpNet]) -> Result<Option<Overlap>, NetworkError> {
        overlap::except(wanted, Some(self.index))
    }

    fn set_addresses(
        &mut self,
        netlink: &mut Netlink,
        wanted: &[IpNet],
    ) -> Result<(), NetworkError> {
        let (index, device) = (self.index, &self.device);
        // An address goes together with those of its network that came after it, so what is no longer wanted goes first.
        self.addresses.retain(|address| {
            let stays = wanted.contains(address);
            if !stays && let Err(error) = netlink.delete_address(index, *address) {
                tracing::debug!(%error, %address, "address not removed");
            }
            stays
        });
        for address in wanted {
            add_address(netlink, index, device, *address, false)?;
            if !self.addresses.contains(address) {
                self.addresses.push(*address);
            }
        }
        Ok(())
    }

    fn set_routes(
        &mut self,
        netlink: &mut Netlink,
        wanted: Vec<IpNet>,
    ) -> Result<(), NetworkError> {
        // All of them: the kernel removes routes with the last address of an interface.
        for route in &wanted {
            netlink.replace_route(self.index, *route).map_err(|error| {
                NetworkError::kernel(format!("route {route} to {}", self.device), error)
            })?;
            if !self.routes.contains(route) {
                self.routes.push(*route);
            }
        }
        let index = self.index;
        self.routes.retain(|route| {
            let stays = wanted.contains(route);
            if !stays && let Err(error) = netlink.delete_route(index, *route) {
                tracing::debug!(%error, %route, "route not removed");
            }
            stays
        });
        Ok(())
    }

    fn set_rules(&mut self, netlink: &mut Netlink, wanted: Vec<Rule>) -> Result<(), NetworkError> {
        for rule in &wanted {
            if !self.rules.contains(rule) {
                rule.add(netlink).map_err(no_rule)?;
                self.rules.push(*rule);
            }
        }
        self.rules.retain(|rule| {
            let stays = wanted.contains(rule);
            if !stays && let Err(error) = rule.delete(netlink) {
                tracing::debug!(%error, ?rule, "rule not removed");
            }
            stays
        });
        Ok(())
    }
}

impl Drop for ClientNetwork {
    fn drop(&mut self) {
        // Errors mean that it is gone already, with the device or by somebody else's hand.
        let Ok(mut netlink) = Netlink::new() else { return };
        for rule in &self.rules {
            let _ = rule.delete(&mut netlink);
        }
        for route in &self.routes {
            let _ = netlink.delete_route(self.index, *route);
        }
        for address in &self.addresses {
            let _ = netlink.delete_address(self.index, *address);
        }
    }
}

fn no_rule(error: io::Error) -> NetworkError {
    NetworkError::kernel("add a routing rule (`ip rule`) for the VPN", error)
}

fn rules(routes: &[IpNet]) -> Vec<Rule> {
    let mut rules = Vec::new();
    for exception in NOT_FOR_THE_VPN.map(IpNet::from) {
        if routes.iter().any(|route| route.contains(&exception)) {
            rules.push(Rule::around(Family::of(exception), What::To(exception)));
        }
    }
    rules.extend(rule::for_routes(routes));
    rules
}

/// Gives a device of ours an address, where IPv6 is off for new devices as well.
pub(super) fn add_address(
    netlink: &mut Netlink,
    index: u32,
    device: &str,
    address: IpNet,
    prefix_route: bool,
) -> Result<(), NetworkError> {
    let mut added = netlink.add_address(index, address, prefix_route);
    if is_disabled(&address, &added) {
        let key = format!("net/ipv6/conf/{device}/disable_ipv6");
        if sysctl::set(&key, "0").is_ok() {
            added = netlink.add_address(index, address, prefix_route);
        }
    }
    if is_disabled(&address, &added) {
        return Err(NetworkError::NoIpv6 { address });
    }
    added.map_err(|e| NetworkError::kernel(format!("give {device} the address {address}"), e))
}

/// Whether the kernel refused an address because the device has no IPv6 (EACCES), or has none itself.
fn is_disabled(address: &IpNet, result: &io::Result<()>) -> bool {
    let errno = result.as_ref().err().and_then(io::Error::raw_os_error);
    let off = [Errno::EACCES, Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP].map(|errno| errno as i32);
    address.addr().is_ipv6() && errno.is_some_and(|errno| off.contains(&errno))
}
