//! Flows of a client's session: opened, and attached to its next connection.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use thiserror::Error;
use tokio::time::{Instant, sleep_until};
use tunnel_model::ResetCode;
use tunnel_model::protocol::{self, Kept, MAX_KEPT, Message, Reattach, ReattachVpn, Reattached};

use super::{End, Session, broken};
use crate::control::Brake;
use crate::frame::{ReadFrameError, read_message, write_message};
use crate::limits::{MAX_FLOWS, SESSION_WAIT};
use crate::resume::{AttachError, NotBegun, Present, Receiver, Sender, Service, Stream};
use crate::transport::{Connection, ReadError};

/// Why a flow could not be opened.
#[derive(Clone, Copy, Debug, Error)]
pub(crate) enum NotOpened {
    /// There is no connection to open it on, or none in time.
    #[error("the server cannot be reached")]
    Away,
    /// The session has as many as there can be.
    #[error("{} others are open, and a session has no more", MAX_FLOWS - 1)]
    Full,
}

impl<C: Connection> Session<C> {
    /// Opens a flow with the message `open`.
    pub(crate) async fn open<M: Message + Sync>(
        &self,
        flow: u64,
        service: &Service,
        open: &M,
    ) -> Result<(Sender<C>, Receiver<C>), NotOpened> {
        let until = Instant::now() + SESSION_WAIT;
        loop {
            if let Some((epoch, connection)) = self.connection() {
                let streams = tokio::select! {
                    biased;
                    streams = connection.open_bi() => streams,
                    () = sleep_until(until) => return Err(NotOpened::Full),
                };
                if let Ok(streams) = streams {
                    match self.streams.begin(flow, service.clone(), epoch, Some(streams)) {
                        Ok((mut send, recv)) => {
                            // From here on the flow is attached to whatever connection follows.
                            let sent = send.announce(open).await;
                            return sent.map(|()| (send, recv)).map_err(|_| NotOpened::Away);
                        }
                        Err(NotBegun::Outdated) if !self.streams.is_over() => continue,
                        Err(NotBegun::Outdated) => return Err(NotOpened::Away),
                        Err(NotBegun::Full | NotBegun::Used) => return Err(NotOpened::Full),
                    }
                }
                if self.grace.is_zero() {
                    return Err(NotOpened::Away);
                }
                tokio::select! {
                    () = self.leaves(epoch) => {}
                    () = sleep_until(until) => return Err(NotOpened::Away),
                }
            }
            let mut present = self.present.subscribe();
            let up = present.wait_for(|present| matches!(present, Present::Up(..)));
            tokio::select! {
                up = up => drop(up.map_err(|_| NotOpened::Away)?),
                _ = self.streams.over() => return Err(NotOpened::Away),
                () = sleep_until(until) => return Err(NotOpened::Away),
            }
        }
    }

    /// Resolves when the connection of `epoch` is no longer the present one, or the session is over.
    pub(super) async fn leaves(&self, epoch: u64) {
        let mut present = self.present.subscribe();
        let gone = present.wait_for(|present| !present.is(epoch));
        tokio::select! {
            _ = gone => {}
            _ = self.streams.over() => {}
        }
    }

    /// Attaches all flows of earlier connections to the one of `epoch`, after telling the server which there are.
    pub(super) async fn reattach_all(self: Arc<Self>, epoch: u64, connection: C) {
        let (latest, streams) = self.streams.all();
        if latest != epoch {
            return;
        }
        let streams: Vec<_> = streams.into_iter().filter(|stream| stream.epoch() < epoch).collect();
        let flows: Vec<u64> = streams.iter().map(|stream| stream.id()).collect();
        let mut parts = flows.chunks(MAX_KEPT).peekable();
        loop {
            let flows = parts.next().unwrap_or_default().to_vec();
            let last = parts.peek().is_none();
            if self.control.send_in(epoch, &Kept { flows, last }).await.is_err() {
                // With the connection; the next one begins anew.
                return;
            }
            if last {
                break;
            }
        }
        let mut attaching: FuturesUnordered<_> =
            streams.into_iter().map(|stream| self.reattach(stream, epoch, &connection)).collect();
        while let Some(attached) = attaching.next().await {
            if let Err(why) = attached
                && let End::Final(lost) = broken(&connection, &why)
            {
                self.end(lost);
                return;
            }
        }
    }

    /// Attaches one flow. An error where the server breaks the protocol.
    async fn reattach(
        &self,
        stream: Arc<Stream<C>>,
        epoch: u64,
        connection: &C,
    ) -> Result<(), String> {
        let Ok((position, paused)) = stream.detach(epoch) else { return Ok(()) };
        let flow = stream.id();
        let Ok((mut send, mut recv)) = connection.open_bi().await else { return Ok(()) };
        let announced = match stream.service().clone() {
            Service::Source(source) => {
                let reattach = Reattach { flow, position, paused, source };
                write_message(&mut send, &reattach).await
            }
            Service::Vpn => {
                let reattach = ReattachVpn { flow, position, paused };
                write_message(&mut send, &reattach).await
            }
        };
        if announced.is_err() {
            return Ok(());
        }
        Brake::new(&self.control, stream.id(), stream.brake()).repeat();
        match read_message::<_, Reattached>(&mut recv, protocol::MAX_HELLO).await {
            Ok(Reattached { position, paused }) => {
                self.control.attached(stream.id(), paused, epoch);
                match stream.attach(epoch, send, recv, position).await {
                    Err(AttachError::OutOfRange(error)) => Err(error.to_string()),
                    Ok(()) | Err(AttachError::NotAttached) => Ok(()),
                }
            }
            Err(ReadFrameError::Read(ReadError::Lost(_))) => Ok(()),
            // With a connection that is left already.
            Err(_) if !self.present.borrow().is(epoch) => Ok(()),
            Err(ReadFrameError::Read(ReadError::Reset(code))) => {
                stream.cut(match code {
                    ResetCode::Revoked => ResetCode::Revoked,
                    _ => ResetCode::ConnectionReset,
                });
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }
}
