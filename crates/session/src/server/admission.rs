use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::limits::{CROWDED, MAX_UNAUTHENTICATED};

/// Counts the connections that have not authenticated yet; cheap to clone.
///
/// At [`MAX_UNAUTHENTICATED`] the oldest is displaced: a client needs two round trips, a silent peer would stay for the
/// whole time-out, so the oldest is the one least likely to be honest.
#[derive(Clone, Default)]
pub struct Admission {
    waiting: Arc<Mutex<VecDeque<CancellationToken>>>,
}

/// A connection's place among the unauthenticated ones; dropped once it has authenticated or gone.
pub struct Unauthenticated {
    admission: Admission,
    token: CancellationToken,
}

impl Admission {
    /// Whether so many wait that a new connection must show its address to be real first.
    pub fn is_crowded(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len() >= CROWDED
    }

    /// Gives a new connection a place, at the cost of the oldest if there are too many.
    pub fn enter(&self) -> Unauthenticated {
        let token = CancellationToken::new();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() >= MAX_UNAUTHENTICATED
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.cancel();
        }
        waiting.push_back(token.clone());
        Unauthenticated { admission: self.clone(), token }
    }
}

impl Unauthenticated {
    /// Resolves when newer connections need the place.
    pub async fn displaced(&self) {
        self.token.cancelled().await;
    }
}

impl Drop for Unauthenticated {
    fn drop(&mut self) {
        // Cancelled first, so that this place can be told from the others in the queue.
        self.token.cancel();
        let mut waiting = self.admission.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|token| !token.is_cancelled());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_makes_room_and_places_are_given_back() {
        let admission = Admission::default();
        let mut places: Vec<_> = (0..MAX_UNAUTHENTICATED).map(|_| admission.enter()).collect();
        assert!(!places[0].token.is_cancelled());
        places.push(admission.enter());
        places[0].displaced().await;
        assert!(!places[1].token.is_cancelled());
        places.clear();
        assert!(admission.waiting.lock().unwrap().is_empty());
    }
}
