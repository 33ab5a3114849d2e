//! One WireGuard tunnel (the protocol of "WireGuard: Next Generation Kernel Network Tunnel", Donenfeld 2017).
//!
//! boringtun does the work, and nothing outside of this file knows it. It reads the clock itself (one that goes on while the
//! machine sleeps), so what is time here beside [`Tunnel::tick`]'s argument is its own doing: keys are renewed after 120 s
//! of use, unusable after 180 s, and a handshake without an answer is given up after 90 s.

use std::fmt;
use std::time::{Duration, Instant};

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What WireGuard adds to a packet, in bytes: 16 of header and 16 of authentication. boringtun pads nothing.
pub const OVERHEAD: usize = 32;

/// The largest packet within the tunnel, in bytes: what a UDP packet over IPv4 holds (65,507, as everything that carries
/// packets here goes by), less [`OVERHEAD`].
pub const MAX_INNER: usize = 65_507 - OVERHEAD;

/// The most bytes of packets that wait for a handshake: as many as boringtun keeps (256), of the size of most networks.
/// A peer that never answers costs no more.
pub const MAX_WAITING: usize = 256 * 1500;

/// The first time that a handshake waits for its answer; each further time is twice as long, until boringtun's 5 s are
/// reached. A path that loses a packet is common, and a user who waits 5 s for a first answer takes it for broken.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(4);

/// The counter of a packet from which on a peer must not go (the paper, section 6.1: 2^64 - 2^13 - 1). Nobody gets there
/// by counting; a peer that has the key can say it nevertheless, and boringtun's arithmetic overflows close to 2^64.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// The length of a handshake initiation, the longest message without a packet; boringtun wants room for it whatever it
/// writes.
const LONGEST_MESSAGE: usize = 148;

const TYPE_DATA: u8 = 4;

/// The system gave no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the system gives no random bytes for a WireGuard key: {0}")]
pub struct RandomError(getrandom::Error);

/// A private key (X25519, RFC 7748), for one tunnel.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

/// A public key (X25519, RFC 7748).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey(
    /// As it goes over the wire.
    pub [u8; 32],
);

/// What both ends know beside their keys, which keeps the tunnel closed to who can break X25519.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; 32]);

impl PrivateKey {
    /// Makes a new one.
    ///
    /// # Errors
    ///
    /// Where the system has no randomness.
    pub fn generate() -> Result<Self, RandomError> {
        let mut key = Self([0; 32]);
        getrandom::fill(&mut key.0).map_err(RandomError)?;
        Ok(key)
    }

    /// What the peer has to know.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519::PublicKey::from(&self.secret()).to_bytes())
    }

    fn secret(&self) -> x25519::StaticSecret {
        // Zeroized when dropped, as this is.
        self.0.into()
    }
}

impl PresharedKey {
    /// Of keying material that the session exported; the caller zeroizes its own copy.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

/// How many bytes a buffer must have for what becomes of a packet of `length` bytes.
pub fn message_buffer(length: usize) -> usize {
    (length + OVERHEAD).max(LONGEST_MESSAGE)
}

/// How many bytes a buffer must have for what becomes of a message of `length` bytes.
pub fn packet_buffer(length: usize) -> usize {
    length.max(LONGEST_MESSAGE)
}

/// What became of a message from the peer. Lengths are those of what stands at the buffer's beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing to do.
    Nothing,
    /// Not of the peer, old, a copy, or no message at all.
    Rejected,
    /// A message for the peer, of so many bytes.
    Reply(usize),
    /// A packet of the peer's, of so many bytes. Its headers are as the peer made them.
    Packet(usize),
}

struct Retry {
    at: Instant,
    pause: Duration,
}

/// One end of a tunnel with one peer.
pub struct Tunnel {
    tunn: Tunn,
    keepalive: bool,
    /// While the handshake that was begun here has had no answer.
    retry: Option<Retry>,
    /// Packets that boringtun keeps until there is a key, and their bytes.
    waiting: usize,
    waiting_bytes: usize,
}

impl Tunnel {
    /// Makes one end. `keepalive` is after how many seconds of silence something is sent; with `None` or 0 nothing is, beside
    /// what the protocol does by itself. An end with a keepalive begins a handshake by itself whenever there is no key.
    pub fn new(
        own: &PrivateKey,
        peer: PublicKey,
        preshared: &PresharedKey,
        keepalive: Option<u16>,
    ) -> Self {
        let keepalive = keepalive.filter(|seconds| *seconds > 0);
        // The index tells tunnels apart that share a socket; each of these has a carrier to itself. boringtun keeps the
        // pre-shared key in memory that it does not zeroize.
        let tunn = Tunn::new(own.secret(), peer.0.into(), Some(preshared.0), keepalive, 0, None);
        Self { tunn, keepalive: keepalive.is_some(), retry: None, waiting: 0, waiting_bytes: 0 }
    }

    /// Whether there is a key that packets can be sent with.
    pub fn is_established(&self) -> bool {
        self.tunn.time_since_last_handshake().is_some()
    }

    /// Begins a handshake, whether or not one is under way. Writes a message for the peer to `out`, which must have
    /// [`message_buffer`] of 0; says how long it is.
    pub fn initiate(&mut self, now: Instant, out: &mut [u8]) -> usize {
        self.retry = Some(Retry { at: now + FIRST_RETRY, pause: FIRST_RETRY });
        self.write_initiation(out)
    }

    fn write_initiation(&mut self, out: &mut [u8]) -> usize {
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        }
    }

    /// Encrypts a packet. Without a key it waits for one, up to [`MAX_WAITING`] bytes, and a handshake is begun.
    ///
    /// Writes a message for the peer to `out`, which must have [`message_buffer`] of the packet's length; says how long it is.
    /// 0 means none. `None` where the packet is dropped because too many wait already.
    pub fn encrypt(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if packet.len() > MAX_INNER || out.len() < message_buffer(packet.len()) {
            return None;
        }
        let after = self.waiting_bytes + packet.len();
        if self.waiting_bytes > 0 && after > MAX_WAITING && !self.is_established() {
            return None;
        }
        let length = match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(message) if message[0] == TYPE_DATA => {
                return Some(message.len());
            }
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        };
        self.waiting += 1;
        self.waiting_bytes = after;
        Some(length)
    }

    /// Takes a message of the peer's in. `out` must have [`packet_buffer`] of the message's length.
    ///
    /// After a [`Received::Reply`], and whenever [`Tunnel::has_waiting`], [`Tunnel::next_waiting`] may have more.
    pub fn decrypt(&mut self, message: &[u8], out: &mut [u8]) -> Received {
        // An empty message has a meaning of its own to boringtun.
        if message.is_empty() || out.len() < packet_buffer(message.len()) {
            return Received::Rejected;
        }
        if is_counter_spent(message) {
            return Received::Rejected;
        }
        match self.tunn.decapsulate(None, message, out) {
            TunnResult::Done => Received::Nothing,
            TunnResult::Err(_) => Received::Rejected,
            TunnResult::WriteToNetwork(reply) => Received::Reply(reply.len()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Received::Packet(packet.len())
            }
        }
    }

    /// Whether packets wait for a key.
    pub fn has_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// How long a buffer [`Tunnel::next_waiting`] needs.
    pub fn waiting_buffer_len(&self) -> usize {
        message_buffer(self.waiting_bytes.min(MAX_INNER))
    }

    /// Encrypts the next packet that has waited, once there is a key. Writes a message for the peer to `out`, which must
    /// have [`Tunnel::waiting_buffer_len`]; says how long it is. 0 means that there is none.
    pub fn next_waiting(&mut self, out: &mut [u8]) -> usize {
        if out.len() < self.waiting_buffer_len() || !self.is_established() {
            return 0;
        }
        match self.tunn.decapsulate(None, &[], out) {
            TunnResult::WriteToNetwork(message) => {
                self.waiting = self.waiting.saturating_sub(1);
                let packet = message.len().saturating_sub(OVERHEAD);
                self.waiting_bytes = self.waiting_bytes.saturating_sub(packet);
                message.len()
            }
            _ => {
                (self.waiting, self.waiting_bytes) = (0, 0);
                0
            }
        }
    }

    /// Does what is due: new keys, keepalives, handshakes that had no answer. To be called some times a second.
    ///
    /// Writes a message for the peer to `out`, which must have [`message_buffer`] of 0; says how long it is. 0 means none.
    pub fn tick(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let length = match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(message) => message.len(),
            TunnResult::Err(WireGuardError::ConnectionExpired) => {
                // boringtun has dropped what waited, and does nothing any more until a packet comes.
                (self.waiting, self.waiting_bytes) = (0, 0);
                self.retry = None;
                if self.keepalive { self.write_initiation(out) } else { 0 }
            }
            _ => 0,
        };
        if self.retry.is_some() && self.is_established() {
            self.retry = None;
        }
        match &mut self.retry {
            Some(retry) if length == 0 && retry.at <= now => {
                retry.pause *= 2;
                retry.at = now + retry.pause;
                if retry.pause > LAST_RETRY {
                    self.retry = None;
                }
                self.write_initiation(out)
            }
            _ => length,
        }
    }

    /// The carrier is back after it could send nothing: a handshake that has lost its packets meanwhile is begun anew at once.
    /// Only an end with a keepalive, or with packets that wait, begins one. As [`Tunnel::tick`] otherwise.
    pub fn carrier_restored(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let length = self.tick(now, out);
        if length > 0 || self.is_established() || !(self.keepalive || self.has_waiting()) {
            return length;
        }
        self.initiate(now, out)
    }
}

/// Whether a message is a packet beyond [`REJECT_AFTER_MESSAGES`].
fn is_counter_spent(message: &[u8]) -> bool {
    let counter = message.get(8..16).and_then(|bytes| bytes.first_chunk());
    message.first() == Some(&TYPE_DATA)
        && counter.is_some_and(|bytes| u64::from_le_bytes(*bytes) >= REJECT_AFTER_MESSAGES)
}

#[cfg(test)]
mod tests;
