use std::time::Duration;

use fastrand::Rng;

use super::Condition;

/// What a link sends beside each IP packet: an Ethernet header (IEEE 802.3, 2 addresses of 6 bytes and the
/// type). Preamble, check sequence and gap, 24 bytes more, are not counted.
const ETHERNET_HEADER: usize = 14;

const NANOS_PER_SEC: u128 = 1_000_000_000;

/// How many bytes a packet of this IP length counts for rates and buffers.
pub fn link_bytes(packet: usize) -> usize {
    packet + ETHERNET_HEADER
}

/// One direction of a line, as arithmetic: packets arrive, and it says when each comes out at the other end.
///
/// Times are measured from any fixed moment. Packets come out in the order in which they arrived.
#[derive(Debug)]
pub struct Queue {
    condition: Condition,
    draws: Rng,
    /// When the last bit will be sent of all that was accepted.
    free_at: Duration,
}

impl Queue {
    /// An idle link that is free at once.
    pub fn new(condition: Condition) -> Self {
        let draws = Rng::with_seed(condition.seed);
        Self { condition, draws, free_at: Duration::ZERO }
    }

    /// A packet of this IP length arrives `now`, which is not before the one before it: when it comes out,
    /// or `None` if it is dropped.
    ///
    /// Chance comes first, as it would on a link before this one. What it leaves is dropped if it finds the
    /// buffer full.
    pub fn arrive(&mut self, now: Duration, packet: usize) -> Option<Duration> {
        let Condition { delay, rate, buffer, loss, .. } = self.condition;
        if self.draws.f64() < loss {
            return None;
        }
        let Some(rate) = rate else {
            return Some(now + delay);
        };
        if rate == 0 {
            return None;
        }
        let bytes = link_bytes(packet);
        let waiting = bytes_in(self.free_at.saturating_sub(now), rate);
        if waiting > 0 && waiting + bytes as u128 > buffer as u128 {
            return None;
        }
        self.free_at = self.free_at.max(now) + transmission(bytes, rate);
        Some(self.free_at + delay)
    }
}

/// How long so many link bytes take at a rate in bit/s, which is not 0; rounded up.
pub(super) fn transmission(bytes: usize, rate: u64) -> Duration {
    let nanos = (bytes as u128 * 8 * NANOS_PER_SEC).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// How many bytes are sent in that time, rounded up.
fn bytes_in(time: Duration, rate: u64) -> u128 {
    (time.as_nanos() * u128::from(rate)).div_ceil(8 * NANOS_PER_SEC)
}

#[cfg(test)]
mod tests;
