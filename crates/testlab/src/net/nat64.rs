//! A NAT64 (RFC 6146) beside a site's router: tayga translates the packets, nft the addresses.

use std::{fs, net::Ipv4Addr, sync::Arc, time::Duration};

use tempfile::TempDir;

use super::{
    plan::{WELL_KNOWN, end},
    uplink::{LAN, Place, WAN},
};
use crate::{
    Error, Result,
    nat::{Expiry, Nat},
    netns::{Namespace, connect},
    process::Proc,
};

/// The interface of the router to its NAT64, and the translator's own.
const DEVICE: &str = "nat64";

/// The translator's address in the network between it and the NAT for IPv4.
const TRANSLATOR: Ipv4Addr = Ipv4Addr::new(192, 168, 255, 1);

/// What the host's IPv6 address is translated to, before the NAT for IPv4.
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 255, 2);

/// For the translator to open its TUN device.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A running NAT64. Fields are dropped in this order: what works in a namespace ends before it.
#[derive(Debug)]
pub(super) struct Nat64 {
    pub(super) expiry: Option<Expiry>,
    /// The interface of the internet that leads to it.
    pub(super) port: String,
    _translator: Proc,
    _config: TempDir,
    _namespace: Arc<Namespace>,
}

impl Nat64 {
    /// Connects it to the site's router, which has an address on the internet's IPv6, and to the internet's
    /// IPv4 by the outermost NAT of this kind. Where that is none it is `PortRestricted`, as a NAT64 is a NAT.
    pub(super) fn new(place: Place<'_>, nat: Nat, router: &Namespace) -> Result<Self> {
        let plan = place.plan;
        let label = format!("{}-nat64", place.label());
        let namespace = Arc::new(Namespace::new(&label)?);
        namespace.forward()?;

        connect(end(router, DEVICE), end(&namespace, LAN))?;
        plan.nat64().number_and_route(end(router, DEVICE), end(&namespace, LAN))?;
        router.add_route(WELL_KNOWN, plan.nat64().inner.into())?;

        let port = format!("to-{label}");
        connect(end(place.internet, &port), end(&namespace, WAN))?;
        plan.public().number_and_route(end(place.internet, &port), end(&namespace, WAN))?;
        let nat = match nat.carrier().unwrap_or(nat) {
            Nat::None => Nat::PortRestricted,
            nat => nat,
        };
        let expiry = nat.apply(&namespace, WAN, plan.public().inner)?;

        // tayga rejects addresses that are kept for documentation behind the well-known prefix (RFC 6052
        // section 3.1), and all of the lab's are, so it gets another one.
        namespace.nft(&format!(
            "table ip6 prefix {{\n\
             chain prerouting {{ type nat hook prerouting priority dstnat;\n\
             dnat ip6 prefix to ip6 daddr map {{ {WELL_KNOWN} : {translated} }}\n\
             }}\n\
             chain postrouting {{ type nat hook postrouting priority srcnat;\n\
             snat ip6 prefix to ip6 saddr map {{ {translated} : {WELL_KNOWN} }}\n\
             }}\n\
             }}\n",
            translated = plan.translated(),
        ))?;
        let config = TempDir::new().map_err(Error::io("create a folder for tayga"))?;
        let file = config.path().join("tayga.conf");
        let lines = format!(
            "tun-device {DEVICE}\nipv4-addr {TRANSLATOR}\nprefix {}\nmap {HOST} {}\n",
            plan.translated(),
            plan.lan6().inner,
        );
        fs::write(&file, lines).map_err(Error::io(format!("write {}", file.display())))?;
        namespace.ip_batch(&[
            format!("tuntap add dev {DEVICE} mode tun"),
            format!("link set dev {DEVICE} up"),
            format!("route add {HOST} dev {DEVICE}"),
            format!("route add {} dev {DEVICE}", plan.translated()),
        ])?;
        let mut command = namespace.command("tayga");
        let translator = Proc::spawn(command.arg("--nodetach").arg("--config").arg(&file))?;
        namespace.wait_carrier(DEVICE, START_LIMIT)?;
        Ok(Self { expiry, port, _translator: translator, _config: config, _namespace: namespace })
    }
}
