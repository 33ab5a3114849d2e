//! The two halves of a flow's stream, for whoever carries bytes.

use std::future::Future;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use tunnel_model::ResetCode;
use tunnel_model::protocol::Message;

use super::Stream;
use super::stream::Own;
use crate::frame::write_message;
use crate::transport::{Connection, Lost, ReadError, RecvStream, SendStream, WriteError};

/// The sending half.
pub(crate) struct Sender<C: Connection> {
    stream: Arc<Stream<C>>,
    own: Own<C::Send>,
    ended: bool,
}

impl<C: Connection> Sender<C> {
    pub(super) fn new(stream: Arc<Stream<C>>, own: Own<C::Send>) -> Self {
        Self { stream, own, ended: false }
    }

    /// What it shares with the receiving half.
    pub(crate) fn stream(&self) -> &Arc<Stream<C>> {
        &self.stream
    }

    /// Writes the message that begins the stream on the connection that it was opened on. It is not part of what is
    /// sent again: on another connection the flow begins with another message.
    ///
    /// # Errors
    ///
    /// Where the connection is gone and the flow with it.
    pub(crate) async fn announce<M: Message>(&mut self, message: &M) -> Result<(), WriteError> {
        let Some((_, send)) = &mut self.own else { return Err(Lost::Local.into()) };
        match write_message(send, message).await {
            Err(WriteError::Lost(_)) if self.stream.streams.resumable => {
                self.own = None;
                Ok(())
            }
            result => {
                self.hand_over();
                result
            }
        }
    }

    /// Leaves the stream with the flow between two writes: a flow that waits for something else must not keep a lost
    /// connection in memory, nor its sockets open.
    pub(crate) fn hand_over(&mut self) {
        if !self.stream.streams.resumable {
            return;
        }
        let Some((epoch, send)) = self.own.take() else { return };
        let mut state = self.stream.state();
        if state.epoch == epoch && !state.released {
            state.send = Some(send);
        } else {
            drop(state);
            drop(send);
        }
    }

    /// Waits for a connection and for room, and keeps `chunks`.
    async fn keep(&mut self, chunks: &[Bytes]) -> Result<(), WriteError> {
        let (stream, own) = (&self.stream, &mut self.own);
        stream
            .until(|state| {
                if let Some(code) = state.cut.or(state.refused) {
                    return Some(Err(WriteError::Stopped(code)));
                }
                if state.outbox.is_done() {
                    return Some(state.taken());
                }
                if let Some(send) = state.send.take() {
                    *own = Some((state.epoch, send));
                }
                if state.released || own.as_ref().is_none_or(|(epoch, _)| *epoch != state.epoch) {
                    *own = None;
                    return None;
                }
                if !stream.has_room(state) {
                    return None;
                }
                for chunk in chunks {
                    state.outbox.push(chunk.clone());
                }
                stream.count_held(state);
                Some(Ok(()))
            })
            .await?
    }
}

impl<C: Connection> SendStream for Sender<C> {
    async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        if self.stream.streams.resumable {
            self.keep(chunks).await?;
        }
        let Some((_, send)) = &mut self.own else { return Err(Lost::Local.into()) };
        let resumable = self.stream.streams.resumable;
        match send.write_chunks(chunks).await {
            Ok(()) if resumable => {
                self.hand_over();
                Ok(())
            }
            // It is kept, and will be sent again.
            Err(WriteError::Lost(_)) if resumable => {
                self.own = None;
                chunks.fill(Bytes::new());
                Ok(())
            }
            Err(WriteError::Stopped(code)) => {
                self.stream.state().refused.get_or_insert(code);
                self.stream.streams.acks.hurry();
                self.hand_over();
                Err(WriteError::Stopped(code))
            }
            result => result,
        }
    }

    fn finish(&mut self) {
        self.ended = true;
        let mut state = self.stream.state();
        state.outbox.finish();
        if let Some(send) = &mut state.send {
            send.finish();
        } else if let Some((epoch, send)) = &mut self.own
            && *epoch == state.epoch
        {
            send.finish();
        }
        // Otherwise whoever attaches the flow finishes it.
    }

    fn reset(&mut self, code: ResetCode) {
        let finished = std::mem::replace(&mut self.ended, true);
        let handed = self.stream.state().send.take();
        for mut send in handed.into_iter().chain(self.own.take().map(|(_, send)| send)) {
            send.reset(code);
        }
        if !finished {
            self.stream.leave(|state| state.sender_left = true);
        } else {
            // What was to be delivered no longer is.
            self.stream.leave(|state| {
                state.sender_left = true;
                state.cut.get_or_insert(code);
            });
        }
    }

    fn stopped(&self) -> impl Future<Output = Result<(), WriteError>> + Send + 'static {
        self.stream.clone().stopped()
    }

    fn taken(&self) -> impl Future<Output = ()> + Send + 'static {
        self.stream.clone().taken()
    }

    fn set_priority(&mut self, priority: i32) {
        if let Some((_, send)) = &mut self.own {
            send.set_priority(priority);
        } else if let Some(send) = &mut self.stream.state().send {
            send.set_priority(priority);
        }
    }
}

impl<C: Connection> Drop for Sender<C> {
    fn drop(&mut self) {
        if self.ended {
            self.stream.leave(|state| {
                state.sender_left = true;
                state.send = None;
            });
        } else {
            self.reset(ResetCode::Ended);
        }
    }
}

/// The receiving half.
pub(crate) struct Receiver<C: Connection> {
    stream: Arc<Stream<C>>,
    own: Own<C::Recv>,
    /// Taken, and not yet given to whoever reads.
    rest: Bytes,
    ended: bool,
}

impl<C: Connection> Receiver<C> {
    pub(super) fn new(stream: Arc<Stream<C>>, own: Own<C::Recv>) -> Self {
        Self { stream, own, rest: Bytes::new(), ended: false }
    }

    /// As [`Sender::hand_over`].
    pub(crate) fn hand_over(&mut self) {
        drop(Lent { stream: &self.stream, own: self.own.take() });
    }
}

/// The stream while it is read from; otherwise it is left with the flow, as is that of the [`Sender`].
struct Lent<'a, C: Connection> {
    stream: &'a Stream<C>,
    own: Own<C::Recv>,
}

impl<'a, C: Connection> Lent<'a, C> {
    /// Waits for a connection, where the flow has none.
    async fn take(stream: &'a Stream<C>, own: Own<C::Recv>) -> Result<Self, ReadError> {
        let mut lent = Self { stream, own };
        let own = &mut lent.own;
        let attached = stream
            .until(|state| {
                if let Some(recv) = state.recv.take() {
                    *own = Some((state.epoch, recv));
                }
                if own.as_ref().is_some_and(|(epoch, _)| *epoch == state.epoch) {
                    return Some(Ok(()));
                }
                *own = None;
                state.cut.map(|code| Err(ReadError::Reset(code)))
            })
            .await?;
        attached.map(|()| lent)
    }
}

impl<C: Connection> Drop for Lent<'_, C> {
    fn drop(&mut self) {
        let Some((epoch, recv)) = self.own.take() else { return };
        let mut state = self.stream.state();
        if state.epoch == epoch && !state.released {
            state.recv = Some(recv);
        } else {
            drop(state);
            drop(recv);
        }
    }
}

impl<C: Connection> RecvStream for Receiver<C> {
    async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if !self.rest.is_empty()
            && let Some(first) = chunks.first_mut()
        {
            *first = std::mem::take(&mut self.rest);
            return Ok(Some(1));
        }
        if self.ended {
            return Ok(None);
        }
        let resumable = self.stream.streams.resumable;
        loop {
            let mut lent = Lent::take(&self.stream, self.own.take()).await?;
            let Some((epoch, recv)) = &mut lent.own else {
                return Err(ReadError::Lost(Lost::Local));
            };
            let epoch = *epoch;
            let read = recv.read_chunks(chunks).await;
            if !resumable {
                self.ended = matches!(read, Ok(None));
                return read;
            }
            let mut state = self.stream.state();
            if state.epoch != epoch {
                // The peer has been told where this side stood before these, and sends them again.
                drop(state);
                chunks.fill(Bytes::new());
                continue;
            }
            if !state.released {
                state.recv = lent.own.take().map(|(_, recv)| recv);
            }
            match read {
                Ok(Some(count)) => {
                    let bytes = chunks[..count].iter().map(Bytes::len).sum();
                    state.inbox.take(bytes);
                    self.stream.took(&mut state, bytes, false);
                    return Ok(Some(count));
                }
                Ok(None) => {
                    state.inbox.end();
                    self.stream.took(&mut state, 0, true);
                    self.ended = true;
                    return Ok(None);
                }
                Err(ReadError::Reset(code)) => return Err(ReadError::Reset(code)),
                Err(ReadError::Lost(_)) => {
                    let lost = state.recv.take();
                    drop(state);
                    drop(lost);
                }
            }
        }
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut chunk = [Bytes::new()];
            if self.read_chunks(&mut chunk).await?.is_none() {
                return Ok(false);
            }
            let [mut chunk] = chunk;
            let n = chunk.len().min(buffer.len() - filled);
            chunk.copy_to_slice(&mut buffer[filled..filled + n]);
            filled += n;
            self.rest = chunk;
        }
        Ok(true)
    }

    fn stop(&mut self, code: ResetCode) {
        self.ended = true;
        let handed = self.stream.state().recv.take();
        for mut recv in handed.into_iter().chain(self.own.take().map(|(_, recv)| recv)) {
            recv.stop(code);
        }
        self.stream.leave(|state| state.receiver_left = true);
    }
}

impl<C: Connection> Drop for Receiver<C> {
    fn drop(&mut self) {
        if self.ended {
            self.stream.leave(|state| {
                state.receiver_left = true;
                state.recv = None;
            });
        } else {
            self.stop(ResetCode::Ended);
        }
    }
}
