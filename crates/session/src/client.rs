//! The client's half: authenticates, keeps a session for as long as it takes, and hands it to the listeners.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use futures_util::StreamExt;
use thiserror::Error;
use tokio::sync::oneshot;
use tunnel_model::protocol::{
    self, Check, Checked, FrameError, Hello, HelloProof, Message, Ping, Refusal, Welcome,
};
use tunnel_model::{CloseCode, ROLE_CLIENT, ROLE_SERVER, Source, Token, Transcript};

use crate::control::Control;
use crate::events::{Event, Events, SessionId};
use crate::forward::udp::Flows;
use crate::forward::{Counters, Waiting};
use crate::frame::{ReadFrameError, read_frame, read_message};
use crate::limits;
use crate::transport::{Connection, Lost, PathKind, ReadError, Role, SendStream};

mod link;

pub use link::{DialError, Dialer, Link, LinkError, Notice};

/// Why a server did not let this client in, or this client did not trust the server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// The server closed the connection, and said why.
    #[error("{0}")]
    Refused(Lost),
    /// The server did not prove that it knows the token.
    #[error("the server did not prove that it knows the token: it is not the one that was meant")]
    ServerNotProven,
    /// The server speaks another version.
    #[error("the server speaks protocol version {0}, this client {1}")]
    VersionMismatch(u16, u16),
    /// What came was no answer.
    #[error("the server's answer is not understood: {0}")]
    Malformed(String),
    /// The transport has no keying material to bind the proof to.
    #[error("the transport has no keying material")]
    NoKeyingMaterial,
}

impl AuthenticationError {
    /// Whether trying again cannot help.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::ServerNotProven | Self::VersionMismatch(..) | Self::NoKeyingMaterial => true,
            Self::Refused(lost) => is_fatal(lost),
            Self::Malformed(_) => false,
        }
    }
}

/// Whether a connection ended for a reason that dialling again cannot heal.
fn is_fatal(lost: &Lost) -> bool {
    matches!(
        lost,
        Lost::Closed {
            code: CloseCode::BadToken
                | CloseCode::VersionMismatch
                | CloseCode::Revoked
                | CloseCode::NotPostQuantum
                | CloseCode::ServerNotProven
                | CloseCode::UnknownPeer,
            ..
        }
    )
}

/// A session as a client sees it.
pub(crate) struct Session<C: Connection> {
    pub(crate) id: SessionId,
    /// The server process that accepted it.
    pub(crate) server_instance: [u8; 16],
    pub(crate) connection: C,
    pub(crate) udp: Arc<Flows<C>>,
    pub(crate) totals: Arc<Counters>,
    pub(crate) waiting: Waiting,
    flow_count: AtomicU64,
    open_flows: AtomicUsize,
    pub(crate) control: Arc<Control<C::Send>>,
    checks: Mutex<HashMap<u32, oneshot::Sender<Vec<Option<Refusal>>>>>,
    next_message: AtomicU32,
}

/// Counts a flow as open while it lives.
pub(crate) struct OpenFlow<C: Connection>(Arc<Session<C>>);

impl<C: Connection> Drop for OpenFlow<C> {
    fn drop(&mut self) {
        self.0.open_flows.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C: Connection> Session<C> {
    /// Authenticates on a fresh connection and starts what the session needs in the background.
    async fn establish(
        connection: C,
        token: Option<&Token>,
        instance: [u8; 16],
        events: &Events,
    ) -> Result<Arc<Self>, AuthenticationError> {
        let (welcome, (send, recv)) = match authenticate(&connection, token, instance).await {
            Ok(established) => established,
            Err(error) => {
                let code = match error {
                    AuthenticationError::ServerNotProven => CloseCode::ServerNotProven,
                    AuthenticationError::VersionMismatch(..) => CloseCode::VersionMismatch,
                    _ => CloseCode::ProtocolError,
                };
                connection.close(code, "");
                return Err(error);
            }
        };
        connection.authenticated(Role::Client);
        let totals = Arc::new(Counters::default());
        let session = Arc::new(Self {
            id: SessionId(welcome.session),
            server_instance: welcome.instance,
            udp: Arc::new(Flows::new(connection.clone(), totals.clone())),
            connection,
            totals,
            waiting: Waiting::default(),
            flow_count: AtomicU64::new(0),
            open_flows: AtomicUsize::new(0),
            control: Control::new(send),
            checks: Mutex::default(),
            next_message: AtomicU32::new(0),
        });
        let path = session.connection.path();
        let reported = path.as_ref().map(|path| path.kind.clone());
        let opened = Event::SessionOpened {
            session: session.id,
            role: Role::Client,
            peer: session.connection.identities().shown,
            identity: None,
            path,
        };
        if let Err(error) = events.decide(opened) {
            session.connection.close(CloseCode::Done, "");
            return Err(AuthenticationError::Malformed(error.to_string()));
        }
        tokio::spawn(session.clone().run(recv, reported, events.clone()));
        Ok(session)
    }

    async fn run(self: Arc<Self>, recv: C::Recv, reported: Option<PathKind>, events: Events) {
        let why = tokio::select! {
            why = self.connection.closed() => why,
            why = self.answers(recv) => why,
            lost = self.udp.run_datagrams() => lost,
            lost = self.udp.run_large() => lost,
            never = self.report_paths(reported, &events) => never,
        };
        self.lock_checks().clear();
        events.notice(Event::SessionClosed {
            session: self.id,
            why,
            flows: self.flow_count.load(Ordering::Relaxed),
            sent: self.totals.sent(),
            received: self.totals.received(),
        });
    }

    fn lock_checks(&self) -> MutexGuard<'_, HashMap<u32, oneshot::Sender<Vec<Option<Refusal>>>>> {
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answers(&self, mut recv: C::Recv) -> Lost {
        let answer = async {
            while let Some(frame) = read_frame(&mut recv, protocol::MAX_FRAME).await? {
                // Pongs need no reading, that they came is enough; other types are a later version's.
                if !self.control.handle(&frame)? && protocol::frame_type(&frame)? == Checked::TYPE {
                    let Checked { id, refusals } = protocol::decode(&frame)?;
                    if let Some(waiting) = self.lock_checks().remove(&id) {
                        let _ = waiting.send(refusals);
                    }
                }
            }
            Ok::<(), ReadFrameError>(())
        };
        let why = match answer.await {
            // With the connection, which others notice with the reason.
            Err(ReadFrameError::Read(ReadError::Lost(lost))) => return lost,
            Ok(()) => "the control stream ended".to_owned(),
            Err(error) => error.to_string(),
        };
        self.connection.close(CloseCode::ProtocolError, &why);
        Lost::Transport(format!("the server broke the protocol: {why}"))
    }

    /// Reports each change of path; `last` is what the session's opening was reported with.
    async fn report_paths(&self, mut last: Option<PathKind>, events: &Events) -> Lost {
        let mut paths = Box::pin(self.connection.paths());
        while let Some(path) = paths.next().await {
            if last.as_ref() != Some(&path.kind) {
                last = Some(path.kind.clone());
                events.notice(Event::PathChanged { session: self.id, path });
            }
        }
        // The reports end with the connection, which others notice with the reason.
        std::future::pending().await
    }

    /// Asks which of `sources` the server refuses; `None` where the session ended first.
    async fn check(&self, sources: &[Source]) -> Option<Vec<Option<Refusal>>> {
        let mut all = Vec::new();
        for sources in sources.chunks(protocol::MAX_CHECKED) {
            let id = self.next_message.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            self.lock_checks().insert(id, answer);
            let check = Check { id, sources: sources.to_vec() };
            self.control.send(&check).await.ok()?;
            let refusals = tokio::select! {
                refusals = answered => refusals.ok()?,
                _ = self.connection.closed() => return None,
            };
            if refusals.len() != sources.len() {
                let why = "an answer that does not fit its check";
                self.connection.close(CloseCode::ProtocolError, why);
                return None;
            }
            all.extend(refusals);
        }
        Some(all)
    }

    /// Counts a flow as open for as long as the result lives.
    pub(crate) fn open_flow(self: &Arc<Self>) -> OpenFlow<C> {
        self.flow_count.fetch_add(1, Ordering::Relaxed);
        self.open_flows.fetch_add(1, Ordering::Relaxed);
        OpenFlow(self.clone())
    }

    /// Resolves when nothing has come from the server for so long that its process may be gone: a killed process says
    /// no farewell, and its successor does not know how to disown the connection.
    async fn silent(&self) {
        let (mut seen, mut since) = (self.connection.packets_received(), Instant::now());
        loop {
            tokio::time::sleep(limits::PING_INTERVAL / 2).await;
            let (received, now) = (self.connection.packets_received(), Instant::now());
            if received != seen {
                (seen, since) = (received, now);
                continue;
            }
            let busy = self.open_flows.load(Ordering::Relaxed) > 0;
            if now - since >= if busy { limits::SILENCE } else { limits::IDLE_SILENCE } {
                return;
            }
            if busy && now - since >= limits::PING_INTERVAL {
                self.ping();
            }
        }
    }

    /// Resolves when something has come from the server again.
    async fn heard(&self) {
        let seen = self.connection.packets_received();
        while self.connection.packets_received() == seen {
            self.ping();
            tokio::time::sleep(limits::PING_INTERVAL / 4).await;
        }
    }

    fn ping(&self) {
        let id = u64::from(self.next_message.fetch_add(1, Ordering::Relaxed));
        self.control.post_if_idle(Ping { id });
    }
}

type Authenticated<C> = (Welcome, (<C as Connection>::Send, <C as Connection>::Recv));

async fn authenticate<C: Connection>(
    connection: &C,
    token: Option<&Token>,
    instance: [u8; 16],
) -> Result<Authenticated<C>, AuthenticationError> {
    let malformed = |error: FrameError| AuthenticationError::Malformed(error.to_string());
    let keying_material = connection
        .keying_material(Transcript::LABEL)
        .ok_or(AuthenticationError::NoKeyingMaterial)?;
    let identities = connection.identities();
    if token.is_none() && !identities.pinned {
        // Anybody could be the server.
        return Err(AuthenticationError::ServerNotProven);
    }
    let hello = Hello { version: protocol::VERSION, features: 0, instance, resume: None };
    let hello = protocol::encode(&hello).map_err(malformed)?;
    let transcript = Transcript {
        keying_material: &keying_material,
        client: &identities.local,
        server: &identities.remote,
        // The bytes of the frame behind its length, as the server reads them.
        hello: &hello[2..],
    };
    let proof = HelloProof { proof: transcript.prove(token, ROLE_CLIENT) };
    let proof = protocol::encode(&proof).map_err(malformed)?;
    let refused = AuthenticationError::Refused;
    let (mut send, mut recv) = connection.open_bi().await.map_err(refused)?;
    let sent = send.write_chunks(&mut [hello.clone().into(), proof.into()]).await;
    let welcome: Result<Welcome, _> = match sent {
        Ok(()) => read_message(&mut recv, protocol::MAX_FRAME).await,
        Err(_) => Err(ReadFrameError::Truncated),
    };
    let welcome = match welcome {
        Ok(welcome) => welcome,
        Err(ReadFrameError::Frame(error)) => return Err(malformed(error)),
        // The stream goes down with the connection, whose close says why.
        Err(ReadFrameError::Read(_) | ReadFrameError::Truncated) => {
            return Err(refused(connection.closed().await));
        }
    };
    if welcome.version != protocol::VERSION {
        return Err(AuthenticationError::VersionMismatch(welcome.version, protocol::VERSION));
    }
    if !transcript.verify(token, ROLE_SERVER, &welcome.proof) {
        return Err(AuthenticationError::ServerNotProven);
    }
    Ok((welcome, (send, recv)))
}
