//! The addresses and routes of a VPN client.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use ipnet::IpNet;

use super::bypass::Bypass;
use super::overlap::overlap_on;
use super::system::System;
use super::table::{self, Route};
use super::{ClientPlan, NetworkError, Overlap};

/// What a client's machine has for the VPN. All of it is undone when this is dropped.
pub struct ClientNetwork {
    system: Arc<dyn System>,
    device: String,
    addresses: Vec<IpNet>,
    routes: Vec<IpNet>,
    plan: ClientPlan,
    /// Routes without it would take the transport's own packets into the VPN.
    bypass: Bypass,
}

impl std::fmt::Debug for ClientNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientNetwork").field("device", &self.device).finish_non_exhaustive()
    }
}

impl ClientNetwork {
    /// For a device of that name. Nothing changes yet.
    pub(super) fn over(system: Arc<dyn System>, device: &str, bypass: Bypass) -> Self {
        bypass.set_device(device);
        Self {
            system,
            device: device.to_owned(),
            addresses: Vec::new(),
            routes: Vec::new(),
            plan: ClientPlan::default(),
            bypass,
        }
    }

    /// Makes the plan true. What the previous plan had as well stays as it is.
    pub fn apply(&mut self, plan: &ClientPlan) -> Result<(), NetworkError> {
        let wanted = plan.networks()?;
        let inside: Vec<IpNet> = plan.addresses.iter().map(IpNet::trunc).collect();
        let beyond = wanted.iter().any(|route| !inside.contains(route));
        // Before the first route that could take the transport's packets, and until after the last one.
        if beyond {
            self.bypass.set_active(true, &inside)?;
        }
        let before = self.addresses.clone();
        set_addresses(&*self.system, &self.device, &mut self.addresses, &plan.addresses)?;
        if before != self.addresses {
            self.renew_routes();
        }
        set_routes(&*self.system, &self.device, &mut self.routes, &wanted)?;
        if !beyond {
            self.bypass.set_active(false, &inside)?;
        }
        self.plan = plan.clone();
        Ok(())
    }

    /// Has the routes that are there take the address which is there now: the kernel lets them keep that of when they were made.
    fn renew_routes(&self) {
        for network in self.routes.iter().filter(|network| network.addr().is_ipv4()) {
            let words =
                ["-q", "-n", "change", "-inet", &network.to_string(), "-interface", &self.device];
            if let Err(error) = self.system.run("/sbin/route", &words) {
                tracing::debug!(%error, %network, "route not renewed");
            }
        }
    }

    /// Makes routes again that others have removed, and follows the machine from network to network.
    pub fn refresh(&mut self) -> Result<(), NetworkError> {
        self.bypass.refresh()?;
        self.apply(&self.plan.clone())
    }

    /// The first of the wanted networks that this machine has already, if any, without what is there for the VPN. Default
    /// routes are no overlap, on neither side.
    pub fn overlap(&self, wanted: &[IpNet]) -> Result<Option<Overlap>, NetworkError> {
        let is_own = |route: &Route| route.device == self.device || self.bypass.is_own(route);
        overlap_on(&*self.system, wanted, is_own).map_err(NetworkError::list)
    }
}

impl Drop for ClientNetwork {
    fn drop(&mut self) {
        clear(&*self.system, &self.device, &self.addresses, &self.routes);
    }
}

/// Gives a device those addresses and no others of those that it was given here.
pub(super) fn set_addresses(
    system: &dyn System,
    device: &str,
    present: &mut Vec<IpNet>,
    wanted: &[IpNet],
) -> Result<(), NetworkError> {
    present.retain(|address| {
        let stays = wanted.contains(address);
        if !stays {
            remove_address(system, device, *address);
        }
        stays
    });
    for address in wanted {
        if present.contains(address) {
            continue;
        }
        let (with_prefix, alone) = (address.to_string(), address.addr().to_string());
        let words: &[&str] = if address.addr().is_ipv4() {
            // A device of this kind has two ends, and the other one has no address.
            &[device, "inet", &with_prefix, &alone, "alias"]
        } else {
            &[device, "inet6", &with_prefix, "alias"]
        };
        system.run("/sbin/ifconfig", words).map_err(|source| {
            let action = format!("give {device} the address {address}");
            NetworkError::Kernel { action, source }
        })?;
        present.push(*address);
    }
    Ok(())
}

/// Has the device have those routes and no others of those that it was given here. Where another device has a route to one
/// of the networks, both halves of it are routed: the one that is there stays as it is. What begins at the unspecified address
/// is routed in parts.
pub(super) fn set_routes(
    system: &dyn System,
    device: &str,
    present: &mut Vec<IpNet>,
    wanted: &[IpNet],
) -> Result<(), NetworkError> {
    let read = || table::read(system).map_err(NetworkError::list);
    let routes = read()?;
    let mut parts = BTreeSet::new();
    for network in wanted {
        if network.addr().is_unspecified() {
            parts.extend(table::without_first(*network));
            continue;
        }
        match table::halves(*network) {
            Some(halves) if is_taken(&routes, device, network) => parts.extend(halves),
            _ => {
                parts.insert(*network);
            }
        }
    }
    present.retain(|network| {
        let stays = parts.contains(network);
        if !stays && has(&routes, device, network) {
            remove_route(system, *network);
        }
        stays
    });
    // What route(8) says is not always so.
    let mut said = None;
    for network in &parts {
        if !has(&routes, device, network) {
            let words = [
                "-q",
                "-n",
                "add",
                table::family(network.addr()),
                &network.to_string(),
                "-interface",
                device,
            ];
            said = Some(system.run("/sbin/route", &words));
        }
        if !present.contains(network) {
            present.push(*network);
        }
    }
    let Some(said) = said else { return Ok(()) };
    let routes = read()?;
    match parts.iter().find(|network| !has(&routes, device, network)) {
        None => Ok(()),
        Some(missing) => {
            let source = match said {
                Err(error) => error,
                Ok(printed) => io::Error::other(match printed.trim() {
                    "" => "it is not there afterwards",
                    printed => printed,
                }),
            };
            Err(NetworkError::Kernel { action: format!("route {missing} to {device}"), source })
        }
    }
}

/// Removes routes and addresses. Errors mean that they are gone already, with the device or by somebody else's hand.
pub(super) fn clear(system: &dyn System, device: &str, addresses: &[IpNet], routes: &[IpNet]) {
    // Which of several routes to a network it removes is not route(8)'s to choose.
    let there =
        if routes.is_empty() { Vec::new() } else { table::read(system).unwrap_or_default() };
    for network in routes.iter().filter(|network| has(&there, device, network)) {
        remove_route(system, *network);
    }
    for address in addresses {
        remove_address(system, device, *address);
    }
}

fn has(routes: &[Route], device: &str, network: &IpNet) -> bool {
    routes.iter().any(|route| route.network == *network && route.device == device)
}

fn is_taken(routes: &[Route], device: &str, network: &IpNet) -> bool {
    routes.iter().any(|route| route.network == *network && route.device != device)
}

fn remove_route(system: &dyn System, network: IpNet) {
    let words = ["-q", "-n", "delete", table::family(network.addr()), &network.to_string()];
    if let Err(error) = system.run("/sbin/route", &words) {
        tracing::debug!(%error, %network, "route not removed");
    }
}

fn remove_address(system: &dyn System, device: &str, address: IpNet) {
    let family = if address.addr().is_ipv4() { "inet" } else { "inet6" };
    let words = [device, family, &address.addr().to_string(), "-alias"];
    if let Err(error) = system.run("/sbin/ifconfig", &words) {
        tracing::debug!(%error, %address, "address not removed");
    }
}

#[cfg(target_os = "macos")]
impl ClientNetwork {
    /// For a device that nobody else configures. Nothing changes yet.
    pub fn new(device: &crate::device::TunDevice, bypass: Bypass) -> Self {
        use crate::device::Device;
        Self::over(Arc::new(super::system::Mac), device.name(), bypass)
    }
}
