//! Relays that are onion services, reached through Tor's SOCKS5 proxy.
//!
//! iroh can be told of an HTTP proxy and of no other kind, so one of ours (`shim`) stands on loopback between it and
//! Tor's. Nothing is looked up: names of relays go to Tor as they are, and iroh's resolver knows no names (`NoDns`).

use std::net::{Ipv4Addr, Ipv6Addr};
use std::pin::Pin;
use std::sync::Arc;

use iroh::dns::{BoxIter, DnsError, DnsResolver, Resolver, TxtRecordData};
use iroh::endpoint::{Builder, NetReportConfig, PortmapperConfig};
use thiserror::Error;

mod onion;
mod proxy;
mod shim;
mod socks;
mod watch;

pub use onion::{OnionError, is_onion, require_onion};
pub use proxy::{SocksProxy, SocksProxyError};
pub use socks::SocksError;
pub(crate) use watch::{announce_direct_paths, choose_home_relay};

use shim::Shim;

/// How an endpoint uses Tor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tor {
    /// Tor's SOCKS5 proxy, by which relays are reached.
    pub proxy: SocksProxy,
    /// Nothing leaves but through the proxy: no direct paths, no UDP sockets.
    pub only: bool,
}

/// Why Tor cannot be used.
#[derive(Debug, Error)]
pub enum TorError {
    /// Nothing takes connections there.
    #[error("no proxy answers at {0} ({1}): is Tor running, with a SocksPort there?")]
    NoProxy(SocksProxy, String),
    /// Something does, and it is not Tor.
    #[error(
        "the proxy at {0} is not Tor: it does not answer Tor's own SOCKS request RESOLVE ({1}). \
         Only Tor reaches .onion relays"
    )]
    NotTor(SocksProxy, String),
    /// Our own proxy cannot listen, or has no secret.
    #[error("cannot start the local end of the way to Tor: {0}")]
    Local(String),
}

/// An endpoint's way through Tor; closed when the last copy is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    shim: Arc<Shim>,
    only: bool,
}

impl Gate {
    /// Makes sure that the proxy is Tor, and opens the local end of the way through it.
    pub(crate) async fn open(tor: Tor) -> Result<Self, TorError> {
        socks::require_tor(tor.proxy).await?;
        let shim = Arc::new(Shim::start(tor.proxy)?);
        tracing::info!(
            "relays are reached through Tor at {}{}",
            tor.proxy,
            if tor.only {
                ", and nothing leaves this machine otherwise"
            } else {
                "; direct paths are allowed, and tell the other side this machine's addresses: \
                 --tor-only forbids them"
            }
        );
        if !tor.proxy.address().ip().is_loopback() {
            tracing::warn!(
                "the proxy {} is on another machine: whoever sees the way there learns which relay is used, and when",
                tor.proxy
            );
        }
        Ok(Self { shim, only: tor.only })
    }

    /// Makes iroh use the way, and look nothing up.
    pub(crate) fn configure(&self, builder: Builder) -> Builder {
        let mut reports = NetReportConfig::default();
        // It asks a relay's port 80 whether somebody stands between; what stands between here is Tor.
        reports.captive_portal_check = false;
        let builder = builder
            .proxy_url(self.shim.url())
            .dns_resolver(DnsResolver::custom(NoDns))
            .portmapper_config(PortmapperConfig::Disabled)
            .net_report_config(reports);
        if self.only { builder.clear_ip_transports() } else { builder }
    }

    /// Whether direct paths are forbidden.
    pub(crate) fn only(&self) -> bool {
        self.only
    }

    /// Why the last attempt to reach a relay failed, if the one after it has not succeeded.
    pub(crate) fn failure(&self) -> Option<String> {
        self.shim.failure()
    }

    /// Waits until a relay has been reached that was out of reach before.
    pub(crate) async fn reached(&self) {
        self.shim.reached().await;
    }
}

/// A resolver that asks nobody and knows nothing.
#[derive(Debug)]
struct NoDns;

type Lookup<T> = Pin<Box<dyn Future<Output = Result<BoxIter<T>, DnsError>> + Send>>;

fn nothing<T: Send + 'static>() -> Lookup<T> {
    Box::pin(async { Ok(Box::new(std::iter::empty()) as BoxIter<T>) })
}

impl Resolver for NoDns {
    fn lookup_ipv4(&self, _: String) -> Lookup<Ipv4Addr> {
        nothing()
    }

    fn lookup_ipv6(&self, _: String) -> Lookup<Ipv6Addr> {
        nothing()
    }

    fn lookup_txt(&self, _: String) -> Lookup<TxtRecordData> {
        nothing()
    }

    fn clear_cache(&self) {}

    fn reset(&self) -> Box<dyn Resolver> {
        Box::new(Self)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn the_resolver_knows_nothing() {
        let resolver = DnsResolver::custom(NoDns);
        let limit = Duration::from_secs(5);
        assert!(
            resolver.lookup_ipv4("localhost", limit).await.is_ok_and(|mut i| i.next().is_none())
        );
        assert!(
            resolver.lookup_ipv6("localhost", limit).await.is_ok_and(|mut i| i.next().is_none())
        );
    }
}
