//! One authenticated client, over one connection or several in turn.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tunnel_model::resume::{Resumption, ResumptionSecret, ResumptionTranscript};
use tunnel_model::{CloseCode, Identity, Policy, VpnSecret};

use super::places::{Client, Place};
use super::{Newcomer, Refused, Shared, open};
use crate::control::Control;
use crate::events::{Event, SessionId};
use crate::forward::udp::Flows;
use crate::forward::{Counters, Waiting};
use crate::limits;
use crate::resume::{Present, Streams};
use crate::transport::{Connection, Lost, PathKind, Role};

mod flows;
mod serve;
mod vpn;

pub(super) use serve::serve;

/// A client's session.
pub(super) struct Session<C: Connection> {
    shared: Arc<Shared>,
    id: SessionId,
    identity: Identity,
    client: Client,
    /// How long it is kept without a connection; zero where it ends with its connection.
    grace: Duration,
    present: watch::Sender<Present<C>>,
    /// Held while a connection takes the place of another one, or of none.
    replacing: tokio::sync::Mutex<()>,
    secrets: Mutex<Secrets>,
    /// Of its first connection; none where this server has no VPN.
    vpn: Option<VpnSecret>,
    streams: Arc<Streams<C>>,
    totals: Arc<Counters>,
    flow_count: AtomicU64,
    udp: Arc<Flows<C>>,
    control: Arc<Control<C::Send>>,
    waiting: Waiting,
    checks: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    flows: TaskTracker,
    /// Cancelled once its end has been reported.
    closed: CancellationToken,
}

/// What the client may prove with that the session is its own. The welcome of its latest connection may not have reached
/// it, so that it still has the secret of the one before.
#[derive(Default)]
struct Secrets {
    confirmed: Option<ResumptionSecret>,
    latest: Option<ResumptionSecret>,
}

/// A connection that a session has been given, and that the client has not been told of.
///
/// Dropped before that has been done, it leaves the session without a connection.
pub(super) struct Admitted<C: Connection> {
    session: Arc<Session<C>>,
    epoch: u64,
    path: Option<PathKind>,
    started: bool,
}

impl<C: Connection> Drop for Admitted<C> {
    fn drop(&mut self) {
        if !self.started {
            let (session, epoch) = (self.session.clone(), self.epoch);
            let lost = Lost::Transport("the client did not hear that it was let in".to_owned());
            tokio::spawn(async move { session.lost(epoch, lost).await });
        }
    }
}

/// A connection over which a session is to be served.
pub(super) struct Start<C: Connection> {
    session: Arc<Session<C>>,
    epoch: u64,
    messages: C::Recv,
    /// The path that its beginning was recorded with.
    path: Option<PathKind>,
}

/// The peer broke the protocol; its session ends.
struct Broken(String);

/// Resolves once `rules` fail `test`.
async fn no_longer(mut rules: watch::Receiver<Arc<Policy>>, test: impl Fn(&Policy) -> bool) {
    // The owner of the rules gone means that they can change no more.
    if rules.wait_for(|rules| !test(rules)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl<C: Connection> Admitted<C> {
    pub(super) fn id(&self) -> SessionId {
        self.session.id
    }

    /// For how many seconds the session is kept without a connection.
    pub(super) fn grace(&self) -> u32 {
        u32::try_from(self.session.grace.as_secs()).unwrap_or(u32::MAX)
    }

    /// Goes on with the streams that messages travel on.
    pub(super) async fn start(mut self, (send, messages): (C::Send, C::Recv)) -> Start<C> {
        let (session, epoch, path) = (self.session.clone(), self.epoch, self.path.take());
        session.control.replace(epoch, Some(send)).await;
        self.started = true;
        Start { session, epoch, messages, path }
    }
}

impl<C: Connection> Session<C> {
    /// Begins a client's session.
    pub(super) fn begin(
        shared: &Arc<Shared>,
        id: SessionId,
        connection: &C,
        newcomer: Newcomer,
    ) -> Result<Admitted<C>, Refused> {
        let Newcomer { identity, client, secret } = newcomer;
        let place = shared.places.enter(id, client.clone(), shared.limits.max_sessions)?;
        let path = connection.path();
        let kind = path.as_ref().map(|path| path.kind.clone());
        let opened = Event::SessionOpened {
            session: id,
            role: Role::Server,
            peer: identity.peer.clone(),
            identity: Some(identity.clone()),
            path,
        };
        let not_recorded = |error| Refused::new(CloseCode::ShuttingDown, error);
        shared.events.decide(opened).map_err(not_recorded)?;
        let grace = match secret {
            Some(_) => shared.limits.grace.min(limits::MAX_GRACE),
            None => Duration::ZERO,
        };
        let totals = Arc::new(Counters::part_of(&shared.traffic));
        let streams = Streams::new(!grace.is_zero(), shared.held.clone(), shared.flows.clone());
        let epoch = streams.next_epoch();
        let session = Arc::new(Self {
            shared: shared.clone(),
            id,
            identity,
            client,
            grace,
            present: watch::Sender::new(Present::Up(epoch, connection.clone())),
            replacing: tokio::sync::Mutex::default(),
            secrets: Mutex::new(Secrets { confirmed: None, latest: secret }),
            vpn: shared
                .vpn
                .as_ref()
                .and_then(|_| connection.keying_material(VpnSecret::LABEL))
                .map(VpnSecret::new),
            streams,
            control: Control::new(),
            waiting: Waiting::default(),
            checks: Arc::new(Semaphore::new(limits::MAX_CHECKS)),
            lookups: Arc::new(Semaphore::new(limits::MAX_SESSION_LOOKUPS)),
            udp: Arc::new(Flows::new(connection.clone(), totals.clone())),
            totals,
            flow_count: AtomicU64::new(0),
            flows: TaskTracker::new(),
            closed: CancellationToken::new(),
        });
        if !grace.is_zero() {
            place.fill(session.clone());
        }
        shared.watching.spawn(session.clone().watch(place));
        Ok(Admitted { session, epoch, path: kind, started: false })
    }

    fn secrets(&self) -> MutexGuard<'_, Secrets> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `newcomer` is the client of this session and has proved it.
    pub(super) fn is_of(
        &self,
        newcomer: &Newcomer,
        resumption: &Resumption,
        transcript: &ResumptionTranscript<'_>,
    ) -> bool {
        let Newcomer { identity, client, secret } = newcomer;
        // What its owner calls a token may change.
        let same = identity.token == self.identity.token && identity.peer == self.identity.peer;
        if self.streams.is_over() || secret.is_none() || !same || *client != self.client {
            return false;
        }
        let verify = |secret: &Option<ResumptionSecret>| {
            secret.as_ref().is_some_and(|secret| secret.verify(resumption, transcript))
        };
        let mut secrets = self.secrets();
        if verify(&secrets.latest) {
            secrets.confirmed = secrets.latest.take();
            return true;
        }
        verify(&secrets.confirmed)
    }

    /// The client has shown that it was told of its latest connection.
    fn confirm(&self) {
        let mut secrets = self.secrets();
        if secrets.latest.is_some() {
            secrets.confirmed = secrets.latest.take();
        }
    }

    /// Goes on over another connection of its client; an earlier one that still lives is closed. `None` where the session
    /// has ended meanwhile.
    pub(super) async fn take_over(
        self: Arc<Self>,
        connection: &C,
        secret: &mut Option<ResumptionSecret>,
    ) -> Result<Option<Admitted<C>>, Refused> {
        let replacing = self.replacing.lock().await;
        if self.streams.is_over() {
            return Ok(None);
        }
        let path = connection.path();
        let kind = path.as_ref().map(|path| path.kind.clone());
        let flows = self.flows.len();
        let resumed = Event::SessionResumed { session: self.id, path, flows };
        let not_recorded = |error| Refused::new(CloseCode::ShuttingDown, error);
        self.shared.events.decide(resumed).map_err(not_recorded)?;
        self.secrets().latest = secret.take();
        // First: what its tasks give up from here on must not reach the client as the end of a flow.
        if let Present::Up(_, earlier) = &*self.present.borrow() {
            earlier.close(CloseCode::Superseded, "");
        }
        let epoch = self.streams.next_epoch();
        self.present.send_replace(Present::Up(epoch, connection.clone()));
        if self.streams.is_over() {
            // For the session that begins instead.
            *secret = self.secrets().latest.take();
            return Ok(None);
        }
        self.udp.replace(Some(connection.clone()));
        self.streams.set_away(false);
        self.shared.places.present(self.id);
        drop(replacing);
        Ok(Some(Admitted { session: self, epoch, path: kind, started: false }))
    }

    /// Watches over the session until it ends.
    async fn watch(self: Arc<Self>, place: Place) {
        let why = tokio::select! {
            why = self.streams.over() => why,
            () = self.shared.closing.cancelled() => {
                let why = Lost::Transport("this server is ending".to_owned());
                self.end(why, CloseCode::ShuttingDown, "")
            }
            () = place.superseded() => {
                let why = Lost::Transport("it had to make room for a newer one".to_owned());
                self.end(why, CloseCode::Superseded, "")
            }
            () = no_longer(self.shared.rules.clone(), |rules| rules.admits(&self.identity)) => {
                let why = Lost::Transport("the token was revoked".to_owned());
                self.end(why, CloseCode::Revoked, "")
            }
            () = self.away_too_long() => self.end(Lost::Kept(self.grace), CloseCode::Done, ""),
        };
        drop(place);
        // The flows end by themselves; their records come before the session's.
        self.flows.close();
        let _ = timeout(limits::LAST_FLOWS, self.flows.wait()).await;
        self.shared.events.notice(Event::SessionClosed {
            session: self.id,
            why,
            flows: self.flow_count.load(Ordering::Relaxed),
            sent: self.totals.sent(),
            received: self.totals.received(),
        });
        self.closed.cancel();
    }

    /// Resolves when the session has been without a connection for as long as it is kept.
    async fn away_too_long(&self) {
        let mut present = self.present.subscribe();
        loop {
            let is_away = matches!(&*present.borrow_and_update(), Present::Away(..));
            tokio::select! {
                // The sender is this session's own, so it cannot be gone.
                _ = present.changed() => {}
                () = tokio::time::sleep(self.grace), if is_away => return,
            }
        }
    }

    /// Ends the session for good: the first reason counts, and is what comes back. The client is told with `code`.
    fn end(&self, why: Lost, code: CloseCode, reason: &str) -> Lost {
        self.streams.end(why.clone());
        if let Present::Up(_, connection) = &*self.present.borrow() {
            connection.close(code, reason);
        }
        why
    }

    fn broke(&self, why: &str) {
        // In the words of this side: those of the code are the peer's.
        let words = Lost::Transport(format!("the client broke the protocol: {why}"));
        self.end(words, CloseCode::ProtocolError, why);
    }

    /// Serves a flow, which ends with the session.
    fn spawn(self: &Arc<Self>, flow: impl Future<Output = Result<(), Broken>> + Send + 'static) {
        let session = self.clone();
        self.flows.spawn(async move {
            if let Err(Broken(why)) = flow.await {
                session.broke(&why);
            }
        });
    }

    /// The connection of `epoch` is lost; the session is kept if there is a reason to.
    async fn lost(&self, epoch: u64, lost: Lost) {
        let _replacing = self.replacing.lock().await;
        if !self.present.borrow().is(epoch) || self.streams.is_over() {
            return;
        }
        if self.grace.is_zero() || self.streams.is_empty() || !lost.is_outage() {
            self.end(lost, CloseCode::Done, "");
            return;
        }
        self.udp.replace(None);
        self.control.replace(epoch, None).await;
        self.shared.events.notice(Event::SessionSuspended {
            session: self.id,
            why: lost.clone(),
            flows: self.flows.len(),
            grace: self.grace,
        });
        let earlier = self.present.send_replace(Present::Away(lost));
        drop(earlier);
        self.streams.set_away(true);
        self.shared.places.away(self.id, self.streams.held() + self.waiting.bytes());
    }

    fn asker(&self) -> open::Asker<'_> {
        open::Asker { shared: &self.shared, identity: &self.identity, lookups: &self.lookups }
    }
}
