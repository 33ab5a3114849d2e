use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use iroh::endpoint::{Connection, ConnectionError, PathEvent, RecvStream, SendStream, VarInt};
use iroh::{RelayUrl, TransportAddr};
use tokio::sync::Notify;
use tunnel_model::{CloseCode, ResetCode};
use tunnel_session::limits::{MAX_FLOWS, MAX_LARGE_PACKETS};
use tunnel_session::transport::{
    self, Identities, Lost, PathKind, PathReport, ReadError, Role, WriteError,
};

use crate::relays::stranded;

/// The receive window of a connection that has not authenticated, in bytes: a hello and its proof fit many times.
pub(crate) const UNAUTHENTICATED_WINDOW: u32 = 64 * 1024;

/// The receive window of one stream in bytes; 160 Mbit/s at a round trip of 100 ms. A larger one would be faster there,
/// but a single lost packet makes everything behind it wait in the stream's buffer, and noq ends a connection that has
/// 2,048 chunks in one (noq-proto 1.4, `assembler.rs`; quinn#2809): 2 MiB are 1,808 packets of the smallest size.
pub(crate) const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// The receive window of an authenticated connection in bytes: 100 ms at 1 Gbit/s are 12.5 MB, for several streams
/// together.
pub(crate) const WINDOW: u32 = 16 * 1024 * 1024;

/// An iroh connection as a session uses it.
#[derive(Clone, Debug)]
pub struct IrohConnection {
    connection: Connection,
    local: iroh::EndpointId,
    /// The endpoint's own relays, where there are several.
    relays: Arc<[RelayUrl]>,
    /// Whether direct paths are to be said.
    announce_direct: bool,
    /// Why this side gave it up.
    stranded: Arc<OnceLock<String>>,
    /// Told when a relay that has gone is left.
    left: Arc<Notify>,
}

/// The sending half of a stream; reset when dropped before its end.
#[derive(Debug)]
pub struct IrohSend {
    stream: SendStream,
    ended: bool,
}

/// The receiving half of a stream; stopped when dropped before its end.
#[derive(Debug)]
pub struct IrohRecv {
    stream: RecvStream,
    ended: bool,
}

fn varint(code: u64) -> VarInt {
    // All codes of the protocol are small.
    VarInt::from_u64(code).unwrap_or(VarInt::MAX)
}

fn lost(error: &ConnectionError) -> Lost {
    match error {
        ConnectionError::ApplicationClosed(close) => Lost::Closed {
            code: CloseCode::from_code(close.error_code.into_inner()),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::LocallyClosed => Lost::Local,
        ConnectionError::TimedOut => Lost::TimedOut,
        other => Lost::Transport(other.to_string()),
    }
}

impl From<iroh::endpoint::WriteError> for SendFailed {
    fn from(error: iroh::endpoint::WriteError) -> Self {
        use iroh::endpoint::WriteError as E;
        Self(match error {
            E::Stopped(code) => WriteError::Stopped(ResetCode::from_code(code.into_inner())),
            E::ConnectionLost(error) => WriteError::Lost(lost(&error)),
            other => WriteError::Lost(Lost::Transport(other.to_string())),
        })
    }
}

struct SendFailed(WriteError);

fn read_error(error: &iroh::endpoint::ReadError) -> ReadError {
    use iroh::endpoint::ReadError as E;
    match error {
        E::Reset(code) => ReadError::Reset(ResetCode::from_code(code.into_inner())),
        E::ConnectionLost(error) => ReadError::Lost(lost(error)),
        other => ReadError::Lost(Lost::Transport(other.to_string())),
    }
}

impl transport::SendStream for IrohSend {
    async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        self.stream.write_all_chunks(chunks).await.map_err(|e| SendFailed::from(e).0)
    }

    fn finish(&mut self) {
        self.ended = true;
        // Fails only where the stream has ended otherwise, which is as good.
        let _ = self.stream.finish();
    }

    fn reset(&mut self, code: ResetCode) {
        self.ended = true;
        let _ = self.stream.reset(varint(code.code()));
    }

    fn stopped(&self) -> impl Future<Output = Result<(), WriteError>> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            match stopped.await {
                Ok(None) => Ok(()),
                Ok(Some(code)) => Err(WriteError::Stopped(ResetCode::from_code(code.into_inner()))),
                Err(error) => Err(SendFailed::from(iroh::endpoint::WriteError::from(error)).0),
            }
        }
    }

    fn set_priority(&mut self, priority: i32) {
        let _ = self.stream.set_priority(priority);
    }
}

impl Drop for IrohSend {
    fn drop(&mut self) {
        if !self.ended {
            // The library's own drop would finish the stream, and a cut transfer would look complete.
            let _ = self.stream.reset(varint(ResetCode::Ended.code()));
        }
    }
}

impl transport::RecvStream for IrohRecv {
    async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        let read = self.stream.read_many_chunks(chunks).await.map_err(|e| read_error(&e))?;
        self.ended |= read.is_none();
        Ok(read)
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, ReadError> {
        use iroh::endpoint::ReadExactError as E;
        match self.stream.read_exact(buffer).await {
            Ok(()) => Ok(true),
            Err(E::FinishedEarly(_)) => {
                self.ended = true;
                Ok(false)
            }
            Err(E::ReadError(error)) => Err(read_error(&error)),
        }
    }

    fn stop(&mut self, code: ResetCode) {
        self.ended = true;
        let _ = self.stream.stop(varint(code.code()));
    }
}

impl Drop for IrohRecv {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.stop(varint(ResetCode::Ended.code()));
        }
    }
}

fn send_half(stream: SendStream) -> IrohSend {
    IrohSend { stream, ended: false }
}

fn recv_half(stream: RecvStream) -> IrohRecv {
    IrohRecv { stream, ended: false }
}

impl IrohConnection {
    pub(crate) fn new(
        connection: Connection,
        local: iroh::EndpointId,
        relays: Arc<[RelayUrl]>,
        announce_direct: bool,
        left: Arc<Notify>,
    ) -> Self {
        Self { connection, local, relays, announce_direct, stranded: Arc::default(), left }
    }

    /// The key exchange that the handshake chose.
    pub fn key_exchange(&self) -> Option<rustls::NamedGroup> {
        self.connection
            .handshake_data()?
            .downcast::<noq::crypto::rustls::HandshakeData>()
            .ok()?
            .negotiated_key_exchange_group
    }

    /// Gives the connection up once the relay that carries it has gone.
    async fn watch_relay(self) {
        let relay = || match self.selected()?.kind {
            PathKind::Relay(url) => Some(url),
            PathKind::Direct(_) | PathKind::Other(_) => None,
        };
        tokio::select! {
            _ = self.connection.closed() => {}
            url = stranded(&self.relays, || self.received(), relay) => {
                let why = format!("its relay {url} is gone");
                // First, so that whoever waits for the end finds it.
                let _ = self.stranded.set(why.clone());
                self.left.notify_one();
                transport::Connection::close(&self, CloseCode::Dropped, &why);
            }
        }
    }

    fn received(&self) -> u64 {
        packets(&self.connection)
    }

    /// The path that carries data.
    ///
    /// iroh selects one for a peer, not for a connection, and looks again when paths come or go, but not when a connection
    /// ends (iroh 1.4, `RemoteStateActor::handle_connection_close`): a connection that has taken the place of a lost one may
    /// have a path, and none that is selected.
    fn selected(&self) -> Option<PathReport> {
        let paths = self.connection.paths();
        let only = || paths.iter().next().filter(|_| paths.len() == 1);
        let path = paths.iter().find(|path| path.is_selected()).or_else(only)?;
        let kind = match path.remote_addr() {
            TransportAddr::Ip(addr) => PathKind::Direct(canonical(*addr)),
            TransportAddr::Relay(url) => PathKind::Relay(url.to_string()),
            other => PathKind::Other(other.to_string()),
        };
        Some(PathReport { kind, rtt: path.rtt() })
    }
}

/// A number that grows while packets of the peer's come.
///
/// Counted by what was in those that could be decrypted: a peer that has forgotten the connection answers every packet
/// with a stateless reset (RFC 9000 section 10.3). noq (noq-proto 1.4, `handle_decode`) knows those of the first path only,
/// and takes the others for datagrams like any other. Of the kinds of frames those do that a peer cannot be without: it
/// acknowledges, keeps paths alive, or sends.
pub(crate) fn packets(connection: &Connection) -> u64 {
    let frames = connection.stats().frame_rx;
    let acknowledgements = frames.acks + frames.path_acks;
    let signs_of_life = frames.ping + frames.path_challenge + frames.path_response;
    acknowledgements + signs_of_life + frames.stream + frames.datagram
}

fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

impl transport::Connection for IrohConnection {
    type Send = IrohSend;
    type Recv = IrohRecv;

    async fn open_bi(&self) -> Result<(IrohSend, IrohRecv), Lost> {
        let (send, recv) = self.connection.open_bi().await.map_err(|e| lost(&e))?;
        Ok((send_half(send), recv_half(recv)))
    }

    async fn accept_bi(&self) -> Result<(IrohSend, IrohRecv), Lost> {
        let (send, recv) = self.connection.accept_bi().await.map_err(|e| lost(&e))?;
        Ok((send_half(send), recv_half(recv)))
    }

    async fn open_uni(&self) -> Result<IrohSend, Lost> {
        self.connection.open_uni().await.map(send_half).map_err(|e| lost(&e))
    }

    async fn accept_uni(&self) -> Result<IrohRecv, Lost> {
        self.connection.accept_uni().await.map(recv_half).map_err(|e| lost(&e))
    }

    fn send_datagrams(&self, datagrams: &[Bytes]) {
        if self.connection.send_many_datagrams(datagrams).is_err() {
            // One that the path has just become too small for spoils the batch; the others can still go.
            for datagram in datagrams {
                let _ = self.connection.send_datagram(datagram.clone());
            }
        }
    }

    async fn read_datagrams(&self, datagrams: &mut [Bytes]) -> Result<usize, Lost> {
        self.connection.read_many_datagrams(datagrams).await.map_err(|e| lost(&e))
    }

    fn max_datagram_size(&self) -> usize {
        self.connection.max_datagram_size().unwrap_or(0)
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.connection.close(varint(code.code()), reason.as_bytes());
    }

    async fn closed(&self) -> Lost {
        let error = self.connection.closed().await;
        match self.stranded.get() {
            Some(why) => Lost::Transport(why.clone()),
            None => lost(&error),
        }
    }

    fn identities(&self) -> Identities {
        let remote = self.connection.remote_id();
        Identities {
            local: self.local.as_bytes().to_vec(),
            remote: remote.as_bytes().to_vec(),
            shown: remote.to_string(),
            // A server takes every client here; tokens decide.
            pinned: false,
        }
    }

    fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        self.connection.export_keying_material(&mut material, label, b"").ok()?;
        Some(material)
    }

    fn authenticated(&self, role: Role) {
        self.connection.set_receive_window(WINDOW.into());
        if !self.relays.is_empty() {
            tokio::spawn(self.clone().watch_relay());
        }
        if self.announce_direct {
            tokio::spawn(crate::tor::announce_direct_paths(self.clone()));
        }
        self.connection.set_max_concurrent_uni_streams(MAX_LARGE_PACKETS.into());
        if role == Role::Server {
            self.connection.set_max_concurrent_bi_streams(MAX_FLOWS.into());
        }
    }

    fn packets_received(&self) -> u64 {
        self.received()
    }

    fn paths(&self) -> impl Stream<Item = PathReport> + Send + 'static {
        let connection = self.clone();
        let events = self.connection.path_events();
        let changes = events.filter_map(move |_| std::future::ready(connection.selected()));
        futures_util::stream::iter(self.selected()).chain(changes)
    }

    fn path(&self) -> Option<PathReport> {
        self.selected()
    }

    /// What was on its way on a path that was silent is sent again when noq has discarded that path: after three probe
    /// timeouts, for which an acknowledgement that comes late by the next path counts as a round trip (noq-proto 1.4,
    /// `abandon_path` and `inner_on_ack_received`).
    async fn path_lost(&self) {
        let mut events = self.connection.path_events();
        let selected =
            || self.connection.paths().iter().find(|path| path.is_selected()).map(|path| path.id());
        let (mut used, mut lost) = (selected(), false);
        while let Some(event) = events.next().await {
            match event {
                PathEvent::Closed { id, .. } => lost |= used == Some(id),
                PathEvent::Selected { .. } if lost => return,
                PathEvent::Selected { id, .. } => used = Some(id),
                PathEvent::Lagged { .. } => used = selected(),
                _ => {}
            }
        }
        // The events end with the connection, which others notice with the reason.
        std::future::pending().await
    }
}
