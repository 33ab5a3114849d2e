//! What a session asks of a transport: streams, datagrams, identities, keying material, and what path it takes.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use thiserror::Error;
use tunnel_model::{CloseCode, ResetCode};

mod loss;
#[cfg(test)]
pub(crate) mod memory;

pub use loss::LossJudge;

/// Why a connection is gone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Lost {
    /// The peer closed it and said why.
    #[error("{}", closed_text(.code, .reason))]
    Closed {
        /// The reason as a code.
        code: CloseCode,
        /// The peer's words, perhaps empty.
        reason: String,
    },
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// Nothing was heard for too long.
    #[error("nothing heard from the peer for too long")]
    TimedOut,
    /// The session was without a connection for as long as it is kept.
    #[error("no connection for {} s, for which a session is kept", .0.as_secs())]
    Kept(Duration),
    /// Another failure of the transport.
    #[error("{0}")]
    Transport(String),
}

impl Lost {
    /// Whether a session that has not ended goes on over another connection; not where the peer has ended it.
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            // Superseded: this side's own next connection, whose answer may have been lost.
            Self::Closed { code, .. } => {
                matches!(code, CloseCode::Superseded | CloseCode::Dropped)
            }
            // Local: whoever owns the connections has given this one up. A session that ends does so before it closes it.
            Self::TimedOut | Self::Transport(_) | Self::Local => true,
            Self::Kept(_) => false,
        }
    }
}

fn closed_text(code: &CloseCode, reason: &str) -> String {
    // The words are the peer's: control characters must not reach a terminal.
    if reason.is_empty() { code.to_string() } else { format!("{code}: {}", reason.escape_debug()) }
}

/// Why nothing more can be read from a stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ReadError {
    /// The peer gave the stream up.
    #[error("{0}")]
    Reset(ResetCode),
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Why nothing more can be written to a stream.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WriteError {
    /// The peer wants no more of it.
    #[error("{0}")]
    Stopped(ResetCode),
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// The sending half of a stream. Dropped before it is finished, it is reset with [`ResetCode::Ended`], so that what was
/// cut off never looks complete.
pub trait SendStream: Send + 'static {
    /// Writes all of `chunks` without copying them; they are empty afterwards.
    fn write_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Result<(), WriteError>> + Send;

    /// Ends the stream in order; what was written is still delivered.
    fn finish(&mut self);

    /// Gives the stream up; what was written may be lost.
    fn reset(&mut self, code: ResetCode);

    /// Waits until the peer wants no more of the stream (with the code it gave) or has received all of it.
    fn stopped(&self) -> impl Future<Output = Result<(), WriteError>> + Send + 'static;

    /// Waits until the peer's application has been given what was written, as far as the peer says so; where it does not, for
    /// a moment in which it may have been.
    fn taken(&self) -> impl Future<Output = ()> + Send + 'static {
        tokio::time::sleep(ARRIVED)
    }

    /// Sends this stream's data before that of others with a lower number; 0 where nothing is said.
    fn set_priority(&mut self, priority: i32);
}

/// For what was written to arrive, where nobody says so: a round trip and a half of most paths.
pub(crate) const ARRIVED: std::time::Duration = std::time::Duration::from_millis(200);

/// The receiving half of a stream. Dropped before its end, it is stopped with [`ResetCode::Ended`].
pub trait RecvStream: Send + 'static {
    /// Fills `chunks` from the front with what has come, without copying it. `None` at the end of the stream.
    fn read_chunks(
        &mut self,
        chunks: &mut [Bytes],
    ) -> impl Future<Output = Result<Option<usize>, ReadError>> + Send;

    /// Fills `buffer`.
    ///
    /// `Ok(false)` where the stream ends before.
    fn read_exact(
        &mut self,
        buffer: &mut [u8],
    ) -> impl Future<Output = Result<bool, ReadError>> + Send;

    /// Tells the peer that no more of the stream is wanted.
    fn stop(&mut self, code: ResetCode);
}

/// Which end of a connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The side that dialled and opens flows.
    Client,
    /// The side that accepted and serves them.
    Server,
}

/// Both ends' identities, as the transport's handshake proved them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identities {
    /// This side's.
    pub local: Vec<u8>,
    /// The peer's.
    pub remote: Vec<u8>,
    /// The peer's, for people; the same for all connections of one peer.
    pub shown: String,
    /// Whether each side knew the other's identity beforehand and let no other through.
    pub pinned: bool,
}

/// What a connection runs over at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathKind {
    /// Straight to this address.
    Direct(SocketAddr),
    /// Through the relay with this URL.
    Relay(String),
    /// Within one process, or a kind that has no name here.
    Other(String),
}

/// The path in use, and how long a round trip takes on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathReport {
    /// Which path.
    pub kind: PathKind,
    /// The transport's smoothed estimate.
    pub rtt: Duration,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => write!(f, "direct to {addr}"),
            Self::Relay(url) => write!(f, "through relay {url}"),
            Self::Other(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for PathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, round trip {:.1} ms", self.kind, self.rtt.as_secs_f64() * 1000.0)
    }
}

/// One connection of a transport, cheap to clone; the last clone dropped closes it.
pub trait Connection: Clone + Send + Sync + 'static {
    /// Sending halves.
    type Send: SendStream;
    /// Receiving halves.
    type Recv: RecvStream;

    /// Opens a stream in both directions; waits while the peer allows no more.
    fn open_bi(&self) -> impl Future<Output = Result<(Self::Send, Self::Recv), Lost>> + Send;

    /// The next stream in both directions that the peer opens.
    fn accept_bi(&self) -> impl Future<Output = Result<(Self::Send, Self::Recv), Lost>> + Send;

    /// Opens a one-way stream; waits while the peer allows no more.
    fn open_uni(&self) -> impl Future<Output = Result<Self::Send, Lost>> + Send;

    /// The next one-way stream that the peer opens.
    fn accept_uni(&self) -> impl Future<Output = Result<Self::Recv, Lost>> + Send;

    /// Queues datagrams; what cannot be sent is dropped, as a network would.
    fn send_datagrams(&self, datagrams: &[Bytes]);

    /// Fills `datagrams` from the front with what has come, at least one.
    fn read_datagrams(
        &self,
        datagrams: &mut [Bytes],
    ) -> impl Future<Output = Result<usize, Lost>> + Send;

    /// The largest datagram that can be sent at the moment, in bytes; 0 where none can.
    fn max_datagram_size(&self) -> usize;

    /// Closes the connection and tells the peer why.
    fn close(&self, code: CloseCode, reason: &str);

    /// Waits until the connection is gone.
    fn closed(&self) -> impl Future<Output = Lost> + Send;

    /// Both ends' identities.
    fn identities(&self) -> Identities;

    /// 32 bytes of exported keying material (RFC 5705), the same on both ends and on no other connection.
    /// `None` where the transport has none to give.
    fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]>;

    /// Raises the limits that hold until authentication.
    fn authenticated(&self, role: Role);

    /// A number that grows while packets come that only the peer can have sent; only comparing two values means anything.
    fn packets_received(&self) -> u64;

    /// The path in use, and each one that takes its place.
    fn paths(&self) -> impl Stream<Item = PathReport> + Send + 'static;

    /// The path in use at the moment, where there is one.
    fn path(&self) -> Option<PathReport>;

    /// Resolves when the transport itself knows that nothing reaches the peer at the moment; never where it cannot know.
    fn path_gone(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Resolves when, after the call, the path in use is lost and another one takes its place, and what was on its way may
    /// be sent again much later than that; never where it would be sent again at once.
    fn path_lost(&self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }
}
