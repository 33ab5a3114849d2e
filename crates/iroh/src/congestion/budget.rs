//! Budget for the task that sends a connection's packets.
//!
//! tokio lets a task take 128 things that are ready in a row, and then tells it that nothing is, so that others get
//! their turn (tokio's `task::coop`). noq's connection task takes one unit for each packet that has come. After 128 of
//! them its socket claims to be full, and iroh 1.4 drops what is sent on a full socket as if the network had lost it
//! (`Sender::poll_send`: "transport pending, dropped transmit"). So a quarter of the packets that go against a fast
//! stream were lost inside the process: acknowledgements, and the credit that the stream waits for. With bulk data in
//! both directions each took the other's losses for congestion, and a link of 5 Gbit/s carried 1.
//!
//! What the task does after it has been refilled is bounded: noq sends 20 packets at most before it yields.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::{RestoreOnPending, has_budget_remaining, poll_proceed};

thread_local! {
    /// What gives the present task the budget back that some task of this thread had when it was taken.
    static SPARE: RefCell<Option<RestoreOnPending>> = const { RefCell::new(None) };
}

/// Makes sure that the present task may go on, if only for a few operations.
pub(super) fn refill() {
    SPARE.with_borrow_mut(|spare| {
        if !has_budget_remaining() {
            // Dropping it is what restores the budget that it was taken from.
            drop(spare.take());
        }
        if spare.is_none() {
            *spare = take();
        }
    });
}

/// Takes one unit, and with it the way back to the budget as it is; `None` where nothing is left to take.
fn take() -> Option<RestoreOnPending> {
    match poll_proceed(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(unit) => Some(unit),
        Poll::Pending => None,
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Uses the present task's budget up.
    fn exhaust() {
        while let Some(unit) = take() {
            unit.made_progress();
        }
    }

    #[tokio::test]
    async fn a_task_without_budget_can_go_on() {
        tokio::spawn(poll_fn(|_| {
            refill();
            for _ in 0..3 {
                exhaust();
                assert!(!has_budget_remaining());
                refill();
                assert!(has_budget_remaining());
                assert!(take().is_some());
            }
            Poll::Ready(())
        }))
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }

    #[test]
    fn outside_of_a_task_it_does_nothing() {
        refill();
        assert!(has_budget_remaining());
    }

    #[tokio::test]
    async fn what_was_taken_outside_of_a_task_is_replaced_inside() {
        SPARE.with_borrow_mut(|spare| *spare = None);
        tokio::spawn(poll_fn(|_| {
            SPARE.with_borrow_mut(|spare| *spare = None);
            exhaust();
            refill();
            assert!(!has_budget_remaining(), "there is nothing to refill from yet");
            Poll::Ready(())
        }))
        .await
        .unwrap_or_else(|error| panic!("{error}"));
        tokio::spawn(poll_fn(|_| {
            refill();
            exhaust();
            refill();
            assert!(has_budget_remaining());
            Poll::Ready(())
        }))
        .await
        .unwrap_or_else(|error| panic!("{error}"));
    }
}
