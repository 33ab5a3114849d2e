//! One flow's stream: what both of its halves and whoever attaches it to a connection share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use thiserror::Error;
use tokio::sync::Notify;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tunnel_model::ResetCode;
use tunnel_model::resume::{GONE, Inbox, OutOfRange, Outbox};

use super::{Service, Streams};
use crate::control::BrakeState;
use crate::limits::{LEAST_HELD, MAX_HELD_FLOW};
use crate::transport::{ARRIVED, Connection, Lost, SendStream, WriteError};

/// Chunks sent again in one go.
const CHUNKS: usize = 64;

/// Resolves when the peer wants no more of the stream, or the transport has delivered all of it.
pub(super) type Stopped = Shared<BoxFuture<'static, Result<(), WriteError>>>;

/// What the halves share.
pub(crate) struct Stream<C: Connection> {
    id: u64,
    service: Service,
    pub(super) streams: Arc<Streams<C>>,
    state: Mutex<State<C>>,
    changed: Notify,
    brake: Arc<BrakeState>,
    _open: TaskTrackerToken,
}

pub(super) struct State<C: Connection> {
    pub(super) epoch: u64,
    pub(super) outbox: Outbox,
    /// Of the outbox's bytes, those that the session has counted.
    counted: usize,
    pub(super) inbox: Inbox,
    /// For the sending half, which takes it for as long as it writes; all that is kept has been sent.
    pub(super) send: Option<C::Send>,
    /// For the receiving half, which takes it for as long as it reads.
    pub(super) recv: Option<C::Recv>,
    /// Its connection is lost, and nothing of that may be kept.
    pub(super) released: bool,
    pub(super) stopped: Option<Stopped>,
    /// The peer wants nothing more.
    pub(super) refused: Option<ResetCode>,
    /// The peer does not have the flow any more.
    pub(super) cut: Option<ResetCode>,
    pub(super) sender_left: bool,
    pub(super) receiver_left: bool,
    /// Whether it is noted among those that the peer is to hear of.
    due: bool,
}

impl<C: Connection> State<C> {
    /// Where the receiver stands, for the peer.
    fn position(&self) -> u64 {
        if self.receiver_left && !self.inbox.is_ended() { GONE } else { self.inbox.position() }
    }

    /// What an outbox comes to that the peer wants nothing more of.
    pub(super) fn taken(&self) -> Result<(), WriteError> {
        if self.outbox.is_finished() {
            return Ok(());
        }
        Err(WriteError::Stopped(ResetCode::ConnectionReset))
    }

    fn is_left(&self) -> bool {
        self.sender_left && self.receiver_left
    }

    /// Whether neither side has any use for the flow.
    fn is_over(&self) -> bool {
        let sent = self.outbox.is_done() || !self.outbox.is_finished() || self.cut.is_some();
        self.is_left() && sent
    }
}

/// Why a flow could not be attached to a connection.
#[derive(Clone, Debug, Error)]
pub(crate) enum AttachError {
    /// The peer says that it stands where it cannot.
    #[error("{0}")]
    OutOfRange(#[from] OutOfRange),
    /// The connection is gone again, or the flow over.
    #[error("not attached")]
    NotAttached,
}

impl<C: Connection> Drop for Stream<C> {
    fn drop(&mut self) {
        let counted = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).counted;
        self.streams.held.change(counted, 0);
    }
}

/// A stream's half and the epoch that it belongs to.
pub(super) type Own<T> = Option<(u64, T)>;

impl<C: Connection> Stream<C> {
    pub(super) fn new(
        streams: Arc<Streams<C>>,
        id: u64,
        service: Service,
        epoch: u64,
        halves: Option<(C::Send, C::Recv)>,
    ) -> (Arc<Self>, Own<C::Send>, Own<C::Recv>) {
        let stopped = halves.as_ref().map(|(send, _)| send.stopped().boxed().shared());
        let (send, recv) = halves.unzip();
        let state = State {
            // Without streams it waits for an epoch to attach it.
            epoch: if send.is_some() { epoch } else { 0 },
            outbox: Outbox::default(),
            counted: 0,
            inbox: Inbox::default(),
            send: None,
            recv: None,
            released: false,
            stopped,
            refused: None,
            cut: None,
            sender_left: false,
            receiver_left: false,
            due: false,
        };
        let open = streams.open.token();
        let stream = Self {
            id,
            service,
            streams,
            state: Mutex::new(state),
            changed: Notify::new(),
            brake: Arc::default(),
            _open: open,
        };
        (Arc::new(stream), send.map(|send| (epoch, send)), recv.map(|recv| (epoch, recv)))
    }

    /// The flow's number.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// What it was opened for.
    pub(crate) fn service(&self) -> &Service {
        &self.service
    }

    /// Whether the peer is to wait, and what it has been told of that.
    pub(crate) fn brake(&self) -> &Arc<BrakeState> {
        &self.brake
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the connection that it was attached to last.
    pub(crate) fn epoch(&self) -> u64 {
        self.state().epoch
    }

    pub(super) fn is_left(&self) -> bool {
        self.state().is_left()
    }

    /// Waits until `look` finds something; the reason where the session is over first.
    pub(super) async fn until<T>(
        &self,
        mut look: impl FnMut(&mut State<C>) -> Option<T>,
    ) -> Result<T, Lost> {
        if let Some(found) = look(&mut self.state()) {
            return Ok(found);
        }
        let mut over = std::pin::pin!(self.streams.over());
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state()) {
                return Ok(found);
            }
            tokio::select! {
                () = changed => {}
                lost = &mut over => return Err(lost),
            }
        }
    }

    /// Whether more can be kept.
    pub(super) fn has_room(&self, state: &State<C>) -> bool {
        let limit = if self.streams.held.is_much() { LEAST_HELD } else { MAX_HELD_FLOW };
        state.outbox.held() < limit
    }

    /// Brings the session's count up to what is kept here.
    pub(super) fn count_held(&self, state: &mut State<C>) {
        let held = state.outbox.held();
        self.streams.held.change(state.counted, held);
        state.counted = held;
    }

    /// The receiving half has taken `bytes`, or comes to its end: the peer is to hear of it.
    pub(super) fn took(self: &Arc<Self>, state: &mut State<C>, bytes: usize, ends: bool) {
        if !self.streams.resumable {
            return;
        }
        if !std::mem::replace(&mut state.due, true) {
            self.streams.acks.note(self.clone());
        }
        if ends {
            self.streams.acks.hurry();
        } else {
            self.streams.acks.count(bytes);
        }
    }

    /// Where the receiving half stands, which the peer is told now.
    pub(super) fn told(&self) -> u64 {
        let mut state = self.state();
        state.due = false;
        state.position()
    }

    pub(super) fn acknowledge(&self, position: u64) -> Result<(), OutOfRange> {
        self.change(|state| {
            state.outbox.acknowledge(position)?;
            self.count_held(state);
            Ok(())
        })
    }

    /// Changes the state, wakes who waits for that, and forgets the flow once neither side has any use for it.
    fn change<T>(&self, change: impl FnOnce(&mut State<C>) -> T) -> T {
        let (changed, over) = {
            let mut state = self.state();
            let changed = change(&mut state);
            (changed, state.is_over())
        };
        self.changed.notify_waiters();
        // Not with the state locked: the table is locked before the states in it.
        if over {
            self.streams.remove(self.id);
        }
        changed
    }

    /// One of the halves is left, as `how` notes.
    pub(super) fn leave(self: &Arc<Self>, how: impl FnOnce(&mut State<C>)) {
        if !self.streams.resumable {
            return;
        }
        let lingers = self.change(|state| {
            let had_left = state.receiver_left;
            how(state);
            if state.receiver_left && !had_left && !state.inbox.is_ended() {
                self.took(state, 0, true);
            }
            state.is_left() && !state.is_over()
        });
        if lingers && !self.streams.is_over() {
            self.streams.linger(self.id);
        }
    }

    /// The peer does not have the flow any more.
    pub(crate) fn cut(&self, code: ResetCode) {
        self.change(|state| {
            state.cut.get_or_insert(code);
        });
    }

    /// Takes the flow off its connection, for that of `epoch`, and tells where this side stands and whether the peer is
    /// to wait. What comes on the earlier connection from here on is thrown away.
    ///
    /// # Errors
    ///
    /// The epoch that it belongs to, where that is no earlier one.
    pub(crate) fn detach(&self, epoch: u64) -> Result<(u64, bool), u64> {
        let (earlier, position) = {
            let mut state = self.state();
            if state.epoch >= epoch {
                return Err(state.epoch);
            }
            state.epoch = epoch;
            state.released = false;
            // What was to be told is told now; what was on its way to be told is lost.
            state.due = false;
            let earlier = (state.send.take(), state.recv.take(), state.stopped.take());
            (earlier, state.position())
        };
        drop(earlier);
        self.changed.notify_waiters();
        Ok((position, self.brake.is_on()))
    }

    /// Goes on over streams of the connection of `epoch`: sends again what the peer, who stands at `position`, does not
    /// have.
    ///
    /// # Errors
    ///
    /// [`AttachError`].
    pub(crate) async fn attach(
        &self,
        epoch: u64,
        mut send: C::Send,
        recv: C::Recv,
        position: u64,
    ) -> Result<(), AttachError> {
        self.change(|state| {
            if state.epoch != epoch || state.released {
                return Err(AttachError::NotAttached);
            }
            state.outbox.resume(position)?;
            self.count_held(state);
            if !state.receiver_left {
                state.recv = Some(recv);
            }
            state.stopped = Some(send.stopped().boxed().shared());
            Ok(())
        })?;
        let mut position = position;
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        loop {
            let copied = {
                let mut state = self.state();
                if state.epoch != epoch || state.released {
                    return Err(AttachError::NotAttached);
                }
                let copied = state.outbox.copy(position, &mut chunks);
                if copied == 0 {
                    if state.outbox.is_finished() || state.outbox.is_done() {
                        send.finish();
                    }
                    if !state.sender_left {
                        state.send = Some(send);
                    }
                    break;
                }
                copied
            };
            match send.write_chunks(&mut chunks).await {
                Ok(()) => position += copied as u64,
                Err(WriteError::Stopped(code)) => {
                    self.state().refused.get_or_insert(code);
                    break;
                }
                Err(WriteError::Lost(_)) => return Err(AttachError::NotAttached),
            }
            chunks.fill(Bytes::new());
        }
        self.changed.notify_waiters();
        Ok(())
    }

    /// Lets go of a connection that is lost.
    pub(super) fn release(&self) {
        let earlier = {
            let mut state = self.state();
            state.released = true;
            (state.send.take(), state.recv.take(), state.stopped.take())
        };
        drop(earlier);
        self.changed.notify_waiters();
    }

    /// Waits until the peer has taken all that was written, or will not.
    pub(super) async fn taken(self: Arc<Self>) {
        if !self.streams.resumable {
            return tokio::time::sleep(ARRIVED).await;
        }
        let taken = self.until(|state| {
            let over = state.cut.is_some() || state.refused.is_some();
            (over || state.outbox.held() == 0).then_some(())
        });
        // The session being over, nobody will.
        let _ = taken.await;
    }

    /// Waits until the peer wants no more of the flow (with the code it gave) or has taken all of it.
    pub(super) async fn stopped(self: Arc<Self>) -> Result<(), WriteError> {
        if !self.streams.resumable {
            let stopped = self.state().stopped.clone();
            return match stopped {
                Some(stopped) => stopped.await,
                None => Err(self.streams.over().await.into()),
            };
        }
        loop {
            let (epoch, current) = self
                .until(|state| match (state.cut.or(state.refused), &state.stopped) {
                    (Some(code), _) => Some(Err(WriteError::Stopped(code))),
                    (None, _) if state.outbox.is_done() => Some(state.taken().map(|()| None)),
                    (None, Some(stopped)) => Some(Ok(Some((state.epoch, stopped.clone())))),
                    (None, None) => None,
                })
                .await??
                .map_or((0, None), |(epoch, stopped)| (epoch, Some(stopped)));
            let Some(current) = current else { return Ok(()) };
            let changed = self.until(|state| {
                (state.epoch != epoch
                    || state.cut.is_some()
                    || state.refused.is_some()
                    || state.outbox.is_done())
                .then_some(())
            });
            tokio::select! {
                changed = changed => changed?,
                stopped = current => {
                    let mut state = self.state();
                    if state.epoch == epoch {
                        // Delivered is not taken yet, and lost may be replaced; both show later.
                        state.stopped = None;
                        if let Err(WriteError::Stopped(code)) = stopped {
                            state.refused = Some(code);
                            // Its socket has failed, as a rule, and what it said before waits to be taken.
                            self.streams.acks.hurry();
                        }
                    }
                }
            }
        }
    }
}
