//! A link to a server: a session as long as one can be had, dialled anew when it is lost.

use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tunnel_model::protocol::{self, Refusal};
use tunnel_model::{CloseCode, Source, Token};

use super::authenticate::Introduction;
use super::rest::Rest;
use super::session::{Down, Terms};
use super::{AuthenticationError, Session, is_fatal};
use crate::events::Events;
use crate::forward::{Counters, Traffic};
use crate::limits::{ATTEMPT, BACKOFF, KEPT_PAUSE, REVIVAL, SESSION_WAIT, SETTLED, SILENCE};
use crate::server::{NoRandomness, random_id};
use crate::transport::{Connection, Lost};

/// Why no connection came to be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct DialError {
    /// What happened, to which server, and what can be done.
    pub message: String,
    /// Whether trying again cannot help.
    pub fatal: bool,
}

/// Makes connections to one server.
pub trait Dialer: Send + Sync + 'static {
    /// What it makes.
    type Connection: Connection;

    /// Makes one connection; may take as long as it likes, the caller gives up by itself.
    fn dial(&self) -> impl Future<Output = Result<Self::Connection, DialError>> + Send;

    /// How long an attempt takes at first after a session was lost, and at most; more where finding the server takes
    /// more than a handshake.
    fn attempt_limits(&self) -> (Duration, Duration) {
        ATTEMPT
    }

    /// Whether a connection that has gone silent keeps others to the same server from being made.
    fn is_hindered_by_silent(&self) -> bool {
        false
    }

    /// Resolves when this machine's network has changed since the call, so that dialling may succeed where it failed.
    fn network_changed(&self) -> impl Future<Output = ()> + Send;
}

/// Why a link ended for good.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum LinkError {
    /// The server does not accept this client.
    #[error("{0}")]
    Authentication(AuthenticationError),
    /// The server accepted this client and then took that back.
    #[error("{0}")]
    Ended(Lost),
    /// Dialling cannot succeed.
    #[error("{0}")]
    Dial(DialError),
    /// The server refuses every source asked for.
    #[error("the server refuses every source asked for")]
    AllRefused,
}

/// What a link tells its owner besides events.
#[derive(Clone, Debug)]
pub enum Notice {
    /// An attempt failed; the next one follows after the given time.
    Retrying {
        /// Why it failed.
        why: String,
        /// When the next one follows.
        after: Duration,
    },
    /// The session has no connection.
    Lost {
        /// What happened to it.
        why: String,
        /// Whether it can go on over another one.
        kept: bool,
    },
    /// The server has been silent for so long that a second connection is dialled.
    Silent,
    /// The second connection came to nothing, and why.
    StillSilent(String),
    /// The server refuses a source.
    SourceRefused(Source, Refusal),
}

/// A link to one server. Listeners hold it, never a session.
pub struct Link<D: Dialer> {
    dialer: D,
    token: Option<Token>,
    instance: [u8; 16],
    sources: Vec<Source>,
    events: Events,
    notices: Box<dyn Fn(Notice) + Send + Sync>,
    present: watch::Sender<Option<Arc<Session<D::Connection>>>>,
    /// The last session, present or waiting for a connection.
    last: Mutex<Option<Arc<Session<D::Connection>>>>,
    next_flow: AtomicU64,
    grace: Duration,
    held: Arc<AtomicUsize>,
    /// Payload of all sessions.
    traffic: Arc<Counters>,
}

/// An attempt that came to no session, and why; a fatal reason ends the link.
enum Attempt {
    Again(String),
    /// The network has changed meanwhile.
    Changed,
    Fatal(LinkError),
}

impl<D: Dialer> Link<D> {
    /// A link that will ask for `sources`. Nothing is dialled before [`Link::run`]. There is no token where the
    /// transport's handshake proves both sides to each other. A session without a connection is kept for `grace`, or for
    /// as long as the server keeps it if that is less; zero for not at all.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn new(
        dialer: D,
        token: Option<Token>,
        sources: Vec<Source>,
        grace: Duration,
        events: Events,
        notices: impl Fn(Notice) + Send + Sync + 'static,
    ) -> Result<Arc<Self>, NoRandomness> {
        Ok(Arc::new(Self {
            dialer,
            token,
            instance: random_id()?,
            sources,
            events,
            notices: Box::new(notices),
            present: watch::Sender::new(None),
            last: Mutex::default(),
            next_flow: AtomicU64::new(0),
            grace,
            held: Arc::default(),
            traffic: Arc::default(),
        }))
    }

    /// Whether there is a session, with a connection or waiting for one.
    pub fn has_session(&self) -> bool {
        self.present.borrow().is_some() || self.last().is_some_and(|last| last.is_kept())
    }

    /// Payload of all sessions so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.traffic()
    }

    /// What dials for this link.
    pub fn dialer(&self) -> &D {
        &self.dialer
    }

    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    pub(crate) fn next_flow(&self) -> u64 {
        self.next_flow.fetch_add(1, Ordering::Relaxed)
    }

    /// The present session, waited for up to [`SESSION_WAIT`].
    pub(crate) async fn session(&self) -> Option<Arc<Session<D::Connection>>> {
        let present = self.present.borrow().clone();
        if present.is_some() {
            return present;
        }
        let mut present = self.present.subscribe();
        let session = timeout(SESSION_WAIT, present.wait_for(Option::is_some)).await.ok()?.ok()?;
        session.clone()
    }

    /// The present session, or the next one if there is none.
    pub(super) async fn next_session(&self) -> Arc<Session<D::Connection>> {
        let mut present = self.present.subscribe();
        loop {
            let session = present.borrow_and_update().clone();
            if let Some(session) = session.filter(|session| !session.streams.is_over()) {
                return session;
            }
            // The sender is this link's own, so it cannot be gone.
            let _ = present.changed().await;
        }
    }

    /// The connection of the present session, or of the next one if there is none.
    pub async fn up(&self) -> D::Connection {
        let mut present = self.present.subscribe();
        loop {
            let session = present.borrow_and_update().clone();
            if let Some((_, connection)) = session.and_then(|session| session.connection()) {
                return connection;
            }
            // The sender is this link's own, so it cannot be gone.
            let _ = present.changed().await;
        }
    }

    /// Closes the present session and tells the server.
    pub fn close(&self) {
        self.present.send_replace(None);
        if let Some(session) = self.keep_last(None) {
            session.close();
        }
    }

    /// Notes the session that may go on over another connection, and gives the one before it.
    fn keep_last(
        &self,
        session: Option<Arc<Session<D::Connection>>>,
    ) -> Option<Arc<Session<D::Connection>>> {
        std::mem::replace(&mut *self.last.lock().unwrap_or_else(PoisonError::into_inner), session)
    }

    fn last(&self) -> Option<Arc<Session<D::Connection>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Keeps a session up until that is hopeless.
    pub async fn run(&self) -> LinkError {
        let mut first = true;
        let mut rest = Rest::default();
        let error = loop {
            let session = match self.reconnect(first).await {
                Ok(session) => session,
                Err(error) => break error,
            };
            match self.serve(session, first, &mut rest).await {
                Ok(down) if is_fatal(&down.lost) => break LinkError::Ended(down.lost),
                Ok(down) => {
                    (self.notices)(Notice::Lost { why: down.lost.to_string(), kept: down.kept })
                }
                Err(error) => break error,
            }
            first = false;
        };
        self.close();
        error
    }

    /// Hands a session to the listeners, and its successors, until none has a connection.
    async fn serve(
        &self,
        mut session: Arc<Session<D::Connection>>,
        mut first: bool,
        rest: &mut Rest,
    ) -> Result<Down, LinkError> {
        loop {
            // Before the check: a name that is slow to resolve must not hold up what needs none.
            self.present.send_replace(Some(session.clone()));
            let current = session.clone();
            let mut keep = std::pin::pin!(self.keep(&current, rest));
            let kept = tokio::select! {
                checked = self.check(&current) => match checked {
                    Err(error) if first => return Err(error),
                    _ => keep.await,
                },
                kept = &mut keep => kept,
            };
            first = false;
            match kept {
                Kept::Down(down) => {
                    self.present.send_replace(None);
                    return Ok(down);
                }
                Kept::Replaced(fresh) => {
                    // First, so that no listener is given one that is over.
                    self.present.send_replace(Some(fresh.clone()));
                    if !Arc::ptr_eq(&current, &fresh) {
                        current.close();
                    }
                    session = fresh;
                }
            }
        }
    }

    /// Tells which sources are refused; an error where all are.
    async fn check(&self, session: &Arc<Session<D::Connection>>) -> Result<(), LinkError> {
        // The session may be lost meanwhile; its keeper will notice.
        let Some(refusals) = session.check(&self.sources).await else { return Ok(()) };
        let mut refused = 0;
        for (source, refusal) in self.sources.iter().zip(refusals) {
            if let Some(refusal) = refusal {
                // A name that does not resolve at the moment may do so later.
                if refusal.reason == protocol::Reason::NotAllowed {
                    refused += 1;
                }
                (self.notices)(Notice::SourceRefused(source.clone(), refusal));
            }
        }
        if refused > 0 && refused == self.sources.len() {
            return Err(LinkError::AllRefused);
        }
        Ok(())
    }

    /// Dials until a session stands: the last one, if it can go on.
    async fn reconnect(&self, first: bool) -> Result<Arc<Session<D::Connection>>, LinkError> {
        let (short, long) = self.dialer.attempt_limits();
        let (mut wait, mut limit) = (BACKOFF.0, if first { long } else { short });
        if !first {
            self.pause(wait / 4, "").await;
        }
        loop {
            match self.attempt(limit).await {
                Ok(session) => {
                    if let Some(last) = self.keep_last(Some(session.clone()))
                        && !Arc::ptr_eq(&last, &session)
                    {
                        last.close();
                    }
                    return Ok(session);
                }
                Err(Attempt::Fatal(error)) => return Err(error),
                Err(Attempt::Changed) => (wait, limit) = (BACKOFF.0, short),
                Err(Attempt::Again(why)) => {
                    // Somebody waits for a session that is kept: the server's network may come back at any time, and
                    // nothing tells this side.
                    let kept = self.last().is_some_and(|last| last.is_kept());
                    if self.pause(wait, &why).await {
                        (wait, limit) = (BACKOFF.0, short);
                    } else if kept {
                        // A long attempt now and then, for long round trips; its packets are repeated at growing intervals.
                        wait = KEPT_PAUSE;
                        limit = if limit > short { short } else { short * 2 };
                    } else {
                        wait = (wait * 2).min(BACKOFF.1);
                        limit = (limit * 2).min(long);
                    }
                }
            }
        }
    }

    /// Waits, with jitter, or until the network changes; tells whether it did.
    async fn pause(&self, wait: Duration, why: &str) -> bool {
        let wait = jittered(wait);
        if !why.is_empty() {
            (self.notices)(Notice::Retrying { why: why.to_owned(), after: wait });
        }
        tokio::select! {
            () = sleep(wait) => false,
            () = self.dialer.network_changed() => true,
        }
    }

    async fn attempt(&self, limit: Duration) -> Result<Arc<Session<D::Connection>>, Attempt> {
        let attempt = async {
            let connection = self.dialer.dial().await.map_err(|error| {
                if error.fatal {
                    Attempt::Fatal(LinkError::Dial(error))
                } else {
                    Attempt::Again(error.message)
                }
            })?;
            let terms = Terms {
                who: Introduction {
                    token: self.token.as_ref(),
                    instance: self.instance,
                    features: if self.grace.is_zero() { 0 } else { protocol::FEATURE_RESUME },
                },
                events: &self.events,
                grace: self.grace,
                held: &self.held,
                traffic: &self.traffic,
            };
            let last = self.last();
            let session = Session::establish(connection, &terms, last.as_ref()).await;
            session.map_err(|error| {
                if error.is_fatal() {
                    Attempt::Fatal(LinkError::Authentication(error))
                } else {
                    Attempt::Again(error.to_string())
                }
            })
        };
        // What was sent before the network changed is sent again later and later.
        let changed = async {
            sleep(SETTLED).await;
            self.dialer.network_changed().await;
        };
        tokio::select! {
            attempt = timeout(limit, attempt) => attempt.unwrap_or_else(|_| {
                Err(Attempt::Again(format!("no answer within {} s", limit.as_secs())))
            }),
            () = changed => Err(Attempt::Changed),
        }
    }

    /// Watches over a session; comes back with the reason when it has no connection. While the server is silent a second
    /// connection is dialled beside, on which the session goes on; a restarted server answers it and not the first. So is
    /// one when the path in use is lost and flows stand still for that; whoever answers then, the first gets time to come
    /// back.
    async fn keep(
        &self,
        session: &Arc<Session<D::Connection>>,
        rest: &mut Rest,
    ) -> Kept<D::Connection> {
        let mut wait = BACKOFF.0;
        loop {
            let Some((epoch, connection)) = session.connection() else {
                return Kept::Down(session.down().await);
            };
            let silent = tokio::select! {
                down = session.down() => return Kept::Down(down),
                () = session.silent(&connection) => true,
                () = connection.path_gone() => true,
                () = session.stands_still(&connection, rest) => false,
            };
            if silent {
                (self.notices)(Notice::Silent);
            }
            let (short, long) = self.dialer.attempt_limits();
            let in_the_way = session.is_resumable() && self.dialer.is_hindered_by_silent();
            // Flows that can go on over the next connection had better do so: what was sent on a path that was away for so
            // long is sent again much later than that.
            let heard = async {
                session.heard(&connection).await;
                if session.is_resumable() {
                    std::future::pending::<()>().await;
                }
            };
            let (seen, began) = (connection.packets_received(), Instant::now());
            let attempts = async {
                loop {
                    match self.attempt(if in_the_way || !silent { short } else { long }).await {
                        Ok(fresh) => return Ok(fresh),
                        Err(Attempt::Changed) => {}
                        Err(Attempt::Again(why)) => return Err(why),
                        // Of the fresh connection: it says nothing about the one that stands.
                        Err(Attempt::Fatal(error)) => return Err(error.to_string()),
                    }
                }
            };
            let mut attempts = Box::pin(attempts);
            let fresh = tokio::select! {
                fresh = &mut attempts => fresh,
                down = session.down() => {
                    // A connection that is lost for good needs no second one beside.
                    if !down.kept {
                        return Kept::Down(down);
                    }
                    // Held here it would keep its sockets from the endpoint that takes the place of its own. The attempt
                    // goes on: it may be taking the session up already.
                    drop(connection);
                    let fresh = tokio::select! {
                        fresh = attempts => fresh,
                        down = ended(session) => return Kept::Down(down),
                    };
                    return match fresh {
                        Ok(fresh) => {
                            self.keep_last(Some(fresh.clone()));
                            Kept::Replaced(fresh)
                        }
                        Err(_) if session.connection().is_some() => Kept::Replaced(session.clone()),
                        Err(_) => Kept::Down(session.down().await),
                    };
                }
                () = heard => {
                    wait = BACKOFF.0;
                    continue;
                }
            };
            let fresh = match fresh {
                Ok(fresh) => fresh,
                // The attempt had come further than it could tell.
                Err(_) if session.connection().is_some_and(|(present, _)| present != epoch) => {
                    return Kept::Replaced(session.clone());
                }
                // As a rule the first one lives by another path.
                Err(_) if !silent && began.elapsed() < SILENCE => continue,
                Err(why) => {
                    if connection.packets_received() != seen {
                        wait = BACKOFF.0;
                        continue;
                    }
                    (self.notices)(Notice::StillSilent(why));
                    if in_the_way {
                        connection.close(CloseCode::Dropped, "");
                        return Kept::Down(session.down().await);
                    }
                    if session.connection().is_some() {
                        self.pause(wait, "").await;
                    }
                    wait = (wait * 2).min(BACKOFF.1);
                    continue;
                }
            };
            if Arc::ptr_eq(&fresh, session) {
                return Kept::Replaced(fresh);
            }
            // The same process still knows the first connection: it only needs a moment longer to come back, and its
            // flows with it. Where another process answers, a first connection that is silent is of no use any more; one
            // that only changed its path may live, by a server that drains.
            let revived = (!silent || fresh.server_instance == session.server_instance)
                && tokio::select! {
                    // Where the transport knows better than to hope there is nothing to wait for.
                    () = connection.path_gone() => false,
                    _ = session.down() => false,
                    heard = timeout(REVIVAL, session.heard(&connection)) => heard.is_ok(),
                };
            if !revived {
                self.keep_last(Some(fresh.clone()));
                return Kept::Replaced(fresh);
            }
            fresh.close();
        }
    }
}

/// Resolves when the session is over; one that is kept may be taken up by the attempt that is under way.
async fn ended<C: Connection>(session: &Session<C>) -> Down {
    Down { lost: session.streams.over().await, kept: false }
}

/// How a watch over a session ended.
enum Kept<C: Connection> {
    /// It is without a connection.
    Down(Down),
    /// It goes on over another connection, or another one takes its place.
    Replaced(Arc<Session<C>>),
}

/// Between one and one and a half times `wait`, so that the clients of a restarted server do not come all at once.
fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 1];
    // Without randomness the clients come at once, which a server survives.
    let _ = getrandom::fill(&mut random);
    wait + wait * u32::from(random[0]) / 512
}
