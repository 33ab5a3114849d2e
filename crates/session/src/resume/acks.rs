//! Tells the peer how far this side has taken flows: now and then, for many flows at once.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tunnel_model::protocol::{Acknowledge, MAX_ACKNOWLEDGED};

use super::{Stream, Streams};
use crate::control::Control;
use crate::limits::{ACKNOWLEDGE_AFTER, ACKNOWLEDGE_BYTES, ACKNOWLEDGE_SOON, LEAST_HELD};
use crate::transport::{Connection, WriteError};

/// Flows that have been taken further than the peer has been told.
pub(super) struct Acks<C: Connection> {
    /// `None` once the session is over: nobody would take them out any more.
    due: Mutex<Option<Vec<Arc<Stream<C>>>>>,
    bytes: AtomicUsize,
    some: Notify,
    soon: Notify,
    now: Notify,
}

impl<C: Connection> Default for Acks<C> {
    fn default() -> Self {
        Self {
            due: Mutex::new(Some(Vec::new())),
            bytes: AtomicUsize::new(0),
            some: Notify::new(),
            soon: Notify::new(),
            now: Notify::new(),
        }
    }
}

impl<C: Connection> Acks<C> {
    fn due(&self) -> MutexGuard<'_, Option<Vec<Arc<Stream<C>>>>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a flow that is not noted yet.
    pub(super) fn note(&self, stream: Arc<Stream<C>>) {
        if let Some(due) = &mut *self.due() {
            due.push(stream);
            self.some.notify_one();
        }
    }

    /// Counts bytes taken, of whatever flow.
    pub(super) fn count(&self, bytes: usize) {
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let passes = |mark: usize| before < mark && before + bytes >= mark;
        if passes(ACKNOWLEDGE_BYTES) {
            self.now.notify_one();
        } else if passes(LEAST_HELD / 2) {
            // A sender that may keep no more waits for this.
            self.soon.notify_one();
        }
    }

    /// A flow that is noted has come to its end: its sender keeps it until it hears so.
    pub(super) fn hurry(&self) {
        self.soon.notify_one();
    }

    pub(super) fn clear(&self) {
        let due = self.due().take();
        drop(due);
    }

    pub(super) fn take(&self) -> Vec<Arc<Stream<C>>> {
        self.due().as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.due().as_ref().is_none_or(Vec::is_empty)
    }
}

impl<C: Connection> Streams<C> {
    /// Tells the peer, as long as the control stream of the connection of `epoch` takes it.
    pub(crate) async fn report(
        &self,
        control: &Control<C::Send>,
        epoch: u64,
    ) -> Result<Infallible, WriteError> {
        let acks = &self.acks;
        loop {
            while acks.is_empty() {
                acks.some.notified().await;
            }
            let mut at = Instant::now() + ACKNOWLEDGE_AFTER;
            loop {
                tokio::select! {
                    biased;
                    () = acks.now.notified() => break,
                    () = sleep_until(at) => break,
                    () = acks.soon.notified() => at = at.min(Instant::now() + ACKNOWLEDGE_SOON),
                }
            }
            acks.bytes.store(0, Ordering::Relaxed);
            let due = acks.take();
            for streams in due.chunks(MAX_ACKNOWLEDGED) {
                let flows = streams.iter().map(|stream| (stream.id(), stream.told())).collect();
                control.send_in(epoch, &Acknowledge { flows }).await?;
            }
        }
    }
}
