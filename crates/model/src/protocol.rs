//! The messages of the session protocol and their form on the wire; `docs/PROTOCOL.md` is the prose to it.
//!
//! A message is a frame: the length of what follows (two bytes, big endian), a type byte, and the body in
//! [postcard](https://postcard.jamesmunns.com/wire-format). Bytes behind a body that this version knows, and frames on
//! the control stream of a type that it does not, are for later versions to use and are passed over.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Proof, Source};

/// The application protocol of the TLS handshake (RFC 7301). It names no version: versions are compared
/// in words that both sides can tell their user.
pub const ALPN: &[u8] = b"tunnel-rs";

/// The protocol version that this crate speaks.
pub const VERSION: u16 = 1;

/// The largest frame behind its length, in bytes: type byte and body. A hello with resume data and a check of 64
/// sources with the longest names (64 × 260 bytes) fit.
pub const MAX_FRAME: usize = 20 * 1024;

/// Bytes that nearly all frames fit in, so that one is written without being moved.
const USUAL_FRAME: usize = 128;

/// The largest first frame that an unauthenticated peer may send, in bytes.
pub const MAX_HELLO: usize = 2 * 1024;

/// The most sources one [`Check`] names; a client with more sends several.
pub const MAX_CHECKED: usize = 64;

/// The most flows that one [`Acknowledge`] names: two numbers of ten bytes each.
pub const MAX_ACKNOWLEDGED: usize = 1000;

/// The most flows that one [`Kept`] names: a number of ten bytes each.
pub const MAX_KEPT: usize = 2000;

/// The client's sessions can go on over another connection: a bit of [`Hello`].
pub const FEATURE_RESUME: u64 = 1;

/// The server offers a VPN: a bit of [`Welcome`].
pub const FEATURE_VPN: u64 = 1 << 1;

/// A message with a type byte of its own.
pub trait Message: Serialize + DeserializeOwned {
    /// The type byte in front of the body.
    const TYPE: u8;
}

macro_rules! message {
    ($type:literal, $(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $ty:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$fdoc])* pub $field: $ty,)*
        }

        impl Message for $name {
            const TYPE: u8 = $type;
        }
    };
}

mod vpn;

pub use vpn::{MAX_ADDRESSES, MAX_ROUTES, OpenVpn, ReattachVpn, VpnOpened, VpnRequest};

message! { 0x01,
    /// The client's first message, without its proof: that follows as a [`HelloProof`].
    Hello {
        /// The version the client speaks, [`VERSION`].
        version: u16,
        /// Bits of what the client can do besides: [`FEATURE_RESUME`]; unknown ones are ignored.
        features: u64,
        /// Random, for the life of the client process: its connections count as one client, and it may have two.
        instance: [u8; 16],
        /// A [`crate::resume::Resumption`], to go on with an earlier session.
        resume: Option<Vec<u8>>,
    }
}

message! { 0x02,
    /// The client's proof over the keying material, the identities and the bytes of the [`Hello`] frame.
    HelloProof {
        /// Made with [`crate::ROLE_CLIENT`].
        proof: Proof,
    }
}

message! { 0x03,
    /// The server's answer to a client that it lets in.
    Welcome {
        /// The version that both speak from here on.
        version: u16,
        /// Bits of what the server can do besides: [`FEATURE_VPN`]; unknown ones are ignored.
        features: u64,
        /// Random, for the life of the server process: tells a restarted server from a path that came back.
        instance: [u8; 16],
        /// Names the session in both sides' logs; that of the [`crate::resume::Resumption`] where it goes on.
        session: [u8; 16],
        /// Made with [`crate::ROLE_SERVER`].
        proof: Proof,
        /// How many seconds the session is kept without a connection; 0 where it ends with its connection.
        grace: u32,
    }
}

message! { 0x10,
    /// Sources that the client will ask for, to be checked without connecting to them.
    Check {
        /// Chosen by the client, echoed in the answer.
        id: u32,
        /// At most [`MAX_CHECKED`].
        sources: Vec<Source>,
    }
}

message! { 0x11,
    /// The answer to a [`Check`], in its order.
    Checked {
        /// Of the check.
        id: u32,
        /// `None` where the source is allowed as things stand.
        refusals: Vec<Option<Refusal>>,
    }
}

message! { 0x12,
    /// Asks for a [`Pong`]; makes the network show whether it still carries anything.
    Ping {
        /// Echoed in the answer.
        id: u64,
    }
}

message! { 0x13,
    /// The answer to a [`Ping`].
    Pong {
        /// Of the ping.
        id: u64,
    }
}

message! { 0x14,
    /// Asks the peer to send no more of a TCP flow: what has come waits for a slow reader. What is on its way is
    /// still taken.
    Pause {
        /// The flow.
        flow: u64,
    }
}

message! { 0x15,
    /// Takes a [`Pause`] back.
    Resume {
        /// The flow.
        flow: u64,
    }
}

message! { 0x16,
    /// Says how far the sender of this message has taken flows, so that their sender can forget what lies before.
    Acknowledge {
        /// Flow and position, at most [`MAX_ACKNOWLEDGED`]; [`crate::resume::GONE`] where nothing more is wanted.
        flows: Vec<(u64, u64)>,
    }
}

message! { 0x17,
    /// The flows that a client still has, told once a session goes on over another connection.
    Kept {
        /// At most [`MAX_KEPT`].
        flows: Vec<u64>,
        /// Whether no further message follows; what none has named is over.
        last: bool,
    }
}

message! { 0x20,
    /// Begins a stream that carries one TCP connection. The application's bytes follow without waiting.
    OpenTcp {
        /// Unique in the session; its numbers grow.
        flow: u64,
        /// What to connect to.
        source: Source,
    }
}

message! { 0x21,
    /// Begins a stream that lives as long as a UDP flow. The flow's first packet follows, with its length (two bytes,
    /// big endian) in front; later ones travel as datagrams.
    OpenUdp {
        /// Unique in the session, at most [`crate::datagram::MAX_FLOW`]; its numbers grow.
        flow: u64,
        /// Where the packets go.
        source: Source,
    }
}

message! { 0x22,
    /// The answer on a stream that [`OpenTcp`], [`OpenUdp`] or [`OpenVpn`] began.
    Opened {
        /// `None` where the flow is open.
        refusal: Option<Refusal>,
    }
}

message! { 0x23,
    /// Begins a one-way stream that carries one UDP packet too large for datagrams; the packet is all that follows.
    LargePacket {
        /// The UDP or VPN flow it belongs to.
        flow: u64,
    }
}

message! { 0x24,
    /// Begins a stream on which a flow goes on that began on an earlier connection. A flow that the server has never
    /// seen is opened by it.
    Reattach {
        /// The flow.
        flow: u64,
        /// Where the client stands in what the server sends.
        position: u64,
        /// Whether the server is to send nothing of it for now, as after a [`Pause`].
        paused: bool,
        /// What the flow was opened for.
        source: Source,
    }
}

message! { 0x25,
    /// The answer to a [`Reattach`]; each side then goes on from where the other one stands.
    Reattached {
        /// Where the server stands in what the client sends.
        position: u64,
        /// Whether the client is to send nothing of it for now, as after a [`Pause`].
        paused: bool,
    }
}

/// Why a source cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people; never holds anything secret.
    pub detail: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason.as_str())?;
        if !self.detail.is_empty() {
            // The peer wrote it: control characters must not reach a terminal.
            write!(f, ": {}", self.detail.escape_debug())?;
        }
        Ok(())
    }
}

/// The kinds of refusal, as a number so that later versions can add some.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Reason {
    /// The server's rules do not allow it.
    NotAllowed,
    /// The name does not resolve on the server.
    NameNotFound,
    /// The target refused the connection.
    ConnectionRefused,
    /// The target, or the network to it, cannot be reached.
    Unreachable,
    /// The target did not answer in time.
    TimedOut,
    /// The session or the server has as many flows as it takes.
    Limit,
    /// Every address of the VPN is taken.
    NoAddress,
    /// Another failure, said in the detail.
    Other,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "not allowed by the server",
            Self::NameNotFound => "name not found by the server",
            Self::ConnectionRefused => "connection refused by the target",
            Self::Unreachable => "target unreachable from the server",
            Self::TimedOut => "no answer from the target",
            Self::Limit => "too many flows",
            Self::NoAddress => "no free address",
            Self::Other => "failed on the server",
        }
    }
}

impl From<u8> for Reason {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::NotAllowed,
            2 => Self::NameNotFound,
            3 => Self::ConnectionRefused,
            4 => Self::Unreachable,
            5 => Self::TimedOut,
            6 => Self::Limit,
            7 => Self::NoAddress,
            _ => Self::Other,
        }
    }
}

impl From<Reason> for u8 {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::NotAllowed => 1,
            Reason::NameNotFound => 2,
            Reason::ConnectionRefused => 3,
            Reason::Unreachable => 4,
            Reason::TimedOut => 5,
            Reason::Limit => 6,
            Reason::NoAddress => 7,
            Reason::Other => 255,
        }
    }
}

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length in front is larger than allowed.
    #[error("a frame of {0} bytes, more than allowed")]
    TooLong(usize),
    /// Of another type than expected.
    #[error("a frame of type {0:#04x} where another was expected")]
    UnexpectedType(u8),
    /// The body does not decode.
    #[error("a frame of type {0:#04x} that does not decode")]
    Malformed(u8),
    /// Without a type byte.
    #[error("an empty frame")]
    Empty,
}

/// A message as it goes on the wire.
///
/// # Errors
///
/// [`FrameError::TooLong`] where the body exceeds [`MAX_FRAME`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::with_capacity(USUAL_FRAME);
    frame.extend_from_slice(&[0, 0, M::TYPE]);
    let frame = postcard::to_extend(message, frame).map_err(|_| FrameError::Malformed(M::TYPE))?;
    let length = frame.len() - 2;
    match u16::try_from(length) {
        Ok(n) if length <= MAX_FRAME => {
            let mut frame = frame;
            frame[..2].copy_from_slice(&n.to_be_bytes());
            Ok(frame)
        }
        _ => Err(FrameError::TooLong(length)),
    }
}

/// The type byte of a frame whose length has been taken off.
///
/// # Errors
///
/// [`FrameError::Empty`] where there is none.
pub fn frame_type(frame: &[u8]) -> Result<u8, FrameError> {
    frame.first().copied().ok_or(FrameError::Empty)
}

/// Reads a frame whose length has been taken off.
///
/// # Errors
///
/// Where it is of another type or its body does not decode.
pub fn decode<M: Message>(frame: &[u8]) -> Result<M, FrameError> {
    match frame_type(frame)? {
        t if t != M::TYPE => Err(FrameError::UnexpectedType(t)),
        t => postcard::take_from_bytes(&frame[1..])
            .map(|(message, _later)| message)
            .map_err(|_| FrameError::Malformed(t)),
    }
}

/// The version of a hello whose body this version cannot read: it stands first in every version.
pub fn peek_version(frame: &[u8]) -> Option<u16> {
    (frame_type(frame).ok()? == Hello::TYPE)
        .then(|| postcard::take_from_bytes(&frame[1..]).ok())
        .flatten()
        .map(|(version, _)| version)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_come_back_as_sent_and_carry_their_length() {
        let open = OpenTcp { flow: 300, source: "tcp://nas:22".parse().unwrap() };
        let frame = encode(&open).unwrap();
        assert_eq!(usize::from(u16::from_be_bytes([frame[0], frame[1]])), frame.len() - 2);
        let back: OpenTcp = decode(&frame[2..]).unwrap();
        assert_eq!((back.flow, back.source), (300, open.source));
    }

    #[test]
    fn bytes_behind_a_body_are_left_to_later_versions() {
        let mut frame = encode(&Ping { id: 7 }).unwrap();
        frame.extend_from_slice(b"later");
        assert_eq!(decode::<Ping>(&frame[2..]).unwrap().id, 7);
    }

    #[test]
    fn another_type_and_a_cut_body_are_told_apart() {
        let frame = encode(&Ping { id: u64::MAX }).unwrap();
        assert_eq!(decode::<Pong>(&frame[2..]).unwrap_err(), FrameError::UnexpectedType(0x12));
        assert_eq!(decode::<Ping>(&frame[2..5]).unwrap_err(), FrameError::Malformed(0x12));
        assert_eq!(decode::<Ping>(&[]).unwrap_err(), FrameError::Empty);
    }

    #[test]
    fn the_largest_check_fits_a_frame() {
        let name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
        let source: Source = format!("tcp://{name}:65535").parse().unwrap();
        encode(&Check { id: 1, sources: vec![source; MAX_CHECKED] }).unwrap();
    }

    #[test]
    fn the_largest_lists_of_flows_fit_a_frame() {
        encode(&Acknowledge { flows: vec![(u64::MAX, u64::MAX); MAX_ACKNOWLEDGED] }).unwrap();
        encode(&Kept { flows: vec![u64::MAX; MAX_KEPT], last: true }).unwrap();
    }

    #[test]
    fn a_peers_words_cannot_move_the_cursor() {
        let refusal = Refusal { reason: Reason::Other, detail: "\x1b[2Jhi".into() };
        assert!(!refusal.to_string().contains('\x1b'));
    }

    proptest! {
        #[test]
        fn no_frame_panics(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Hello>(&frame);
            let _ = decode::<Welcome>(&frame);
            let _ = decode::<Check>(&frame);
            let _ = decode::<Checked>(&frame);
            let _ = decode::<OpenTcp>(&frame);
            let _ = decode::<OpenUdp>(&frame);
            let _ = decode::<Opened>(&frame);
            let _ = decode::<Acknowledge>(&frame);
            let _ = decode::<Kept>(&frame);
            let _ = decode::<Reattach>(&frame);
            let _ = decode::<Reattached>(&frame);
        }

        #[test]
        fn reasons_survive_the_wire(code: u8) {
            let reason = Reason::from(code);
            prop_assert_eq!(Reason::from(u8::from(reason)), reason);
        }
    }
}
