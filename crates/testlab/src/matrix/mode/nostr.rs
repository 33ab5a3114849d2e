use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Mode, Opened, Tunnel};
use crate::{
    Result,
    ice::paths,
    matrix::Pair,
    nat::{Outcome, expected},
    net::{NatLab, StunServers},
    nostr::{Attempt, Manner, NostrClient, NostrConfig, NostrKey, NostrRelay, NostrServer},
    tunnel::PathKind,
};

/// How long a client has, from the start of both sides, to connect or to say that there is no path and why: relays that
/// are reached, STUN servers that are asked, and the 10 s in which manual mode does the rest, on a busy machine.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(30);

/// For a relay to die that has got the event which it dies with.
const DEATH_LIMIT: Duration = Duration::from_secs(10);

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

/// `tunnel-rs-ice client nostr` and `server nostr` with two STUN servers and a relay, or several, that both reach.
///
/// Time begins with the start of the server's process, which the client's follows at once.
#[derive(Clone, Debug)]
pub struct Nostr {
    binary: PathBuf,
    relays: &'static [Manner],
}

impl Nostr {
    /// With one relay, for the program `tunnel-rs-ice` at this path.
    pub fn new(binary: &Path) -> Self {
        Self { binary: binary.to_owned(), relays: &[Manner::Good] }
    }

    /// With three relays: one dies with the client's first event, one with the event after it, and one lives.
    pub fn with_dying_relays(binary: &Path) -> Self {
        let relays = &[Manner::Mortal(0), Manner::Mortal(1), Manner::Good];
        Self { binary: binary.to_owned(), relays }
    }
}

impl Mode for Nostr {
    /// As in manual mode: once both sides have each other's addresses, it is the same.
    fn expected(&self, pair: Pair) -> Outcome {
        expected(pair.client, pair.server).without_relay()
    }

    fn open(&self, lab: &NatLab, port: u16) -> Result<Opened> {
        let stun = lab.start_stun()?;
        let relays: Vec<_> = self
            .relays
            .iter()
            .map(|manner| NostrRelay::start(&lab.relay, NatLab::RELAY_NAME, *manner))
            .collect::<Result<_>>()?;
        let config = NostrConfig::new(&self.binary, Some(&stun));
        let config = relays.iter().fold(config, |config, relay| config.relay(&relay.url));
        let keys = [config.key()?, config.key()?];
        let [client_key, server_key] = &keys;
        let source = format!("tcp://127.0.0.1:{port}");
        let server = config.server(server_key, [client_key]).allow("127.0.0.0/8");
        let client = config.client(client_key, server_key).forward(&source, "127.0.0.1:0");

        let is_mortal = |manner: &Manner| matches!(manner, Manner::Mortal(_));
        let (mortal, lasting): (Vec<_>, Vec<_>) =
            relays.iter().zip(self.relays).partition(|(_, manner)| is_mortal(manner));
        // As long as some are to die the others stand still: a session that stands publishes nothing to die with.
        for (relay, _) in lasting.iter().filter(|_| !mortal.is_empty()) {
            relay.process.signal(SIGSTOP)?;
        }
        let started = Instant::now();
        let server = server.start(Some(&lab.b.host))?;
        let client = client.start(Some(&lab.a.host))?;
        for (relay, _) in &mortal {
            relay.process.wait_exit(DEATH_LIMIT)?;
        }
        for (relay, _) in lasting.iter().filter(|_| !mortal.is_empty()) {
            relay.process.signal(SIGCONT)?;
        }
        let attempt = client.attempt(ATTEMPT_LIMIT.saturating_sub(started.elapsed()))?;
        if let Attempt::NoPath(_) = attempt {
            return Ok(Opened::Impossible);
        }
        let entrance = client.target(&source)?;
        Ok(Opened::Tunnel(Box::new(NostrTunnel {
            client,
            _server: server,
            _relays: relays,
            _stun: stun,
            _keys: keys,
            started,
            entrance,
        })))
    }
}

/// Fields are dropped in this order, so that no program is surprised by another one's end.
struct NostrTunnel {
    client: NostrClient,
    _server: NostrServer,
    _relays: Vec<NostrRelay>,
    _stun: StunServers,
    _keys: [NostrKey; 2],
    started: Instant,
    entrance: SocketAddr,
}

impl Tunnel for NostrTunnel {
    fn started(&self) -> Instant {
        self.started
    }

    fn entrance(&self) -> SocketAddr {
        self.entrance
    }

    fn paths(&self) -> Vec<(PathKind, Instant)> {
        paths(&self.client.process).into_iter().map(|(_, at)| (PathKind::Direct, at)).collect()
    }

    fn output(&self) -> String {
        self.client.process.output()
    }
}
