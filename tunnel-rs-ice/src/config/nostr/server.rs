use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::settings::{AllowFile, AllowedSources, OneOrMany};
use tunnel_cli::{Outcome, SecretText};
use tunnel_ice::StunServer;
use tunnel_ice::signaling::nostr::{NostrKey, Npub, RelayUrl};
use tunnel_session::server::Limits;

use super::super::Settings;
use super::super::server::{BothArgs, RuleSource};
use super::{NostrArgs, NostrFile, peers};

/// How many sessions a server takes where nothing else is said: people, each with a key that was written down here.
const DEFAULT_MAX_SESSIONS: usize = 10;

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Nostr mode")]
pub(in crate::config) struct NostrServerArgs {
    /// The public key of a client that may come in: an npub or 64 hexadecimal digits; repeatable
    // Any text is taken, and variables are not shown, as a secret key may stand there by mistake.
    #[arg(
        long,
        value_name = "KEY",
        env = "TUNNEL_RS_PEER_NPUB",
        value_delimiter = ',',
        hide_env_values = true
    )]
    peer_npub: Vec<SecretText>,
    #[command(flatten)]
    nostr: NostrArgs,
    /// Sessions at once; 0 is no limit [default: 10]
    #[arg(long, value_name = "N", env = "TUNNEL_RS_MAX_SESSIONS")]
    max_sessions: Option<usize>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct NostrServerFile {
    nsec: Option<SecretText>,
    nsec_file: Option<PathBuf>,
    peer_npub: OneOrMany<SecretText>,
    #[serde(alias = "relay")]
    relays: Option<OneOrMany<String>>,
    max_sessions: Option<usize>,
    allowed_sources: AllowedSources,
    allowed_tcp: OneOrMany<String>,
    allowed_udp: OneOrMany<String>,
    #[serde(alias = "stun_server")]
    stun_servers: Option<OneOrMany<String>>,
    udp_idle_timeout: Option<u64>,
    session_grace: Option<u64>,
    drain_timeout: Option<u64>,
    health_addr: Option<SocketAddr>,
}

/// Everything that a server runs by in nostr mode.
pub(crate) struct NostrServerConfig {
    pub(crate) key: NostrKey,
    /// The clients that may come in; at least one, each once, and not this side itself.
    pub(crate) peers: Vec<Npub>,
    /// Where clients ask; at least one, each once.
    pub(crate) relays: Vec<RelayUrl>,
    /// Whom to ask for this machine's public address; possibly nobody.
    pub(crate) stun: Vec<StunServer>,
    pub(crate) limits: Limits,
    /// What clients may reach.
    pub(crate) rules: RuleSource,
    /// How long it drains on SIGTERM; zero for not at all.
    pub(crate) drain: Duration,
    /// Where it tells health and metrics.
    pub(crate) health: Option<SocketAddr>,
}

impl NostrServerArgs {
    pub(in crate::config) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.nostr.prefer_command_line(matches);
    }

    pub(in crate::config) fn resolve(
        self,
        both: BothArgs,
        read: NostrServerFile,
        settings: Settings,
    ) -> Outcome<NostrServerConfig> {
        let file = NostrFile { nsec: read.nsec, nsec_file: read.nsec_file, relays: read.relays };
        let (key, relays) = self.nostr.resolve(file, settings.path.as_deref())?;
        let peers = peers(self.peer_npub, read.peer_npub, key.npub())?;
        let stun = both.stun.resolve(read.stun_servers)?;
        let mut limits = Limits {
            max_sessions: self.max_sessions.or(read.max_sessions).unwrap_or(DEFAULT_MAX_SESSIONS),
            ..Limits::default()
        };
        if let Some(time) = both.udp_idle.resolve(read.udp_idle_timeout)? {
            limits.udp_idle = time;
        }
        limits.grace = both.grace.resolve(read.session_grace)?;
        let rules = RuleSource::new(both.allowed, settings);
        let drain = both.drain.resolve(read.drain_timeout)?;
        let health = both.health.resolve(read.health_addr);
        Ok(NostrServerConfig { key, peers, relays, stun, limits, rules, drain, health })
    }
}

impl From<NostrServerFile> for AllowFile {
    fn from(read: NostrServerFile) -> Self {
        Self {
            allowed_sources: read.allowed_sources,
            allowed_tcp: read.allowed_tcp,
            allowed_udp: read.allowed_udp,
        }
    }
}
