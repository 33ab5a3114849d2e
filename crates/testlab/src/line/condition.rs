use std::{fmt, str::FromStr, time::Duration};

use crate::{Error, Result};

/// What a link does to the packets of one direction. The default does nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Condition {
    /// How long each packet is under way after it was sent.
    pub delay: Duration,
    /// How many bits of link bytes (see `link_bytes`) are sent a second; `None` is without a limit, and 0
    /// lets nothing through.
    pub rate: Option<u64>,
    /// How many link bytes may wait for the rate, with what is left of the packet that is being sent; one that
    /// would make them more is dropped. An idle link takes a packet of any size.
    pub buffer: usize,
    /// The share of packets that are dropped by chance, 0 to 1.
    pub loss: f64,
    /// Which packets chance takes: the same ones in every run.
    pub seed: u64,
}

impl Condition {
    /// With this delay of one way.
    pub fn with_delay(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// With this rate in bit/s, for which up to `buffer` bytes can wait.
    pub fn with_rate(self, rate: u64, buffer: usize) -> Self {
        Self { rate: Some(rate), buffer, ..self }
    }

    /// With this share of packets dropped by chance, 0 to 1.
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// With another draw of the packets that are dropped by chance.
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// What packets suffer that pass this link and then the next one: both delays, the lower rate with its
    /// buffer, and the loss of either.
    pub fn then(self, next: Self) -> Self {
        let next_is_slower = match (self.rate, next.rate) {
            (Some(rate), Some(next)) => next < rate,
            (None, next) => next.is_some(),
            (Some(_), None) => false,
        };
        let slower = if next_is_slower { next } else { self };
        Self {
            delay: self.delay + next.delay,
            rate: slower.rate,
            buffer: slower.buffer,
            loss: 1.0 - (1.0 - self.loss) * (1.0 - next.loss),
            seed: self.seed,
        }
    }

    /// Whether any packet has to wait.
    pub fn takes_time(&self) -> bool {
        !self.delay.is_zero() || self.rate.is_some()
    }
}

/// The form in which the program `lab-line` takes it: delay in nanoseconds, rate in bit/s or `-`, buffer in
/// bytes, loss, seed, separated by commas.
impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, rate, buffer, loss, seed } = self;
        let rate = rate.map_or("-".to_owned(), |rate| rate.to_string());
        write!(formatter, "{},{rate},{buffer},{loss},{seed}", delay.as_nanos())
    }
}

impl FromStr for Condition {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).ok_or_else(|| Error::Malformed {
            what: "the condition of a line",
            text: text.to_owned(),
        })
    }
}

fn parse(text: &str) -> Option<Condition> {
    let mut fields = text.split(',');
    let condition = Condition {
        delay: Duration::from_nanos(fields.next()?.parse().ok()?),
        rate: match fields.next()? {
            "-" => None,
            rate => Some(rate.parse().ok()?),
        },
        buffer: fields.next()?.parse().ok()?,
        loss: fields.next()?.parse().ok()?,
        seed: fields.next()?.parse().ok()?,
    };
    let valid = (0.0..=1.0).contains(&condition.loss) && fields.next().is_none();
    valid.then_some(condition)
}

#[cfg(test)]
mod tests {
    use proptest::{option, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            delay in any::<u64>(),
            rate in option::of(any::<u64>()),
            buffer in any::<usize>(),
            loss in 0.0..=1.0,
            seed in any::<u64>(),
        ) {
            let delay = Duration::from_nanos(delay);
            let condition = Condition { delay, rate, buffer, loss, seed };
            prop_assert_eq!(condition.to_string().parse::<Condition>()?, condition);
        }
    }

    #[test]
    fn what_is_no_condition_is_an_error() {
        for text in ["", "1,-,0,0", "1,-,0,0,1,1", "1,x,0,0,1", "1,-,0,1.1,1", "1,-,0,NaN,1"] {
            assert!(text.parse::<Condition>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn two_links_in_a_row_add_up() {
        let ms = Duration::from_millis;
        let none = Condition::default();
        let slow = none.with_delay(ms(20)).with_rate(10, 1).with_loss(0.5);
        let fast = none.with_delay(ms(5)).with_rate(20, 2).with_loss(0.5);
        let both = none.with_delay(ms(25)).with_rate(10, 1).with_loss(0.75);
        assert_eq!(slow.then(fast), both);
        assert_eq!(fast.then(slow), both);
        assert_eq!(slow.then(none), slow);
        assert_eq!(none.then(slow), slow);
    }
}
