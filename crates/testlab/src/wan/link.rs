//! The links that throughput is measured on.

use std::{fmt, time::Duration};

use crate::line::Condition;

/// A link that is the same in both directions, and what is measured on it besides one stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// What it is called in tables.
    pub name: &'static str,
    /// In bit/s.
    pub rate: u64,
    /// Of one way.
    pub delay: Duration,
    /// How much can wait for the rate, in bandwidth-delay products of the round trip.
    pub buffer: f64,
    /// The share of packets that each direction drops by chance, 0 to 1.
    pub loss: f64,
    /// Whether a stream is measured beside another one that shares the link.
    pub shared: bool,
    /// Whether datagrams are measured.
    pub datagrams: bool,
    /// Whether datagrams are measured beside a stream of the same tunnel.
    pub mixed: bool,
}

const MBIT: u64 = 1_000_000;

const CLEAN: Link = Link {
    name: "clean",
    rate: 100 * MBIT,
    delay: Duration::from_millis(50),
    buffer: 1.0,
    loss: 0.0,
    shared: true,
    datagrams: true,
    mixed: true,
};

const SHORT: Link = Link {
    name: "short",
    delay: Duration::from_millis(10),
    shared: false,
    datagrams: false,
    mixed: false,
    ..CLEAN
};

impl Link {
    /// All links. A buffer of one bandwidth-delay product is what a single TCP flow needs to fill the link
    /// (Villamizar and Song 1994); a tenth of it and four times as much are a switch with little memory and a
    /// home router with too much.
    pub const ALL: [Self; 6] = [
        CLEAN,
        Self { name: "lossy", loss: 0.01, shared: false, mixed: false, ..CLEAN },
        Self { name: "shallow", buffer: 0.1, datagrams: false, mixed: false, ..CLEAN },
        Self { name: "deep", buffer: 4.0, datagrams: false, mixed: false, ..CLEAN },
        SHORT,
        Self { name: "short and lossy", loss: 0.01, ..SHORT },
    ];

    /// How long nothing is under way before an answer comes.
    pub fn round_trip(&self) -> Duration {
        2 * self.delay
    }

    /// How many link bytes can wait for the rate.
    pub fn buffer_bytes(&self) -> usize {
        let product = self.rate as f64 / 8.0 * self.round_trip().as_secs_f64();
        (product * self.buffer) as usize
    }

    /// What a line of the lab is asked for. Each seed loses other packets.
    pub fn condition(&self, seed: u64) -> Condition {
        Condition::default()
            .with_delay(self.delay)
            .with_rate(self.rate, self.buffer_bytes())
            .with_loss(self.loss)
            .with_seed(seed)
    }
}

impl fmt::Display for Link {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}: {} Mbit/s, round trip {} ms, buffer {} kB, {} % loss each way",
            self.name,
            self.rate / MBIT,
            self.round_trip().as_millis(),
            self.buffer_bytes() / 1000,
            self.loss * 100.0,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_says_what_it_is() {
        let texts = Link::ALL.map(|link| link.to_string());
        assert_eq!(
            texts[0],
            "clean: 100 Mbit/s, round trip 100 ms, buffer 1250 kB, 0 % loss each way"
        );
        assert_eq!(
            texts[5],
            "short and lossy: 100 Mbit/s, round trip 20 ms, buffer 250 kB, 1 % loss each way"
        );
    }

    #[test]
    fn buffers_are_multiples_of_the_bandwidth_delay_product() {
        let buffers = Link::ALL.map(|link| link.buffer_bytes());
        assert_eq!(buffers, [1_250_000, 1_250_000, 125_000, 5_000_000, 250_000, 250_000]);
    }
}
