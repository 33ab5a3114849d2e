use ipnet::IpNet;

use super::netlink::Netlink;
use super::{NetworkError, Overlap, find};
use crate::device::TunDevice;

/// The first of the wanted networks that this machine has already, if any: a connected network, an address or a route in
/// any table, except at the VPN's own device. Default routes are no overlap, on neither side.
pub fn overlap(wanted: &[IpNet], own: Option<&TunDevice>) -> Result<Option<Overlap>, NetworkError> {
    except(wanted, own.map(TunDevice::index))
}

/// The same, with the number of the device that is left out.
pub(super) fn except(wanted: &[IpNet], own: Option<u32>) -> Result<Option<Overlap>, NetworkError> {
    let failed = |source| NetworkError::kernel("list this machine's routes", source);
    let mut netlink = Netlink::new().map_err(failed)?;
    let mut routes = netlink.routes().map_err(failed)?;
    routes.retain(|route| own.is_none() || route.device != own);
    let existing = routes.iter().map(|route| (route.network, route.device));
    Ok(find(wanted, existing).map(|(wanted, existing, device)| Overlap {
        wanted: *wanted,
        existing,
        device: device.and_then(|device| netlink.link_name(device)),
    }))
}
