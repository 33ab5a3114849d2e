//! How fast a connection sends: which congestion controller it has.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::ControllerFactory;
use noq_proto::RttEstimator;
use noq_proto::congestion::{Bbr3Config, Controller, ControllerMetrics, CubicConfig};
use tunnel_session::transport::LossJudge;

mod budget;

/// How a sender reacts to loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Congestion {
    /// CUBIC (RFC 9438) that slows down where packets wait longer than on the idle path, or where many are lost, and not
    /// for the few that a bad link loses.
    #[default]
    Tolerant,
    /// CUBIC as it is written: every loss slows down.
    Cubic,
    /// BBRv3 (draft-ietf-ccwg-bbr).
    Bbr,
}

impl Congestion {
    /// What makes a controller for each path.
    pub(crate) fn factory(self) -> Arc<dyn ControllerFactory + Send + Sync> {
        let inner: Arc<dyn ControllerFactory + Send + Sync> = match self {
            Self::Tolerant | Self::Cubic => Arc::new(CubicConfig::default()),
            Self::Bbr => Arc::new(Bbr3Config::default()),
        };
        Arc::new(Controllers { inner, tolerant: self == Self::Tolerant })
    }
}

/// Makes controllers for paths.
struct Controllers {
    inner: Arc<dyn ControllerFactory + Send + Sync>,
    tolerant: bool,
}

impl fmt::Debug for Controllers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Controllers").field("tolerant", &self.tolerant).finish_non_exhaustive()
    }
}

impl ControllerFactory for Controllers {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(PathController {
            inner: self.inner.clone().build(now, current_mtu),
            judge: self.tolerant.then(|| LossJudge::new(current_mtu)),
            overlooked: false,
        })
    }
}

/// A library's controller that is not told of random losses, and keeps its connection's task from being told that the
/// socket is full when it is not; see [`budget`].
#[derive(Debug)]
struct PathController {
    inner: Box<dyn Controller>,
    /// What tells random losses from others, where that is wanted.
    judge: Option<LossJudge>,
    /// Whether the last losses were kept from `inner`.
    overlooked: bool,
}

impl Controller for PathController {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.inner.on_sent(now, bytes, largest_pn);
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.inner.on_packet_sent(now, bytes, pn);
    }

    fn on_cwnd_limited(&mut self) {
        self.inner.on_cwnd_limited();
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        if let Some(judge) = &mut self.judge {
            judge.acknowledged(now, now.saturating_duration_since(sent), rtt.get(), bytes);
        }
        self.inner.on_ack(now, sent, bytes, pn, app_limited, rtt);
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
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        let persistent = is_persistent_congestion;
        self.overlooked =
            !persistent && !is_ecn && self.judge.as_ref().is_some_and(LossJudge::is_random);
        if self.overlooked {
            return;
        }
        self.inner.on_congestion_event(now, sent, persistent, is_ecn, lost_bytes, largest_lost_pn);
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        if let Some(judge) = &mut self.judge {
            judge.lost(lost_bytes.into());
        }
        self.inner.on_packet_lost(lost_bytes, pn, now);
    }

    fn on_spurious_congestion_event(&mut self) {
        // What it would undo may be an earlier event, which was not spurious.
        if !self.overlooked {
            self.inner.on_spurious_congestion_event();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        if let Some(judge) = &mut self.judge {
            judge.set_mtu(new_mtu);
        }
        self.inner.on_mtu_update(new_mtu);
    }

    fn on_ack_frequency_update(&mut self, threshold: u64, max_ack_delay: Duration) {
        self.inner.on_ack_frequency_update(threshold, max_ack_delay);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    /// The pacer asks for it before a packet is sent, in the task that then sends it (noq-proto 1.4,
    /// `PathData::pacing_delay`). Whoever asks for statistics does too, which does no harm.
    fn metrics(&self) -> ControllerMetrics {
        budget::refill();
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            inner: self.inner.clone_box(),
            judge: self.judge.clone(),
            overlooked: self.overlooked,
        })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self.inner.into_any()
    }
}
