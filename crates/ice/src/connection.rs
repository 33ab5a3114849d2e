use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::{FutureExt, Stream, stream};
use quinn::{Connection, ConnectionError, RecvStream, SendStream, TransportErrorCode, VarInt};
use tokio::sync::watch;
use tunnel_model::{CloseCode, ResetCode};
use tunnel_session::limits::{MAX_FLOWS, MAX_LARGE_PACKETS};
use tunnel_session::transport::{
    self, Identities, Lost, PathKind, PathReport, ReadError, Role, WriteError,
};

use crate::agent::PathState;
use crate::{Endpoint, Fingerprint};

/// The receive window of a connection that has not authenticated, in bytes: a hello and its proof fit many times.
pub(crate) const UNAUTHENTICATED_WINDOW: u32 = 64 * 1024;

/// The receive window of one stream in bytes; 160 Mbit/s at a round trip of 100 ms. A larger one would be faster there,
/// but quinn ends a connection that has more than 1,024 gaps in a stream (quinn-proto 0.11, `assembler.rs`).
pub(crate) const STREAM_WINDOW: u32 = 2 * 1024 * 1024;

/// The receive window of an authenticated connection in bytes: 100 ms at 1 Gbit/s are 12.5 MB, for several streams
/// together.
pub(crate) const WINDOW: u32 = 16 * 1024 * 1024;

/// A connection over a path that ICE has found, as a session uses it.
#[derive(Clone, Debug)]
pub struct IceConnection {
    connection: Connection,
    local: Fingerprint,
    remote: Fingerprint,
    path: watch::Receiver<PathState>,
    /// The peer, for people.
    shown: Arc<str>,
    marks: Arc<Marks>,
    /// Without it there are no sockets.
    endpoint: Endpoint,
}

/// What is remembered of a connection beyond what the library does.
#[derive(Debug)]
struct Marks {
    /// A session stood on it.
    authenticated: AtomicBool,
    /// The peer has ended it in order, or all of its own.
    ended_by_peer: AtomicBool,
    /// The same of any connection of the endpoint, where the peer said that all of it ends.
    peer_ended: Arc<AtomicBool>,
    /// Carries updates for as long as the connection is used.
    _updates: AbortOnDrop,
}

/// A task that ends with its owner.
#[derive(Debug)]
pub(crate) struct AbortOnDrop(pub(crate) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The sending half of a stream; reset when dropped before its end.
#[derive(Debug)]
pub struct IceSend {
    stream: SendStream,
    ended: bool,
}

/// The receiving half of a stream; stopped when dropped before its end.
#[derive(Debug)]
pub struct IceRecv {
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
        ConnectionError::ConnectionClosed(close) if is_alert(close.error_code) => {
            Lost::Closed { code: CloseCode::UnknownPeer, reason: String::new() }
        }
        ConnectionError::LocallyClosed => Lost::Local,
        ConnectionError::TimedOut => Lost::TimedOut,
        // Perhaps in the peer's words: control characters must not reach a terminal.
        other => Lost::Transport(other.to_string().escape_debug().to_string()),
    }
}

/// Whether an error of QUIC is an alert of TLS about a certificate (RFC 9001 section 4.8, RFC 8446 section 6.2):
/// bad_certificate, certificate_unknown, unknown_ca, access_denied, certificate_required.
pub(crate) fn is_alert(code: TransportErrorCode) -> bool {
    const CRYPTO: u64 = 0x100;
    [42, 46, 48, 49, 116].map(|alert| CRYPTO + alert).contains(&u64::from(code))
}

impl From<quinn::WriteError> for SendFailed {
    fn from(error: quinn::WriteError) -> Self {
        use quinn::WriteError as E;
        Self(match error {
            E::Stopped(code) => WriteError::Stopped(ResetCode::from_code(code.into_inner())),
            E::ConnectionLost(error) => WriteError::Lost(lost(&error)),
            other => WriteError::Lost(Lost::Transport(other.to_string())),
        })
    }
}

struct SendFailed(WriteError);

fn read_error(error: &quinn::ReadError) -> ReadError {
    use quinn::ReadError as E;
    match error {
        E::Reset(code) => ReadError::Reset(ResetCode::from_code(code.into_inner())),
        E::ConnectionLost(error) => ReadError::Lost(lost(error)),
        other => ReadError::Lost(Lost::Transport(other.to_string())),
    }
}

impl transport::SendStream for IceSend {
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
                Err(error) => Err(SendFailed::from(quinn::WriteError::from(error)).0),
            }
        }
    }

    fn set_priority(&mut self, priority: i32) {
        let _ = self.stream.set_priority(priority);
    }
}

impl Drop for IceSend {
    fn drop(&mut self) {
        if !self.ended {
            // The library's own drop would finish the stream, and a cut transfer would look complete.
            let _ = self.stream.reset(varint(ResetCode::Ended.code()));
        }
    }
}

impl transport::RecvStream for IceRecv {
    async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        let read = self.stream.read_chunks(chunks).await.map_err(|e| read_error(&e))?;
        self.ended |= read.is_none();
        Ok(read)
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, ReadError> {
        use quinn::ReadExactError as E;
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

impl Drop for IceRecv {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.stream.stop(varint(ResetCode::Ended.code()));
        }
    }
}

fn send_half(stream: SendStream) -> IceSend {
    IceSend { stream, ended: false }
}

fn recv_half(stream: RecvStream) -> IceRecv {
    IceRecv { stream, ended: false }
}

impl IceConnection {
    /// `peer_ended` is set when the peer says that it ends; `updates` lives as long as the connection is used.
    pub(crate) fn new(
        connection: Connection,
        [local, remote]: [Fingerprint; 2],
        shown: Arc<str>,
        peer_ended: Arc<AtomicBool>,
        updates: AbortOnDrop,
        endpoint: Endpoint,
    ) -> Self {
        let marks = Marks {
            authenticated: AtomicBool::new(false),
            ended_by_peer: AtomicBool::new(false),
            peer_ended,
            _updates: updates,
        };
        let (path, marks) = (endpoint.path(), Arc::new(marks));
        Self { connection, local, remote, path, shown, marks, endpoint }
    }

    /// Whether the peer has ended the session that stood on this connection. A connection that came to no session says
    /// nothing: the library ends what is dropped with the code of an orderly end.
    pub fn was_ended_by_peer(&self) -> bool {
        self.look_at_reason();
        self.marks.authenticated.load(Ordering::Relaxed)
            && self.marks.ended_by_peer.load(Ordering::Relaxed)
    }

    /// What QUIC knows of the path.
    #[cfg(test)]
    pub(crate) fn stats(&self) -> quinn::PathStats {
        self.connection.stats().path
    }

    /// Remembers why the peer ended the connection, if it did: the library forgets it for this side's own reason.
    fn look_at_reason(&self) {
        let Some(reason) = self.connection.close_reason() else { return };
        let Lost::Closed { code, .. } = lost(&reason) else { return };
        if matches!(code, CloseCode::Done | CloseCode::ShuttingDown) {
            self.marks.ended_by_peer.store(true, Ordering::Relaxed);
        }
        if code == CloseCode::ShuttingDown {
            self.marks.peer_ended.store(true, Ordering::Relaxed);
        }
    }

    fn report(connection: &Connection, state: PathState) -> Option<PathReport> {
        let PathState::Up(path) = state else { return None };
        // Before the first packet was acknowledged QUIC only guesses.
        let rtt = connection.rtt().min(path.rtt * 4);
        Some(PathReport { kind: PathKind::Direct(path.remote), rtt })
    }
}

impl transport::Connection for IceConnection {
    type Send = IceSend;
    type Recv = IceRecv;

    async fn open_bi(&self) -> Result<(IceSend, IceRecv), Lost> {
        let (send, recv) = self.connection.open_bi().await.map_err(|e| lost(&e))?;
        Ok((send_half(send), recv_half(recv)))
    }

    async fn accept_bi(&self) -> Result<(IceSend, IceRecv), Lost> {
        let (send, recv) = self.connection.accept_bi().await.map_err(|e| lost(&e))?;
        Ok((send_half(send), recv_half(recv)))
    }

    async fn open_uni(&self) -> Result<IceSend, Lost> {
        self.connection.open_uni().await.map(send_half).map_err(|e| lost(&e))
    }

    async fn accept_uni(&self) -> Result<IceRecv, Lost> {
        self.connection.accept_uni().await.map(recv_half).map_err(|e| lost(&e))
    }

    fn send_datagrams(&self, datagrams: &[Bytes]) {
        for datagram in datagrams {
            // One that the path has just become too small for is lost.
            let _ = self.connection.send_datagram(datagram.clone());
        }
    }

    async fn read_datagrams(&self, datagrams: &mut [Bytes]) -> Result<usize, Lost> {
        let mut read = 0;
        while let Some(place) = datagrams.get_mut(read) {
            *place = if read == 0 {
                self.connection.read_datagram().await.map_err(|e| lost(&e))?
            } else {
                let Some(Ok(next)) = self.connection.read_datagram().now_or_never() else { break };
                next
            };
            read += 1;
        }
        Ok(read)
    }

    fn max_datagram_size(&self) -> usize {
        self.connection.max_datagram_size().unwrap_or(0)
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.look_at_reason();
        self.connection.close(varint(code.code()), reason.as_bytes());
    }

    async fn closed(&self) -> Lost {
        let reason = self.connection.closed().await;
        self.look_at_reason();
        lost(&reason)
    }

    fn identities(&self) -> Identities {
        Identities {
            local: self.local.0.to_vec(),
            remote: self.remote.0.to_vec(),
            shown: self.shown.to_string(),
            pinned: true,
        }
    }

    fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        self.connection.export_keying_material(&mut material, label, b"").ok()?;
        Some(material)
    }

    fn authenticated(&self, role: Role) {
        self.marks.authenticated.store(true, Ordering::Relaxed);
        self.connection.set_receive_window(WINDOW.into());
        self.connection.set_max_concurrent_uni_streams(MAX_LARGE_PACKETS.into());
        if role == Role::Server {
            self.connection.set_max_concurrent_bi_streams((MAX_FLOWS + 1).into());
        }
    }

    fn packets_received(&self) -> u64 {
        // By what was in those that could be decrypted, as anybody can send a datagram. And ICE's: they come at all times,
        // and a connection that nobody uses has none of its own.
        let frames = self.connection.stats().frame_rx;
        frames.acks + frames.ping + frames.stream + frames.datagram + self.endpoint.answers()
    }

    fn paths(&self) -> impl Stream<Item = PathReport> + Send + 'static {
        let (connection, mut path) = (self.connection.clone(), self.path.clone());
        path.mark_changed();
        stream::unfold((connection, path), |(connection, mut path)| async {
            loop {
                path.changed().await.ok()?;
                let state = *path.borrow_and_update();
                if let Some(report) = Self::report(&connection, state) {
                    return Some((report, (connection, path)));
                }
            }
        })
    }

    fn path(&self) -> Option<PathReport> {
        Self::report(&self.connection, *self.path.borrow())
    }

    async fn path_gone(&self) {
        let mut path = self.path.clone();
        let gone = path.wait_for(|state| *state == PathState::Gone).await.is_ok();
        if !gone {
            // The endpoint is closed, and the connection with it.
            std::future::pending::<()>().await;
        }
    }
}
