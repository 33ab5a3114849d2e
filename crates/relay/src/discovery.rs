//! The discovery server: iroh-dns-server, behind the listener in front.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use iroh_dns_server::Server;
use iroh_dns_server::config::{Config, MetricsConfig, RateLimitConfig};
use thiserror::Error;

/// How long resolvers may keep an answer, in seconds. Endpoints publish anew when their addresses change, so not long.
const TTL: u32 = 30;

/// Where the discovery server keeps its records, and whether it speaks DNS.
#[derive(Clone, Debug)]
pub struct DiscoveryOptions {
    /// The folder of its database.
    pub folder: PathBuf,
    /// Where it answers DNS over UDP and TCP; nowhere where not given.
    pub dns: Option<SocketAddr>,
    /// The domain below which DNS answers, besides the root.
    pub origin: Option<String>,
}

/// Why the discovery server did not start.
#[derive(Debug, Error)]
pub enum DiscoveryError {
    /// Its database, its sockets or its domain are of no use.
    #[error("cannot start the discovery server: {0}")]
    Start(String),
    /// It started without its socket.
    #[error("the discovery server has no socket")]
    NoSocket,
}

/// Starts it; the second value is where it speaks HTTP, on loopback.
pub(crate) async fn start(
    options: &DiscoveryOptions,
) -> Result<(Server, SocketAddr), DiscoveryError> {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut config = Config::default();
    if let Some(http) = &mut config.http {
        (http.bind_addr, http.port) = (Some(loopback), 0);
    }
    // The listener in front has the certificate, and counts who publishes.
    config.https = None;
    config.pkarr_put_rate_limit = RateLimitConfig::Disabled;
    config.metrics = Some(MetricsConfig::disabled());
    config.data_dir = Some(options.folder.clone());
    // The library always speaks DNS; where nobody asked for it, at a port of loopback that nobody knows.
    let dns = options.dns.unwrap_or(SocketAddr::new(loopback, 0));
    (config.dns.bind_addr, config.dns.port) = (Some(dns.ip()), dns.port());
    let origin = options.origin.as_deref().map(|origin| origin.trim_end_matches('.'));
    let zone = origin.unwrap_or("relay.invalid");
    config.dns.default_soa = format!("{zone}. hostmaster.{zone}. 0 10800 3600 604800 3600");
    config.dns.default_ttl = TTL;
    config.dns.origins = origin.map(|origin| format!("{origin}.")).into_iter().collect();
    config.dns.origins.push(".".to_owned());
    (config.dns.rr_a, config.dns.rr_aaaa, config.dns.rr_ns) = (None, None, None);
    let server =
        Server::bind(config).await.map_err(|error| DiscoveryError::Start(format!("{error:#}")))?;
    let http = server.http_addr().ok_or(DiscoveryError::NoSocket)?;
    Ok((server, http))
}
