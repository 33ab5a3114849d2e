use std::{
    io,
    net::UdpSocket,
    panic, thread,
    time::{Duration, Instant},
};

use super::{Condition, GRACE, link_bytes, paced, receive};

/// The payload of each packet, in bytes.
pub(super) const PAYLOAD: usize = 1_400;

/// How long the burst is sent.
const TIME: Duration = Duration::from_millis(500);
/// How many times the rate is sent.
const OVERLOAD: f64 = 1.5;
/// A rate is between packets, so one that is slow needs some at least.
const LEAST_COUNT: u32 = 10;

/// Packets that come faster than a link can send them.
#[derive(Debug)]
pub(super) struct Burst {
    count: u32,
    interval: Duration,
    bits: f64,
    /// How long after the last packet was sent something may come out.
    drain: Duration,
}

impl Burst {
    /// `packet` is the IP length of each; the rate is in bit/s.
    pub(super) fn new(condition: Condition, rate: u64, packet: usize) -> Self {
        let bits = link_bytes(packet) as f64 * 8.0;
        // A rate of 0 is a link that nothing passes.
        let rate = rate.max(1) as f64;
        let count = (TIME.as_secs_f64() * OVERLOAD * rate / bits) as u32;
        let count = count.max(LEAST_COUNT);
        let excess = (OVERLOAD - 1.0) / OVERLOAD * f64::from(count) * bits;
        let waiting = excess.min(condition.buffer as f64 * 8.0) + bits;
        Self {
            count,
            interval: seconds(bits / (OVERLOAD * rate)),
            bits,
            drain: condition.delay + seconds(waiting / rate),
        }
    }

    /// Sends the burst, and says how many bit/s of link bytes arrived between its first packet and its last;
    /// 0 if there were not two.
    pub(super) fn run(&self, sender: &UdpSocket, receiver: &UdpSocket) -> io::Result<f64> {
        let target = receiver.local_addr()?;
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                let payload = [0; PAYLOAD];
                let send = |_| sender.send_to(&payload, target).map(drop);
                paced(self.count, self.interval, send)
            });
            let rate = self.collect(receiver, || sending.is_finished());
            sending.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked))?;
            rate
        })
    }

    fn collect(&self, receiver: &UdpSocket, sent: impl Fn() -> bool) -> io::Result<f64> {
        let mut buffer = [0; PAYLOAD];
        let mut count = 0;
        let (mut first, mut last) = (None, None);
        let mut deadline = None;
        while count < self.count {
            if deadline.is_none() && sent() {
                deadline = Some(Instant::now() + self.drain + GRACE);
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                break;
            }
            // A probe that came late is no part of the burst.
            if receive(receiver, &mut buffer)?.is_some_and(|(size, _)| size == PAYLOAD) {
                last = Some(Instant::now());
                first = first.or(last);
                count += 1;
            }
        }
        let time = first.zip(last).map_or(Duration::ZERO, |(first, last)| last - first);
        if time.is_zero() {
            return Ok(0.0);
        }
        Ok(f64::from(count - 1) * self.bits / time.as_secs_f64())
    }
}

/// A time without an end is a link that never sends; a minute is long enough for that.
fn seconds(seconds: f64) -> Duration {
    const MOST: Duration = Duration::from_secs(60);
    Duration::try_from_secs_f64(seconds).map_or(MOST, |time| time.min(MOST))
}
