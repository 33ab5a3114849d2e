//! What a flow and a session need to go on over another connection, without I/O: positions, what is kept until it has
//! arrived, and the proof that a session is one's own.
//!
//! A direction of a flow is counted in positions: each byte is one, and its end is one more. A sender keeps what lies
//! behind the position that the receiver has acknowledged; on another connection it begins again where the receiver
//! says that it stands.

use std::collections::VecDeque;
use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Proof;

/// The position of a receiver that wants nothing more of a flow, wherever it stands.
pub const GONE: u64 = u64::MAX;

/// Chunks below this are kept together: each one costs an allocation besides its bytes.
const SMALL: usize = 512;

/// A receiver stands where no receiver can.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("position {position} of a flow that is kept from {kept} to {end}")]
pub struct OutOfRange {
    position: u64,
    kept: u64,
    end: u64,
}

/// One direction of a flow at its sender: what has been sent and may have to be sent again.
#[derive(Default)]
pub struct Outbox {
    chunks: VecDeque<Bytes>,
    acknowledged: u64,
    end: u64,
    finished: bool,
    over: bool,
}

impl fmt::Debug for Outbox {
    /// Without the bytes, which are the application's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { chunks: _, acknowledged, end, finished, over } = self;
        write!(f, "Outbox({acknowledged}..{end}, finished: {finished}, over: {over})")
    }
}

impl Outbox {
    /// Keeps `chunk`, the next bytes of the flow. Nothing is kept for a receiver that is gone.
    pub fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() || self.over || self.finished {
            return;
        }
        self.end += chunk.len() as u64;
        match self.chunks.back_mut() {
            Some(last) if last.len() < SMALL && chunk.len() < SMALL => {
                let mut joined = BytesMut::with_capacity(2 * SMALL);
                joined.extend_from_slice(last);
                joined.extend_from_slice(&chunk);
                *last = joined.freeze();
            }
            // A small chunk is part of a larger buffer, which must not be kept for it.
            _ if chunk.len() < SMALL => self.chunks.push_back(Bytes::copy_from_slice(&chunk)),
            _ => self.chunks.push_back(chunk),
        }
    }

    /// Ends the direction; nothing is pushed afterwards.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Whether [`Outbox::finish`] has been called.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Bytes kept.
    pub fn held(&self) -> usize {
        // What is kept was in memory as slices, so that its sum is a usize.
        usize::try_from(self.end - self.acknowledged.min(self.end)).unwrap_or(usize::MAX)
    }

    /// Whether the receiver has everything, the end too, or wants nothing more.
    pub fn is_done(&self) -> bool {
        self.over
    }

    fn last(&self) -> u64 {
        self.end + u64::from(self.finished)
    }

    /// Forgets what lies before `position`, where the receiver says that it stands. An earlier position than the last
    /// one is an old message and means nothing.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] for a position behind what has been sent.
    pub fn acknowledge(&mut self, position: u64) -> Result<(), OutOfRange> {
        if position == GONE {
            self.over = true;
            self.acknowledged = self.last();
            self.chunks.clear();
            return Ok(());
        }
        if position > self.last() {
            return Err(self.out_of_range(position));
        }
        if position <= self.acknowledged {
            return Ok(());
        }
        let mut bytes = position.min(self.end) - self.acknowledged.min(self.end);
        self.acknowledged = position;
        while let Some(front) = self.chunks.front_mut() {
            let length = front.len() as u64;
            if bytes < length {
                // Fits: less than the length of a slice.
                front.advance(usize::try_from(bytes).unwrap_or(0));
                break;
            }
            bytes -= length;
            self.chunks.pop_front();
        }
        self.over = self.finished && position > self.end;
        Ok(())
    }

    /// Begins again at `position`, where the receiver says that it stands. Of one that wants nothing more the last word
    /// is known already, and what it said before means nothing.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] for a position that has been acknowledged and passed, or that lies behind what has been sent.
    pub fn resume(&mut self, position: u64) -> Result<(), OutOfRange> {
        if position < self.acknowledged && !self.over {
            return Err(self.out_of_range(position));
        }
        self.acknowledge(position)
    }

    /// Fills `chunks` from the front with what is kept from `position` on, and tells how many bytes that is; 0 where
    /// nothing is. What lies before the acknowledged position is passed over.
    pub fn copy(&self, position: u64, chunks: &mut [Bytes]) -> usize {
        let mut skip = position.saturating_sub(self.acknowledged);
        let mut copied = 0;
        let mut places = chunks.iter_mut();
        for chunk in &self.chunks {
            let length = chunk.len() as u64;
            if skip >= length {
                skip -= length;
                continue;
            }
            let Some(place) = places.next() else { break };
            *place = chunk.slice(usize::try_from(skip).unwrap_or(0)..);
            copied += place.len();
            skip = 0;
        }
        copied
    }

    fn out_of_range(&self, position: u64) -> OutOfRange {
        OutOfRange { position, kept: self.acknowledged, end: self.last() }
    }
}

/// One direction of a flow at its receiver: where it stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inbox {
    position: u64,
    ended: bool,
}

impl Inbox {
    /// Counts bytes that have been taken.
    pub fn take(&mut self, bytes: usize) {
        self.position += bytes as u64;
    }

    /// Counts the end as taken.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the end has been taken.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The position to tell the sender.
    pub fn position(&self) -> u64 {
        self.position + u64::from(self.ended)
    }
}

/// Which of a client's flow numbers a server has seen, so that none is opened twice: a window over the latest, as
/// IPsec's against replays (RFC 4303 section 3.4.3). Numbers below the window count as seen.
#[derive(Debug)]
pub struct SeenFlows {
    /// Above all numbers seen.
    next: u64,
    bits: [u64; Self::WORDS],
}

impl Default for SeenFlows {
    fn default() -> Self {
        Self { next: 0, bits: [0; Self::WORDS] }
    }
}

impl SeenFlows {
    const WORDS: usize = 128;

    /// How many numbers, up to the highest one, are told apart: twice as many as flows can be open at once.
    pub const WINDOW: u64 = Self::WORDS as u64 * 64;

    fn place(flow: u64) -> (usize, u64) {
        let index = flow % Self::WINDOW;
        // Below the number of words, which is a usize.
        (usize::try_from(index / 64).unwrap_or(0), 1 << (index % 64))
    }

    /// Notes `flow`, and tells whether it was new. The highest number there is never is.
    pub fn insert(&mut self, flow: u64) -> bool {
        if flow == u64::MAX || flow < self.next.saturating_sub(Self::WINDOW) {
            return false;
        }
        if flow >= self.next {
            if flow - self.next >= Self::WINDOW {
                self.bits = [0; Self::WORDS];
            } else {
                for passed in self.next..=flow {
                    let (word, bit) = Self::place(passed);
                    self.bits[word] &= !bit;
                }
            }
            self.next = flow + 1;
        }
        let (word, bit) = Self::place(flow);
        let fresh = self.bits[word] & bit == 0;
        self.bits[word] |= bit;
        fresh
    }
}

/// What proves that a session is one's own: keying material of its latest connection, known to its two ends and never
/// sent.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct ResumptionSecret([u8; 32]);

impl fmt::Debug for ResumptionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumptionSecret(..)")
    }
}

/// What a client presents to go on with a session; travels in the hello.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Resumption {
    /// The session.
    pub session: [u8; 16],
    /// Made with the session's secret on the connection that it travels on.
    pub proof: Proof,
}

/// What the proof of a [`Resumption`] covers besides the session.
#[derive(Clone, Copy)]
pub struct ResumptionTranscript<'a> {
    /// 32 bytes of the new connection, exported as for [`crate::Transcript`].
    pub keying_material: &'a [u8; 32],
    /// The client's identity in the transport.
    pub client: &'a [u8],
    /// The server's identity in the transport.
    pub server: &'a [u8],
}

impl ResumptionSecret {
    /// The exporter's label (RFC 8446 section 7.5) under which a connection yields the secret.
    pub const LABEL: &'static [u8] = b"EXPORTER-tunnel-rs resumption";

    /// Takes 32 bytes exported under [`ResumptionSecret::LABEL`] with an empty context.
    pub fn new(keying_material: [u8; 32]) -> Self {
        Self(keying_material)
    }

    fn mac(&self, session: &[u8; 16], transcript: &ResumptionTranscript<'_>) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0)
            .unwrap_or_else(|_| unreachable!("HMAC refuses no key length"));
        mac.update(b"R");
        mac.update(transcript.keying_material);
        for part in [transcript.client, transcript.server, session] {
            // Lengths in front, so that no two transcripts have the same bytes.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    /// What a client presents for `session` on the connection of `transcript`.
    pub fn prove(&self, session: [u8; 16], transcript: &ResumptionTranscript<'_>) -> Resumption {
        let proof = self.mac(&session, transcript).finalize().into_bytes();
        Resumption { session, proof: Proof::from_bytes(proof.into()) }
    }

    /// Whether `resumption` was made with this secret on this connection; takes the same time whatever the answer.
    pub fn verify(&self, resumption: &Resumption, transcript: &ResumptionTranscript<'_>) -> bool {
        let proof = self.mac(&resumption.session, transcript).finalize().into_bytes();
        resumption.proof.is(&proof.into())
    }
}

impl Resumption {
    /// As it stands in the hello.
    pub fn to_bytes(&self) -> Vec<u8> {
        // 48 bytes without lengths: nothing that could fail.
        postcard::to_extend(self, Vec::new()).unwrap_or_default()
    }

    /// Reads what stands in a hello; `None` where it is not understood. Bytes behind it are a later version's.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        postcard::take_from_bytes(bytes).ok().map(|(resumption, _later)| resumption)
    }
}

#[cfg(test)]
mod tests;
