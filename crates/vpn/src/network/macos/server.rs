//! The addresses of a VPN server, and its way to other networks.

use std::sync::Arc;

use ipnet::IpNet;

use super::masquerade::Masquerade;
use super::system::System;
use super::undo::{Command, Undo};
use super::{NetworkError, ServerPlan, client};

/// What a server's machine has for the VPN. All of it is undone when this is dropped.
pub struct ServerNetwork {
    system: Arc<dyn System>,
    device: String,
    addresses: Vec<IpNet>,
    routes: Vec<IpNet>,
    _undo: Undo,
}

impl std::fmt::Debug for ServerNetwork {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerNetwork").field("device", &self.device).finish_non_exhaustive()
    }
}

impl ServerNetwork {
    /// Makes the plan true, for a device of that name.
    pub(super) fn over(
        system: Arc<dyn System>,
        device: &str,
        plan: &ServerPlan,
    ) -> Result<Self, NetworkError> {
        let undo = Undo::begin(&plan.state, Arc::clone(&system))?;
        let mut network = Self {
            system,
            device: device.to_owned(),
            addresses: Vec::new(),
            routes: Vec::new(),
            _undo: undo,
        };
        let system = &*network.system;
        client::set_addresses(system, device, &mut network.addresses, &plan.addresses)?;
        let inside: Vec<IpNet> = plan.addresses.iter().map(IpNet::trunc).collect();
        client::set_routes(system, device, &mut network.routes, &inside)?;
        if plan.forward {
            // Before packets are let through.
            if plan.masquerade {
                Masquerade { device, networks: &inside }.start(system, &mut network._undo)?;
            }
            for (v4, key) in [(true, "net.inet.ip.forwarding"), (false, "net.inet6.ip6.forwarding")]
            {
                if plan.addresses.iter().any(|address| address.addr().is_ipv4() == v4) {
                    turn_on(system, &mut network._undo, key)?;
                }
            }
        }
        Ok(network)
    }
}

impl Drop for ServerNetwork {
    fn drop(&mut self) {
        client::clear(&*self.system, &self.device, &self.addresses, &self.routes);
    }
}

/// Sets a kernel parameter to 1, for as long as one of the processes lives that have asked for it.
fn turn_on(system: &dyn System, undo: &mut Undo, key: &str) -> Result<(), NetworkError> {
    let failed =
        |source| NetworkError::Sysctl { key: key.to_owned(), value: "1".to_owned(), source };
    let off: Command = ["/usr/sbin/sysctl", "-w", &format!("{key}=0")].map(str::to_owned).to_vec();
    // First: who ends meanwhile leaves it on then.
    undo.note(off.clone())?;
    let before = system.run("/usr/sbin/sysctl", &["-n", key]).map_err(failed)?;
    if before.trim() != "1" {
        system.run("/usr/sbin/sysctl", &["-w", &format!("{key}=1")]).map_err(failed)?;
    } else if !undo.others_have(&off)? {
        undo.cancel(&off)?;
    }
    Ok(())
}

#[cfg(target_os = "macos")]
pub use mac::clean_up;

#[cfg(target_os = "macos")]
mod mac {
    use std::path::Path;
    use std::sync::Arc;

    use super::super::system::Mac;
    use super::super::{NetworkError, ServerPlan, undo};
    use super::ServerNetwork;
    use crate::device::{Device, TunDevice};
    use crate::lock::ClientLock;

    impl ServerNetwork {
        /// Makes the plan true, for a device that nobody else configures.
        pub fn apply(device: &TunDevice, plan: &ServerPlan) -> Result<Self, NetworkError> {
            Self::over(Arc::new(Mac), device.name(), plan)
        }
    }

    /// Undoes what a process that was killed left: routes to servers, changed kernel parameters, rules of pf. To be called at
    /// the start of either role. What a living process has stays.
    pub fn clean_up(state: &Path, _lock: Option<&ClientLock>) -> Result<(), NetworkError> {
        undo::recover(state, &Mac)
    }
}
