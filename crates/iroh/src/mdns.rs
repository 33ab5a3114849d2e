//! Discovery on the local link by mDNS (RFC 6762), on the interface of the default route and on every one with a
//! private IPv4 address.
//!
//! iroh-mdns-address-lookup speaks on the interface of the default route alone, so that it is silent on a network
//! without one; the library below it can do more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::BASE32_NOPAD;
use futures_util::{Stream, StreamExt, stream};
use iroh::EndpointId;
use iroh::address_lookup::{AddressLookup, EndpointData, EndpointInfo, Error, Item};
use swarm_discovery::{Discoverer, DropGuard, IpClass};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout_at;
use tunnel_session::transport::Role;

/// The name under which servers announce themselves (RFC 6763 section 7: at most 15 characters).
const SERVICE: &str = "tunnel-rs";

/// How long a look-up listens: an answer takes one query, which is repeated every 0.7 s.
const LISTEN: Duration = Duration::from_secs(5);

/// Answers that wait to be read; one server gives one for each change.
const ANSWERS: usize = 16;

/// Finds servers on the local link, and makes a server found.
#[derive(Debug, Clone)]
pub(crate) struct LocalLink {
    id: EndpointId,
    role: Role,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    interfaces: BTreeSet<Ipv4Addr>,
    announcement: Option<DropGuard>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("interfaces", &self.interfaces).finish_non_exhaustive()
    }
}

/// An identity as a DNS label: its 64 hexadecimal digits would be one too long (RFC 1035 section 2.3.4).
fn label(id: EndpointId) -> String {
    BASE32_NOPAD.encode(id.as_bytes()).to_ascii_lowercase()
}

impl LocalLink {
    pub(crate) fn new(id: EndpointId, role: Role) -> Self {
        Self { id, role, state: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn discoverer(name: String, interfaces: &BTreeSet<Ipv4Addr>) -> Discoverer {
        Discoverer::new_interactive(SERVICE.to_owned(), name)
            .with_ip_class(IpClass::Auto)
            .with_multicast_interfaces_v4(interfaces.iter().copied().collect())
    }

    /// Announces anew: the addresses, the interfaces, or both have changed.
    fn announce(&self, state: &mut State, addresses: &BTreeSet<SocketAddr>) {
        let mut ports: BTreeMap<u16, Vec<IpAddr>> = BTreeMap::new();
        for address in addresses {
            ports.entry(address.port()).or_default().push(address.ip());
        }
        let mut discoverer = Self::discoverer(label(self.id), &state.interfaces);
        for (port, ips) in ports {
            discoverer = discoverer.with_addrs(port, ips);
        }
        // The old one first: both would answer.
        state.announcement = None;
        match discoverer.spawn(&Handle::current()) {
            Ok(announcement) => state.announcement = Some(announcement),
            // A machine without multicast is found by its ticket, or through a relay.
            Err(error) => tracing::debug!(%error, "no announcement on the local link"),
        }
    }
}

impl AddressLookup for LocalLink {
    fn publish(&self, data: &EndpointData) {
        let addresses: BTreeSet<SocketAddr> = data.ip_addrs().copied().collect();
        let v4 = addresses.iter().filter_map(|address| match address.ip() {
            IpAddr::V4(ip) if is_local(ip) => Some(ip),
            _ => None,
        });
        let mut state = self.state();
        state.interfaces = v4.collect();
        if self.role == Role::Server {
            self.announce(&mut state, &addresses);
        }
    }

    fn resolve(
        &self,
        id: EndpointId,
    ) -> Option<Pin<Box<dyn Stream<Item = Result<Item, Error>> + Send>>> {
        let (found, answers) = mpsc::channel(ANSWERS);
        let wanted = label(id);
        // A name of its own: one that asks is not one that can be found.
        let mut name = [0; 16];
        getrandom::fill(&mut name).ok()?;
        let name = BASE32_NOPAD.encode(&name).to_ascii_lowercase();
        let discoverer =
            Self::discoverer(name, &self.state().interfaces).with_callback(move |name, peer| {
                if name == wanted && !peer.is_expiry() {
                    let addresses = peer.addrs().iter();
                    let addresses = addresses.map(|(ip, port)| SocketAddr::new(*ip, *port));
                    let data = EndpointData::from_iter(addresses.map(iroh::TransportAddr::Ip));
                    let info = EndpointInfo::from_parts(id, data);
                    // Full means that nobody reads any more.
                    let _ = found.try_send(Item::new(info, "mdns", None));
                }
            });
        let listening = match discoverer.spawn(&Handle::current()) {
            Ok(listening) => listening,
            Err(error) => {
                tracing::debug!(%error, "no look-up on the local link");
                return None;
            }
        };
        let end = tokio::time::Instant::now() + LISTEN;
        let answers =
            stream::unfold((answers, listening), move |(mut answers, listening)| async move {
                let item = timeout_at(end, answers.recv()).await.ok()??;
                Some((Ok(item), (answers, listening)))
            });
        Some(answers.boxed())
    }
}

/// Whether the address is likely one of an interface of this machine, and not one that a NAT outside has: multicast can
/// only be sent from the former.
fn is_local(ip: Ipv4Addr) -> bool {
    // Shared address space (RFC 6598) is what carriers and overlay networks give to interfaces.
    let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
    ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    #[test]
    fn an_identity_is_one_label() {
        assert!(label(SecretKey::generate().id()).len() <= 63);
    }

    #[test]
    fn public_addresses_are_not_taken_for_interfaces() {
        for (ip, local) in [
            ("192.168.1.2", true),
            ("127.0.0.1", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("8.8.8.8", false),
        ] {
            assert_eq!(is_local(ip.parse().unwrap()), local, "{ip}");
        }
    }
}
