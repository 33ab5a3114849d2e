//! Tells the losses of a bad link from those of a full one.
//!
//! A router that drops packets because it has too many makes them wait first, so round trips are longer than on the
//! idle path; a radio link that loses packets loses them at any time. TCP Veno (Fu and Liew, IEEE Journal on Selected
//! Areas in Communications 21(2), 2003) tells the two apart in this way. Here too, with a bound on the share of packets
//! lost: beyond it the losses count whatever the delay, as a policer or a very short queue drops without delaying.

use std::time::{Duration, Instant};

/// How long the shortest round trip is remembered: as BBR does (draft-ietf-ccwg-bbr, `MinRTTFilterLen`).
const FLOOR_SPAN: Duration = Duration::from_secs(10);

/// The part of the path's own round trip by which even the shortest one of late may be longer before a queue is taken to
/// stand: one in so many. Less than what a radio link varies by would make its losses count.
const QUEUE_SHARE: u32 = 8;
/// By no more than this on a long path, so that a router that begins to drop at a delay of 5 ms is heard (CoDel's target,
/// RFC 8289 section 4.3).
const QUEUE_MOST: Duration = Duration::from_millis(4);
/// By this much on every path: it is what machines take to wake up, as seen on a cable.
const QUEUE_LEAST: Duration = Duration::from_micros(100);

/// The share of bytes lost, as one in so many, beyond which losses count whatever the delay: 2 % (draft-ietf-ccwg-bbr,
/// `LossThresh`).
const LOSS_LIMIT: u64 = 50;

/// Packets over which the share is taken, at least; fewer would let one lost packet of the first ten decide.
const MEMORY_PACKETS: u64 = 512;

/// The shortest of the values of the last span of time, or of up to three.
#[derive(Clone, Copy, Debug)]
struct Shortest {
    began: Option<Instant>,
    previous: Duration,
    current: Duration,
}

impl Shortest {
    const NONE: Self = Self { began: None, previous: Duration::MAX, current: Duration::MAX };

    fn add(&mut self, now: Instant, value: Duration, span: Duration) {
        let age = self.began.map(|began| now.saturating_duration_since(began));
        match age {
            Some(age) if age < span => self.current = self.current.min(value),
            _ => {
                let stale = age.is_none_or(|age| age >= 2 * span);
                self.previous = if stale { Duration::MAX } else { self.current };
                self.current = value;
                self.began = Some(now);
            }
        }
    }

    fn get(&self) -> Duration {
        self.previous.min(self.current)
    }
}

/// What one path's losses are taken for.
#[derive(Clone, Debug)]
pub struct LossJudge {
    /// The path's own round trip.
    floor: Shortest,
    /// The shortest estimate of the last quarter of a round trip or three, which a standing queue lengthens.
    recent: Shortest,
    /// Bytes that were acknowledged or lost, halved as they grow old.
    settled: u64,
    /// The lost ones among them.
    lost: u64,
    /// Bytes of a packet.
    mtu: u64,
}

impl LossJudge {
    /// A judge of a path that takes packets of so many bytes.
    pub fn new(mtu: u16) -> Self {
        let (floor, recent) = (Shortest::NONE, Shortest::NONE);
        Self { floor, recent, settled: 0, lost: 0, mtu: mtu.into() }
    }

    /// The path takes packets of so many bytes from here on.
    pub fn set_mtu(&mut self, mtu: u16) {
        self.mtu = mtu.into();
    }

    /// A packet of so many bytes was acknowledged `round_trip` after it was sent. `smoothed` is the estimate so far,
    /// from which the time is taken off that the peer let pass before it acknowledged (RFC 9002 section 5.3): where
    /// little is sent that is far more than what a queue adds.
    pub fn acknowledged(
        &mut self,
        now: Instant,
        round_trip: Duration,
        smoothed: Duration,
        bytes: u64,
    ) {
        self.floor.add(now, round_trip, FLOOR_SPAN / 2);
        self.recent.add(now, smoothed, smoothed / 4);
        self.settle(bytes);
    }

    /// A packet of so many bytes was lost.
    pub fn lost(&mut self, bytes: u64) {
        self.lost += bytes;
        self.settle(bytes);
    }

    fn settle(&mut self, bytes: u64) {
        self.settled += bytes;
        if self.settled > 2 * MEMORY_PACKETS * self.mtu {
            self.settled /= 2;
            self.lost /= 2;
        }
    }

    /// Whether the latest losses say nothing of how much the path carries.
    pub fn is_random(&self) -> bool {
        let (floor, recent) = (self.floor.get(), self.recent.get());
        if floor == Duration::MAX {
            return false;
        }
        let queue = recent.saturating_sub(floor);
        let few = self.lost * LOSS_LIMIT <= self.settled.max(MEMORY_PACKETS * self.mtu);
        few && queue <= (floor / QUEUE_SHARE).min(QUEUE_MOST) + QUEUE_LEAST
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MTU: u16 = 1400;
    const BASE: Duration = Duration::from_millis(100);

    /// A path on which every packet takes `round_trip`, and every `one_in`-th is lost.
    fn path(round_trip: Duration, one_in: u64, packets: u64) -> (LossJudge, Instant) {
        let mut judge = LossJudge::new(MTU);
        let mut now = Instant::now();
        judge.acknowledged(now, BASE, BASE, MTU.into());
        for packet in 1..=packets {
            now += Duration::from_millis(1);
            if packet % one_in == 0 {
                judge.lost(MTU.into());
            } else {
                judge.acknowledged(now, round_trip, round_trip, MTU.into());
            }
        }
        (judge, now)
    }

    #[test]
    fn losses_without_a_queue_are_random() {
        assert!(path(BASE, 100, 5_000).0.is_random());
        assert!(path(BASE + BASE / 30, 100, 5_000).0.is_random());
    }

    #[test]
    fn losses_behind_a_queue_are_not() {
        assert!(!path(BASE + BASE / 20, 100, 5_000).0.is_random());
    }

    #[test]
    fn a_peer_that_takes_its_time_to_acknowledge_is_no_queue() {
        let (mut judge, mut now) = path(BASE, 100, 100);
        for _ in 0..100 {
            now += BASE;
            judge.acknowledged(now, BASE + Duration::from_millis(25), BASE, MTU.into());
        }
        judge.lost(MTU.into());
        assert!(judge.is_random());
    }

    #[test]
    fn many_losses_are_not_either() {
        assert!(!path(BASE, 30, 5_000).0.is_random());
    }

    #[test]
    fn one_loss_among_the_first_packets_is_random() {
        assert!(path(BASE, 7, 10).0.is_random());
    }

    #[test]
    fn nothing_is_random_before_the_round_trip_is_known() {
        assert!(!LossJudge::new(MTU).is_random());
    }

    #[test]
    fn a_path_that_has_become_longer_is_learnt() {
        let (mut judge, mut now) = path(BASE, 100, 1_000);
        assert!(judge.is_random());
        let longer = 2 * BASE;
        for _ in 0..200 {
            now += Duration::from_millis(10);
            judge.acknowledged(now, longer, longer, MTU.into());
        }
        assert!(!judge.is_random(), "after two seconds it may be a queue");
        for _ in 0..1_000 {
            now += Duration::from_millis(10);
            judge.acknowledged(now, longer, longer, MTU.into());
        }
        assert!(judge.is_random(), "after twelve seconds it is the path's own");
    }

    proptest! {
        #[test]
        fn the_shortest_is_that_of_the_last_one_to_three_spans(
            values in prop::collection::vec((0u64..40, 1u64..1_000), 1..200),
        ) {
            let span = Duration::from_millis(100);
            let mut shortest = Shortest::NONE;
            let mut now = Instant::now();
            let mut seen: Vec<(Instant, Duration)> = Vec::new();
            for (pause, value) in values {
                now += Duration::from_millis(pause);
                let value = Duration::from_millis(value);
                seen.push((now, value));
                shortest.add(now, value, span);
                let within = |age: Duration| {
                    seen.iter().filter(|(at, _)| now - *at < age).map(|(_, v)| *v).min()
                };
                prop_assert!(Some(shortest.get()) <= within(span));
                prop_assert!(Some(shortest.get()) >= within(3 * span));
            }
        }
    }
}
