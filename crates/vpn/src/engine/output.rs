//! Where the engine puts packets. The buffers are used again and again: nothing is allocated for a single packet.

use std::vec::Drain;

use bytes::{Bytes, BytesMut};

use super::PeerId;

/// What is allocated at once for packets to peers: some 45 of 1,420 bytes. It is free, or used again, when the carrier has
/// sent them all.
const ARENA: usize = 64 * 1024;

/// The buffers that are kept between batches: more than any device takes at once.
const MAX_KEPT: usize = 256;

/// A WireGuard packet for a peer.
#[derive(Clone, Debug)]
pub struct ToPeer {
    /// Whom it is for.
    pub peer: PeerId,
    /// The header that the peer's carrier wants, and the packet behind it.
    pub datagram: Bytes,
    header: usize,
}

impl ToPeer {
    /// The packet without the header: for a carrier that has to split it.
    pub fn packet(&self) -> &[u8] {
        &self.datagram[self.header..]
    }
}

/// What a batch of packets has become.
pub struct Output {
    pub(super) device: ToDevice,
    pub(super) peers: ToPeers,
}

impl Output {
    /// `headroom` is how many bytes are left in front of each packet to the device, for a header of the system's.
    pub fn new(headroom: usize) -> Self {
        Self {
            device: ToDevice { headroom, buffers: Vec::new(), used: 0 },
            peers: ToPeers { arena: BytesMut::new(), packets: Vec::new() },
        }
    }

    /// The packets for the device, each behind the headroom, whose bytes may be anything. They may be changed in place, in
    /// length too.
    pub fn device_packets(&mut self) -> &mut [Vec<u8>] {
        &mut self.device.buffers[..self.device.used]
    }

    /// Forgets the packets for the device.
    pub fn clear_device(&mut self) {
        self.device.used = 0;
        self.device.buffers.truncate(MAX_KEPT);
    }

    /// The packets for peers; those of one peer in their order.
    pub fn to_peers(&self) -> &[ToPeer] {
        &self.peers.packets
    }

    /// Takes the packets for peers out.
    pub fn drain_to_peers(&mut self) -> Drain<'_, ToPeer> {
        self.peers.packets.drain(..)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.clear_device();
        self.peers.packets.clear();
    }

    /// Whether there is nothing for anybody.
    pub fn is_empty(&self) -> bool {
        self.device.used == 0 && self.peers.packets.is_empty()
    }
}

pub(super) struct ToDevice {
    headroom: usize,
    buffers: Vec<Vec<u8>>,
    used: usize,
}

impl ToDevice {
    /// A buffer of `length` bytes for the next packet, with whatever was in it before.
    pub(super) fn next(&mut self, length: usize) -> &mut [u8] {
        if self.used == self.buffers.len() {
            self.buffers.push(Vec::new());
        }
        let buffer = &mut self.buffers[self.used];
        // What is there already need not be cleared: the packet is written over it.
        buffer.resize(self.headroom + length, 0);
        &mut buffer[self.headroom..]
    }

    /// The first `length` bytes of [`ToDevice::next`] are a packet.
    pub(super) fn commit(&mut self, length: usize) {
        if let Some(buffer) = self.buffers.get_mut(self.used) {
            buffer.truncate(self.headroom + length);
            self.used += 1;
        }
    }
}

pub(super) struct ToPeers {
    arena: BytesMut,
    packets: Vec<ToPeer>,
}

impl ToPeers {
    /// Puts a packet behind `header` that `write` makes in a buffer of `length` bytes, of which it says how many it is. With
    /// 0 there is none.
    pub(super) fn push(
        &mut self,
        peer: PeerId,
        header: &[u8],
        length: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        let whole = header.len() + length;
        if self.arena.capacity() < whole {
            // Takes the old memory where everything in it has been sent.
            self.arena.reserve(whole.max(ARENA));
        }
        self.arena.extend_from_slice(header);
        self.arena.resize(whole, 0);
        match write(&mut self.arena[header.len()..]) {
            0 => self.arena.clear(),
            written => {
                self.arena.truncate(header.len() + written);
                let datagram = self.arena.split().freeze();
                self.packets.push(ToPeer { peer, datagram, header: header.len() });
            }
        }
    }
}
