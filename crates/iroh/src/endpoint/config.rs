//! How an endpoint is to be bound, and binding it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use iroh::address_lookup::{
    AddrFilter, DnsAddressLookup, N0_DNS_PKARR_RELAY_PROD, PkarrPublisher, PkarrResolver,
};
use iroh::dns::{DnsResolver, FallbackMode, NameserverConfig};
use iroh::endpoint::{BindOpts, Builder, PortmapperConfig, QuicTransportConfig, presets};
use iroh::{RelayConfig, RelayMap, RelayMode, RelayUrl, TransportAddr};
use thiserror::Error;
use tunnel_model::Token;
use tunnel_model::protocol::ALPN;
use tunnel_session::transport::Role;
use url::Url;

use super::chain;
use crate::congestion::Congestion;
use crate::connection::{STREAM_WINDOW, UNAUTHENTICATED_WINDOW, WINDOW};
use crate::mdns::LocalLink;
use crate::tor::{Gate, Tor, TorError};
use crate::{RelayCa, SecretKey, crypto};

/// The UDP port on which a relay tells clients their public address, where nothing else is said (iroh-relay,
/// `defaults::DEFAULT_RELAY_QUIC_PORT`).
const DEFAULT_QUIC_PORT: u16 = 7842;

/// What may be sent before the peer has acknowledged it, in bytes; as much as the peer's window takes.
const SEND_WINDOW: u64 = WINDOW as u64;

/// Datagrams waiting to be sent, in bytes. The oldest are dropped beyond it: 50 ms at 100 Mbit/s, so that a full queue
/// costs a voice call little.
const DATAGRAM_SEND_BUFFER: usize = 640 * 1024;

/// Datagrams waiting to be read, in bytes: a burst at 1 Gbit/s while this process is not scheduled for 16 ms.
const DATAGRAM_RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// Packets in flight per acknowledgement asked for (draft-ietf-quic-ack-frequency), and the longest the peer may wait.
const ACK_ELICITING_THRESHOLD: u32 = 10;

/// A direct path on which nothing came for so long is given up for another one; bytes are to flow again within 3 s. iroh
/// gives one by a relay 30 s instead (`RELAY_PATH_MAX_IDLE_TIMEOUT`). The last path is never given up (noq-proto 1.4, `Connection::close_path`), so where there is no relay an outage may last as
/// long as the connection's own idle timeout of 30 s. On a long path it is three times the probe timeout instead.
const PATH_IDLE: Duration = Duration::from_millis(2_800);

/// How often an idle path is asked for a sign of life: three times before it is given up.
const PATH_KEEP_ALIVE: Duration = Duration::from_millis(900);

/// A relay of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayServer {
    /// `https://` or `http://`.
    pub url: RelayUrl,
    /// The UDP port for address discovery, where it is not the usual one.
    pub quic_port: Option<u16>,
}

/// Which relays carry what cannot go directly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Relays {
    /// iroh's public ones.
    #[default]
    Public,
    /// These and no others; none at all where empty.
    Own(Vec<RelayServer>),
}

/// Which discovery servers tell where an endpoint is, besides mDNS on the local link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// iroh's public one.
    #[default]
    Public,
    /// This one: a pkarr relay over HTTP.
    Own(Url),
    /// None.
    None,
}

/// Who is told of an endpoint's UDP sockets: of the first ones, and of those that take their place.
#[derive(Clone)]
pub struct OnBound(Arc<Tell>);

type Tell = dyn Fn(&[SocketAddr]) + Send + Sync;

impl OnBound {
    /// `tell` is called before anything is dialled or accepted over the sockets.
    pub fn new(tell: impl Fn(&[SocketAddr]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl fmt::Debug for OnBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnBound(..)")
    }
}

/// How an endpoint is to be bound.
#[derive(Clone, Debug, Default)]
pub struct EndpointConfig {
    /// The lasting identity; a fresh one where none is given.
    pub secret: Option<SecretKey>,
    /// Relays.
    pub relays: Relays,
    /// Discovery servers.
    pub discovery: Discovery,
    /// What own relays and discovery servers must show.
    pub relay_ca: RelayCa,
    /// What one's own relays are shown, where they ask for a token; nobody else ever is.
    pub relay_token: Option<Token>,
    /// UDP sockets; any port of every address where empty. An unspecified address stands for both families.
    pub bind: Vec<SocketAddr>,
    /// Addresses to advertise that this machine cannot see itself.
    pub external: Vec<SocketAddr>,
    /// Congestion control.
    pub congestion: Congestion,
    /// Networks in which this machine's addresses are told to nobody who looks it up: those that it carries itself.
    pub hidden: Vec<IpNet>,
    /// The only name server that is asked, over UDP; those of the system where none is given.
    pub nameserver: Option<SocketAddr>,
    /// Who is told of the UDP sockets.
    pub on_bound: Option<OnBound>,
    /// Reach the relays, which are onion services then, through Tor. No discovery: neither servers nor the local link.
    pub tor: Option<Tor>,
    /// No direct paths.
    #[cfg(feature = "test-utils")]
    pub relay_only: bool,
}

/// Why an endpoint could not be bound.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// The sockets.
    #[error("cannot bind the UDP socket{}: {reason}", given(.addresses))]
    Bind {
        /// The addresses asked for, perhaps none.
        addresses: Vec<SocketAddr>,
        /// What the system says.
        reason: String,
    },
    /// Tor.
    #[error(transparent)]
    Tor(#[from] TorError),
}

fn given(addresses: &[SocketAddr]) -> String {
    let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    if list.is_empty() { String::new() } else { format!(" {}", list.join(", ")) }
}

/// Where a relay, a discovery server or a proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerHost {
    /// A name that is looked up.
    Name(String),
    /// An address.
    Address(IpAddr),
}

impl EndpointConfig {
    /// All relays, discovery servers and proxies that the endpoint may talk to, each once.
    pub fn server_hosts(&self) -> Vec<ServerHost> {
        let relays: Vec<RelayUrl> = self.relay_mode().relay_map().urls();
        let mut urls: Vec<Url> = relays.into_iter().map(|url| Url::clone(&url)).collect();
        match &self.discovery {
            Discovery::Own(url) => urls.push(url.clone()),
            Discovery::Public if !self.own_infrastructure() => {
                urls.extend(Url::parse(N0_DNS_PKARR_RELAY_PROD));
            }
            Discovery::Public | Discovery::None => {}
        }
        let proxy = self.tor.map(|tor| ServerHost::Address(tor.proxy.address().ip()));
        let mut hosts = Vec::from_iter(proxy);
        for url in urls {
            let host = match url.host() {
                Some(url::Host::Domain(name)) => ServerHost::Name(name.to_owned()),
                Some(url::Host::Ipv4(ip)) => ServerHost::Address(ip.into()),
                Some(url::Host::Ipv6(ip)) => ServerHost::Address(ip.into()),
                None => continue,
            };
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        hosts
    }

    /// Whether the owner has named infrastructure of their own: then nobody else is asked anything.
    pub fn own_infrastructure(&self) -> bool {
        self.relays != Relays::Public || self.discovery != Discovery::Public
    }

    /// Whether an address is told to nobody.
    pub(super) fn hides(&self, address: &TransportAddr) -> bool {
        let TransportAddr::Ip(address) = address else { return false };
        self.hidden.iter().any(|network| network.contains(&address.ip().to_canonical()))
    }

    fn transport(&self) -> QuicTransportConfig {
        let mut acknowledgements = iroh::endpoint::AckFrequencyConfig::default();
        acknowledgements.ack_eliciting_threshold(ACK_ELICITING_THRESHOLD.into());
        QuicTransportConfig::builder()
            // One stream for authentication; more once that is done.
            .max_concurrent_bidi_streams(1u32.into())
            .max_concurrent_uni_streams(0u32.into())
            .receive_window(UNAUTHENTICATED_WINDOW.into())
            .stream_receive_window(STREAM_WINDOW.into())
            .send_window(SEND_WINDOW)
            .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
            .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
            .ack_frequency_config(Some(acknowledgements))
            .default_path_max_idle_timeout(PATH_IDLE)
            .default_path_keep_alive_interval(PATH_KEEP_ALIVE)
            .congestion_controller_factory(self.congestion.factory())
            .build()
    }

    pub(super) fn relay_mode(&self) -> RelayMode {
        match &self.relays {
            Relays::Public => RelayMode::Default,
            Relays::Own(relays) if relays.is_empty() => RelayMode::Disabled,
            Relays::Own(relays) => {
                let map = RelayMap::empty();
                for relay in relays {
                    // Address discovery is QUIC and needs TLS, which plain HTTP has not.
                    let quic = (relay.url.scheme() == "https").then(|| {
                        let port = relay.quic_port.unwrap_or(DEFAULT_QUIC_PORT);
                        iroh_relay::RelayQuicConfig::new(port)
                    });
                    let mut config = RelayConfig::new(relay.url.clone(), quic);
                    if let Some(token) = &self.relay_token {
                        config = config.with_auth_token(token.expose());
                    }
                    map.insert(relay.url.clone(), Arc::new(config));
                }
                RelayMode::Custom(map)
            }
        }
    }

    fn sockets(&self, mut builder: Builder) -> Result<Builder, EndpointError> {
        if self.bind.is_empty() {
            return Ok(builder);
        }
        let failed = |error: &dyn ToString| EndpointError::Bind {
            addresses: self.bind.clone(),
            reason: error.to_string(),
        };
        builder = builder.clear_ip_transports();
        for address in &self.bind {
            if address.ip().is_unspecified() {
                let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), address.port());
                let v6 = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), address.port());
                // A machine without the other family still has the one that was written.
                let required = |is: bool| BindOpts::default().set_is_required(is);
                builder = builder
                    .bind_addr_with_opts(v4, required(address.is_ipv4()))
                    .and_then(|b| b.bind_addr_with_opts(v6, required(address.is_ipv6())))
                    .map_err(|e| failed(&e))?;
            } else {
                builder = builder.bind_addr(*address).map_err(|e| failed(&e))?;
            }
        }
        Ok(builder)
    }

    /// Looks servers up; only a server is published, a client has no reason to be found.
    fn discovery(&self, mut builder: Builder, role: Role) -> Builder {
        match &self.discovery {
            Discovery::None => builder,
            Discovery::Public if self.own_infrastructure() => builder,
            Discovery::Public => {
                if role == Role::Server {
                    builder = builder.address_lookup(PkarrPublisher::n0_dns());
                }
                builder
                    .address_lookup(PkarrResolver::n0_dns())
                    .address_lookup(DnsAddressLookup::n0_dns())
            }
            Discovery::Own(url) => {
                if role == Role::Server {
                    // On one's own server direct addresses give nothing away to others.
                    let publisher = PkarrPublisher::builder(url.clone());
                    builder =
                        builder.address_lookup(publisher.addr_filter(AddrFilter::unfiltered()));
                }
                builder.address_lookup(PkarrResolver::builder(url.clone()))
            }
        }
    }

    /// iroh's endpoint by these settings.
    pub(super) async fn bind(
        &self,
        role: Role,
        tor: Option<&Gate>,
    ) -> Result<iroh::Endpoint, EndpointError> {
        self.finish(self.sockets(self.builder(role))?, role, tor).await
    }

    /// The same on these very sockets.
    pub(super) async fn bind_to(
        &self,
        sockets: &[SocketAddr],
        role: Role,
        tor: Option<&Gate>,
    ) -> Result<iroh::Endpoint, EndpointError> {
        let mut builder = self.builder(role).clear_ip_transports();
        for socket in sockets {
            builder = builder.bind_addr(*socket).map_err(|error| EndpointError::Bind {
                addresses: sockets.to_vec(),
                reason: error.to_string(),
            })?;
        }
        self.finish(builder, role, tor).await
    }

    fn builder(&self, role: Role) -> Builder {
        let mut builder = iroh::Endpoint::builder(presets::Empty)
            .crypto_provider(crypto::provider())
            .transport_config(self.transport())
            .relay_mode(self.relay_mode())
            .ca_tls_config(self.relay_ca.tls_config());
        if let Some(secret) = &self.secret {
            builder = builder.secret_key(secret.0.clone());
        }
        if role == Role::Server {
            builder = builder.alpns(vec![ALPN.to_vec()]);
        }
        if self.own_infrastructure() || self.nameserver.is_some() {
            let resolver = DnsResolver::builder().with_fallback_mode(FallbackMode::Never);
            let resolver = match self.nameserver {
                Some(nameserver) => {
                    let udp = NameserverConfig::udp(nameserver.ip()).with_port(nameserver.port());
                    resolver.add_nameserver_config(udp)
                }
                None => resolver.with_system_defaults(),
            };
            builder = builder.dns_resolver(resolver.build());
        }
        if self.own_infrastructure() {
            builder = builder.portmapper_config(PortmapperConfig::Disabled);
        }
        for address in &self.external {
            builder = builder.external_addr(*address);
        }
        if !self.hidden.is_empty() {
            let config = self.clone();
            builder = builder.addr_filter(AddrFilter::new(move |addresses| {
                let shown = addresses.iter().filter(|address| !config.hides(address));
                std::borrow::Cow::Owned(shown.cloned().collect())
            }));
        }
        builder
    }

    async fn finish(
        &self,
        builder: Builder,
        role: Role,
        tor: Option<&Gate>,
    ) -> Result<iroh::Endpoint, EndpointError> {
        let builder = match tor {
            Some(tor) => tor.configure(builder),
            None => self.discovery(builder, role),
        };
        #[cfg(feature = "test-utils")]
        let builder = if self.relay_only { builder.clear_ip_transports() } else { builder };
        let inner = builder.bind().await.map_err(|error| EndpointError::Bind {
            addresses: self.bind.clone(),
            // The cause is what says "address in use".
            reason: chain(&error),
        })?;
        if let Some(OnBound(tell)) = &self.on_bound {
            tell(&inner.bound_sockets());
        }
        if tor.is_none()
            && let Ok(lookup) = inner.address_lookup()
        {
            lookup.add(LocalLink::new(inner.id(), role));
        }
        Ok(inner)
    }
}
