//! How often something may be done that is worth it only now and then.

use std::time::{Duration, Instant};

use crate::limits::PATH_REST;

/// The rest after each time, which doubles where the next one comes soon after it.
#[derive(Debug, Default)]
pub(super) struct Rest {
    last: Option<Instant>,
    wait: Duration,
}

impl Rest {
    /// Whether it may be done at `now`; then a rest begins, from [`PATH_REST`]'s first to its second.
    pub(super) fn is_over(&mut self, now: Instant) -> bool {
        let (shortest, longest) = PATH_REST;
        let since = self.last.map(|last| now.saturating_duration_since(last));
        self.wait = match since {
            Some(since) if since < self.wait => return false,
            Some(since) if since < self.wait * 2 => (self.wait * 2).min(longest),
            _ => shortest,
        };
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 60 * 60;

    /// At which of these moments, in seconds, something may be done.
    fn done(moments: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let (begin, mut rest) = (Instant::now(), Rest::default());
        let mut is_over = |at: &u64| rest.is_over(begin + Duration::from_secs(*at));
        moments.into_iter().filter(|at| is_over(at)).collect()
    }

    #[test]
    fn rests_double_while_it_is_wanted_all_the_time_and_begin_anew_after_a_quiet_while() {
        assert_eq!(
            done((0..1_000).chain([1_700, 1_705, 1_710])),
            [0, 10, 30, 70, 150, 310, 610, 910, 1_700, 1_710]
        );
    }

    #[test]
    fn what_happens_now_and_then_needs_no_rest() {
        let now_and_then: Vec<_> = (0..10).map(|time| time * 20).collect();
        assert_eq!(done(now_and_then.clone()), now_and_then);
    }

    proptest! {
        #[test]
        fn whatever_comes_it_is_seldom_done_and_done_at_once_after_the_longest_rest(
            gaps in prop::collection::vec(0..400_u64, 1..500),
        ) {
            let moments: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let done = done(moments.iter().copied());
            prop_assert_eq!(done[0], moments[0]);
            for pair in done.windows(2) {
                prop_assert!(pair[1] - pair[0] >= PATH_REST.0.as_secs(), "{:?}", pair);
            }
            for at in &moments {
                let within = |done: &&u64| (at.saturating_sub(PATH_REST.1.as_secs())..=*at).contains(*done);
                prop_assert!(done.iter().any(|done| within(&done)), "nothing by {at} of {done:?}");
                let hour = |done: &&u64| (*at..at + HOUR).contains(*done);
                prop_assert!(done.iter().filter(hour).count() <= 200);
            }
        }
    }
}
