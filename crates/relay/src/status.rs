//! Health and metrics, on an address of their own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use iroh_metrics::Registry;
use iroh_metrics::encoding::encode_openmetrics_eof;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// For a connection, and for the sockets that are looked after.
const LIMIT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(2);

/// The OpenMetrics text format, version 1.0, which Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What is looked at.
#[derive(Clone)]
pub(crate) struct Status {
    pub(crate) registry: Arc<Registry>,
    /// What must take connections, and what it is called.
    pub(crate) sockets: Arc<[(&'static str, SocketAddr)]>,
}

impl Status {
    /// Answers until `end`.
    pub(crate) async fn run(self, listener: TcpListener, end: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            let tcp = tokio::select! {
                accepted = listener.accept() => accepted.map(|(tcp, _)| tcp),
                Some(_) = connections.join_next() => continue,
                () = end.cancelled() => return,
            };
            match tcp {
                Ok(tcp) => {
                    let status = self.clone();
                    let service = service_fn(move |request| status.clone().answer(request));
                    let serving =
                        http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
                    connections.spawn(async move {
                        let _ = timeout(LIMIT, serving).await;
                    });
                }
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (status, kind, text) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/healthz") => match self.silent().await {
                None => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
                Some(name) => {
                    let text = format!("{name} does not answer\n");
                    (StatusCode::SERVICE_UNAVAILABLE, "text/plain", text)
                }
            },
            (&Method::GET, "/metrics") => {
                let mut text = String::new();
                // Writing to a string does not fail.
                let _ = self.registry.encode_openmetrics_to_writer(&mut text);
                let _ = encode_openmetrics_eof(&mut text);
                (StatusCode::OK, OPEN_METRICS, text)
            }
            _ => (StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        Ok(response)
    }

    /// What takes no connection.
    async fn silent(&self) -> Option<&'static str> {
        for (name, address) in self.sockets.iter() {
            if !matches!(timeout(ANSWER, TcpStream::connect(address)).await, Ok(Ok(_))) {
                return Some(name);
            }
        }
        None
    }
}
