use std::{
    io,
    net::UdpSocket,
    panic,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Condition, paced, receive, transmission};

/// The bytes of a probe: when it was sent.
pub(super) const PAYLOAD: usize = size_of::<u64>();

/// For all probes to be sent.
const TIME: Duration = Duration::from_millis(1_500);
/// What a thread can send, and a path without a rate can carry, on any machine.
const LEAST_INTERVAL: Duration = Duration::from_micros(100);
const INTERVAL: Duration = Duration::from_millis(1);
/// How late a probe may come, beside what the path asks for.
const GRACE: Duration = Duration::from_secs(1);
/// Enough for a shortest round trip where nothing is to be counted.
const LEAST_COUNT: u32 = 200;

/// How many losses are to be expected. From 25 on, none at all is outside of five standard deviations.
const LOSSES: f64 = 50.0;

/// The probes that a path is given.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) count: u32,
    interval: Duration,
    /// The shortest round trip that a probe can have.
    pub(super) round_trip: Duration,
}

/// What became of them.
#[derive(Debug)]
pub(super) struct Seen {
    /// The shortest round trip, if there was one.
    pub(super) round_trip: Option<Duration>,
    /// How many reached the far end.
    pub(super) there: u32,
    /// How many came back from it.
    pub(super) back: u32,
}

impl Plan {
    /// `packet` is the IP length of a probe. A path with a rate is given up to half of it.
    pub(super) fn new(forth: Condition, back: Condition, packet: usize) -> Self {
        let sent = [forth, back].map(|condition| transmission(condition, packet));
        let least_interval = LEAST_INTERVAL.max(2 * sent[0].max(sent[1]));
        let most = (TIME.as_secs_f64() / least_interval.as_secs_f64()) as u32;
        let losses = [forth.loss, back.loss].into_iter().filter(|loss| *loss > 0.0);
        let wanted = losses.map(|loss| (LOSSES / loss).ceil() as u32).max().unwrap_or(0);
        let count = wanted.max(LEAST_COUNT).min(most.max(1));
        let interval = (TIME / count).min(INTERVAL).max(least_interval);
        let round_trip = forth.delay + back.delay + sent[0] + sent[1];
        Self { count, interval, round_trip }
    }

    /// Sends the probes from `near`, returns them at `far`, and waits until no more can come.
    pub(super) fn run(&self, near: &UdpSocket, far: &UdpSocket) -> io::Result<Seen> {
        let target = far.local_addr()?;
        let start = Instant::now();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let echoing = scope.spawn(|| echo(far, &done));
            let sending = scope.spawn(|| {
                paced(self.count, self.interval, |_| {
                    let now = start.elapsed().as_nanos() as u64;
                    near.send_to(&now.to_be_bytes(), target).map(drop)
                })
            });
            let returned = self.collect(near, start, || sending.is_finished());
            done.store(true, Ordering::Relaxed);
            let there = echoing.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))?;
            sending.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))?;
            let (back, round_trip) = returned?;
            Ok(Seen { round_trip, there, back })
        })
    }

    /// How many came back, and how long the fastest was under way.
    fn collect(
        &self,
        near: &UdpSocket,
        start: Instant,
        sent: impl Fn() -> bool,
    ) -> io::Result<(u32, Option<Duration>)> {
        let mut buffer = [0; PAYLOAD];
        let (mut count, mut shortest) = (0, None);
        let mut deadline = None;
        while count < self.count {
            if deadline.is_none() && sent() {
                deadline = Some(Instant::now() + self.round_trip + GRACE);
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                break;
            }
            if receive(near, &mut buffer)?.is_some() {
                let sent_at = Duration::from_nanos(u64::from_be_bytes(buffer));
                let time = start.elapsed().saturating_sub(sent_at);
                shortest = Some(shortest.map_or(time, |shortest: Duration| shortest.min(time)));
                count += 1;
            }
        }
        Ok((count, shortest))
    }
}

/// Returns what comes until it is `done`, and says how many that were.
fn echo(far: &UdpSocket, done: &AtomicBool) -> io::Result<u32> {
    let mut buffer = [0; PAYLOAD];
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        if let Some((size, from)) = receive(far, &mut buffer)? {
            far.send_to(&buffer[..size], from)?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: usize = 36;

    #[test]
    fn a_lossless_path_takes_a_fifth_of_a_second() {
        let delayed = Condition::default().with_delay(Duration::from_millis(20));
        let plan = Plan::new(delayed, delayed, PACKET);
        assert_eq!((plan.count, plan.interval), (LEAST_COUNT, INTERVAL));
        assert_eq!(plan.round_trip, Duration::from_millis(40));
    }

    #[test]
    fn a_loss_from_two_in_a_thousand_can_be_told_from_none() {
        let lossy = |loss| Condition::default().with_loss(loss);
        for (loss, count) in [(0.02, 2_500), (0.01, 5_000), (0.002, 15_000), (0.0001, 15_000)] {
            let plan = Plan::new(lossy(0.5), lossy(loss), PACKET);
            assert_eq!(plan.count, count, "{loss}");
            assert!(plan.interval * plan.count <= TIME, "{loss}");
        }
    }

    #[test]
    fn probes_take_no_more_than_half_of_the_rate() {
        let slow = Condition::default().with_rate(100_000, 10_000).with_loss(0.01);
        let plan = Plan::new(Condition::default(), slow, PACKET);
        // 50 link bytes take 4 ms.
        assert_eq!((plan.count, plan.interval), (187, Duration::from_millis(8)));
        assert_eq!(plan.round_trip, Duration::from_millis(4));
    }
}
