//! The addresses of a VPN server, and its way to other networks.

use std::path::Path;

use ipnet::IpNet;

use super::journal::{self, Share};
use super::masquerade::{self, Masquerade};
use super::netlink::Netlink;
use super::{NetworkError, ServerPlan, forwarding, rule, sysctl};
use crate::device::{Device, TunDevice};
use crate::lock::{CleanerLock, ClientLock};

/// What a server's machine has for the VPN. All of it is undone when this is dropped.
#[derive(Debug)]
pub struct ServerNetwork {
    index: u32,
    addresses: Vec<IpNet>,
    forwarding: Option<Share>,
    masquerade: Option<Masquerade>,
}

impl ServerNetwork {
    /// Makes the plan true, for a device that nobody else configures.
    pub fn apply(device: &TunDevice, plan: &ServerPlan) -> Result<Self, NetworkError> {
        let (name, index) = (device.name(), device.index());
        let mut network = Self { index, addresses: Vec::new(), forwarding: None, masquerade: None };
        let mut netlink = Netlink::new()
            .map_err(|error| NetworkError::kernel(format!("configure the device {name}"), error))?;
        for address in &plan.addresses {
            super::client::add_address(&mut netlink, index, name, *address, true)?;
            network.addresses.push(*address);
        }
        let has = |v4| plan.addresses.iter().any(|address| address.addr().is_ipv4() == v4);
        if plan.forward {
            // Before packets are let through.
            if plan.masquerade {
                network.masquerade = Some(Masquerade::start(&plan.addresses, name, index)?);
            }
            network.forwarding = forwarding::enable(&plan.state, has(true), has(false))?;
            if has(true) {
                // Where forwarding was on before, this device may have been made without.
                let key = format!("net/ipv4/conf/{name}/forwarding");
                let _ = sysctl::set(&key, "1");
            }
        }
        Ok(network)
    }
}

impl Drop for ServerNetwork {
    fn drop(&mut self) {
        self.forwarding = None;
        self.masquerade = None;
        // Errors mean that it is gone already, with the device or by somebody else's hand.
        let Ok(mut netlink) = Netlink::new() else { return };
        for address in &self.addresses {
            let _ = netlink.delete_address(self.index, *address);
        }
    }
}

/// Removes what a process that was killed left in this network namespace: rules, tables of nft, changed kernel parameters.
/// To be called at the start of either role, by a client before it has a [`Bypass`](super::Bypass), with its lock. What a
/// living process has stays.
pub fn clean_up(state: &Path, lock: Option<&ClientLock>) -> Result<(), NetworkError> {
    let failed = |error| NetworkError::kernel("remove what an earlier VPN left", error);
    let _cleaner = CleanerLock::acquire().map_err(failed)?;
    let mut netlink = Netlink::new().map_err(failed)?;
    // Rules are a client's. Where nobody is one, those that are there are left over.
    if lock.is_some() || !ClientLock::is_held() {
        let removed = rule::remove_all(&mut netlink).map_err(failed)?;
        if removed > 0 {
            tracing::info!(removed, "routing rules of a VPN that was killed are removed");
        }
    }
    masquerade::remove_stale(&mut netlink)?;
    journal::recover(state)
}
