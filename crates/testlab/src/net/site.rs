//! A host with its uplinks, of which it uses one.

use std::net::IpAddr;

use super::{
    plan::Plan,
    uplink::{Place, Uplink, WAN},
};
use crate::{Error, Result, nat::Access, netns::Namespace};

/// A host and its ways to the internet, one of which it uses.
///
/// Fields are dropped in this order: what works in a namespace ends before it.
#[derive(Debug)]
pub struct Site {
    uplinks: Vec<Uplink>,
    current: usize,
    name: &'static str,
    number: u8,
    /// The host.
    pub host: Namespace,
}

impl Site {
    /// Site 0 or 1 of a lab, connected by its first uplink.
    pub(super) fn new(
        name: &'static str,
        number: u8,
        internet: &Namespace,
        access: Access,
    ) -> Result<Self> {
        let host = Namespace::new(name)?;
        let mut site = Self { uplinks: Vec::new(), current: 0, name, number, host };
        site.build(internet, access)?;
        site.host.ip_batch(&site.uplink().attach())?;
        Ok(site)
    }

    /// Builds another uplink, with routers, a NAT and public networks of its own (a mobile network beside the
    /// Wi-Fi), and returns its number. The host does not use it before a `switch`: its interface is down.
    pub fn add_uplink(&mut self, internet: &Namespace, access: impl Into<Access>) -> Result<usize> {
        self.build(internet, access.into())?;
        let number = self.uplinks.len() - 1;
        self.host.ip_batch(&self.uplinks[number].detach())?;
        Ok(number)
    }

    /// Moves the host from the uplink in use to the next one, or from the last back to the first: its
    /// addresses and routes vanish with the interface's carrier, and the other interface comes up with others,
    /// within milliseconds. What the routers remember of the host stays.
    pub fn switch(&mut self) -> Result<()> {
        let next = (self.current + 1) % self.uplinks.len();
        if next == self.current {
            return Err(Error::NoUplink { host: self.host.name().to_owned() });
        }
        let commands = [self.uplink().detach(), self.uplinks[next].attach()].concat();
        self.host.ip_batch(&commands)?;
        self.current = next;
        Ok(())
    }

    /// Takes the host off every network: its addresses and routes vanish with the interface's carrier.
    pub fn disconnect(&self) -> Result<()> {
        self.host.ip_batch(&self.uplink().detach())
    }

    /// Takes the host back to the network that it was on before `disconnect`, or to the next one after a `switch`.
    pub fn reconnect(&self) -> Result<()> {
        self.host.ip_batch(&self.uplink().attach())
    }

    /// Makes the `Expiring` NAT of the uplink in use one that ends each mapping once it has been idle for so many
    /// seconds, and no busy one, as most routers do; the mapping after it still gets another port. Any other
    /// kind keeps its ports.
    pub fn expire_when_idle(&mut self, seconds: u32) -> Result<()> {
        self.uplinks[self.current].expire_when_idle(seconds)
    }

    /// Lets the mappings of the `Expiring` NATs of all its uplinks end by `Expiry::expire_now` only, and not
    /// after their lifetime.
    pub fn expire_on_demand(&mut self) {
        for uplink in &mut self.uplinks {
            uplink.expire_on_demand();
        }
    }

    /// The uplink in use.
    pub fn uplink(&self) -> &Uplink {
        &self.uplinks[self.current]
    }

    /// All uplinks, in the order in which they were added.
    pub fn uplinks(&self) -> &[Uplink] {
        &self.uplinks
    }

    /// The router that the host is connected to at present.
    pub fn router(&self) -> &Namespace {
        self.uplink().router()
    }

    /// The host's own address at present; the IPv4 one, where it has both.
    pub fn address(&self) -> Option<IpAddr> {
        self.uplink().own_addresses().next()
    }

    /// The address that the internet sees the host's packets come from at present, of the same family.
    pub fn public(&self) -> Option<IpAddr> {
        self.uplink().public_addresses().next()
    }

    /// Lets no packet over so many bytes pass between the internet and the uplink in use, either way. Who sends one is
    /// told so by ICMP.
    pub fn narrow(&self, internet: &Namespace, mtu: u16) -> Result<()> {
        let (uplink, mtu) = (self.uplink(), mtu.to_string());
        uplink
            .carrier()
            .unwrap_or(uplink.router())
            .ip(&["link", "set", "dev", WAN, "mtu", &mtu])?;
        for port in uplink.ports() {
            internet.ip(&["link", "set", "dev", port, "mtu", &mtu])?;
        }
        Ok(())
    }

    fn build(&mut self, internet: &Namespace, access: Access) -> Result<()> {
        let number = u8::try_from(self.uplinks.len()).unwrap_or(u8::MAX);
        let plan = Plan { site: self.number, number };
        let place = Place { internet, host: &self.host, site: self.name, plan };
        self.uplinks.push(Uplink::new(place, access)?);
        Ok(())
    }
}
