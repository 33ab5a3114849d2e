//! A session as a client sees it, over one connection or several in turn.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tunnel_model::protocol::{self, Acknowledge, Check, Checked, Message, Ping, Refusal};
use tunnel_model::resume::{Resumption, ResumptionSecret, ResumptionTranscript};
use tunnel_model::{CloseCode, ResetCode, Source, VpnSecret};

use super::AuthenticationError;
use super::authenticate::{Authenticated, Introduction, authenticate};
use super::rest::Rest;
use crate::control::Control;
use crate::events::{Event, Events, SessionId};
use crate::first::FirstOf;
use crate::forward::udp::Flows;
use crate::forward::{Counters, Waiting};
use crate::frame::{ReadFrameError, read_frame};
use crate::limits;
use crate::resume::{Present, Streams};
use crate::transport::{Connection, Lost, PathKind, ReadError, Role, WriteError};

mod flows;

/// A session as a client sees it.
pub(crate) struct Session<C: Connection> {
    pub(crate) id: SessionId,
    /// The server process that accepted it.
    pub(crate) server_instance: [u8; 16],
    /// How long it is kept without a connection; zero where it ends with its connection.
    grace: Duration,
    present: watch::Sender<Present<C>>,
    /// Held while a connection takes the place of another one, or of none.
    replacing: tokio::sync::Mutex<()>,
    secret: Mutex<Option<ResumptionSecret>>,
    /// Of its first connection; none where the server has no VPN.
    vpn: Option<VpnSecret>,
    pub(crate) streams: Arc<Streams<C>>,
    pub(crate) udp: Arc<Flows<C>>,
    pub(crate) totals: Arc<Counters>,
    pub(crate) waiting: Waiting,
    flow_count: AtomicU64,
    open_flows: AtomicUsize,
    pub(crate) control: Arc<Control<C::Send>>,
    checks: Mutex<HashMap<u32, oneshot::Sender<Vec<Option<Refusal>>>>>,
    next_message: AtomicU32,
    events: Events,
}

/// What a link gives to every session that it establishes.
pub(super) struct Terms<'a> {
    pub(super) who: Introduction<'a>,
    pub(super) events: &'a Events,
    /// How long this side keeps a session without a connection.
    pub(super) grace: Duration,
    /// Bytes that all sessions of the process keep to be sent again.
    pub(super) held: &'a Arc<AtomicUsize>,
    /// Payload of all sessions of the process.
    pub(super) traffic: &'a Arc<Counters>,
}

/// A session is without a connection, for good or not.
pub(crate) struct Down {
    pub(crate) lost: Lost,
    /// Whether it can go on over another one.
    pub(crate) kept: bool,
}

/// How a connection ended.
enum End {
    /// By itself, or by the peer.
    Lost(Lost),
    /// By a decision of this side; the session with it.
    Final(Lost),
    /// By the end of its session, or because another one has taken its place.
    Left,
}

/// Counts a flow as open while it lives.
pub(crate) struct OpenFlow<C: Connection>(Arc<Session<C>>);

impl<C: Connection> Drop for OpenFlow<C> {
    fn drop(&mut self) {
        self.0.open_flows.fetch_sub(1, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<C: Connection> Session<C> {
    /// Authenticates on a fresh connection. Where the server still has the session `kept` and takes this client for its
    /// owner, that goes on; otherwise a new one begins.
    pub(super) async fn establish(
        connection: C,
        terms: &Terms<'_>,
        kept: Option<&Arc<Self>>,
    ) -> Result<Arc<Self>, AuthenticationError> {
        let kept = kept.filter(|kept| !kept.streams.is_over());
        let resume = |transcript: &ResumptionTranscript<'_>| kept?.resumption(transcript);
        let authenticated = match authenticate(&connection, &terms.who, resume).await {
            Ok(authenticated) => authenticated,
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
        let begun = match kept.filter(|kept| kept.id.0 == authenticated.welcome.session) {
            Some(kept) => {
                // In a task of its own: given up half-way it would leave the session to nobody.
                let (session, connection) = (kept.clone(), connection.clone());
                let going =
                    tokio::spawn(async move { session.go_on(&connection, authenticated).await });
                let gone_on = going.await.unwrap_or_else(|_| Err(AuthenticationError::ended()));
                gone_on.map(|()| kept.clone())
            }
            None => Self::begin(&connection, authenticated, terms),
        };
        begun.inspect_err(|_| connection.close(CloseCode::Dropped, ""))
    }

    fn begin(
        connection: &C,
        authenticated: Authenticated<C>,
        terms: &Terms<'_>,
    ) -> Result<Arc<Self>, AuthenticationError> {
        let Authenticated { welcome, control: (send, recv), secret } = authenticated;
        let grace = Duration::from_secs(u64::from(welcome.grace)).min(terms.grace);
        let grace = if secret.is_some() { grace } else { Duration::ZERO };
        let totals = Arc::new(Counters::part_of(terms.traffic));
        let streams = Streams::new(!grace.is_zero(), terms.held.clone(), TaskTracker::new());
        let epoch = streams.next_epoch();
        let session = Arc::new(Self {
            id: SessionId(welcome.session),
            server_instance: welcome.instance,
            grace,
            present: watch::Sender::new(Present::Up(epoch, connection.clone())),
            replacing: tokio::sync::Mutex::default(),
            secret: Mutex::new(secret),
            vpn: (welcome.features & protocol::FEATURE_VPN != 0)
                .then(|| connection.keying_material(VpnSecret::LABEL))
                .flatten()
                .map(VpnSecret::new),
            streams,
            udp: Arc::new(Flows::new(connection.clone(), totals.clone())),
            totals,
            waiting: Waiting::default(),
            flow_count: AtomicU64::new(0),
            open_flows: AtomicUsize::new(0),
            control: Control::with(epoch, send),
            checks: Mutex::default(),
            next_message: AtomicU32::new(0),
            events: terms.events.clone(),
        });
        let path = connection.path();
        let reported = path.as_ref().map(|path| path.kind.clone());
        let opened = Event::SessionOpened {
            session: session.id,
            role: Role::Client,
            peer: connection.identities().shown,
            identity: None,
            path,
        };
        let not_recorded = |error: &dyn ToString| AuthenticationError::Malformed(error.to_string());
        session.events.decide(opened).map_err(|error| not_recorded(&error))?;
        tokio::spawn(session.clone().run(epoch, connection.clone(), recv, reported));
        Ok(session)
    }

    fn resumption(&self, transcript: &ResumptionTranscript<'_>) -> Option<Resumption> {
        lock(&self.secret).as_ref().map(|secret| secret.prove(self.id.0, transcript))
    }

    /// Goes on over a connection on which the server has taken the session up again.
    async fn go_on(
        self: &Arc<Self>,
        connection: &C,
        authenticated: Authenticated<C>,
    ) -> Result<(), AuthenticationError> {
        let Authenticated { welcome: _, control: (send, recv), secret } = authenticated;
        let _replacing = self.replacing.lock().await;
        if self.streams.is_over() {
            return Err(AuthenticationError::ended());
        }
        let path = connection.path();
        let reported = path.as_ref().map(|path| path.kind.clone());
        let flows = self.open_flows.load(Ordering::Relaxed);
        let resumed = Event::SessionResumed { session: self.id, path, flows };
        self.events
            .decide(resumed)
            .map_err(|error| AuthenticationError::Malformed(error.to_string()))?;
        *lock(&self.secret) = secret;
        let epoch = self.streams.next_epoch();
        let earlier = self.present.send_replace(Present::Up(epoch, connection.clone()));
        if let Present::Up(_, earlier) = earlier {
            // The server has left it already.
            earlier.close(CloseCode::Dropped, "");
        }
        if self.streams.is_over() {
            return Err(AuthenticationError::ended());
        }
        self.udp.replace(Some(connection.clone()));
        self.streams.set_away(false);
        self.control.replace(epoch, Some(send)).await;
        tokio::spawn(self.clone().run(epoch, connection.clone(), recv, reported));
        tokio::spawn(self.clone().reattach_all(epoch, connection.clone()));
        Ok(())
    }

    /// For the VPN's pre-shared keys; none where the server has no VPN.
    pub(super) fn vpn_secret(&self) -> Option<VpnSecret> {
        self.vpn.clone()
    }

    /// Whether it can go on over another connection.
    pub(super) fn is_resumable(&self) -> bool {
        !self.grace.is_zero()
    }

    /// Whether it waits for another connection.
    pub(super) fn is_kept(&self) -> bool {
        !self.streams.is_over() && matches!(&*self.present.borrow(), Present::Away(..))
    }

    /// The present connection and its epoch.
    pub(crate) fn connection(&self) -> Option<(u64, C)> {
        match &*self.present.borrow() {
            Present::Up(epoch, connection) => Some((*epoch, connection.clone())),
            Present::Away(..) => None,
        }
    }

    /// Resolves when the session is without a connection.
    pub(crate) async fn down(&self) -> Down {
        let mut present = self.present.subscribe();
        let away = async {
            let away = present.wait_for(|present| matches!(present, Present::Away(..))).await;
            match away.as_deref() {
                Ok(Present::Away(lost)) => lost.clone(),
                _ => Lost::Local,
            }
        };
        tokio::select! {
            biased;
            lost = self.streams.over() => Down { lost, kept: false },
            lost = away => Down { lost, kept: true },
        }
    }

    /// Ends the session and tells the server, as far as it can be reached.
    pub(crate) fn close(&self) {
        self.end(Lost::Local);
    }

    /// Ends the session for good; the first reason counts.
    fn end(&self, why: Lost) {
        if !self.streams.end(why.clone()) {
            return;
        }
        if let Some((_, connection)) = self.connection() {
            connection.close(CloseCode::Done, "");
        }
        lock(&self.checks).clear();
        self.events.notice(Event::SessionClosed {
            session: self.id,
            why,
            flows: self.flow_count.load(Ordering::Relaxed),
            sent: self.totals.sent(),
            received: self.totals.received(),
        });
    }

    /// Does what one connection needs for as long as it lasts.
    async fn run(
        self: Arc<Self>,
        epoch: u64,
        connection: C,
        recv: C::Recv,
        reported: Option<PathKind>,
    ) {
        let report = async {
            let Err(error) = self.streams.report(&self.control, epoch).await;
            match error {
                WriteError::Lost(_) => End::Lost(connection.closed().await),
                WriteError::Stopped(ResetCode::Ended) => {
                    connection.close(CloseCode::Dropped, "");
                    End::Lost(Lost::Local)
                }
                WriteError::Stopped(_) => broken(&connection, "the control stream was stopped"),
            }
        };
        // Why a connection is lost is for `closed` to say, which knows more than who reads from it.
        let end = FirstOf::new()
            .or(self.leaves(epoch).map(|()| End::Left))
            .or(connection.closed().map(End::Lost))
            .or(self.answers(&connection, recv, epoch))
            .or(self.udp.run_datagrams(&connection).then(|_| connection.closed()).map(End::Lost))
            .or(self.udp.run_large(&connection).then(|_| connection.closed()).map(End::Lost))
            .or(report)
            .or(self.report_paths(&connection, reported).map(|never| match never {}))
            .await;
        match end {
            End::Left => {}
            End::Lost(lost) if lost.is_outage() && self.is_worth_keeping(&lost) => {
                // What is left of it must not stay in memory for as long.
                drop(connection);
                if is_superseded(&lost) {
                    // The answer on the other connection is as near, and then nothing has waited.
                    let _ = timeout(limits::SUPERSEDED, self.leaves(epoch)).await;
                }
                self.suspend(epoch, lost).await;
            }
            // What ends a connection that was replaced meanwhile is that.
            End::Final(lost) | End::Lost(lost) => {
                if self.present.borrow().is(epoch) {
                    self.end(lost);
                }
            }
        }
    }

    fn is_worth_keeping(&self, lost: &Lost) -> bool {
        !self.grace.is_zero() && (is_superseded(lost) || !self.streams.is_empty())
    }

    /// Waits for another connection, for as long as the session is kept.
    async fn suspend(self: Arc<Self>, epoch: u64, lost: Lost) {
        {
            let _replacing = self.replacing.lock().await;
            if !self.present.borrow().is(epoch) || self.streams.is_over() {
                return;
            }
            self.udp.replace(None);
            self.control.replace(epoch, None).await;
            self.events.notice(Event::SessionSuspended {
                session: self.id,
                why: lost.clone(),
                flows: self.open_flows.load(Ordering::Relaxed),
                grace: self.grace,
            });
            let earlier = self.present.send_replace(Present::Away(lost));
            drop(earlier);
            self.streams.set_away(true);
        }
        let mut present = self.present.subscribe();
        let resumed = present.wait_for(|present| matches!(present, Present::Up(..)));
        tokio::select! {
            _ = resumed => {}
            _ = self.streams.over() => {}
            () = tokio::time::sleep(self.grace) => self.end(Lost::Kept(self.grace)),
        }
    }

    async fn answers(&self, connection: &C, mut recv: C::Recv, epoch: u64) -> End {
        let answer = async {
            while let Some(frame) = read_frame(&mut recv, protocol::MAX_FRAME).await? {
                if self.control.handle(&frame, epoch)? {
                    continue;
                }
                match protocol::frame_type(&frame)? {
                    Checked::TYPE => {
                        let Checked { id, refusals } = protocol::decode(&frame)?;
                        if let Some(waiting) = lock(&self.checks).remove(&id) {
                            let _ = waiting.send(refusals);
                        }
                    }
                    Acknowledge::TYPE => {
                        let Acknowledge { flows } = protocol::decode(&frame)?;
                        if let Err(error) = self.streams.acknowledge(&flows) {
                            return Ok(error.to_string());
                        }
                    }
                    // Pongs need no reading, that they came is enough; other types are a later version's.
                    _ => {}
                }
            }
            Ok::<_, ReadFrameError>("the control stream ended".to_owned())
        };
        match answer.await {
            // With the connection, which others notice with the reason.
            Err(ReadFrameError::Read(ReadError::Lost(_))) => std::future::pending().await,
            Err(ReadFrameError::Read(ReadError::Reset(ResetCode::Ended))) => {
                connection.close(CloseCode::Dropped, "");
                End::Lost(Lost::Local)
            }
            Ok(why) => broken(connection, &why),
            Err(error) => broken(connection, &error.to_string()),
        }
    }

    /// Reports each change of path; `last` is what the session's opening was reported with.
    async fn report_paths(&self, connection: &C, mut last: Option<PathKind>) -> Infallible {
        let mut paths = Box::pin(connection.paths());
        while let Some(path) = paths.next().await {
            if last.as_ref() != Some(&path.kind) {
                last = Some(path.kind.clone());
                self.events.notice(Event::PathChanged { session: self.id, path });
            }
        }
        // The reports end with the connection, which others notice with the reason.
        std::future::pending().await
    }

    /// Asks which of `sources` the server refuses; `None` where the connection ended first.
    pub(super) async fn check(&self, sources: &[Source]) -> Option<Vec<Option<Refusal>>> {
        let (epoch, connection) = self.connection()?;
        let mut all = Vec::new();
        for sources in sources.chunks(protocol::MAX_CHECKED) {
            let id = self.next_message.fetch_add(1, Ordering::Relaxed);
            let (answer, answered) = oneshot::channel();
            lock(&self.checks).insert(id, answer);
            let check = Check { id, sources: sources.to_vec() };
            self.control.send(&check).await.ok()?;
            let refusals = tokio::select! {
                refusals = answered => refusals.ok()?,
                _ = connection.closed() => {
                    lock(&self.checks).remove(&id);
                    return None;
                }
            };
            if refusals.len() != sources.len() {
                let why = "an answer that does not fit its check";
                broken(&connection, why);
                if self.connection().is_some_and(|(present, _)| present == epoch) {
                    self.end(Lost::Transport(format!("the server broke the protocol: {why}")));
                }
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
    pub(super) async fn silent(&self, connection: &C) {
        let (mut seen, mut since) = (connection.packets_received(), Instant::now());
        loop {
            tokio::time::sleep(limits::PING_INTERVAL / 2).await;
            let (received, now) = (connection.packets_received(), Instant::now());
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

    /// Resolves when the path in use was lost and flows that can go on over another connection may stand still for that,
    /// unless that was so a short time ago.
    pub(super) async fn stands_still(&self, connection: &C, rest: &mut Rest) {
        loop {
            connection.path_lost().await;
            if self.streams.carry_bytes() && rest.is_over(Instant::now()) {
                return;
            }
        }
    }

    /// Resolves when something has come from the server again.
    pub(super) async fn heard(&self, connection: &C) {
        let seen = connection.packets_received();
        while connection.packets_received() == seen {
            self.ping();
            tokio::time::sleep(limits::PING_INTERVAL / 4).await;
        }
    }

    fn ping(&self) {
        let id = u64::from(self.next_message.fetch_add(1, Ordering::Relaxed));
        self.control.post_if_idle(Ping { id });
    }
}

/// Whether the server has the session on another connection of this client's already, and its answer is on its way.
fn is_superseded(lost: &Lost) -> bool {
    matches!(lost, Lost::Closed { code: CloseCode::Superseded, .. })
}

fn broken<C: Connection>(connection: &C, why: &str) -> End {
    connection.close(CloseCode::ProtocolError, why);
    End::Final(Lost::Transport(format!("the server broke the protocol: {why}")))
}
