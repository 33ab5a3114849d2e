//! What one connection of a client's session needs for as long as it lasts.

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use futures_util::{FutureExt, StreamExt};
use tunnel_model::protocol::{self, Acknowledge, Check, Checked, Kept, Message, Ping, Pong};
use tunnel_model::{CloseCode, ResetCode, Source};

use super::{Broken, Session, Start};
use crate::events::Event;
use crate::first::FirstOf;
use crate::frame::{ReadFrameError, read_frame};
use crate::limits;
use crate::server::open;
use crate::transport::{Connection, Lost, PathKind, ReadError, WriteError};

/// How a connection ended.
enum End {
    /// By itself, or by the peer.
    Lost(Lost),
    /// By the end of its session, or because another one has taken its place.
    Left,
}

/// Serves a session over one connection until that ends or `shutdown` resolves.
pub(in crate::server) async fn serve<C: Connection>(
    connection: C,
    start: Start<C>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let Start { session, epoch, messages, path } = start;
    let connection = &connection;
    let shutdown = async {
        shutdown.await;
        let why = Lost::Transport("this server is ending".to_owned());
        session.end(why, CloseCode::ShuttingDown, "");
        End::Left
    };
    let messages = async {
        match session.messages(epoch, connection, messages).await {
            Err(Broken(why)) => {
                session.broke(&why);
                End::Left
            }
            Ok(lost) => End::Lost(lost),
        }
    };
    let report = async {
        let Err(error) = session.streams.report(&session.control, epoch).await;
        match error {
            WriteError::Lost(_) => End::Lost(connection.closed().await),
            WriteError::Stopped(ResetCode::Ended) => {
                connection.close(CloseCode::Dropped, "");
                End::Lost(Lost::Local)
            }
            WriteError::Stopped(_) => {
                session.broke("the control stream was stopped");
                End::Left
            }
        }
    };
    let end = FirstOf::new()
        .or(session.leaves(epoch).map(|()| End::Left))
        .or(shutdown)
        .or(messages)
        .or(session.accept(epoch, connection).map(End::Lost))
        .or(session.udp.run_datagrams(connection).map(End::Lost))
        .or(session.udp.run_large(connection).map(End::Lost))
        .or(connection.closed().map(End::Lost))
        .or(report)
        .or(session.report_paths(connection, path).map(|never| match never {}))
        .await;
    if let End::Lost(lost) = end {
        session.lost(epoch, lost).await;
    }
    if session.streams.is_over() {
        session.closed.cancelled().await;
    }
}

impl<C: Connection> Session<C> {
    /// Resolves when the session is over, or its connection of `epoch` has been replaced.
    async fn leaves(&self, epoch: u64) {
        let mut present = self.present.subscribe();
        let replaced = present.wait_for(|present| !present.is(epoch));
        tokio::select! {
            _ = self.streams.over() => {}
            _ = replaced => {}
        }
    }

    /// Serves streams until the connection ends.
    async fn accept(self: &Arc<Self>, epoch: u64, connection: &C) -> Lost {
        loop {
            match connection.accept_bi().await {
                Ok((send, recv)) => {
                    let session = self.clone();
                    self.spawn(async move { session.stream(epoch, send, recv).await });
                }
                Err(lost) => return lost,
            }
        }
    }

    /// Reports each change of path; `last` is what the session's opening was reported with.
    async fn report_paths(&self, connection: &C, mut last: Option<PathKind>) -> Infallible {
        let mut paths = Box::pin(connection.paths());
        while let Some(path) = paths.next().await {
            if last.as_ref() != Some(&path.kind) {
                last = Some(path.kind.clone());
                self.shared.events.notice(Event::PathChanged { session: self.id, path });
            }
        }
        // The reports end with the connection, which others notice with the reason.
        std::future::pending().await
    }

    /// Answers the client's messages for as long as the connection lasts.
    async fn messages(
        self: &Arc<Self>,
        epoch: u64,
        connection: &C,
        mut recv: C::Recv,
    ) -> Result<Lost, Broken> {
        let (mut kept, mut told) = (HashSet::new(), false);
        loop {
            let frame = match read_frame(&mut recv, protocol::MAX_FRAME).await {
                Ok(Some(frame)) => frame,
                // With the connection, which others notice with the reason.
                Err(ReadFrameError::Read(ReadError::Lost(_))) => std::future::pending().await,
                // Given up with all else of an attempt that took too long; the connection itself is about to follow.
                Err(ReadFrameError::Read(ReadError::Reset(ResetCode::Ended))) => {
                    connection.close(CloseCode::Dropped, "");
                    return Ok(Lost::Local);
                }
                Ok(None) => return Err(Broken("the control stream ended".to_owned())),
                Err(error) => return Err(Broken(error.to_string())),
            };
            let broken = |error: protocol::FrameError| Broken(error.to_string());
            if self.control.handle(&frame, epoch).map_err(broken)? {
                continue;
            }
            match protocol::frame_type(&frame).map_err(broken)? {
                Check::TYPE => {
                    let Check { id, sources } = protocol::decode(&frame).map_err(broken)?;
                    if sources.len() > protocol::MAX_CHECKED {
                        return Err(Broken(format!("a check of {} sources", sources.len())));
                    }
                    // At most some at a time; meanwhile other messages are read, a resume among them.
                    let Ok(place) = self.checks.clone().acquire_owned().await else { continue };
                    let (session, connection) = (self.clone(), connection.clone());
                    tokio::spawn(async move {
                        session.check(&connection, id, sources).await;
                        drop(place);
                    });
                }
                Acknowledge::TYPE => {
                    let Acknowledge { flows } = protocol::decode(&frame).map_err(broken)?;
                    self.streams.acknowledge(&flows).map_err(|error| Broken(error.to_string()))?;
                }
                Kept::TYPE => {
                    let Kept { flows, last } = protocol::decode(&frame).map_err(broken)?;
                    kept.extend(flows);
                    if kept.len() > 2 * limits::MAX_FLOWS as usize {
                        return Err(Broken("more flows than there can be".to_owned()));
                    }
                    if last {
                        if std::mem::replace(&mut told, true) {
                            return Err(Broken("the list of kept flows came twice".to_owned()));
                        }
                        self.confirm();
                        self.streams.keep_only(&std::mem::take(&mut kept), epoch);
                    }
                }
                Ping::TYPE => {
                    let Ping { id } = protocol::decode(&frame).map_err(broken)?;
                    // Where it cannot be sent the connection is gone.
                    let _ = self.control.send(&Pong { id }).await;
                }
                // A later version's.
                _ => {}
            }
        }
    }

    async fn check(&self, connection: &C, id: u32, sources: Vec<Source>) {
        let time = limits::CONNECT_TIMEOUT;
        let asker = self.asker();
        let checks = open::check(&asker, sources.clone(), time);
        let refusals = tokio::select! {
            refusals = checks => refusals,
            _ = connection.closed() => return,
        };
        for (source, refusal) in sources.into_iter().zip(&refusals) {
            if let Some(refusal) = refusal.clone() {
                let session = self.id;
                self.shared.events.notice(Event::SourceRefused { session, source, refusal });
            }
        }
        let _ = self.control.send(&Checked { id, refusals }).await;
    }
}
