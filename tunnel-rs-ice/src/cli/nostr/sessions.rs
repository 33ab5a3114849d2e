use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_cli::client::FAREWELL;
use tunnel_ice::signaling::nostr::{
    Effect, Message, Negotiations, Nonce, Npub, Reason, Request, SessionId,
};
use tunnel_ice::{Description, Endpoint, PathState, Side, StunServer};
use tunnel_model::Identity;
use tunnel_model::protocol::Reason as RefusalReason;
use tunnel_session::server::Server;

use super::line::Line;
use crate::cli::accept::{Acceptor, Standing};
use crate::cli::path::watch_path;

/// From the offer to the client's connection, at most: the answer may take 15 s, and a path some seconds more.
const CONNECTION: Duration = Duration::from_secs(30);

/// An endpoint without connections is kept for so long: a client that has lost one dials again over the same path.
const LINGER: Duration = Duration::from_secs(30);

/// Everything that the clients of a server have begun.
pub(super) struct Sessions {
    line: Line,
    server: Server,
    stun: Vec<StunServer>,
    max_sessions: usize,
    shutdown: CancellationToken,
    negotiations: Negotiations,
    preparing: JoinSet<(Npub, SessionId, Prepared)>,
    live: HashMap<(Npub, SessionId), Live>,
    serving: JoinSet<(Npub, SessionId)>,
    /// Clients whose refusal was logged.
    told_full: HashSet<Npub>,
}

/// What came of a request.
enum Prepared {
    /// The endpoint that waits for the client.
    Ready(Endpoint, Description),
    /// Nothing, for this reason.
    Refused(Reason, String),
}

struct Live {
    endpoint: Endpoint,
    standing: watch::Receiver<Standing>,
    told: Description,
    task: AbortHandle,
}

impl Sessions {
    pub(super) fn new(
        line: Line,
        server: Server,
        stun: Vec<StunServer>,
        max_sessions: usize,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            line,
            server,
            stun,
            max_sessions,
            shutdown,
            negotiations: Negotiations::default(),
            preparing: JoinSet::new(),
            live: HashMap::new(),
            serving: JoinSet::new(),
            told_full: HashSet::new(),
        }
    }

    /// Takes a peer's message.
    pub(super) fn take(&mut self, peer: Npub, message: Message) {
        let effect = self.negotiations.handle(peer, message, Instant::now().into_std());
        self.apply(effect);
    }

    /// Does what has become due.
    pub(super) fn settle(&mut self, now: Instant) {
        for ((peer, session), live) in &self.live {
            if live.standing.borrow().ever {
                self.negotiations.confirm(*peer, *session, now.into_std());
            }
        }
        while let Some(effect) = self.negotiations.poll(now.into_std()) {
            self.apply(effect);
        }
    }

    /// When [`Sessions::settle`] has something to do.
    pub(super) fn poll_at(&self) -> Option<Instant> {
        self.negotiations.poll_at().map(Into::into)
    }

    /// Waits until something has gone on.
    pub(super) async fn progress(&mut self) {
        let news = wait_for_news(&self.live);
        tokio::select! {
            Some(prepared) = self.preparing.join_next() => match prepared {
                Ok((peer, session, prepared)) => self.prepared(peer, session, prepared),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!("a negotiation's task failed: {error}"),
            },
            Some(ended) = self.serving.join_next() => match ended {
                Ok(key) => drop(self.live.remove(&key)),
                Err(error) if error.is_cancelled() => {}
                Err(error) => tracing::error!("a session's task failed: {error}"),
            },
            (key, description) = news => {
                if let Some(live) = self.live.get_mut(&key) {
                    live.told.clone_from(&description);
                    if let Some(message) = self.negotiations.update(key.0, key.1, description) {
                        self.line.say(key.0, &message);
                    }
                }
            }
            else => std::future::pending().await,
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Start { peer, request } => self.start(peer, request),
            Effect::Send { peer, message } => self.line.say(peer, &message),
            Effect::Update { peer, session, description } => {
                if let Some(live) = self.live.get(&(peer, session)) {
                    let endpoint = live.endpoint.clone();
                    tokio::spawn(async move {
                        if let Err(error) = endpoint.meet(&description, None).await {
                            tracing::debug!("{error}");
                        }
                    });
                }
            }
            Effect::Confirmed { peer, .. } => tracing::debug!("{peer} has the offer"),
            Effect::Ended { peer, session, withdrawn } => {
                let key = (peer, session);
                if self.live.get(&key).is_some_and(|live| !live.standing.borrow().ever)
                    && let Some(live) = self.live.remove(&key)
                {
                    live.task.abort();
                    let why = if withdrawn { "it has given up" } else { "it did not answer" };
                    tracing::info!("{peer} has asked, and there is no session: {why}");
                }
            }
            Effect::Ignored(why) => tracing::debug!("a message is ignored: {why}"),
        }
    }

    fn start(&mut self, peer: Npub, request: Request) {
        let session = request.session;
        if !self.server.has_room_for(&peer.to_string()) && !self.make_room(peer) {
            let words = format!("at most {}", self.max_sessions);
            if self.told_full.insert(peer) {
                tracing::warn!("{peer} refused: the server has as many sessions as it takes");
            }
            return self.refuse(peer, session, Reason::Full, words);
        }
        self.told_full.remove(&peer);
        let (server, stun) = (self.server.clone(), self.stun.clone());
        self.preparing.spawn(async move {
            let prepared = prepare(&server, stun, peer, &request).await;
            (peer, session, prepared)
        });
    }

    /// Whether a client may have a place although all are taken: it has one already, or somebody's is of no use, because
    /// there is no path to him.
    fn make_room(&mut self, peer: Npub) -> bool {
        let gone = |live: &Live| *live.endpoint.path().borrow() == PathState::Gone;
        let of_no_use =
            self.live.iter().filter(|(_, live)| live.standing.borrow().ever && gone(live));
        // The client's own first: it is the one that comes back.
        let key = of_no_use.map(|(key, _)| *key).max_by_key(|(known, _)| *known == peer);
        if let Some(live) = key.and_then(|key| self.live.remove(&key)) {
            // In order, so that its end is recorded.
            tokio::spawn(async move { timeout(FAREWELL, live.endpoint.close()).await });
            return true;
        }
        self.live.iter().any(|((known, _), live)| *known == peer && live.standing.borrow().now > 0)
    }

    fn refuse(&mut self, peer: Npub, session: SessionId, reason: Reason, words: String) {
        let now = Instant::now().into_std();
        if let Some(message) = self.negotiations.refuse(peer, session, reason, words, now) {
            self.line.say(peer, &message);
        }
    }

    fn prepared(&mut self, peer: Npub, session: SessionId, prepared: Prepared) {
        let (endpoint, description) = match prepared {
            Prepared::Ready(endpoint, description) => (endpoint, description),
            Prepared::Refused(reason, words) => return self.refuse(peer, session, reason, words),
        };
        let nonce = match Nonce::generate() {
            Ok(nonce) => nonce,
            Err(error) => return self.refuse(peer, session, Reason::Failed, error.to_string()),
        };
        let offer = self.negotiations.offer(peer, session, nonce, description.clone());
        // The client has given up meanwhile.
        let Some(offer) = offer else { return };
        self.line.say(peer, &offer);
        let acceptor = Acceptor::new(endpoint.clone(), self.server.clone(), |_| true);
        let standing = acceptor.standing();
        let (serves, stands, shutdown) =
            (endpoint.clone(), standing.clone(), self.shutdown.clone());
        let task = self.serving.spawn(async move {
            let outcome = tokio::select! {
                outcome = acceptor.run(&shutdown) => outcome,
                () = idle(stands) => Ok(()),
                () = watch_path(serves.path()) => Ok(()),
            };
            if let Err(error) = outcome {
                tracing::warn!("{error}");
            }
            let _ = timeout(FAREWELL, serves.close()).await;
            (peer, session)
        });
        let live = Live { endpoint, standing, told: description, task };
        self.live.insert((peer, session), live);
    }

    /// Waits until every session has told its client that this side ends.
    pub(super) async fn close(&mut self) {
        self.preparing.shutdown().await;
        while self.serving.join_next().await.is_some() {}
    }
}

/// Waits until a side that nobody has answered yet has other addresses than it has told.
async fn wait_for_news(
    live: &HashMap<(Npub, SessionId), Live>,
) -> ((Npub, SessionId), Description) {
    let waiting = live.iter().filter(|(_, live)| !live.standing.borrow().ever);
    let news = waiting.map(|(key, live)| {
        let (key, endpoint, told) = (*key, live.endpoint.clone(), live.told.clone());
        Box::pin(async move { (key, endpoint.changed(&told).await) })
    });
    let news: Vec<_> = news.collect();
    if news.is_empty() {
        return std::future::pending().await;
    }
    futures_util::future::select_all(news).await.0
}

/// Ends when the client has not come, or has been away for too long.
async fn idle(mut standing: watch::Receiver<Standing>) {
    loop {
        let seen = *standing.borrow_and_update();
        let limit = match seen {
            Standing { ever: false, .. } => Some(CONNECTION),
            Standing { now: 0, .. } => Some(LINGER),
            Standing { .. } => None,
        };
        let expires = async {
            match limit {
                Some(limit) => sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expires => return,
            changed = standing.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// Checks what is asked for, and makes an endpoint that looks for the client.
async fn prepare(
    server: &Server,
    stun: Vec<StunServer>,
    peer: Npub,
    request: &Request,
) -> Prepared {
    let identity = Identity::pinned(peer.to_string());
    let refusals = server.check(&identity, &request.sources).await;
    let mut refused = Vec::new();
    for (source, refusal) in request.sources.iter().zip(&refusals) {
        if let Some(refusal) = refusal {
            tracing::warn!("{peer} asks for {source}, which is refused: {refusal}");
            // A name that does not resolve at the moment may do so later.
            if refusal.reason == RefusalReason::NotAllowed {
                refused.push(format!("{source}: {refusal}"));
            }
        }
    }
    if refused.len() == request.sources.len() {
        return Prepared::Refused(Reason::SourcesRefused(refused), String::new());
    }
    let failed = |error: &dyn ToString| Prepared::Refused(Reason::Failed, error.to_string());
    let endpoint = match Endpoint::bind(Side::Answering, stun, None).await {
        Ok(endpoint) => endpoint,
        Err(error) => return failed(&error),
    };
    let description = endpoint.gathered().await;
    match endpoint.meet(&request.description, Some(peer.to_string())).await {
        Ok(()) => Prepared::Ready(endpoint, description),
        Err(error) => failed(&error),
    }
}
