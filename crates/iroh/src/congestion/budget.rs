//! Budget for the task that sends a connection's packets.
//!
//! tokio lets a task take 128 things that are ready in a row, and then tells it that nothing is, so that others get
//! their turn (tokio's `task::coop`). noq's connection task takes one unit for each packet that has come. After 128 of
//! them its socket claims to be full, and iroh 1.4 drops what is sent on a full socket as if the network had lost it
//! (`Sender::poll_send`: "transport pending, dropped transmit"): acknowledgements, and the credit that a stream waits
//! for. docs/PERFORMANCE.md has what that costs.
//!
//! What the task does after it has been refilled is bounded: noq yields once it has sent 20 packets, in batches of up to
//! 10.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::{RestoreOnPending, has_budget_remaining, poll_proceed};

thread_local! {
    /// What gives the present task the budget back that some task of this thread had when it was taken.
    static SPARE: RefCell<Option<RestoreOnPending>> = const { RefCell::new(None) };
}

/// Makes sure that the present task may go on, with what was left of some task's budget when the spare was taken.
pub(super) fn refill() {
    // Fails only while the thread ends.
    let _ = SPARE.try_with(|spare| {
        let mut spare = spare.borrow_mut();
        if !has_budget_remaining() {
            // Dropping it is what restores the budget that it was taken from.
            drop(spare.take());
        }
        if spare.is_none() {
            *spare = take();
            if !has_budget_remaining() {
                // It was the last unit, which is of more use to the task than to keep.
                drop(spare.take());
            }
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

    #[tokio::test]
    async fn the_last_unit_is_left_to_the_task() {
        tokio::spawn(poll_fn(|_| {
            let mut units: Vec<_> = std::iter::from_fn(take).collect();
            // Gives the last unit back.
            drop(units.pop());
            for unit in units {
                unit.made_progress();
            }
            assert!(has_budget_remaining());
            SPARE.with_borrow_mut(|spare| *spare = None);
            refill();
            assert!(has_budget_remaining());
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
