use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{
    AckFrequencyConfig, AsyncUdpSocket, ClientConfig, ConnectionError, EndpointConfig, IdleTimeout,
    ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tunnel_model::CloseCode;
use tunnel_session::client::DialError;

use crate::agent::{Agent, Command, PathState, StunServer, View};
use crate::congestion::Tolerant;
use crate::connection::{AbortOnDrop, STREAM_WINDOW, UNAUTHENTICATED_WINDOW, WINDOW, is_alert};
use crate::crypto::{self, Identity, TlsError};
use crate::sockets::PEER;
use crate::updates::{self, Message};
use crate::{
    Candidate, Credentials, Description, Fingerprint, IceConnection, IceDialer, NoRandomness, Side,
    diagnosis,
};

/// How long STUN servers may take before the description is made without them.
const GATHERING: Duration = Duration::from_secs(1);

/// A connection lives on for so long without a path. Nobody but ICE can bring the two sides together again, and it goes
/// on trying; what a longer wait costs is the memory of flows whose peer is gone.
const MAX_IDLE: Duration = Duration::from_secs(120);

/// Between signs of life, so that a connection is not idle; ICE's own checks keep the path open.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// From a connection to the client's first message.
const HELLO: Duration = Duration::from_secs(10);

/// Datagrams waiting to be sent, in bytes. The oldest are dropped beyond it: 50 ms at 100 Mbit/s, so that a full queue
/// costs a voice call little.
const DATAGRAM_SEND_BUFFER: usize = 640 * 1024;

/// Datagrams waiting to be read, in bytes: a burst at 1 Gbit/s while this process is not scheduled for 16 ms.
const DATAGRAM_RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// Packets in flight per acknowledgement asked for (draft-ietf-quic-ack-frequency).
const ACK_ELICITING_THRESHOLD: u32 = 10;

/// Connections at once whose handshake has not been taken up. There is one peer, which dials twice at most; whoever knows
/// the descriptions can pretend to be it for so long.
const MAX_INCOMING: usize = 8;

/// What may be kept of each of them, in bytes: a handshake's first packets.
const INCOMING_BUFFER: u64 = 64 * 1024;

/// QUIC's first guess of the round-trip time, at least: what ICE has measured does not include that the peer is busy.
const LEAST_INITIAL_RTT: Duration = Duration::from_millis(20);

/// Streams before authentication: that of updates, and the one that authenticates.
const UNAUTHENTICATED_STREAMS: u32 = 2;

/// Why an endpoint is of no use.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// No random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// No TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// QUIC does not take the sockets.
    #[error("cannot start QUIC: {0}")]
    Quic(io::Error),
    /// The machine has no address at all.
    #[error("this machine has no address to be reached at: is its network up?")]
    NoAddress,
    /// A peer is there already.
    #[error("this endpoint has a peer already")]
    Taken,
}

/// One side of one session: its sockets, its certificate, and the peer once it is known. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    agent: Agent,
    quic: quinn::Endpoint,
    identity: Identity,
    credentials: Credentials,
    peer: OnceLock<Peer>,
    /// What the client tells in its first message.
    reveal: Option<[u8; 16]>,
    side: Side,
    /// Whether the peer has said that it ends.
    peer_ended: Arc<AtomicBool>,
    gathering_ends: Instant,
}

struct Peer {
    fingerprint: Fingerprint,
    /// For people.
    shown: Arc<str>,
    client: Arc<QuicClientConfig>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

fn transport(initial_rtt: Option<Duration>) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_ELICITING_THRESHOLD.into());
    // The time fits by far.
    let idle = IdleTimeout::try_from(MAX_IDLE).unwrap_or(IdleTimeout::from(VarInt::MAX));
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(UNAUTHENTICATED_WINDOW.into())
        .send_window(WINDOW.into())
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER)
        .datagram_receive_buffer_size(Some(DATAGRAM_RECEIVE_BUFFER))
        .max_concurrent_bidi_streams(UNAUTHENTICATED_STREAMS.into())
        .max_concurrent_uni_streams(0u32.into())
        .congestion_controller_factory(Arc::new(Tolerant))
        .ack_frequency_config(Some(acks));
    if let Some(rtt) = initial_rtt {
        config.initial_rtt(rtt.max(LEAST_INITIAL_RTT));
    }
    config
}

impl Endpoint {
    /// Opens sockets and asks STUN servers, if there are any; with none, nobody but the peer is ever sent a packet.
    ///
    /// `reveal` is what the client tells the server first.
    ///
    /// # Errors
    ///
    /// Where the machine has no network, or lacks random numbers.
    pub async fn bind(
        side: Side,
        stun_servers: Vec<StunServer>,
        reveal: Option<[u8; 16]>,
    ) -> Result<Self, EndpointError> {
        let identity = Identity::generate()?;
        let credentials = Credentials::generate()?;
        let gathering_ends = Instant::now() + GATHERING;
        let agent = Agent::start(side, &credentials, stun_servers).await;
        if agent.sockets.addresses().is_empty() {
            return Err(EndpointError::NoAddress);
        }
        let mut config = EndpointConfig::default();
        // Told from STUN by it (RFC 9443 section 3).
        config.grease_quic_bit(false);
        let sockets: Arc<dyn AsyncUdpSocket> = agent.sockets.clone();
        let quic = quinn::Endpoint::new_with_abstract_socket(
            config,
            None,
            sockets,
            Arc::new(TokioRuntime),
        )
        .map_err(EndpointError::Quic)?;
        let inner = Inner {
            agent,
            quic,
            identity,
            credentials,
            peer: OnceLock::new(),
            reveal,
            side,
            peer_ended: Arc::default(),
            gathering_ends,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    fn view(&self) -> View {
        self.inner.agent.view.borrow().clone()
    }

    /// What to tell the peer, once every STUN server has answered or a second has passed.
    pub async fn gathered(&self) -> Description {
        let mut view = self.inner.agent.view.clone();
        let _ = timeout_at(self.inner.gathering_ends, view.wait_for(|view| view.settled)).await;
        self.describe()
    }

    /// What to tell the peer as things stand.
    pub fn describe(&self) -> Description {
        let View { candidates, mapping_v4, mapping_v6, .. } = self.view();
        Description {
            credentials: self.inner.credentials.clone(),
            fingerprint: self.inner.identity.fingerprint(),
            candidates,
            mapping_v4,
            mapping_v6,
        }
    }

    /// What to tell the peer once that is more than, or other than, what it was told.
    pub async fn changed(&self, told: &Description) -> Description {
        let mut view = self.inner.agent.view.clone();
        let news = |view: &View| {
            !view.candidates.is_empty()
                && view.candidates.iter().any(|candidate| !told.candidates.contains(candidate))
        };
        // The agent lives as long as the endpoint.
        let _ = view.wait_for(news).await;
        self.describe()
    }

    /// Names of STUN servers that could not be resolved, with the reason.
    pub fn unresolved(&self) -> Vec<String> {
        self.view().unresolved
    }

    /// Looks for a path to the peer, and lets it and nobody else connect. Called again, it takes the peer's new
    /// addresses. People know the peer by `name`, or else by its fingerprint.
    ///
    /// # Errors
    ///
    /// Where the description is that of another peer than before.
    pub async fn meet(
        &self,
        peer: &Description,
        name: Option<String>,
    ) -> Result<(), EndpointError> {
        let fingerprint = peer.fingerprint;
        match self.inner.peer.get() {
            Some(known) if known.fingerprint != fingerprint => return Err(EndpointError::Taken),
            Some(_) => {}
            None => {
                let client = Arc::new(self.inner.identity.client(fingerprint)?);
                if self.inner.side == Side::Answering {
                    let server = self.inner.identity.server(fingerprint)?;
                    let mut server = ServerConfig::with_crypto(Arc::new(server));
                    server
                        .transport_config(Arc::new(transport(None)))
                        .max_incoming(MAX_INCOMING)
                        .incoming_buffer_size(INCOMING_BUFFER)
                        .incoming_buffer_size_total(INCOMING_BUFFER * MAX_INCOMING as u64);
                    self.inner.quic.set_server_config(Some(server));
                }
                // Another caller has met the same peer.
                // 64 bits tell peers apart and stay readable.
                let shown = name.unwrap_or_else(|| fingerprint.to_string()[..16].to_owned());
                let _ = self.inner.peer.set(Peer { fingerprint, shown: shown.into(), client });
            }
        }
        let usable = peer.candidates.iter().copied().filter(Candidate::is_usable);
        let (credentials, candidates) = (peer.credentials.clone(), usable.collect());
        self.inner.agent.tell(Command::Remote(credentials, candidates)).await;
        Ok(())
    }

    /// The state of the path, and each one that follows.
    pub fn path(&self) -> watch::Receiver<PathState> {
        self.inner.agent.path.clone()
    }

    /// Why there is no path to the peer, as far as that can be known.
    pub fn diagnose(&self, peer: &Description) -> String {
        diagnosis::explain(&self.describe(), peer, &self.unresolved())
    }

    /// What dials the peer.
    pub fn dialer(&self) -> IceDialer {
        IceDialer::new(self.clone())
    }

    /// Whether the peer has said that it ends.
    pub fn was_ended_by_peer(&self) -> bool {
        self.inner.peer_ended.load(Ordering::Relaxed)
    }

    /// The peer's next connection, before its handshake; `None` once the endpoint is closed.
    pub async fn accept(&self) -> Option<Accepting> {
        let incoming = self.inner.quic.accept().await?;
        Some(Accepting { incoming, endpoint: self.clone() })
    }

    /// Dials the peer over the present path.
    pub(crate) async fn dial(&self) -> Result<IceConnection, DialError> {
        let failed = |message: String| DialError { message, fatal: false };
        let unknown = || failed("the peer is not known yet".to_owned());
        let peer = self.inner.peer.get().ok_or_else(unknown)?;
        let mut path = self.path();
        let up = path.wait_for(|state| matches!(state, PathState::Up(_))).await;
        let rtt = match up.map(|state| *state) {
            Ok(PathState::Up(path)) => Some(path.rtt),
            _ => None,
        };
        let mut config = ClientConfig::new(peer.client.clone());
        config.transport_config(Arc::new(transport(rtt)));
        let connecting = self
            .inner
            .quic
            .connect_with(config, PEER, crypto::server_name())
            .map_err(|error| failed(error.to_string()))?;
        let connection = connecting.await.map_err(|error| dial_error(&error))?;
        let (mut send, recv) = connection.open_bi().await.map_err(|error| dial_error(&error))?;
        let hello = Message::Hello { reveal: self.inner.reveal };
        updates::write(&mut send, &hello).await.map_err(|error| failed(error.to_string()))?;
        Ok(self.stand(connection, send, recv))
    }

    fn stand(
        &self,
        connection: quinn::Connection,
        send: quinn::SendStream,
        recv: quinn::RecvStream,
    ) -> IceConnection {
        let agent = &self.inner.agent;
        let updates = updates::exchange(send, recv, agent.view.clone(), agent.teller());
        let updates = AbortOnDrop(tokio::spawn(updates));
        // A connection has stood, so its certificate was the pinned one.
        let (remote, shown) = match self.inner.peer.get() {
            Some(peer) => (peer.fingerprint, peer.shown.clone()),
            None => (Fingerprint([0; 32]), "".into()),
        };
        let identities = [self.inner.identity.fingerprint(), remote];
        let peer_ended = self.inner.peer_ended.clone();
        IceConnection::new(connection, identities, shown, peer_ended, updates, self.clone())
    }

    /// How often a check has shown that the peer is there; only comparing values means anything.
    pub(crate) fn answers(&self) -> u64 {
        self.inner.agent.sockets.answers()
    }

    /// Where the peer is at the moment.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match *self.inner.agent.path.borrow() {
            PathState::Up(path) => Some(path.remote),
            PathState::Searching | PathState::Gone => None,
        }
    }

    /// Closes every connection and waits until the peer has been told.
    pub async fn close(&self) {
        let code = VarInt::try_from(CloseCode::ShuttingDown.code()).unwrap_or_default();
        self.inner.quic.close(code, b"");
        self.inner.quic.wait_idle().await;
    }
}

/// A connection that has come in.
#[derive(Debug)]
pub struct Accepting {
    incoming: quinn::Incoming,
    endpoint: Endpoint,
}

impl Accepting {
    /// Completes the handshake, and reads what the client tells first: its part of the short code, where there is one.
    ///
    /// # Errors
    ///
    /// What came instead, or that nothing did.
    pub async fn complete(self) -> Result<(IceConnection, Option<[u8; 16]>), AcceptError> {
        timeout(HELLO, async {
            let connection = self.incoming.await?;
            let (send, mut recv) = connection.accept_bi().await?;
            match updates::read(&mut recv).await {
                Ok(Message::Hello { reveal }) => {
                    Ok((self.endpoint.stand(connection, send, recv), reveal))
                }
                Ok(Message::Candidates(_)) | Err(_) => Err(AcceptError::NoHello),
            }
        })
        .await
        .unwrap_or(Err(AcceptError::TimedOut))
    }
}

impl From<ConnectionError> for AcceptError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::TransportError(error) if is_alert(error.code) => Self::UnknownPeer,
            ConnectionError::ConnectionClosed(close) if is_alert(close.error_code) => {
                Self::Rejected
            }
            other => Self::Handshake(other),
        }
    }
}

/// Why an incoming connection came to nothing.
#[derive(Debug, Error)]
pub enum AcceptError {
    /// Its certificate is not the one that was told.
    #[error("its certificate is not the one in the peer's description")]
    UnknownPeer,
    /// It does not take this side's certificate for the one that it was told.
    #[error("it was told another certificate than this side's")]
    Rejected,
    /// The handshake failed otherwise.
    #[error("the handshake failed: {0}")]
    Handshake(ConnectionError),
    /// The client's first message is no hello.
    #[error("the client's first message is not understood")]
    NoHello,
    /// It took too long.
    #[error("nothing came within {} s", HELLO.as_secs())]
    TimedOut,
}

fn dial_error(error: &ConnectionError) -> DialError {
    match error {
        // This side's own verdict on the certificate; that of somebody else on the way could be forged.
        ConnectionError::TransportError(error) if is_alert(error.code) => {
            DialError { message: CloseCode::UnknownPeer.to_string(), fatal: true }
        }
        other => DialError { message: other.to_string().escape_debug().to_string(), fatal: false },
    }
}

#[cfg(test)]
mod tests {
    use tunnel_session::client::Dialer as _;
    use tunnel_session::transport::{Connection as _, RecvStream as _, SendStream as _};

    use super::*;

    /// Enough for the search for the path's MTU to have found it.
    const DATA: usize = 4 * 1024 * 1024;

    /// Two sides that know each other, with a connection between them.
    async fn connected() -> (IceConnection, IceConnection) {
        let client = Endpoint::bind(Side::Offering, Vec::new(), Some([7; 16])).await.unwrap();
        let server = Endpoint::bind(Side::Answering, Vec::new(), None).await.unwrap();
        server.meet(&client.gathered().await, None).await.unwrap();
        client.meet(&server.gathered().await, None).await.unwrap();
        let accepted = async { server.accept().await.unwrap().complete().await.unwrap() };
        let dialer = client.dialer();
        let (dialled, (accepted, reveal)) = tokio::join!(dialer.dial(), accepted);
        assert_eq!(reveal, Some([7; 16]));
        (dialled.unwrap(), accepted)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn packets_grow_to_what_the_path_takes_and_none_is_taken_for_anothers() {
        let (client, server) = timeout(Duration::from_secs(20), connected()).await.unwrap();
        client.authenticated(tunnel_session::transport::Role::Client);
        server.authenticated(tunnel_session::transport::Role::Server);
        let sent = async {
            let (mut send, _recv) = client.open_bi().await.unwrap();
            send.write_chunks(&mut [vec![1; DATA].into()]).await.unwrap();
            send.finish();
            send.stopped().await.unwrap();
        };
        let received = async {
            let (_send, mut recv) = server.accept_bi().await.unwrap();
            let mut data = vec![0; DATA];
            assert!(recv.read_exact(&mut data).await.unwrap());
            assert!(data.iter().all(|byte| *byte == 1));
            assert!(!recv.read_exact(&mut [0]).await.unwrap());
        };
        let both = async { tokio::join!(sent, received) };
        timeout(Duration::from_secs(20), both).await.unwrap();
        let stats = client.stats();
        assert!(stats.current_mtu > 1200, "the sockets are taken to fragment: {stats:?}");
        // Packets whose fixed bit is greased would not get past the sorting.
        assert!(
            stats.lost_packets * 100 < stats.sent_packets,
            "packets are thrown away: {stats:?}"
        );
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_peer_with_another_certificate_is_not_let_in() {
        let client = Endpoint::bind(Side::Offering, Vec::new(), None).await.unwrap();
        let server = Endpoint::bind(Side::Answering, Vec::new(), None).await.unwrap();
        let mut altered = client.gathered().await;
        altered.fingerprint = Fingerprint([0x5a; 32]);
        server.meet(&altered, None).await.unwrap();
        client.meet(&server.gathered().await, None).await.unwrap();
        let accepted = async { server.accept().await.unwrap().complete().await };
        let dialer = client.dialer();
        let both = async { tokio::join!(dialer.dial(), accepted) };
        let (_dialled, accepted) = timeout(Duration::from_secs(20), both).await.unwrap();
        assert!(matches!(accepted, Err(AcceptError::UnknownPeer)), "{accepted:?}");
    }
}
