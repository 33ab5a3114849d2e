//! The server's half: lets clients in, checks what they ask for, and serves it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tunnel_model::protocol::{
    self, FEATURE_RESUME, FEATURE_VPN, Hello, HelloProof, Refusal, Welcome,
};
use tunnel_model::resume::{Resumption, ResumptionSecret, ResumptionTranscript};
use tunnel_model::{CloseCode, Identity, Policy, ROLE_SERVER, Source, Transcript};

use crate::events::{Event, Events, SessionId};
use crate::forward::{Counters, Traffic};
use crate::frame::{ReadFrameError, read_frame, read_message, write_message};
use crate::limits;
use crate::transport::{Connection, Lost, Role};
use crate::vpn::VpnServer;

mod admission;
pub(crate) mod open;
mod places;
mod session;

use places::{Client, Places};

pub use admission::{Admission, Unauthenticated};

/// What a server takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions at once; 0 is no limit.
    pub max_sessions: usize,
    /// A UDP flow without packets ends after this.
    pub udp_idle: Duration,
    /// How long a session with open flows is kept without a connection, at most [`limits::MAX_GRACE`]; zero for not at
    /// all.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: limits::DEFAULT_MAX_SESSIONS,
            udp_idle: limits::DEFAULT_UDP_IDLE,
            grace: limits::DEFAULT_GRACE,
        }
    }
}

/// The operating system gave no random numbers.
#[derive(Debug, Error)]
#[error("the operating system has no random numbers to give: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

pub(crate) fn random_id() -> Result<[u8; 16], NoRandomness> {
    let mut id = [0; 16];
    getrandom::fill(&mut id)?;
    Ok(id)
}

/// The server's half of every session of a process; cheap to clone.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    rules: watch::Receiver<Arc<Policy>>,
    limits: Limits,
    events: Events,
    instance: [u8; 16],
    vpn: Option<Arc<dyn VpnServer>>,
    places: Places,
    lookups: Arc<Semaphore>,
    /// Bytes that all sessions keep to be sent again.
    held: Arc<AtomicUsize>,
    /// Payload of all sessions.
    traffic: Arc<Counters>,
    /// Nothing new is taken.
    draining: CancellationToken,
    /// The flows of all sessions that are not over.
    flows: TaskTracker,
    closing: CancellationToken,
    /// One task for each session.
    watching: TaskTracker,
}

/// Why a client was not let in.
struct Refused {
    code: CloseCode,
    /// For the log and the client; holds nothing secret.
    detail: String,
}

impl Refused {
    fn new(code: CloseCode, detail: impl ToString) -> Self {
        Self { code, detail: detail.to_string() }
    }
}

impl Server {
    /// A server under `rules`, which may change at any time: sessions and flows that they no longer allow are cut.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn new(
        rules: watch::Receiver<Arc<Policy>>,
        limits: Limits,
        events: Events,
    ) -> Result<Self, NoRandomness> {
        Self::with_vpn(rules, limits, events, None)
    }

    /// The same with a VPN, where `vpn` runs one. The rules say who may come into it.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn with_vpn(
        rules: watch::Receiver<Arc<Policy>>,
        limits: Limits,
        events: Events,
        vpn: Option<Arc<dyn VpnServer>>,
    ) -> Result<Self, NoRandomness> {
        let shared = Shared {
            rules,
            limits,
            events,
            instance: random_id()?,
            vpn,
            places: Places::default(),
            lookups: Arc::new(Semaphore::new(limits::MAX_LOOKUPS)),
            held: Arc::default(),
            traffic: Arc::default(),
            draining: CancellationToken::new(),
            flows: TaskTracker::new(),
            closing: CancellationToken::new(),
            watching: TaskTracker::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many clients have a session at the moment, with a connection or without.
    pub fn session_count(&self) -> usize {
        self.shared.places.clients()
    }

    /// Payload of all sessions so far.
    pub fn traffic(&self) -> Traffic {
        self.shared.traffic.traffic()
    }

    /// From here on lets in no client that has no session, and opens no flow. What there is goes on, and sessions that are
    /// without a connection may have another one.
    pub fn drain(&self) {
        self.shared.draining.cancel();
        self.shared.flows.close();
    }

    /// Resolves once it drains and no flow is left, and what flows have sent at last has arrived. (It is not known whether
    /// that has arrived of sessions that could not be resumed.)
    pub async fn drained(&self) {
        self.shared.draining.cancelled().await;
        self.shared.flows.wait().await;
    }

    /// Whether there is room for one more session of the client whom people know as `peer`: sessions of its own count as
    /// nobody else's, and those without a connection make room.
    pub fn has_room_for(&self, peer: &str) -> bool {
        let max = self.shared.limits.max_sessions;
        max == 0 || self.shared.places.present_besides(peer.as_bytes()) < max
    }

    /// Ends all sessions, also those that are kept without a connection, and waits until their ends have been reported.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.watching.close();
        self.shared.watching.wait().await;
    }

    /// Which of `sources` a client with this identity would be refused as things stand, and why, without connecting to
    /// any of them: for transports in which the client says what it wants before there is a connection.
    pub async fn check(&self, identity: &Identity, sources: &[Source]) -> Vec<Option<Refusal>> {
        let lookups = Arc::new(Semaphore::new(limits::MAX_SESSION_LOOKUPS));
        let asker = open::Asker { shared: &self.shared, identity, lookups: &lookups };
        open::check(&asker, sources.to_vec(), limits::CONNECT_TIMEOUT).await
    }

    /// Serves one connection until it ends or `shutdown` resolves; then the peer is told so. Its session may be kept
    /// beyond that, for the client's next connection.
    pub async fn serve<C: Connection>(
        &self,
        connection: C,
        unauthenticated: Option<Unauthenticated>,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        let peer = connection.identities().shown;
        let displaced = async {
            match &unauthenticated {
                Some(place) => place.displaced().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(shutdown);
        let authenticated = tokio::select! {
            result = timeout(limits::AUTHENTICATION_TIMEOUT, self.authenticate(&connection)) => {
                result.unwrap_or_else(|_| {
                    Err(Refused::new(CloseCode::AuthenticationTimeout, "no valid hello in time"))
                })
            }
            // Nothing of a stranger's is kept, datagrams neither.
            lost = discard_datagrams(&connection) => Err(Refused::new(CloseCode::Dropped, lost)),
            () = displaced => Err(Refused::new(CloseCode::Overloaded, "")),
            () = &mut shutdown => {
                connection.close(CloseCode::ShuttingDown, "");
                return;
            }
            lost = connection.closed() => Err(Refused::new(CloseCode::Dropped, lost)),
        };
        drop(unauthenticated);
        match authenticated {
            Ok(start) => session::serve(connection, start, shutdown).await,
            Err(Refused { code: CloseCode::Dropped, detail }) => {
                // Gone by itself: nobody was refused. Who has only let go of the stream is not kept either.
                connection.close(CloseCode::Dropped, "");
                tracing::debug!("{peer} left before it had authenticated: {detail}");
            }
            Err(Refused { code, detail }) => {
                connection.close(code, &detail);
                // A refusal that cannot be recorded is still a refusal.
                let _ = self.shared.events.decide(Event::SessionRefused { peer, code, detail });
            }
        }
    }

    async fn authenticate<C: Connection>(
        &self,
        connection: &C,
    ) -> Result<session::Start<C>, Refused> {
        let broken =
            |error: &dyn ToString| Refused::new(CloseCode::ProtocolError, error.to_string());
        let lost = |error: &dyn ToString| Refused::new(CloseCode::Dropped, error.to_string());
        let (mut send, mut recv) = connection.accept_bi().await.map_err(|e| lost(&e))?;
        let unread = |error: ReadFrameError| match error {
            ReadFrameError::Read(error) => lost(&error),
            error => broken(&error),
        };
        let hello_bytes = read_frame(&mut recv, protocol::MAX_HELLO)
            .await
            .map_err(unread)?
            .ok_or_else(|| broken(&"the stream ended before the hello"))?;
        let hello: Hello = match protocol::decode(&hello_bytes) {
            Ok(hello) => hello,
            // The version stands first, whatever follows it in other versions.
            Err(error) => match protocol::peek_version(&hello_bytes) {
                Some(version) if version != protocol::VERSION => {
                    return Err(version_refused(version));
                }
                _ => return Err(broken(&error)),
            },
        };
        if hello.version != protocol::VERSION {
            return Err(version_refused(hello.version));
        }
        let HelloProof { proof } =
            read_message(&mut recv, protocol::MAX_HELLO).await.map_err(unread)?;
        let identities = connection.identities();
        let keying_material = connection
            .keying_material(Transcript::LABEL)
            .ok_or_else(|| broken(&"the transport has no keying material"))?;
        let transcript = Transcript {
            keying_material: &keying_material,
            client: &identities.remote,
            server: &identities.local,
            hello: &hello_bytes,
        };
        let rules = self.shared.rules.borrow().clone();
        let (identity, token) = rules
            .authenticate(&transcript, &proof, &identities.shown, identities.pinned)
            .ok_or_else(|| Refused::new(CloseCode::BadToken, ""))?;
        let newcomer = Newcomer {
            identity,
            // A pinned certificate may be a new one for each connection; what stays is who it belongs to.
            client: Client {
                peer: if identities.pinned {
                    identities.shown.clone().into_bytes()
                } else {
                    identities.remote.clone()
                },
                instance: hello.instance,
            },
            secret: (hello.features & FEATURE_RESUME != 0)
                .then(|| connection.keying_material(ResumptionSecret::LABEL))
                .flatten()
                .map(ResumptionSecret::new),
        };
        let resumption = hello.resume.as_deref().and_then(Resumption::from_bytes);
        let resumption = resumption.as_ref().map(|resumption| {
            let transcript = ResumptionTranscript {
                keying_material: &keying_material,
                client: &identities.remote,
                server: &identities.local,
            };
            (resumption, transcript)
        });
        let session = self.admit(connection, newcomer, resumption).await?;
        let welcome = Welcome {
            version: protocol::VERSION,
            features: if self.shared.vpn.is_some() { FEATURE_VPN } else { 0 },
            instance: self.shared.instance,
            session: session.id().0,
            proof: transcript.prove(token, ROLE_SERVER),
            grace: session.grace(),
        };
        // Before the welcome: what the client sends upon it must find the doors open.
        connection.authenticated(Role::Server);
        // Where that fails, or takes too long, the session is without a connection.
        write_message(&mut send, &welcome).await.map_err(|error| lost(&error))?;
        Ok(session.start((send, recv)).await)
    }

    /// Finds the session that a client goes on with, or begins one.
    async fn admit<C: Connection>(
        &self,
        connection: &C,
        mut newcomer: Newcomer,
        resumption: Option<(&Resumption, ResumptionTranscript<'_>)>,
    ) -> Result<session::Admitted<C>, Refused> {
        if let Some((resumption, transcript)) = resumption {
            let id = SessionId(resumption.session);
            let kept = self.shared.places.get(id).and_then(|any| any.downcast().ok());
            let kept: Option<Arc<session::Session<C>>> = kept;
            if let Some(kept) = kept
                && kept.is_of(&newcomer, resumption, &transcript)
                && let Some(admitted) = kept.take_over(connection, &mut newcomer.secret).await?
            {
                return Ok(admitted);
            }
            tracing::debug!(session = %id, "not to be resumed: unknown, over, or another client's");
        }
        if self.shared.draining.is_cancelled() {
            return Err(Refused::new(CloseCode::ShuttingDown, ""));
        }
        let id = SessionId(random_id().map_err(|e| Refused::new(CloseCode::ProtocolError, e))?);
        session::Session::begin(&self.shared, id, connection, newcomer)
    }
}

/// A client that has authenticated.
struct Newcomer {
    identity: Identity,
    client: Client,
    /// With which its session can go on; none where it cannot.
    secret: Option<ResumptionSecret>,
}

/// Throws away what comes until the connection ends.
async fn discard_datagrams<C: Connection>(connection: &C) -> Lost {
    let mut datagrams = [const { Bytes::new() }; 16];
    loop {
        if let Err(lost) = connection.read_datagrams(&mut datagrams).await {
            return lost;
        }
        datagrams.fill(Bytes::new());
    }
}

fn version_refused(version: u16) -> Refused {
    let detail = format!("the client speaks {version}, the server {}", protocol::VERSION);
    Refused::new(CloseCode::VersionMismatch, detail)
}
