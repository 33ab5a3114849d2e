use std::collections::HashMap;

use nostr_sdk::{EventId, Timestamp};
use thiserror::Error;

use super::key::Npub;
use super::seal::MAX_AGE;

/// The most events that are remembered of one author. A client that asks every second for [`MAX_AGE`] and as long again
/// (its clock may be ahead) makes 120; ten of one key fit.
const MAX_PER_AUTHOR: usize = 1200;

/// Why an event is not to be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Replay {
    /// It was there before.
    #[error("it was received before")]
    Seen,
    /// Its author sends more than can be remembered, and what is not remembered could be replayed.
    #[error("its author sends too many")]
    TooMany,
}

/// Remembers events for as long as [`open`](super::open) takes them, so that each acts once.
///
/// What is remembered of one author is bounded, and no author can push out what is remembered of another. Ask only for
/// authors that are peers: there is a place for each.
#[derive(Debug, Default)]
pub struct ReplayGuard {
    /// When each event will be too old to be taken, in seconds of Unix time.
    authors: HashMap<Npub, HashMap<EventId, u64>>,
}

impl ReplayGuard {
    /// Whether the event has been taken. Says nothing of whether it is genuine.
    pub fn has_seen(&self, author: Npub, id: &EventId) -> bool {
        self.authors.get(&author).is_some_and(|seen| seen.contains_key(id))
    }

    /// Takes an event that is genuine and not too old.
    ///
    /// # Errors
    ///
    /// [`Replay`] where it is not to be acted on.
    pub fn take(
        &mut self,
        author: Npub,
        id: EventId,
        created_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), Replay> {
        let seen = self.authors.entry(author).or_default();
        if seen.contains_key(&id) {
            return Err(Replay::Seen);
        }
        if seen.len() >= MAX_PER_AUTHOR {
            seen.retain(|_, until| *until >= now.as_secs());
            if seen.len() >= MAX_PER_AUTHOR {
                return Err(Replay::TooMany);
            }
        }
        seen.insert(id, created_at.as_secs().saturating_add(MAX_AGE));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::samples::key;
    use super::super::seal::MAX_AHEAD;
    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn id(number: u64) -> EventId {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        EventId::from_byte_array(bytes)
    }

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn each_event_acts_once() {
        let (mut guard, author) = (ReplayGuard::default(), key().npub());
        assert!(!guard.has_seen(author, &id(1)));
        assert_eq!(guard.take(author, id(1), at(NOW), at(NOW)), Ok(()));
        assert!(guard.has_seen(author, &id(1)));
        assert_eq!(guard.take(author, id(1), at(NOW), at(NOW)), Err(Replay::Seen));
        assert_eq!(guard.take(author, id(2), at(NOW), at(NOW)), Ok(()));
    }

    #[test]
    fn one_author_cannot_make_room_for_replays_nor_fill_the_place_of_another() {
        let (mut guard, noisy, quiet) = (ReplayGuard::default(), key().npub(), key().npub());
        assert_eq!(guard.take(quiet, id(0), at(NOW), at(NOW)), Ok(()));
        for number in 0..MAX_PER_AUTHOR as u64 {
            assert_eq!(guard.take(noisy, id(number), at(NOW), at(NOW)), Ok(()));
        }
        let more = id(u64::MAX);
        let last = at(NOW + MAX_AGE);
        assert_eq!(guard.take(noisy, more, last, last), Err(Replay::TooMany));
        assert_eq!(guard.take(noisy, id(0), at(NOW), last), Err(Replay::Seen));
        assert_eq!(guard.take(quiet, id(0), at(NOW), last), Err(Replay::Seen));
        assert_eq!(guard.take(quiet, more, last, last), Ok(()));
        // Once the others are too old to be taken, there is room.
        let later = at(NOW + MAX_AGE + 1);
        assert_eq!(guard.take(noisy, more, later, later), Ok(()));
        assert_eq!(guard.authors[&noisy].len(), 1);
    }

    proptest! {
        #[test]
        fn no_event_acts_twice_while_it_is_young_enough(
            steps in vec((0..40_u64, 0..30_u64, 0..120_u64), 0..400),
        ) {
            let (mut guard, author) = (ReplayGuard::default(), key().npub());
            let (mut taken, mut made, mut now) = (HashSet::new(), HashMap::new(), NOW);
            for (number, pause, shift) in steps {
                now += pause;
                // What is created when does not change with the day on which it arrives.
                let created = *made.entry(number).or_insert(now + MAX_AHEAD - shift);
                if created + MAX_AGE < now {
                    continue;
                }
                let fresh = guard.take(author, id(number), at(created), at(now)).is_ok();
                prop_assert_eq!(fresh, taken.insert(number));
            }
        }
    }
}
