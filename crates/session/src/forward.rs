//! What a session carries: TCP connections and UDP packets, the same on both ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

pub(crate) mod listen;
pub(crate) mod tcp;
pub(crate) mod udp;

/// Payload of all sessions of a process so far, in bytes, as seen from this side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// To peers.
    pub sent: u64,
    /// From peers.
    pub received: u64,
}

/// Payload of a flow, of a session, or of all of them, in both directions, as seen from this side.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    sent: AtomicU64,
    received: AtomicU64,
    /// The session's sums, where these are a flow's; those of all sessions, where these are a session's.
    total: Option<Arc<Counters>>,
}

impl Counters {
    /// Counters of a part, whose bytes are also those of `total`: of a flow or of a session.
    pub(crate) fn part_of(total: &Arc<Self>) -> Self {
        Self { total: Some(total.clone()), ..Self::default() }
    }

    pub(crate) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(total) = &self.total {
            total.add_sent(bytes);
        }
    }

    pub(crate) fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
        if let Some(total) = &self.total {
            total.add_received(bytes);
        }
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn traffic(&self) -> Traffic {
        Traffic { sent: self.sent(), received: self.received() }
    }
}

/// What a session holds for local sockets that are slow to take it, in bytes.
#[derive(Debug, Default)]
pub(crate) struct Waiting(AtomicUsize);

impl Waiting {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn is_much(&self) -> bool {
        self.bytes() >= crate::limits::MAX_WAITING
    }
}
