//! What passed, what did not, and what of that is worth a line in a log.

use std::time::{Duration, Instant};

use super::PeerId;

/// How often a peer that sends from others' addresses is reported.
pub const REPORT_PAUSE: Duration = Duration::from_secs(60);

/// Packets that the engine dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drops {
    /// No IP packet, or one that no host would take.
    pub malformed: u64,
    /// With a source route.
    pub source_routed: u64,
    /// To or from what is no single host beyond the link: multicast, broadcast, link-local, loopback.
    pub not_for_hosts: u64,
    /// From the device, of a source that is not its own.
    pub foreign_source: u64,
    /// From a peer, of a source that is not the peer's.
    pub spoofed: u64,
    /// To an address that nobody has, or where the sender may not go.
    pub no_route: u64,
    /// From one client to another where that is not allowed.
    pub between_clients: u64,
    /// The transport's own packets.
    pub transport: u64,
    /// Beyond what may wait for a handshake, or too long.
    pub overflow: u64,
    /// Messages that WireGuard takes for no peer's: forged, damaged, old, copies.
    pub rejected: u64,
}

/// What has passed between this end and a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStats {
    /// Whether there is a key.
    pub established: bool,
    /// Packets given to the tunnel, as they are inside.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets from the peer that were delivered.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets from the peer with sources that are not its own.
    pub spoofed: u64,
}

/// A peer sends from addresses that are not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoofReport {
    /// Which one.
    pub peer: PeerId,
    /// How many packets since the last report.
    pub packets: u64,
}

/// What a peer has done, and what of it was reported.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) stats: PeerStats,
    reported: u64,
    last_report: Option<Instant>,
}

impl Counters {
    pub(super) fn sent(&mut self, bytes: usize) {
        self.stats.sent_packets += 1;
        self.stats.sent_bytes += bytes as u64;
    }

    pub(super) fn received(&mut self, bytes: usize) {
        self.stats.received_packets += 1;
        self.stats.received_bytes += bytes as u64;
    }

    pub(super) fn report(&mut self, now: Instant, peer: PeerId) -> Option<SpoofReport> {
        let packets = self.stats.spoofed - self.reported;
        let early = self.last_report.is_some_and(|last| now < last + REPORT_PAUSE);
        if packets == 0 || early {
            return None;
        }
        (self.reported, self.last_report) = (self.stats.spoofed, Some(now));
        Some(SpoofReport { peer, packets })
    }
}
