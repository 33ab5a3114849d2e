//! The listener in front of the relay and the discovery server.

use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use iroh_relay::server::streams::MaybeTlsStream;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls_acme::AcmeAcceptor;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::places::{Place, Places};

mod route;

pub(crate) use route::{Caller, Router};

/// The header by which the relay's client is known to be a connection of this listener. What comes from outside under
/// this name is thrown away.
pub(crate) const KNOCK: &str = "x-tunnel-rs-connection";

/// For a connection that is not the relay's: TLS, requests and answers (iroh-relay, `ESTABLISH_TIMEOUT`).
const HTTP_TIME: Duration = Duration::from_secs(30);

/// For a request's line and headers, in bytes and time: an endpoint's have less than 1 KiB.
const HEADERS: usize = 16 * 1024;
const HEADERS_TIME: Duration = Duration::from_secs(10);

/// From the relay's answer to a client until that has shown who it is. The library sets no limit of its own.
const SHOW: Duration = Duration::from_secs(10);

/// After a failure to accept, which is a lack of files or memory: a moment for some to be freed.
const BREATH: Duration = Duration::from_millis(100);

/// How connections are secured.
#[derive(Clone)]
pub(crate) enum Security {
    Plain,
    Tls(Arc<ServerConfig>),
    Acme(Arc<ServerConfig>, AcmeAcceptor),
}

/// A connection that the relay has taken over.
#[derive(Debug)]
pub(crate) struct Knock {
    // A second handle of the socket: the relay lets nobody else end the connection.
    socket: std::net::TcpStream,
    _place: Arc<Place>,
}

impl Knock {
    /// Ends the connection.
    pub(crate) fn end(&self) {
        // Fails where it has ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Serves connections until `end`.
pub(crate) async fn run(
    listener: TcpListener,
    security: Security,
    router: Router,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
    end: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("a connection's task failed: {error}");
                }
                continue;
            }
            () = end.cancelled() => return,
        };
        match accepted {
            Ok((tcp, peer)) => match places.take(peer.ip()) {
                Some(place) => {
                    let serving = serve(tcp, peer, place, security.clone(), router.clone());
                    connections.spawn(serving);
                }
                None => {
                    metrics.connections_over_limit.inc();
                    tracing::debug!("{} has as many connections as it may have", peer.ip());
                }
            },
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                sleep(BREATH).await;
            }
        }
    }
}

/// Serves one connection up to its end, or until the relay has it.
async fn serve(tcp: TcpStream, peer: SocketAddr, place: Place, security: Security, router: Router) {
    let Ok((tcp, socket)) = second_handle(tcp) else { return };
    let caller = Caller::new(peer.ip(), socket, place, SHOW);
    let serving = async {
        let stream = match security {
            Security::Plain => MaybeTlsStream::Plain(tcp),
            Security::Tls(config) => {
                let accepted = TlsAcceptor::from(config).accept(tcp).await;
                MaybeTlsStream::Tls(accepted.map_err(|error| error.to_string())?)
            }
            Security::Acme(config, acceptor) => {
                let accepted = acceptor.accept(tcp).await.map_err(|error| error.to_string())?;
                // The authority's own connection ends with the handshake (RFC 8737 section 3).
                let Some(handshake) = accepted else { return Ok(()) };
                let accepted = handshake.into_stream(config).await;
                MaybeTlsStream::Tls(accepted.map_err(|error| error.to_string())?)
            }
        };
        let service = router.service(caller);
        http1::Builder::new()
            .timer(TokioTimer::new())
            .max_buf_size(HEADERS)
            .header_read_timeout(HEADERS_TIME)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await
            .map_err(|error| error.to_string())
    };
    match timeout(HTTP_TIME, serving).await {
        Ok(Ok(())) => {}
        // Scanners, and clients that were cut off.
        Ok(Err(error)) => tracing::debug!("connection of {peer}: {error}"),
        Err(_) => tracing::debug!("connection of {peer} took too long"),
    }
}

fn second_handle(tcp: TcpStream) -> std::io::Result<(TcpStream, std::net::TcpStream)> {
    let tcp = tcp.into_std()?;
    let second = tcp.try_clone()?;
    Ok((TcpStream::from_std(tcp)?, second))
}
