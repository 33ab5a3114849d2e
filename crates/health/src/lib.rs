//! Health and metrics of a process, over HTTP on an address of their own: what Kubernetes' probes and Prometheus ask for.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// For a connection, from its beginning to its end.
const LIMIT: Duration = Duration::from_secs(10);

/// Connections at once; further ones wait. Each is a task and a socket, and those who ask are a few.
const CONNECTIONS: usize = 64;

/// After an error of the listener, which is mostly that there are too many open files.
const PAUSE: Duration = Duration::from_millis(100);

/// The OpenMetrics text format, version 1.0, which Prometheus reads.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const TEXT: &str = "text/plain; charset=utf-8";

/// Connections that wait to be accepted, as tokio has it for its own listeners.
const BACKLOG: i32 = 1024;

/// Listens for connections. `::` takes IPv4 as well, unless a system other than Windows is set otherwise; without IPv6, IPv4
/// alone remains.
///
/// # Errors
///
/// What the system says.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let everywhere = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    if cfg!(windows)
        && everywhere
        && let Ok(listener) = listen_for_both(address)
    {
        return Ok(listener);
    }
    match TcpListener::bind(address).await {
        Err(_) if everywhere => TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await,
        bound => bound,
    }
}

/// Listens on `::` for both families where the system has to be told: Windows sets `IPV6_V6ONLY` by itself.
fn listen_for_both(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What there is to tell.
pub trait Report: Send + Sync + 'static {
    /// Why the process is of no use at the moment, in a line for people; nothing where it is of use. What takes longer
    /// than a probe's second is as good as a failure.
    fn unready(&self) -> impl Future<Output = Option<String>> + Send;

    /// The metrics, in the OpenMetrics text format.
    fn metrics(&self) -> String;
}

/// Answers until `end`:
///
/// * `/livez`: 200 as long as the process does anything at all;
/// * `/readyz`, and `/healthz` with it: 200 where the process is of use, 503 and why where it is not;
/// * `/metrics`: the metrics.
pub async fn serve<R: Report>(listener: TcpListener, report: Arc<R>, end: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < CONNECTIONS => accepted,
            Some(_) = connections.join_next() => continue,
            () = end.cancelled() => return,
        };
        match accepted {
            Ok((tcp, _)) => {
                let report = Arc::clone(&report);
                let service = service_fn(move |request| {
                    let report = Arc::clone(&report);
                    async move { Ok::<_, Infallible>(answer(&*report, &request).await) }
                });
                let serving = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
                connections.spawn(async move {
                    let _ = timeout(LIMIT, serving).await;
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection that asks for health: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer<R: Report>(report: &R, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    // hyper leaves the body out where only the head was asked for.
    if !matches!(request.method(), &Method::GET | &Method::HEAD) {
        return response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET\n".to_owned());
    }
    match request.uri().path() {
        "/livez" => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" | "/healthz" => match report.unready().await {
            None => response(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Some(why) => response(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        "/metrics" => response(StatusCode::OK, OPEN_METRICS, report.metrics()),
        _ => response(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    /// For a connection within one machine.
    const SOON: Duration = Duration::from_secs(20);

    struct Unready(Option<String>);

    impl Report for Unready {
        async fn unready(&self) -> Option<String> {
            self.0.clone()
        }

        fn metrics(&self) -> String {
            "# EOF\n".to_owned()
        }
    }

    async fn started(unready: Option<&str>) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let report = Arc::new(Unready(unready.map(str::to_owned)));
        tokio::spawn(serve(listener, report, CancellationToken::new()));
        address
    }

    async fn ask(address: SocketAddr, method: &str, path: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(SOON, tcp.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_is_alive_all_the_same() {
        let address = started(Some("draining")).await;
        assert!(ask(address, "GET", "/livez").await.starts_with("HTTP/1.1 200 "));
        for path in ["/readyz", "/healthz"] {
            let answer = ask(address, "GET", path).await;
            assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("\r\n\r\ndraining\n"));
        }
        let metrics = ask(address, "GET", "/metrics").await;
        assert!(metrics.contains(OPEN_METRICS) && metrics.ends_with("# EOF\n"), "{metrics}");
    }

    #[tokio::test]
    async fn one_that_is_ready_says_so_to_get_and_head_alone() {
        let address = started(None).await;
        assert!(ask(address, "GET", "/readyz").await.ends_with("\r\n\r\nok\n"));
        let head = ask(address, "HEAD", "/readyz").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        assert!(ask(address, "POST", "/livez").await.starts_with("HTTP/1.1 405 "));
        assert!(ask(address, "GET", "/").await.starts_with("HTTP/1.1 404 "));
    }

    #[tokio::test]
    async fn silent_connections_keep_nobody_out_for_long() {
        let address = started(None).await;
        let mut silent = Vec::new();
        for _ in 0..CONNECTIONS {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, "GET", "/livez").await.starts_with("HTTP/1.1 200 "));
    }
}
