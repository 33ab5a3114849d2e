use std::io;

use ipnet::IpNet;

use super::system::System;
use super::table::Route;
use super::{Overlap, find, table};

/// As `overlap`, on that system; which routes are one's own is told.
pub(super) fn overlap_on(
    system: &dyn System,
    wanted: &[IpNet],
    is_own: impl Fn(&Route) -> bool,
) -> io::Result<Option<Overlap>> {
    let mut routes = table::read(system)?;
    routes.retain(|route| !route.is_cloned() && !is_own(route));
    let existing = routes.iter().map(|route| (route.network, &route.device));
    Ok(find(wanted, existing).map(|(wanted, existing, device)| Overlap {
        wanted: *wanted,
        existing,
        device: Some(device.clone()),
    }))
}

#[cfg(target_os = "macos")]
pub use mac::overlap;

#[cfg(target_os = "macos")]
mod mac {
    use ipnet::IpNet;

    use super::super::system::Mac;
    use super::super::{NetworkError, Overlap};
    use crate::device::{Device, TunDevice};

    /// The first of the wanted networks that this machine has already, if any: a connected network, an address or a route,
    /// except at the VPN's own device. Default routes are no overlap, on neither side.
    pub fn overlap(
        wanted: &[IpNet],
        own: Option<&TunDevice>,
    ) -> Result<Option<Overlap>, NetworkError> {
        let own = own.map(TunDevice::name);
        super::overlap_on(&Mac, wanted, |route| own == Some(&*route.device))
            .map_err(NetworkError::list)
    }
}
