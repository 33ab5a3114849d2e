//! What was measured against what was asked for.

use std::time::Duration;

use crate::{Error, Result};

/// How much longer a round trip may be: for the hosts' own work, or a tenth of it.
const MORE_TIME: Duration = Duration::from_millis(2);
/// How far a rate may be off, as a share.
const RATE_TOLERANCE: f64 = 0.05;
/// How many standard deviations a count may be off: once in 1.7 million measurements it is, by chance.
const DEVIATIONS: f64 = 5.0;

pub(super) fn round_trip(what: &str, asked: Duration, measured: Option<Duration>) -> Result<()> {
    let range = asked..=asked + MORE_TIME.max(asked / 10);
    if measured.is_some_and(|measured| range.contains(&measured)) {
        return Ok(());
    }
    let measured = measured.map_or("without an answer".to_owned(), |time| format!("{time:?}"));
    Err(not_impaired(what, format!("{asked:?}"), measured))
}

/// Counts of packets are binomial, with a variance of n p (1 − p).
pub(super) fn loss(what: &str, asked: f64, sent: u32, received: u32) -> Result<()> {
    let (packets, lost) = (f64::from(sent), f64::from(sent.saturating_sub(received)));
    let deviation = (packets * asked * (1.0 - asked)).sqrt();
    if (lost - packets * asked).abs() <= DEVIATIONS * deviation {
        return Ok(());
    }
    let asked = format!("{} %", asked * 100.0);
    let measured = format!("{:.2} % ({lost} of {sent} packets)", lost / packets * 100.0);
    Err(not_impaired(what, asked, measured))
}

/// Both in bit/s.
pub(super) fn rate(what: &str, asked: u64, measured: f64) -> Result<()> {
    let wanted = asked as f64;
    if (measured - wanted).abs() <= RATE_TOLERANCE * wanted {
        return Ok(());
    }
    let mbits = |rate: f64| format!("{:.3} Mbit/s", rate / 1e6);
    Err(not_impaired(what, mbits(wanted), mbits(measured)))
}

fn not_impaired(what: &str, asked: String, measured: String) -> Error {
    Error::NotImpaired { what: what.to_owned(), asked, measured }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_is_never_shorter_and_a_little_longer() {
        let judge = |asked, measured| {
            let micros = Duration::from_micros;
            round_trip("", micros(asked), Some(micros(measured))).is_ok()
        };
        assert!(!judge(40_000, 39_999));
        assert!(judge(40_000, 40_000));
        assert!(judge(40_000, 44_000));
        assert!(!judge(40_000, 44_001));
        assert!(judge(0, 2_000));
        assert!(!judge(0, 2_001));
        assert!(round_trip("", Duration::ZERO, None).is_err());
    }

    #[test]
    fn a_loss_is_within_five_standard_deviations() {
        // 50 are expected of 5000, with a standard deviation of 7.04.
        let judge = |asked, lost: u32| loss("", asked, 5_000, 5_000 - lost).is_ok();
        assert!(judge(0.01, 15) && judge(0.01, 85));
        assert!(!judge(0.01, 14) && !judge(0.01, 86) && !judge(0.01, 0));
        assert!(judge(0.0, 0));
        assert!(!judge(0.0, 1));
        assert!(judge(1.0, 5_000));
        assert!(!judge(1.0, 4_999));
    }

    #[test]
    fn a_rate_is_within_a_twentieth() {
        let judge = |measured| rate("", 100_000_000, measured).is_ok();
        assert!(judge(95.1e6) && judge(104.9e6));
        assert!(!judge(94.9e6) && !judge(105.1e6) && !judge(0.0));
    }
}
