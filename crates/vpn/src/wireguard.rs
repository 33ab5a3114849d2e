//! One WireGuard tunnel (the protocol of "WireGuard: Next Generation Kernel Network Tunnel", Donenfeld 2017).
//!
//! boringtun does the work, and nothing outside of this file knows it. It reads the clock itself (one that goes on while the
//! machine sleeps), so what is time here beside [`Tunnel::tick`]'s argument is its own doing: keys are renewed after 120 s
//! of use, unusable after 180 s, and a handshake without an answer is given up after 90 s.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// What WireGuard adds to a packet, in bytes: 16 of header and 16 of authentication. boringtun pads nothing.
pub const OVERHEAD: usize = 32;

/// The largest packet within the tunnel, in bytes: what a UDP packet over IPv4 holds (65,507, as everything that carries
/// packets here goes by), less [`OVERHEAD`].
pub const MAX_INNER: usize = 65_507 - OVERHEAD;

/// The most packets that wait for a handshake; Linux's own WireGuard keeps half as many.
pub const MAX_WAITING_PACKETS: usize = 256;

/// The most bytes of packets that wait for a handshake: as many packets of the size of most networks. A peer that never
/// answers costs no more.
pub const MAX_WAITING: usize = MAX_WAITING_PACKETS * 1500;

/// How long packets wait for a handshake: as long as WireGuard tries one (the paper, section 6.1).
const WAITING_TIME: Duration = Duration::from_secs(90);

/// The first time that a handshake without a key waits for its answer; each further time is twice as long, up to the last,
/// which is shorter than boringtun's own 5 s. A path that loses a packet is common, and a user who waits 5 s for a first answer takes it for broken.
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

/// Which part an end has in handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Begins them: at the start, before a key is too old, and again and again while there is none.
    Initiator {
        /// After how many seconds of silence something is sent; 0 is never.
        keepalive: u16,
    },
    /// Answers them. It begins one only where packets have had no answer for 15 s: two ends that begin one at a time, with
    /// each packet, can miss each other's answers again and again.
    Responder,
}

struct Retry {
    /// Of a handshake that was begun between two ticks only the next one says.
    at: Option<Instant>,
    pause: Duration,
}

/// One end of a tunnel with one peer.
pub struct Tunnel {
    tunn: Tunn,
    end: End,
    /// What boringtun says of keys; it changes with messages and ticks only, and asking costs a look at the clock.
    established: bool,
    /// While there is no key, and a handshake is wanted.
    retry: Option<Retry>,
    /// Packets that came while there is no key. boringtun's own queue is not used: each packet to it may begin a handshake.
    waiting: VecDeque<Vec<u8>>,
    waiting_bytes: usize,
    waiting_since: Option<Instant>,
}

impl Tunnel {
    /// Makes one end. Nothing is sent before [`Tunnel::initiate`].
    pub fn new(own: &PrivateKey, peer: PublicKey, preshared: &PresharedKey, end: End) -> Self {
        let keepalive = match end {
            End::Initiator { keepalive } => Some(keepalive).filter(|seconds| *seconds > 0),
            End::Responder => None,
        };
        // The index tells tunnels apart that share a socket; each of these has a carrier to itself. boringtun keeps the
        // pre-shared key in memory that it does not zeroize.
        let tunn = Tunn::new(own.secret(), peer.0.into(), Some(preshared.0), keepalive, 0, None);
        Self {
            tunn,
            end,
            established: false,
            retry: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            waiting_since: None,
        }
    }

    /// Whether there is a key that packets can be sent with.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Begins a handshake, whether or not one is under way. Writes a message for the peer to `out`, which must have
    /// [`message_buffer`] of 0; says how long it is.
    pub fn initiate(&mut self, out: &mut [u8]) -> usize {
        self.retry = Some(Retry { at: None, pause: FIRST_RETRY });
        self.write_initiation(out)
    }

    fn write_initiation(&mut self, out: &mut [u8]) -> usize {
        match self.tunn.format_handshake_initiation(out, true) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        }
    }

    /// Encrypts a packet. Without a key it waits for one, up to [`MAX_WAITING`] bytes and [`MAX_WAITING_PACKETS`], and an
    /// initiator begins a handshake.
    ///
    /// Writes a message for the peer to `out`, which must have [`message_buffer`] of the packet's length; says how long it is.
    /// 0 means none. `None` where the packet is dropped: too long, or too many wait already.
    pub fn encrypt(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        // An empty packet is a keepalive to boringtun.
        if !(1..=MAX_INNER).contains(&packet.len()) || out.len() < message_buffer(packet.len()) {
            return None;
        }
        if self.established {
            return Some(self.seal(packet, out));
        }
        let after = self.waiting_bytes + packet.len();
        if after > MAX_WAITING || self.waiting.len() == MAX_WAITING_PACKETS {
            return None;
        }
        self.waiting.push_back(packet.to_vec());
        self.waiting_bytes = after;
        match self.end {
            End::Initiator { .. } if self.retry.is_none() => Some(self.initiate(out)),
            _ => Some(0),
        }
    }

    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        match self.tunn.encapsulate(packet, out) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        }
    }

    /// Takes a message of the peer's in. `out` must have [`packet_buffer`] of the message's length.
    ///
    /// While [`Tunnel::next_waiting_buffer`] has a length afterwards, packets that have waited can leave.
    pub fn decrypt(&mut self, message: &[u8], out: &mut [u8]) -> Received {
        // An empty message has a meaning of its own to boringtun.
        if message.is_empty() || out.len() < packet_buffer(message.len()) {
            return Received::Rejected;
        }
        if is_counter_spent(message) {
            return Received::Rejected;
        }
        let received = match self.tunn.decapsulate(None, message, out) {
            TunnResult::Done => Received::Nothing,
            TunnResult::Err(_) => return Received::Rejected,
            TunnResult::WriteToNetwork(reply) => Received::Reply(reply.len()),
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Received::Packet(packet.len())
            }
        };
        if !self.established {
            self.look();
        }
        received
    }

    fn look(&mut self) {
        self.established = self.tunn.time_since_last_handshake().is_some();
        if self.established {
            self.retry = None;
        }
    }

    /// How long a buffer the next packet needs that has waited and can leave, if there is one.
    pub fn next_waiting_buffer(&self) -> Option<usize> {
        let next = self.waiting.front().filter(|_| self.established)?;
        Some(message_buffer(next.len()))
    }

    /// Encrypts the next packet that has waited. Writes a message for the peer to `out`, which must have
    /// [`Tunnel::next_waiting_buffer`]; says how long it is. 0 means that there is none.
    pub fn next_waiting(&mut self, out: &mut [u8]) -> usize {
        if self.next_waiting_buffer().is_none_or(|length| out.len() < length) {
            return 0;
        }
        let Some(packet) = self.waiting.pop_front() else { return 0 };
        self.waiting_bytes -= packet.len();
        self.seal(&packet, out)
    }

    fn drop_waiting(&mut self) {
        self.waiting.clear();
        (self.waiting_bytes, self.waiting_since) = (0, None);
    }

    /// Does what is due: new keys, keepalives, handshakes that had no answer. To be called some times a second.
    ///
    /// Writes a message for the peer to `out`, which must have [`message_buffer`] of 0; says how long it is. 0 means none.
    pub fn tick(&mut self, now: Instant, out: &mut [u8]) -> usize {
        if out.len() < message_buffer(0) {
            return 0;
        }
        let length = match self.tunn.update_timers(out) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => 0,
        };
        self.look();
        match self.waiting_since {
            _ if self.waiting.is_empty() => self.waiting_since = None,
            None => self.waiting_since = Some(now),
            Some(since) if now >= since + WAITING_TIME => self.drop_waiting(),
            Some(_) => {}
        }
        if !self.is_handshake_wanted() {
            self.retry = None;
            return length;
        }
        let retry = self.retry.get_or_insert(Retry { at: Some(now), pause: FIRST_RETRY / 2 });
        let at = *retry.at.get_or_insert(now + retry.pause);
        if length > 0 || now < at {
            return length;
        }
        retry.pause = (retry.pause * 2).min(LAST_RETRY);
        retry.at = Some(now + retry.pause);
        self.write_initiation(out)
    }

    fn is_handshake_wanted(&self) -> bool {
        // Without a packet of its own as well: what the other end has to say waits for it.
        matches!(self.end, End::Initiator { .. }) && !self.established
    }

    /// The carrier is back after it could send nothing: an initiator begins a handshake, as what either end has of the last
    /// may be lost, and packets go on under the key that there is. As [`Tunnel::tick`] otherwise.
    pub fn carrier_restored(&mut self, now: Instant, out: &mut [u8]) -> usize {
        let length = self.tick(now, out);
        match self.end {
            End::Initiator { .. } if out.len() >= message_buffer(0) => self.initiate(out),
            _ => length,
        }
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
