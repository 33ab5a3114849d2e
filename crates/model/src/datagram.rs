//! Packets as datagrams: a flow id in front, and splitting where a packet exceeds what one datagram carries.
//!
//! Form: a kind byte, the flow id as a variable-length integer (RFC 9000 section 16), and the payload. A fragment
//! (kind 1) has the packet's number (two bytes, big endian) and one byte with its index (high four bits) and the
//! number of fragments (low four bits) before the payload. The fragments of a packet are lost together.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The largest flow id: what a variable-length integer holds (RFC 9000 section 16).
pub const MAX_FLOW: u64 = (1 << 62) - 1;

/// The largest UDP payload over IPv4 in bytes: 65,535 less 20 for IP and 8 for UDP (RFC 768, RFC 791).
pub const MAX_PACKET: usize = 65_507;

/// The most datagrams one packet is split into. The chance of losing a packet grows with each; 4 carry the 4,500
/// bytes of a jumbo frame that applications meet, and anything larger is better off on a stream.
pub const MAX_FRAGMENTS: usize = 4;

/// How long the first fragments of a packet wait for the others: longer than paths reorder, shorter than
/// applications wait.
pub const REASSEMBLY_TIMEOUT: Duration = Duration::from_secs(1);

/// How many incomplete packets one reassembler holds; beyond it the oldest is given up. At 64 KiB/s of loss on a
/// path this is far from reached; an attacker can make a session hold 64 × 3 datagrams of some 1,400 bytes.
pub const MAX_INCOMPLETE: usize = 64;

const KIND_WHOLE: u8 = 0;
const KIND_FRAGMENT: u8 = 1;
const FRAGMENT_HEADER: usize = 3;

/// A datagram that is not of this protocol's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DatagramError {
    /// Shorter than its header.
    #[error("a datagram that ends within its header")]
    Truncated,
    /// Of an unknown kind.
    #[error("a datagram of unknown kind {0}")]
    UnknownKind(u8),
    /// A fragment whose index or count cannot be.
    #[error("a fragment that cannot be")]
    BadFragment,
}

fn varint_len(value: u64) -> usize {
    match value {
        0..=0x3f => 1,
        0x40..=0x3fff => 2,
        0x4000..=0x3fff_ffff => 4,
        _ => 8,
    }
}

fn put_varint(out: &mut BytesMut, value: u64) {
    match varint_len(value) {
        1 => out.put_u8(value as u8),
        2 => out.put_u16(value as u16 | 0x4000),
        4 => out.put_u32(value as u32 | 0x8000_0000),
        _ => out.put_u64(value & MAX_FLOW | 0xc000_0000_0000_0000),
    }
}

fn take_varint(bytes: &mut Bytes) -> Result<u64, DatagramError> {
    let first = *bytes.first().ok_or(DatagramError::Truncated)?;
    let length = 1usize << (first >> 6);
    if bytes.len() < length {
        return Err(DatagramError::Truncated);
    }
    let value = bytes[1..length]
        .iter()
        .fold(u64::from(first & 0x3f), |value, byte| value << 8 | u64::from(*byte));
    bytes.advance(length);
    Ok(value)
}

/// What stands in front of a packet of `flow` that is not split: with it, whoever makes packets writes them straight into
/// datagrams, as long as they fit.
pub fn whole_header(flow: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(1 + varint_len(flow));
    out.put_u8(KIND_WHOLE);
    put_varint(&mut out, flow);
    out.freeze()
}

/// Whether a packet of so many bytes goes into one datagram of at most `limit`.
pub fn fits(flow: u64, length: usize, limit: usize) -> bool {
    1 + varint_len(flow) + length <= limit
}

/// Makes the datagrams that carry `packet`, none longer than `limit` bytes.
///
/// `number` tells the fragments of successive packets of a flow apart. `None` where the packet would need more than
/// [`MAX_FRAGMENTS`].
pub fn split(flow: u64, number: u16, packet: &[u8], limit: usize) -> Option<Vec<Bytes>> {
    let header = 1 + varint_len(flow);
    if fits(flow, packet.len(), limit) {
        let mut out = BytesMut::with_capacity(header + packet.len());
        out.put_u8(KIND_WHOLE);
        put_varint(&mut out, flow);
        out.put_slice(packet);
        return Some(vec![out.freeze()]);
    }
    let room = limit.checked_sub(header + FRAGMENT_HEADER).filter(|room| *room > 0)?;
    let count = packet.len().div_ceil(room);
    if count > MAX_FRAGMENTS {
        return None;
    }
    // Equal parts: two halves pass paths that a full and a tiny fragment would not, once the limit shrinks.
    let part = packet.len().div_ceil(count);
    let fragments = packet.chunks(part).enumerate().map(|(index, chunk)| {
        let mut out = BytesMut::with_capacity(header + FRAGMENT_HEADER + chunk.len());
        out.put_u8(KIND_FRAGMENT);
        put_varint(&mut out, flow);
        out.put_u16(number);
        out.put_u8((index as u8) << 4 | count as u8);
        out.put_slice(chunk);
        out.freeze()
    });
    Some(fragments.collect())
}

/// A datagram taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A packet that came in one piece.
    Whole {
        /// The flow it belongs to.
        flow: u64,
        /// The packet.
        packet: Bytes,
    },
    /// A part of a packet.
    Fragment {
        /// The flow it belongs to.
        flow: u64,
        /// The packet's number in the flow.
        number: u16,
        /// From 0, below `count`.
        index: u8,
        /// 1 to [`MAX_FRAGMENTS`].
        count: u8,
        /// The part.
        part: Bytes,
    },
}

impl Datagram {
    /// Takes a datagram apart without copying it.
    ///
    /// # Errors
    ///
    /// Where it is not of this protocol's form.
    pub fn parse(mut bytes: Bytes) -> Result<Self, DatagramError> {
        if bytes.is_empty() {
            return Err(DatagramError::Truncated);
        }
        let kind = bytes.get_u8();
        let flow = take_varint(&mut bytes)?;
        match kind {
            KIND_WHOLE => Ok(Self::Whole { flow, packet: bytes }),
            KIND_FRAGMENT if bytes.len() < FRAGMENT_HEADER => Err(DatagramError::Truncated),
            KIND_FRAGMENT => {
                let number = bytes.get_u16();
                let both = bytes.get_u8();
                let (index, count) = (both >> 4, both & 0xf);
                if count == 0 || usize::from(count) > MAX_FRAGMENTS || index >= count {
                    return Err(DatagramError::BadFragment);
                }
                Ok(Self::Fragment { flow, number, index, count, part: bytes })
            }
            other => Err(DatagramError::UnknownKind(other)),
        }
    }
}

struct Incomplete {
    flow: u64,
    number: u16,
    since: Instant,
    parts: Vec<Option<Bytes>>,
}

/// Joins fragments to packets; bounded by [`MAX_INCOMPLETE`] and [`REASSEMBLY_TIMEOUT`].
#[derive(Default)]
pub struct Reassembler {
    /// The oldest first.
    incomplete: VecDeque<Incomplete>,
}

impl Reassembler {
    /// Takes a datagram in; gives the flow and the packet where one is complete.
    pub fn handle(&mut self, now: Instant, datagram: Datagram) -> Option<(u64, Bytes)> {
        let (flow, number, index, count, part) = match datagram {
            Datagram::Whole { flow, packet } => return Some((flow, packet)),
            Datagram::Fragment { flow, number, index, count, part } => {
                (flow, number, usize::from(index), usize::from(count), part)
            }
        };
        while self.incomplete.front().is_some_and(|i| now - i.since >= REASSEMBLY_TIMEOUT) {
            self.incomplete.pop_front();
        }
        let same = |i: &Incomplete| i.flow == flow && i.number == number && i.parts.len() == count;
        let at = match self.incomplete.iter().position(same) {
            Some(at) => at,
            None => {
                if self.incomplete.len() == MAX_INCOMPLETE {
                    self.incomplete.pop_front();
                }
                let parts = vec![None; count];
                self.incomplete.push_back(Incomplete { flow, number, since: now, parts });
                self.incomplete.len() - 1
            }
        };
        self.incomplete[at].parts[index] = Some(part);
        if self.incomplete[at].parts.iter().any(Option::is_none) {
            return None;
        }
        let parts = self.incomplete.remove(at)?.parts;
        let length: usize = parts.iter().flatten().map(Bytes::len).sum();
        let mut packet = BytesMut::with_capacity(length);
        parts.into_iter().flatten().for_each(|part| packet.put(part));
        Some((flow, packet.freeze()))
    }

    /// Forgets what a flow has left behind.
    pub fn forget(&mut self, flow: u64) {
        self.incomplete.retain(|i| i.flow != flow);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn join(reassembler: &mut Reassembler, now: Instant, bytes: &Bytes) -> Option<(u64, Bytes)> {
        reassembler.handle(now, Datagram::parse(bytes.clone()).unwrap())
    }

    #[test]
    fn a_full_size_wireguard_packet_takes_two_datagrams() {
        assert_eq!(split(1, 0, &[0; 1452], 1162).unwrap().len(), 2);
        assert_eq!(split(1, 0, &[0; 1452], 1414).unwrap().len(), 2);
        assert_eq!(split(1, 0, &[0; 1300], 1414).unwrap().len(), 1);
    }

    #[test]
    fn a_header_in_front_makes_a_whole_datagram() {
        for flow in [0, 63, 64, 300, 1 << 20, MAX_FLOW] {
            let by_hand = [&whole_header(flow)[..], b"abc"].concat();
            assert_eq!(split(flow, 0, b"abc", 1200).unwrap(), [by_hand]);
        }
    }

    #[test]
    fn more_than_four_fragments_are_left_to_a_stream() {
        assert!(split(1, 0, &[0; MAX_PACKET], 1414).is_none());
        assert!(split(1, 0, &[0; 100], 4).is_none());
    }

    #[test]
    fn fragments_too_far_apart_are_not_joined() {
        let mut reassembler = Reassembler::default();
        let (start, parts) = (Instant::now(), split(9, 1, &[5; 2000], 1200).unwrap());
        assert_eq!(join(&mut reassembler, start, &parts[0]), None);
        assert_eq!(join(&mut reassembler, start + REASSEMBLY_TIMEOUT, &parts[1]), None);
    }

    #[test]
    fn incomplete_packets_are_bounded() {
        let mut reassembler = Reassembler::default();
        let now = Instant::now();
        for number in 0..1000 {
            let parts = split(1, number, &[5; 2000], 1200).unwrap();
            join(&mut reassembler, now, &parts[0]);
        }
        assert_eq!(reassembler.incomplete.len(), MAX_INCOMPLETE);
        reassembler.forget(1);
        assert!(reassembler.incomplete.is_empty());
    }

    #[test]
    fn a_packet_behind_the_header_of_its_flow_is_a_whole_datagram() {
        for flow in [0, 0x3f, 0x40, 0x3fff, 0x4000, 0x3fff_ffff, 0x4000_0000, MAX_FLOW] {
            let datagram = [&whole_header(flow)[..], b"packet"].concat();
            assert_eq!(split(flow, 0, b"packet", 100).unwrap(), [Bytes::from(datagram.clone())]);
            let packet = Bytes::from_static(b"packet");
            assert_eq!(Datagram::parse(datagram.into()), Ok(Datagram::Whole { flow, packet }));
        }
    }

    proptest! {
        #[test]
        fn packets_come_back_whole_in_any_order_and_never_mixed(
            flow in 0..=MAX_FLOW,
            number: u16,
            length in 0usize..4500,
            limit in 64usize..1500,
            seed: u64,
            duplicate: bool,
        ) {
            let packet: Vec<u8> = (0..length).map(|i| (i as u64).wrapping_mul(seed | 1) as u8).collect();
            if let Some(mut parts) = split(flow, number, &packet, limit) {
                prop_assert!(parts.len() <= MAX_FRAGMENTS);
                prop_assert_eq!(fits(flow, packet.len(), limit), parts.len() == 1);
                prop_assert!(parts.iter().all(|p| p.len() <= limit));
                if duplicate {
                    parts.insert(0, parts[0].clone());
                }
                let at = (seed % parts.len() as u64) as usize;
                parts.rotate_left(at);
                let mut reassembler = Reassembler::default();
                let now = Instant::now();
                let other = split(flow, number.wrapping_add(1), &[1; 3000], 1200).unwrap();
                prop_assert!(join(&mut reassembler, now, &other[0]).is_none());
                let out: Vec<_> = parts.iter().filter_map(|p| join(&mut reassembler, now, p)).collect();
                prop_assert!(!out.is_empty());
                for (f, p) in out {
                    prop_assert_eq!(f, flow);
                    prop_assert_eq!(&p[..], &packet[..]);
                }
            }
        }

        #[test]
        fn no_datagram_panics(datagrams in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..40)) {
            let mut reassembler = Reassembler::default();
            for bytes in datagrams {
                if let Ok(datagram) = Datagram::parse(bytes.into()) {
                    let _ = reassembler.handle(Instant::now(), datagram);
                }
            }
        }
    }
}
