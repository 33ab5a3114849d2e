use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use iroh_base::EndpointId;
use iroh_relay::server::RelayService;
use iroh_relay::server::http_server::{BytesBody, HyperError, RelayServiceWithNotify};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::{KNOCK, Knock};
use crate::access::{Door, NOT_LISTED};
use crate::metrics::Metrics;
use crate::places::{Pace, Place};

/// Where the relay's clients connect, and where endpoints measure how far it is (iroh-relay, `http`).
const RELAY: &str = "/relay";
const PING: &str = "/ping";

/// Where endpoints find out whether a captive portal answers in the relay's place (iroh-relay, `server`): with no
/// content, and what they sent.
const NO_CONTENT: &str = "/generate_204";
const CHALLENGE: HeaderName = HeaderName::from_static("x-iroh-challenge");
const RESPONSE: HeaderName = HeaderName::from_static("x-iroh-response");

/// Records, and DNS over HTTPS (iroh-dns-server, `http`).
const RECORDS: &str = "/pkarr/";
const DNS_QUERY: &str = "/dns-query";

/// Of a request to the discovery server, in bytes: a record has 1,104 at most (pkarr), a DNS query less.
const BODY: usize = 4 * 1024;

/// Of its answer: what a DNS message can have.
const ANSWER: usize = 64 * 1024;

/// For the discovery server, which is in this process.
const ANSWER_TIME: Duration = Duration::from_secs(10);

type Outcome = Result<Response<BytesBody>, HyperError>;

/// Gives each request to the one that it is for.
#[derive(Clone)]
pub(crate) struct Router {
    pub(crate) relay: RelayService,
    pub(crate) door: Arc<Door>,
    /// Where the discovery server listens, on loopback.
    pub(crate) discovery: Option<SocketAddr>,
    pub(crate) pace: Arc<Pace>,
    pub(crate) metrics: Arc<Metrics>,
}

/// Whose requests come over a connection.
#[derive(Debug)]
pub(crate) struct Caller {
    ip: IpAddr,
    // Taken when the relay takes the connection over.
    socket: Mutex<Option<std::net::TcpStream>>,
    place: Arc<Place>,
    show: Duration,
}

impl Caller {
    pub(crate) fn new(
        ip: IpAddr,
        socket: std::net::TcpStream,
        place: Place,
        show: Duration,
    ) -> Arc<Self> {
        Arc::new(Self { ip, socket: Mutex::new(Some(socket)), place: Arc::new(place), show })
    }

    /// `None` where the connection has asked for the relay before.
    fn knock(&self) -> Option<Knock> {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Knock { socket, _place: Arc::clone(&self.place) })
    }
}

impl Router {
    /// What answers the requests of one connection.
    pub(crate) fn service(
        self,
        caller: Arc<Caller>,
    ) -> impl Service<Request<Incoming>, Response = Response<BytesBody>, Error = HyperError, Future: Send>
    {
        service_fn(move |request| {
            let (router, caller) = (self.clone(), Arc::clone(&caller));
            async move { router.answer(&caller, request).await }
        })
    }

    async fn answer(self, caller: &Caller, mut request: Request<Incoming>) -> Outcome {
        request.headers_mut().remove(KNOCK);
        let path = request.uri().path();
        match (request.method(), path) {
            (&Method::GET, RELAY) => self.relay(caller, request).await,
            (&Method::GET, PING) => with_header(
                StatusCode::OK,
                HeaderName::from_static("access-control-allow-origin"),
                HeaderValue::from_static("*"),
            ),
            (&Method::GET, NO_CONTENT) => match challenge(&request) {
                Some(answer) => with_header(StatusCode::NO_CONTENT, RESPONSE, answer),
                None => plain(StatusCode::NO_CONTENT, ""),
            },
            (&Method::GET, "/healthz") => plain(StatusCode::OK, "ok\n"),
            (&Method::GET, "/") => plain(StatusCode::OK, "A relay of tunnel-rs\n"),
            (method, path) => match self.discovery {
                Some(discovery) if path == DNS_QUERY => forward(discovery, request).await,
                Some(discovery) if path.starts_with(RECORDS) => {
                    if *method == Method::PUT
                        && let Err((status, why)) = self.may_publish(caller, path)
                    {
                        self.metrics.records_refused.inc();
                        return plain(status, why);
                    }
                    forward(discovery, request).await
                }
                _ => plain(StatusCode::NOT_FOUND, "not found\n"),
            },
        }
    }

    fn may_publish(&self, caller: &Caller, path: &str) -> Result<(), (StatusCode, &'static str)> {
        let id = path.strip_prefix(RECORDS).and_then(|key| EndpointId::from_z32(key).ok());
        let id = id.ok_or((StatusCode::BAD_REQUEST, "not a public key\n"))?;
        if !self.door.publishes(id) {
            return Err((StatusCode::FORBIDDEN, NOT_LISTED));
        }
        if !self.pace.allows(caller.ip, Instant::now()) {
            return Err((StatusCode::TOO_MANY_REQUESTS, "too many records of this address\n"));
        }
        Ok(())
    }

    /// Hands a client to the relay, and ends its connection if it does not soon show who it is.
    async fn relay(self, caller: &Caller, mut request: Request<Incoming>) -> Outcome {
        let Some(knock) = caller.knock() else {
            // One that had meant it would have been taken over by the relay: this one only makes work.
            let close = HeaderValue::from_static("close");
            return with_header(StatusCode::BAD_REQUEST, CONNECTION, close);
        };
        let number = self.door.knock(knock);
        request.headers_mut().insert(KNOCK, HeaderValue::from(number));
        let (door, show) = (Arc::clone(&self.door), caller.show);
        tokio::spawn(async move {
            sleep(show).await;
            door.give_up(number);
        });
        RelayServiceWithNotify::new(self.relay, Arc::new(Notify::new())).call(request).await
    }
}

/// The answer to an endpoint that looks for captive portals. Whoever can make a server say anything in a header could do
/// harm with it, so only short words are answered.
fn challenge(request: &Request<Incoming>) -> Option<HeaderValue> {
    let word = request.headers().get(CHALLENGE)?.to_str().ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if word.is_empty() || word.len() >= 64 || !word.chars().all(plain) {
        return None;
    }
    HeaderValue::from_str(&format!("response {word}")).ok()
}

fn body(bytes: impl Into<Bytes>) -> BytesBody {
    Box::new(Full::new(bytes.into()))
}

fn plain(status: StatusCode, text: &'static str) -> Outcome {
    with_header_and(status, CONTENT_TYPE, HeaderValue::from_static("text/plain"), text)
}

fn with_header(status: StatusCode, name: HeaderName, value: HeaderValue) -> Outcome {
    with_header_and(status, name, value, "")
}

fn with_header_and(
    status: StatusCode,
    name: HeaderName,
    value: HeaderValue,
    text: &'static str,
) -> Outcome {
    let mut response = Response::new(body(text));
    *response.status_mut() = status;
    response.headers_mut().insert(name, value);
    Ok(response)
}

/// Asks the discovery server.
async fn forward(discovery: SocketAddr, request: Request<Incoming>) -> Outcome {
    match timeout(ANSWER_TIME, ask(discovery, request)).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => {
            tracing::debug!("the discovery server did not answer: {error}");
            plain(StatusCode::BAD_GATEWAY, "the discovery server does not answer\n")
        }
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT, "the discovery server does not answer\n"),
    }
}

async fn ask(discovery: SocketAddr, request: Request<Incoming>) -> Outcome {
    let (parts, incoming) = request.into_parts();
    let Ok(sent) = Limited::new(incoming, BODY).collect().await else {
        return plain(StatusCode::PAYLOAD_TOO_LARGE, "too large\n");
    };
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut asked = Request::builder().method(parts.method).uri(path);
    for name in [CONTENT_TYPE, ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            asked = asked.header(name, value);
        }
    }
    let asked = asked.header(HOST, discovery.to_string()).body(Full::new(sent.to_bytes()))?;
    let tcp = TcpStream::connect(discovery).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
    let connection = tokio::spawn(connection);
    let answered = sender.send_request(asked).await?;
    let (parts, incoming) = answered.into_parts();
    let answer = Limited::new(incoming, ANSWER).collect().await?.to_bytes();
    connection.abort();
    let mut response = Response::new(body(answer));
    *response.status_mut() = parts.status;
    if let Some(value) = parts.headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, value.clone());
    }
    Ok(response)
}
