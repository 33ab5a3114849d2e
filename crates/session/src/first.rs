//! The first of many futures that wait for different things.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

type Part<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Resolves with what the first of its parts to do so gives, and never without parts. The others are dropped with it.
///
/// Only parts that were woken are polled, in the order in which they were. `select!` would poll all of them for every packet,
/// and the code in which each finds that it has nothing to do is seldom in the processor's caches.
pub(crate) struct FirstOf<'a, T> {
    parts: FuturesUnordered<Part<'a, T>>,
}

impl<'a, T> FirstOf<'a, T> {
    pub(crate) fn new() -> Self {
        Self { parts: FuturesUnordered::new() }
    }

    pub(crate) fn or(self, part: impl Future<Output = T> + Send + 'a) -> Self {
        self.parts.push(Box::pin(part));
        self
    }
}

impl<T> Future for FirstOf<'_, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.parts.poll_next_unpin(context) {
            Poll::Ready(Some(first)) => Poll::Ready(first),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, poll_fn, ready};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt;
    use tokio::sync::oneshot;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn the_first_that_resolves_counts_and_the_others_are_dropped() {
        let (teller, told) = oneshot::channel();
        let (kept, dropped) = oneshot::channel::<()>();
        let first = FirstOf::new()
            .or(pending())
            .or(async move {
                told.await.unwrap();
                "told"
            })
            .or(async move {
                let _kept = kept;
                pending().await
            });
        let waiting = tokio::spawn(first);
        yield_now().await;
        assert!(!waiting.is_finished());
        teller.send(()).unwrap();
        assert_eq!(waiting.await.unwrap(), "told");
        dropped.await.unwrap_err();
        assert_eq!(FirstOf::new().or(ready(1)).or(ready(2)).await, 1);
        assert!(FirstOf::<()>::new().now_or_never().is_none());
    }

    #[tokio::test]
    async fn only_what_was_woken_is_polled() {
        let polls = Arc::new(AtomicUsize::new(0));
        let (teller, told) = oneshot::channel();
        let (again, told_again) = oneshot::channel();
        let counted = polls.clone();
        let waiting = tokio::spawn(
            FirstOf::new()
                .or(poll_fn(move |_| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    Poll::Pending
                }))
                .or(async move {
                    told.await.unwrap();
                    told_again.await.unwrap()
                }),
        );
        yield_now().await;
        teller.send(()).unwrap();
        yield_now().await;
        again.send(()).unwrap();
        waiting.await.unwrap();
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }
}
