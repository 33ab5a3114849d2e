//! How fast a connection sends.

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory, CubicConfig};
use tunnel_session::transport::LossJudge;

/// CUBIC (RFC 9438) that slows down where packets wait longer than on the idle path, or where many are lost, and not for
/// the few that a bad link loses; as in iroh mode.
#[derive(Debug, Default)]
pub(crate) struct Tolerant;

impl ControllerFactory for Tolerant {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(TolerantController {
            inner: Arc::new(CubicConfig::default()).build(now, current_mtu),
            judge: LossJudge::new(current_mtu),
        })
    }
}

/// A library's controller that is not told of random losses.
struct TolerantController {
    inner: Box<dyn Controller>,
    judge: LossJudge,
}

impl Controller for TolerantController {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &quinn_proto::RttEstimator,
    ) {
        self.judge.acknowledged(now, now.saturating_duration_since(sent), rtt.get(), bytes);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.judge.lost(lost_bytes);
        // None lost means that a router has marked packets (RFC 9000 section 13.4).
        if is_persistent_congestion || lost_bytes == 0 || !self.judge.is_random() {
            self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.judge.set_mtu(new_mtu);
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { inner: self.inner.clone_box(), judge: self.judge.clone() })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}
