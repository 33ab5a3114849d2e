use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use iroh_metrics::Registry;
use iroh_relay::KeyCache;
use iroh_relay::server::http_server::{Handlers, RelayService};
use iroh_relay::server::{ClientRateLimit, QuicConfig, Server, ServerConfig, SpawnError};
use rustls::ServerConfig as TlsServerConfig;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::access::{Door, Rules};
use crate::acme::{Acme, AcmeOptions};
use crate::certificate::{Certificate, CertificateError, Certificates, server_config};
use crate::discovery::{self, DiscoveryError, DiscoveryOptions};
use crate::front::{self, Router, Security};
use crate::metrics::Metrics;
use crate::places::{Pace, Places};
use crate::status::Status;

/// Keys that need not be decoded again; 32 bytes each and as many beside.
const KEYS: usize = 64 * 1024;

/// How long those who may not stay are asked to go, and how often: one may be on its way in at the moment.
const REVOKE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(20));

/// For the farewells to clients.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a relay's connections are secured.
#[derive(Clone, Debug)]
pub enum Tls {
    /// Not at all: for a network of one's own, or behind a reverse proxy that does it. Without a certificate there is no
    /// address discovery either; with one there is.
    Plain(Option<Certificate>),
    /// By this certificate, until it is replaced.
    Certificate(Certificate),
    /// By certificates from an authority.
    Acme(AcmeOptions),
}

/// How a relay runs.
#[derive(Clone, Debug)]
pub struct RelayOptions {
    /// Where it listens for HTTP or HTTPS; port 0 is any free one. `[::]` takes IPv4 as well, and is only that where
    /// there is no IPv6.
    pub listen: SocketAddr,
    /// How connections are secured.
    pub tls: Tls,
    /// The UDP port for address discovery, where there is a certificate; 0 is any free one.
    pub quic_port: u16,
    /// The discovery server; none where not given.
    pub discovery: Option<DiscoveryOptions>,
    /// Who may use it.
    pub rules: Rules,
    /// What is read from each client, in bytes a second; no limit where not given.
    pub client_rate: Option<NonZeroU32>,
    /// Connections that an address may have; 0 is no limit.
    pub address_connections: usize,
    /// Where health and metrics are told; nowhere where not given.
    pub status: Option<SocketAddr>,
}

impl RelayOptions {
    /// For everybody, without limits or discovery server, with a certificate that is made for this run alone.
    ///
    /// # Errors
    ///
    /// Where no certificate can be made.
    pub fn for_now(listen: SocketAddr, quic_port: u16) -> Result<Self, CertificateError> {
        let key = Certificate::make_key()?;
        let names = ["localhost".to_owned(), listen.ip().to_string()];
        Ok(Self {
            listen,
            tls: Tls::Certificate(Certificate::self_signed(&names, &key)?),
            quic_port,
            discovery: None,
            rules: Rules::Everybody,
            client_rate: None,
            address_connections: 0,
            status: None,
        })
    }
}

/// Why a relay did not start.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The certificate is of no use.
    #[error("the relay's certificate: {0}")]
    Certificate(#[from] CertificateError),
    /// The address is taken, or may not be had.
    #[error("cannot listen on {0}: {1}{hint}", hint = hint(.0, .1))]
    Listen(SocketAddr, std::io::Error),
    /// The server for address discovery could not be started.
    #[error("cannot start address discovery on UDP {0}: {1}")]
    Quic(SocketAddr, String),
    /// The discovery server could not be started.
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
}

fn hint(address: &SocketAddr, error: &std::io::Error) -> &'static str {
    let low = address.port() < 1024;
    if cfg!(unix) && low && error.kind() == std::io::ErrorKind::PermissionDenied {
        "; ports below 1024 need root or the capability CAP_NET_BIND_SERVICE: give --listen another one"
    } else {
        ""
    }
}

/// A running relay; it stops when dropped.
pub struct Relay {
    address: SocketAddr,
    quic: Option<SocketAddr>,
    dns: Option<SocketAddr>,
    status: Option<SocketAddr>,
    certificates: Option<Arc<Certificates>>,
    door: Arc<Door>,
    service: RelayService,
    tasks: Tasks,
    end: CancellationToken,
}

/// The relay's parts. The end of one that should go on is noticed.
#[derive(Default)]
struct Tasks {
    set: JoinSet<()>,
    ended: CancellationToken,
}

impl Tasks {
    fn spawn(&mut self, part: impl Future<Output = ()> + Send + 'static) {
        let guard = self.ended.clone().drop_guard();
        self.set.spawn(async move {
            part.await;
            drop(guard);
        });
    }
}

impl Relay {
    /// Starts a relay. The process must have a cryptographic provider.
    ///
    /// # Errors
    ///
    /// Where its certificate, its sockets or its database cannot be had.
    pub async fn start(options: RelayOptions) -> Result<Self, RelayError> {
        let metrics = Arc::new(Metrics::default());
        let relay_metrics = Arc::new(iroh_relay::server::Metrics::default());
        let end = CancellationToken::new();
        let mut tasks = Tasks::default();

        let listener = listen(options.listen).await?;
        let address = local(&listener, options.listen)?;
        let (security, tls, certificates) = secure(options.tls, &mut tasks)?;

        let quic_server = match tls {
            Some(tls) => Some(
                address_discovery(SocketAddr::new(address.ip(), options.quic_port), &tls).await?,
            ),
            None => None,
        };
        let quic = quic_server.as_ref().and_then(Server::quic_addr);

        let (discovery, records) = match &options.discovery {
            Some(options) => {
                let (server, http) = discovery::start(options).await?;
                (Some(server), Some(http))
            }
            None => (None, None),
        };
        let asked = options.discovery.as_ref().is_some_and(|options| options.dns.is_some());
        let dns = discovery.as_ref().map(iroh_dns_server::Server::dns_addr).filter(|_| asked);

        let door = Door::new(options.rules, Arc::clone(&metrics));
        let service = RelayService::new(
            Handlers::default(),
            hyper::HeaderMap::default(),
            options.client_rate.map(ClientRateLimit::new),
            KeyCache::new(KEYS),
            Arc::clone(&door) as _,
            Arc::clone(&relay_metrics),
        );
        let router = Router {
            relay: service.clone(),
            door: Arc::clone(&door),
            discovery: records,
            pace: Arc::new(Pace::default()),
            metrics: Arc::clone(&metrics),
        };

        let status = match options.status {
            Some(wanted) => {
                let listener = listen(wanted).await?;
                let at = local(&listener, wanted)?;
                let mut registry = Registry::default();
                registry.register(metrics.clone());
                registry.register(relay_metrics);
                if let Some(server) = &quic_server {
                    registry.sub_registry_with_prefix("quic").register_all(server.metrics());
                }
                if let Some(server) = &discovery {
                    registry.register(Arc::clone(server.metrics()) as _);
                }
                let sockets =
                    [("the relay", Some(reachable(address))), ("the discovery server", records)];
                let sockets =
                    sockets.into_iter().filter_map(|(name, at)| Some((name, at?))).collect();
                let status = Arc::new(Status { registry, sockets });
                tasks.spawn(tunnel_health::serve(listener, status, end.clone()));
                Some(at)
            }
            None => None,
        };
        if let Some(mut server) = quic_server {
            tasks.spawn(async move {
                let _ = server.join().await;
                tracing::error!("address discovery has ended");
            });
        }
        if let Some(server) = discovery {
            tasks.spawn(async move {
                let ended = server.join().await;
                let why = ended.err().map(|error| format!(": {error:#}")).unwrap_or_default();
                tracing::error!("the discovery server has ended{why}");
            });
        }
        let places = Places::new(options.address_connections);
        tasks.spawn(front::run(listener, security, router, places, metrics, end.clone()));
        Ok(Self { address, quic, dns, status, certificates, door, service, tasks, end })
    }

    /// Where it listens for HTTP or HTTPS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it tells clients their address, if it does.
    pub fn quic_address(&self) -> Option<SocketAddr> {
        self.quic
    }

    /// The pin of its certificate, where that is not an authority's to choose.
    pub fn pin(&self) -> Option<String> {
        self.certificates.as_ref().map(|certificates| certificates.get().pin())
    }

    /// Where it answers DNS, if it does.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns
    }

    /// Where it tells health and metrics, if it does.
    pub fn status_address(&self) -> Option<SocketAddr> {
        self.status
    }

    /// The certificate that it shows, unless that is an authority's to choose or there is none.
    pub fn certificates(&self) -> Option<&Arc<Certificates>> {
        self.certificates.as_ref()
    }

    /// Lets those in whom these rules name, from now on. Who is in and not named is disconnected; returns how many.
    pub async fn set_rules(&self, rules: Rules) -> usize {
        self.door.set_rules(rules);
        let clients = self.service.clients();
        let mut told = std::collections::HashSet::new();
        let revoking = async {
            loop {
                let unwanted = self.door.unwanted();
                if unwanted.is_empty() {
                    return;
                }
                for (id, connection) in unwanted {
                    clients.disconnect(id, Some(connection));
                    told.insert(connection);
                }
                sleep(REVOKE.1).await;
            }
        };
        if timeout(REVOKE.0, revoking).await.is_err() {
            self.door.end_unwanted();
            tracing::warn!("a client that may not use the relay any more is still there");
        }
        told.len()
    }

    /// Waits until one of its parts has ended by itself, which none should.
    pub async fn failed(&self) {
        self.tasks.ended.cancelled().await;
    }

    /// Ends it, and tells its clients.
    pub async fn shutdown(self) {
        let Self { service, end, mut tasks, .. } = self;
        end.cancel();
        let _ = timeout(FAREWELL, service.shutdown()).await;
        tasks.set.shutdown().await;
    }
}

type Secured = (Security, Option<Arc<TlsServerConfig>>, Option<Arc<Certificates>>);

/// The listener's security, what address discovery shows, and the certificate that can be replaced.
fn secure(tls: Tls, tasks: &mut Tasks) -> Result<Secured, CertificateError> {
    let replaceable = |certificate| {
        let certificates = Certificates::new(certificate);
        let config = server_config(Arc::clone(&certificates) as _)?;
        Ok::<_, CertificateError>((config, certificates))
    };
    Ok(match tls {
        Tls::Plain(None) => (Security::Plain, None, None),
        Tls::Plain(Some(certificate)) => {
            let (config, certificates) = replaceable(certificate)?;
            (Security::Plain, Some(config), Some(certificates))
        }
        Tls::Certificate(certificate) => {
            let (config, certificates) = replaceable(certificate)?;
            (Security::Tls(Arc::clone(&config)), Some(config), Some(certificates))
        }
        Tls::Acme(options) => {
            let acme = Acme::new(options)?;
            let config = server_config(Arc::clone(&acme.resolver))?;
            let security = Security::Acme(Arc::clone(&config), acme.acceptor.clone());
            tasks.spawn(acme.run());
            (security, Some(config), None)
        }
    })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, RelayError> {
    tunnel_health::listen(address).await.map_err(|error| RelayError::Listen(address, error))
}

fn local(listener: &TcpListener, wanted: SocketAddr) -> Result<SocketAddr, RelayError> {
    listener.local_addr().map_err(|error| RelayError::Listen(wanted, error))
}

/// Where this process reaches its own socket.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

async fn address_discovery(
    address: SocketAddr,
    tls: &Arc<TlsServerConfig>,
) -> Result<Server, RelayError> {
    let mut quic = QuicConfig::new(address);
    quic.server_config = Some(tls.as_ref().clone());
    let mut config = ServerConfig::default();
    config.quic = Some(quic);
    let failed = |error: SpawnError| RelayError::Quic(address, format!("{error:#}"));
    Server::spawn(config).await.map_err(failed)
}
