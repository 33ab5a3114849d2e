//! The server's half: lets clients in, checks what they ask for, and serves it.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_model::protocol::{self, Hello, HelloProof, Refusal, Welcome};
use tunnel_model::{CloseCode, Identity, Policy, ROLE_SERVER, Source, Transcript};

use crate::control::Control;
use crate::events::{Event, Events, SessionId};
use crate::frame::{ReadFrameError, read_frame, read_message, write_message};
use crate::limits::{self, MAX_CONNECTIONS};
use crate::transport::{Connection, Lost, PathKind, Role};

mod admission;
pub(crate) mod open;
mod session;

pub use admission::{Admission, Unauthenticated};

/// What a server takes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions at once; 0 is no limit.
    pub max_sessions: usize,
    /// A UDP flow without packets ends after this.
    pub udp_idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_sessions: limits::DEFAULT_MAX_SESSIONS, udp_idle: limits::DEFAULT_UDP_IDLE }
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
    sessions: Mutex<Vec<Entry>>,
    lookups: Arc<Semaphore>,
}

/// Connections of one client process are one client, so that a second connection beside a silent one is not turned away.
#[derive(PartialEq, Eq, Hash, Clone)]
struct Client {
    peer: Vec<u8>,
    instance: [u8; 16],
}

/// A session in the count; in the order of their beginning.
struct Entry {
    session: SessionId,
    client: Client,
    superseded: CancellationToken,
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

/// Takes a session out of the count when it ends, however it ends.
struct Place {
    shared: Arc<Shared>,
    session: SessionId,
    superseded: CancellationToken,
}

impl Place {
    /// Resolves when the client has newer connections and this one is too many.
    async fn superseded(&self) {
        self.superseded.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.sessions().retain(|entry| entry.session != self.session);
    }
}

impl Shared {
    fn sessions(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
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
        let shared = Shared {
            rules,
            limits,
            events,
            instance: random_id()?,
            sessions: Mutex::default(),
            lookups: Arc::new(Semaphore::new(limits::MAX_LOOKUPS)),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many clients have a session at the moment.
    pub fn session_count(&self) -> usize {
        let sessions = self.shared.sessions();
        sessions.iter().map(|entry| &entry.client).collect::<HashSet<_>>().len()
    }

    /// Which of `sources` a client with this identity would be refused as things stand, and why, without connecting to
    /// any of them: for transports in which the client says what it wants before there is a connection.
    pub async fn check(&self, identity: &Identity, sources: &[Source]) -> Vec<Option<Refusal>> {
        let lookups = Semaphore::new(limits::MAX_SESSION_LOOKUPS);
        let asker = open::Asker { shared: &self.shared, identity, lookups: &lookups };
        open::check(&asker, sources.to_vec(), limits::CONNECT_TIMEOUT).await
    }

    /// Serves one connection until it ends or `shutdown` resolves; then the peer is told so.
    pub async fn serve<C: Connection>(
        &self,
        connection: C,
        unauthenticated: Option<Unauthenticated>,
        shutdown: impl Future<Output = ()>,
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
            lost = discard_datagrams(&connection) => Err(Refused::new(CloseCode::Done, lost)),
            () = displaced => Err(Refused::new(CloseCode::Overloaded, "")),
            () = &mut shutdown => {
                connection.close(CloseCode::ShuttingDown, "");
                return;
            }
            lost = connection.closed() => Err(Refused::new(CloseCode::Done, lost)),
        };
        drop(unauthenticated);
        match authenticated {
            Ok(start) => session::run(&self.shared, connection, start, shutdown).await,
            Err(Refused { code: CloseCode::Done, detail }) => {
                // Gone by itself: nobody was refused.
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
        let lost = |error: &dyn ToString| Refused::new(CloseCode::Done, error.to_string());
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
        let session = SessionId(random_id().map_err(|e| broken(&e))?);
        // A pinned certificate may be a new one for each connection; what stays is who it belongs to.
        let who = if identities.pinned {
            identities.shown.clone().into_bytes()
        } else {
            identities.remote.clone()
        };
        let place = self.admit(session, who, hello.instance)?;
        let welcome = Welcome {
            version: protocol::VERSION,
            features: 0,
            instance: self.shared.instance,
            session: session.0,
            proof: transcript.prove(token, ROLE_SERVER),
        };
        let path = self.record_opened(session, &identity, connection)?;
        // Before the welcome: what the client sends upon it must find the doors open.
        connection.authenticated(Role::Server);
        write_message(&mut send, &welcome).await.map_err(|e| lost(&e))?;
        let control = (Control::new(send), recv);
        Ok(session::Start { session, identity, path, control, place })
    }

    fn admit(
        &self,
        session: SessionId,
        peer: Vec<u8>,
        instance: [u8; 16],
    ) -> Result<Place, Refused> {
        let client = Client { peer, instance };
        let mut sessions = self.shared.sessions();
        let max = self.shared.limits.max_sessions;
        let all = sessions.iter().map(|entry| &entry.client);
        let others: HashSet<_> = all.filter(|other| **other != client).collect();
        if max != 0 && others.len() >= max {
            return Err(Refused::new(CloseCode::Full, format!("at most {max}")));
        }
        let own: Vec<_> = sessions.iter().filter(|entry| entry.client == client).collect();
        if own.len() >= MAX_CONNECTIONS
            && let Some(oldest) = own.first()
        {
            oldest.superseded.cancel();
        }
        let superseded = CancellationToken::new();
        sessions.push(Entry { session, client, superseded: superseded.clone() });
        Ok(Place { shared: self.shared.clone(), session, superseded })
    }

    /// Records the session with its path of the moment, and returns that.
    fn record_opened<C: Connection>(
        &self,
        session: SessionId,
        identity: &Identity,
        connection: &C,
    ) -> Result<Option<PathKind>, Refused> {
        let path = connection.path();
        let kind = path.as_ref().map(|path| path.kind.clone());
        let opened = Event::SessionOpened {
            session,
            role: Role::Server,
            peer: identity.peer.clone(),
            identity: Some(identity.clone()),
            path,
        };
        match self.shared.events.decide(opened) {
            Ok(()) => Ok(kind),
            Err(error) => Err(Refused::new(CloseCode::ShuttingDown, error)),
        }
    }
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
