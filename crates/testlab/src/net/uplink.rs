//! The way of a host to the internet: a router or two, and perhaps a NAT64.

use std::{net::IpAddr, sync::Arc};

use super::{
    idle::Idle,
    nat64::Nat64,
    plan::{Link, Plan, end},
};
use crate::{
    Result,
    nat::{Access, Expiry, Family, Nat, firewall},
    netns::{Namespace, connect},
};

/// A router's interface to the internet.
pub(super) const WAN: &str = "wan";
/// A router's interface to its host.
pub(super) const LAN: &str = "lan";

/// One of the ways that a host has to the internet.
///
/// Fields are dropped in this order: what works in a namespace ends before it.
#[derive(Debug)]
pub struct Uplink {
    expiry: Option<Expiry>,
    idle: Option<Idle>,
    nat64: Option<Nat64>,
    router: Arc<Namespace>,
    carrier: Option<Arc<Namespace>>,
    access: Access,
    /// The host's interface.
    interface: String,
    /// The interfaces of the internet that lead here.
    ports: Vec<String>,
    addresses: Vec<Address>,
}

/// An address of the host.
#[derive(Clone, Copy, Debug)]
struct Address {
    own: IpAddr,
    prefix: u8,
    gateway: IpAddr,
    /// The address that the internet sees in its place.
    public: IpAddr,
}

/// Where an uplink is built.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) internet: &'a Namespace,
    pub(super) host: &'a Namespace,
    /// The site's name; interfaces are called after it, so it is short.
    pub(super) site: &'a str,
    pub(super) plan: Plan,
}

impl Place<'_> {
    /// What namespaces and interfaces of the uplink are called after: `a`, `a1`, …
    pub(super) fn label(self) -> String {
        match self.plan.number {
            0 => self.site.to_owned(),
            number => format!("{}{number}", self.site),
        }
    }
}

impl Uplink {
    /// Builds everything up to the host's interface, which has no address yet.
    pub(super) fn new(place: Place<'_>, access: Access) -> Result<Self> {
        let label = place.label();
        let router = Arc::new(Namespace::new(&format!("{label}-router"))?);
        router.forward()?;
        let interface = format!("eth{}", place.plan.number);
        connect(end(&router, LAN), end(place.host, &interface))?;
        let mut carrier = None;
        if access.nat.carrier().is_some() {
            let namespace = Namespace::new(&format!("{label}-carrier"))?;
            namespace.forward()?;
            connect(end(&namespace, LAN), end(&router, WAN))?;
            carrier = Some(Arc::new(namespace));
        }
        let port = format!("to-{label}");
        connect(end(place.internet, &port), end(carrier.as_ref().unwrap_or(&router), WAN))?;

        let (expiry, idle, nat64) = (None, None, None);
        let (ports, addresses) = (Vec::new(), Vec::new());
        let mut uplink =
            Self { expiry, idle, nat64, router, carrier, access, interface, ports, addresses };
        if access.family.has_v4() {
            uplink.add_v4(place, &port)?;
        }
        if access.family.has_v6() {
            uplink.add_v6(place, &port)?;
        }
        uplink.ports.push(port);
        if access.family == Family::V6Nat64 {
            let nat64 = Nat64::new(place, access.nat, &uplink.router)?;
            uplink.ports.push(nat64.port.clone());
            uplink.nat64 = Some(nat64);
        }
        Ok(uplink)
    }

    /// How the host gets at the internet by it.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The router that the host is connected to; its interfaces are `lan` and `wan`.
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// The carrier's router between that one and the internet, where the NAT is a carrier-grade one.
    pub fn carrier(&self) -> Option<&Namespace> {
        self.carrier.as_deref()
    }

    /// What makes the mappings of an `Expiring` NAT expire.
    pub fn expiry(&self) -> Option<&Expiry> {
        self.expiry.as_ref().or_else(|| self.nat64.as_ref()?.expiry.as_ref())
    }

    /// See `Site::expire_when_idle`.
    pub(super) fn expire_when_idle(&mut self, seconds: u32) -> Result<()> {
        drop(self.expiry.take());
        self.idle = Some(Idle::start(Arc::clone(&self.router), seconds)?);
        Ok(())
    }

    /// See `Site::expire_on_demand`.
    pub(super) fn expire_on_demand(&mut self) {
        let translated = self.nat64.as_mut().and_then(|nat64| nat64.expiry.as_mut());
        for expiry in self.expiry.as_mut().into_iter().chain(translated) {
            expiry.stop_clock();
        }
    }

    /// The host's interface to it.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The interfaces of the internet that lead to it.
    pub fn ports(&self) -> &[String] {
        &self.ports
    }

    /// The addresses that the host has here; an IPv4 address comes first.
    pub fn own_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| address.own)
    }

    /// The addresses that the internet sees the host's packets come from, in the same order.
    pub fn public_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|address| address.public)
    }

    /// Commands of `ip` that take the host on this network.
    pub(super) fn attach(&self) -> Vec<String> {
        let interface = &self.interface;
        let mut commands = vec![format!("link set dev {interface} up")];
        for Address { own, prefix, gateway, .. } in &self.addresses {
            commands.push(format!("address add {own}/{prefix} dev {interface}"));
            commands.push(format!("route add default via {gateway}"));
        }
        commands
    }

    /// Commands of `ip` that take the host off this network; the routes go with the addresses.
    pub(super) fn detach(&self) -> Vec<String> {
        let interface = &self.interface;
        vec![format!("address flush dev {interface}"), format!("link set dev {interface} down")]
    }

    fn add_v4(&mut self, place: Place<'_>, port: &str) -> Result<()> {
        let plan = place.plan;
        let public = plan.public();
        let outermost = self.carrier.as_ref().unwrap_or(&self.router);
        public.number_and_route(end(place.internet, port), end(outermost, WAN))?;
        let mut outer = public.inner;
        if let (Some(carrier), Some(nat)) = (&self.carrier, self.access.nat.carrier()) {
            let shared = Plan::shared();
            shared.number_and_route(end(carrier, LAN), end(&self.router, WAN))?;
            nat.apply(carrier, WAN, public.inner)?;
            outer = shared.inner;
        }
        self.expiry = self.access.nat.home().apply(&self.router, WAN, outer)?;
        if self.access.nat == Nat::None {
            place.internet.add_route(&plan.public_lan_network(), outer.into())?;
            let lan = plan.public_lan();
            return self.add_host(lan, lan.inner.into());
        }
        self.add_host(plan.private_lan(), public.inner.into())
    }

    fn add_v6(&mut self, place: Place<'_>, port: &str) -> Result<()> {
        let plan = place.plan;
        let public = plan.public6();
        let outermost = self.carrier.as_ref().unwrap_or(&self.router);
        public.number_and_route(end(place.internet, port), end(outermost, WAN))?;
        place.internet.add_route(&plan.networks6(), public.inner.into())?;
        if let Some(carrier) = &self.carrier {
            let link = plan.carrier6();
            link.number_and_route(end(carrier, LAN), end(&self.router, WAN))?;
            carrier.add_route(&plan.networks6(), link.inner.into())?;
        }
        if let Some(rules) = firewall(self.access.nat, WAN) {
            self.router.nft(&rules)?;
        }
        let lan = plan.lan6();
        self.add_host(lan, lan.inner.into())
    }

    /// Gives the router its address in the host's network, and plans the host's.
    fn add_host<A: Into<IpAddr> + Copy>(&mut self, lan: Link<A>, public: IpAddr) -> Result<()> {
        self.router.add_address(LAN, lan.outer.into(), lan.prefix)?;
        let (own, gateway) = (lan.inner.into(), lan.outer.into());
        self.addresses.push(Address { own, prefix: lan.prefix, gateway, public });
        Ok(())
    }
}
