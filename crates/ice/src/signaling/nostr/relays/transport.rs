//! How the library's connections come to be: by attempts without end, and within bounds.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_wsocket::{ConnectionMode, Message};
use futures_util::{Sink, stream};
use nostr_sdk::pool::transport::error::TransportError;
use nostr_sdk::pool::transport::websocket::{WebSocketSink, WebSocketStream, WebSocketTransport};
use nostr_sdk::prelude::BoxedFuture;
use nostr_sdk::{RelayUrl, Url};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{Connector, MaybeTlsStream, client_async_tls_with_config};

use super::Shared;
use super::pump::{MAX_MESSAGE, Pump};
use super::state::Relay;

/// One attempt: resolve, connect, TLS, upgrade to WebSocket.
const CONNECT: Duration = Duration::from_secs(10);

/// Between the starts of attempts to reach one address after the other (RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Messages between the library and a connection, each way. More wait in the library, as far as [`Relay::ask`] allows.
const MESSAGES: usize = 64;

/// A connection to a relay.
pub(super) type Socket = tokio_tungstenite::WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Connects for the library.
pub(super) struct Guarded {
    shared: Arc<Shared>,
    connector: Option<Connector>,
}

impl Guarded {
    /// `connector` instead of the web's authorities.
    pub(super) fn new(shared: Arc<Shared>, connector: Option<Connector>) -> Self {
        Self { shared, connector }
    }

    /// A connection, however long that takes.
    async fn reach(&self, relay: &Relay, url: &Url) -> Socket {
        let mut network = self.shared.network.subscribe();
        loop {
            let mut random = [0; 1];
            // Without randomness all sides come at once, which a relay survives.
            let _ = getrandom::fill(&mut random);
            tokio::select! {
                () = sleep(relay.backoff(random[0])) => {}
                // The sender lives as long as this.
                _ = network.changed() => relay.forgive(),
            }
            match timeout(CONNECT, dial(url, self.connector.clone())).await {
                Ok(Ok(socket)) => return socket,
                Ok(Err(why)) => relay.failed(&why),
                Err(_) => relay.failed(&format!("no answer within {} s", CONNECT.as_secs())),
            }
        }
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").finish_non_exhaustive()
    }
}

impl WebSocketTransport for Guarded {
    /// The pump has its own way to notice silence.
    fn support_ping(&self) -> bool {
        false
    }

    fn connect<'a>(
        &'a self,
        url: &'a Url,
        _: &'a ConnectionMode,
        _: Duration,
    ) -> BoxedFuture<'a, Result<(WebSocketSink, WebSocketStream), TransportError>> {
        Box::pin(async move {
            let known = RelayUrl::parse(url.as_str()).ok();
            let Some(relay) = known.and_then(|url| self.shared.relays.get(&url)) else {
                // The library knows the same relays. An error would make it try again at once.
                return std::future::pending().await;
            };
            let socket = self.reach(relay, url).await;
            let (to_pump, from_library) = mpsc::channel(MESSAGES);
            let (to_library, mut from_pump) = mpsc::channel(MESSAGES);
            let pump = Pump::new(socket, from_library, to_library, relay.clone(), &self.shared);
            tokio::spawn(pump.run());
            let messages = stream::poll_fn(move |context| from_pump.poll_recv(context));
            let sink: WebSocketSink = Box::new(ToPump(Some(to_pump)));
            Ok((sink, Box::pin(messages) as WebSocketStream))
        })
    }
}

async fn dial(url: &Url, connector: Option<Connector>) -> Result<Socket, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<SocketAddr> = match bare.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => {
            let found = lookup_host((bare, port)).await;
            found.map_err(|error| format!("its name does not resolve: {error}"))?.collect()
        }
    };
    let stream = connect_any(addresses).await?;
    // Latency is all that matters here.
    let _ = stream.set_nodelay(true);
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let connected = client_async_tls_with_config(url.as_str(), stream, Some(config), connector);
    let (socket, _) = connected.await.map_err(|error| error.to_string())?;
    Ok(socket)
}

/// A connection to the first of the addresses that answers. One that swallows packets holds up none of the others.
async fn connect_any(addresses: Vec<SocketAddr>) -> Result<TcpStream, String> {
    let mut attempts = JoinSet::new();
    let mut addresses = addresses.into_iter();
    let mut why = "its name has no address".to_owned();
    let mut next = addresses.next();
    loop {
        let Some(address) = next.take() else {
            match attempts.join_next().await {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => why = error,
                Some(Err(_)) => {}
                None => return Err(why),
            }
            continue;
        };
        attempts.spawn(async move {
            TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
        });
        next = addresses.next();
        if next.is_none() {
            continue;
        }
        if let Ok(Some(Ok(ended))) = timeout(NEXT_ADDRESS, attempts.join_next()).await {
            match ended {
                Ok(stream) => return Ok(stream),
                Err(error) => why = error,
            }
        }
    }
}

/// What the library writes to. It never fails: the library hears of the end by the other direction, and what a
/// connection does not take is lost like what a relay does not pass on.
struct ToPump(Option<mpsc::Sender<Message>>);

impl Sink<Message> for ToPump {
    type Error = TransportError;

    fn poll_ready(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn start_send(self: Pin<&mut Self>, message: Message) -> Result<(), TransportError> {
        if let Some(sender) = &self.0 {
            let _ = sender.try_send(message);
        }
        Ok(())
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Result<(), TransportError>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}
