//! A proxy on loopback that takes what iroh sends to an HTTP proxy (RFC 9110 section 9.3.6) to Tor's SOCKS5 proxy.
//!
//! It is for this process: whoever does not know its random password is refused, and it leads to onion services only.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::BASE64;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use subtle::ConstantTimeEq;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;
use zeroize::Zeroizing;

use super::onion::is_onion_host;
use super::socks::{self, CONNECT_LIMIT, Isolation, SOCKET_BUFFER, SocksError};
use super::{SocksProxy, TorError};

/// Connections at once. iroh has one to each relay and makes a few short ones to measure them; the rest is for those
/// who are refused, and for the time until they are.
const MAX_CONNECTIONS: usize = 64;

/// Streams that wait for Tor at once. iroh gives an attempt up after 10 s at most and tries again, while Tor is given
/// [`CONNECT_LIMIT`] to tell what is wrong.
const MAX_WAITING: usize = 16;

/// For the head of a request; iroh sends it at once.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// The head of a request, in bytes; hyper takes no less as a bound.
const HEAD_SIZE: usize = 8 * 1024;

/// Connections that wait to be taken up.
const BACKLOG: u32 = 64;

/// How long it is believed that a relay which was reached can be. iroh measures relays every 5 minutes or when the
/// network changes, allows 3 s, and takes none for its home that does not answer; through Tor that is too short for a
/// first stream.
const RECENT: Duration = Duration::from_secs(60);

/// The user in the credentials; the password is what counts.
const USER: &str = "tunnel-rs";

/// The running proxy. It and all that goes through it ends when it is dropped.
pub(super) struct Shim {
    shared: Arc<Shared>,
    url: Url,
    _end: DropGuard,
}

/// What its connections have in common.
struct Shared {
    proxy: SocksProxy,
    isolation: Isolation,
    /// What must stand in `Proxy-Authorization`.
    authorization: Zeroizing<String>,
    relays: Mutex<HashMap<Relay, Standing>>,
    waiting: Arc<Semaphore>,
    reached: Notify,
    end: CancellationToken,
}

/// A host and a port.
type Relay = (String, u16);

/// What came of the last attempt to reach a relay.
#[derive(Clone, Debug)]
enum Standing {
    Reached(Instant),
    Failed(SocksError),
}

impl std::fmt::Debug for Shim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The password stands in the URL.
        f.debug_struct("Shim").field("proxy", &self.shared.proxy).finish_non_exhaustive()
    }
}

impl Shim {
    /// Starts it on any free port.
    pub(super) fn start(proxy: SocksProxy) -> Result<Self, TorError> {
        let random = |error: getrandom::Error| TorError::Local(error.to_string());
        let password = Zeroizing::new(socks::random().map_err(random)?);
        let isolation = Isolation::new().map_err(random)?;
        let local = |error: io::Error| TorError::Local(error.to_string());
        let listener = listen().map_err(local)?;
        let url = format!("http://{USER}:{}@{}", *password, listener.local_addr().map_err(local)?);
        let url = Url::parse(&url).map_err(|error| TorError::Local(error.to_string()))?;
        let credentials = Zeroizing::new(format!("{USER}:{}", *password));
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            proxy,
            isolation,
            authorization: Zeroizing::new(format!(
                "Basic {}",
                BASE64.encode(credentials.as_bytes())
            )),
            relays: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            reached: Notify::new(),
            end: end.clone(),
        });
        tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { shared, url, _end: end.drop_guard() })
    }

    /// Where it listens, with the password: not to be shown.
    pub(super) fn url(&self) -> Url {
        self.url.clone()
    }

    /// Why a relay is out of reach, if one is.
    pub(super) fn failure(&self) -> Option<String> {
        self.shared.relays().iter().find_map(|((host, _), standing)| match standing {
            Standing::Failed(error) => Some(format!("{host}: {error}")),
            Standing::Reached(_) => None,
        })
    }

    /// Waits until a relay has been reached that was not within reach before.
    pub(super) async fn reached(&self) {
        self.shared.reached.notified().await;
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // Those of accepted connections, too.
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.bind(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0))?;
    socket.listen(BACKLOG)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.end.cancelled() => return,
        };
        let tcp = match accepted {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                tracing::debug!(%error, "no connection taken");
                // Files may have run out; they come back when others close theirs.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Beyond the limit it is closed at once.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let end = shared.end.clone();
            tokio::select! {
                () = serve(tcp, shared) => {}
                () = end.cancelled() => {}
            }
            drop(place);
        });
    }
}

/// A stream through Tor, and the connection that it will be joined to once the answer has been sent.
type Tunnel = (OnUpgrade, TcpStream);

/// Serves one request, and what it opens to its end.
async fn serve(tcp: TcpStream, shared: Arc<Shared>) {
    let _ = tcp.set_nodelay(true);
    let opened: Mutex<Option<Tunnel>> = Mutex::default();
    let service = service_fn(async |request| {
        let (response, tunnel) = shared.answer(request).await;
        *opened.lock().unwrap_or_else(PoisonError::into_inner) = tunnel;
        Ok::<_, Infallible>(response)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_SIZE)
        .keep_alive(false)
        .serve_connection(TokioIo::new(tcp), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        // Its text may hold what was sent, but not the headers.
        tracing::debug!(%error, "a request to the way to Tor came to nothing");
    }
    let tunnel = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some((upgrade, mut stream)) = tunnel
        && let Ok(upgraded) = upgrade.await
    {
        // The ends tell each other; how is of no concern here.
        let _ = copy_bidirectional(&mut TokioIo::new(upgraded), &mut stream).await;
    }
}

impl Shared {
    fn relays(&self) -> MutexGuard<'_, HashMap<Relay, Standing>> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
    ) -> (Response<Full<Bytes>>, Option<Tunnel>) {
        if !self.is_own(&request) {
            let mut response = response(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "");
            let challenge = HeaderValue::from_static("Basic realm=\"tunnel-rs\"");
            response.headers_mut().insert(PROXY_AUTHENTICATE, challenge);
            return (response, None);
        }
        let Some(relay) = relay(request.uri()) else {
            return (response(StatusCode::FORBIDDEN, "only onion services are reached here"), None);
        };
        match *request.method() {
            Method::CONNECT => match self.reach(relay).await {
                Ok(stream) => {
                    let tunnel = (hyper::upgrade::on(&mut request), stream);
                    (response(StatusCode::OK, ""), Some(tunnel))
                }
                Err(error) => (failed(&error), None),
            },
            // iroh measures how far a relay is. That a stream to it opens is what can be said.
            Method::GET if self.was_reached(&relay) => (response(StatusCode::OK, ""), None),
            Method::GET => match self.reach(relay).await {
                Ok(_) => (response(StatusCode::OK, ""), None),
                Err(error) => (failed(&error), None),
            },
            _ => (response(StatusCode::METHOD_NOT_ALLOWED, ""), None),
        }
    }

    /// Whether the request comes from this process.
    fn is_own(&self, request: &Request<Incoming>) -> bool {
        request
            .headers()
            .get(PROXY_AUTHORIZATION)
            .is_some_and(|given| bool::from(given.as_bytes().ct_eq(self.authorization.as_bytes())))
    }

    fn was_reached(&self, relay: &Relay) -> bool {
        match self.relays().get(relay) {
            Some(Standing::Reached(at)) => at.elapsed() < RECENT,
            Some(Standing::Failed(_)) | None => false,
        }
    }

    /// Opens a stream to a relay. The attempt goes on where the caller has given it up: what comes of it is of use to
    /// the next one, and is told to the user.
    async fn reach(self: &Arc<Self>, relay: Relay) -> Result<TcpStream, SocksError> {
        let place = Arc::clone(&self.waiting).try_acquire_owned().map_err(|_| SocksError::Busy)?;
        let shared = Arc::clone(self);
        let attempt = tokio::spawn(async move {
            let _place = place;
            let (host, port) = &relay;
            let connected = socks::connect(shared.proxy, &shared.isolation, host, *port);
            let outcome = tokio::select! {
                outcome = timeout(CONNECT_LIMIT, connected) => outcome,
                () = shared.end.cancelled() => return Err(SocksError::Broken("closed".to_owned())),
            };
            let outcome = outcome.unwrap_or_else(|_| Err(SocksError::TimedOut(CONNECT_LIMIT)));
            shared.record(relay, outcome.as_ref().err());
            outcome
        });
        attempt.await.unwrap_or_else(|error| Err(SocksError::Broken(error.to_string())))
    }

    /// Keeps what came of an attempt, and says it where that is news.
    fn record(&self, relay: Relay, error: Option<&SocksError>) {
        let name = format!("{}:{}", relay.0, relay.1);
        let standing = error.map_or_else(
            || Standing::Reached(Instant::now()),
            |error| Standing::Failed(error.clone()),
        );
        let before = self.relays().insert(relay, standing);
        match (before, error) {
            (Some(Standing::Failed(old)), Some(new)) if old == *new => {}
            (_, Some(error)) => tracing::warn!("relay {name} is out of reach: {error}"),
            (Some(Standing::Reached(_)), None) => {}
            (_, None) => {
                tracing::info!("relay {name} is within reach through Tor");
                self.reached.notify_one();
            }
        }
    }
}

/// The onion service that a request names: `HOST:PORT` of CONNECT, or `http://HOST[:PORT]/...`.
fn relay(uri: &Uri) -> Option<Relay> {
    let default = match uri.scheme_str() {
        None => None,
        Some("http") => Some(80),
        Some(_) => return None,
    };
    let host = uri.host()?.to_ascii_lowercase();
    let port = uri.port_u16().or(default)?;
    is_onion_host(&host).then_some((host, port))
}

fn failed(error: &SocksError) -> Response<Full<Bytes>> {
    let status = match error {
        SocksError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        SocksError::Busy => StatusCode::SERVICE_UNAVAILABLE,
        SocksError::NoProxy(_) | SocksError::Broken(_) | SocksError::Reply(_) => {
            StatusCode::BAD_GATEWAY
        }
    };
    response(status, &error.to_string())
}

fn response(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::copy_from_slice(text.as_bytes())));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests;
