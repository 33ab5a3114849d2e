//! What a session carries: TCP connections and UDP packets, the same on both ends.

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) mod listen;
pub(crate) mod tcp;
pub(crate) mod udp;

/// Payload of a flow or a session in both directions, as seen from this side.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds what a flow has counted to its session's sums.
    pub(crate) fn add(&self, flow: &Self) {
        self.sent.fetch_add(flow.sent(), Ordering::Relaxed);
        self.received.fetch_add(flow.received(), Ordering::Relaxed);
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}
