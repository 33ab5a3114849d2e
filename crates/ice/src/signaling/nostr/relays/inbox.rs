use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use nostr_sdk::Event;
use tokio::sync::Notify;

use super::lock;
use crate::signaling::nostr::Npub;

/// Events of one author that wait to be read; beyond it the oldest are dropped. Whoever sends them sends again.
const MAX_PER_AUTHOR: usize = 32;

/// Events that wait to be read.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    queues: Mutex<Queues>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    /// None of them empty.
    authors: BTreeMap<Npub, VecDeque<Event>>,
    last: Option<Npub>,
    closed: bool,
}

impl Queues {
    /// The oldest event of the author whose turn it is.
    fn pop(&mut self) -> Option<Event> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let next = self.authors.range((after, Bound::Unbounded)).next();
        let author = *next.or_else(|| self.authors.first_key_value())?.0;
        self.last = Some(author);
        let queue = self.authors.get_mut(&author)?;
        let event = queue.pop_front();
        if queue.is_empty() {
            self.authors.remove(&author);
        }
        event
    }
}

impl Inbox {
    pub(super) fn push(&self, author: Npub, event: Event) {
        let mut queues = lock(&self.queues);
        if queues.closed {
            return;
        }
        let queue = queues.authors.entry(author).or_default();
        if queue.len() >= MAX_PER_AUTHOR {
            queue.pop_front();
        }
        queue.push_back(event);
        drop(queues);
        self.news.notify_one();
    }

    pub(super) fn close(&self) {
        lock(&self.queues).closed = true;
        self.news.notify_one();
    }
}

/// A stream of events. What is not read is bounded for each author: the oldest are dropped.
#[derive(Debug)]
pub struct Events {
    inbox: Arc<Inbox>,
}

impl Events {
    pub(super) fn new(inbox: Arc<Inbox>) -> Self {
        Self { inbox }
    }

    /// The next event; authors take turns. `None` once the relays are closed and all are read. Safe to cancel.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            let news = self.inbox.news.notified();
            {
                let mut queues = lock(&self.inbox.queues);
                if let Some(event) = queues.pop() {
                    return Some(event);
                }
                if queues.closed {
                    return None;
                }
            }
            news.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use nostr_sdk::Timestamp;

    use super::*;
    use crate::signaling::nostr::{samples, seal};

    fn event() -> Event {
        let (from, to) = (samples::key(), samples::key());
        seal(&from, to.npub(), &samples::request(), Timestamp::from_secs(1)).unwrap()
    }

    fn inbox() -> (Arc<Inbox>, Events) {
        let inbox = Arc::new(Inbox::default());
        (inbox.clone(), Events::new(inbox))
    }

    fn next(events: &mut Events) -> Option<Event> {
        events.next().now_or_never().flatten()
    }

    #[test]
    fn an_author_that_floods_neither_grows_the_queue_nor_delays_another() {
        let (noisy, quiet) = (samples::key().npub(), samples::key().npub());
        let (inbox, mut events) = inbox();
        let sent: Vec<Event> = (0..MAX_PER_AUTHOR + 3).map(|_| event()).collect();
        for event in &sent {
            inbox.push(noisy, event.clone());
        }
        let other = event();
        inbox.push(quiet, other.clone());
        let first_two = [next(&mut events), next(&mut events)].map(Option::unwrap);
        assert!(first_two.contains(&other) && first_two.contains(&sent[3]));
        let rest: Vec<Event> = std::iter::from_fn(|| next(&mut events)).collect();
        assert_eq!(rest, sent[4..]);
    }

    #[tokio::test]
    async fn whoever_waits_is_woken_by_events_and_by_the_end() {
        let (inbox, mut events) = inbox();
        let waiting = tokio::spawn(async move { (events.next().await, events.next().await) });
        tokio::task::yield_now().await;
        let sent = event();
        inbox.push(samples::key().npub(), sent.clone());
        tokio::task::yield_now().await;
        inbox.close();
        inbox.push(samples::key().npub(), sent.clone());
        assert_eq!(waiting.await.unwrap(), (Some(sent), None));
    }
}
