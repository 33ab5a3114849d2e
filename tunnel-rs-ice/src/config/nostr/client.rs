use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::settings::{ForwardFile, OneOrMany, TunnelFile};
use tunnel_cli::{Failure, Outcome, SecretText};
use tunnel_ice::StunServer;
use tunnel_ice::signaling::nostr::{NostrKey, Npub, RelayUrl};
use tunnel_model::Forward;

use super::super::client::BothArgs;
use super::{NostrArgs, NostrFile, peers};

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Nostr mode")]
pub(in crate::config) struct NostrClientArgs {
    /// The public key of the server: an npub or 64 hexadecimal digits
    // Any text is taken, and the variable is not shown, as a secret key may stand there by mistake.
    #[arg(long, value_name = "KEY", env = "TUNNEL_RS_PEER_NPUB", hide_env_values = true)]
    peer_npub: Option<SecretText>,
    #[command(flatten)]
    nostr: NostrArgs,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
pub(in crate::config) struct NostrClientFile {
    nsec: Option<SecretText>,
    nsec_file: Option<PathBuf>,
    peer_npub: OneOrMany<SecretText>,
    #[serde(alias = "relay")]
    relays: Option<OneOrMany<String>>,
    #[serde(alias = "source")]
    request_source: Option<String>,
    target: Option<String>,
    tunnels: Vec<TunnelFile>,
    local_forward: OneOrMany<String>,
    #[serde(alias = "stun_server")]
    stun_servers: Option<OneOrMany<String>>,
    session_grace: Option<u64>,
    health_addr: Option<SocketAddr>,
}

/// Everything that a client runs by in nostr mode.
pub(crate) struct NostrClientConfig {
    pub(crate) key: NostrKey,
    /// The server; not this side itself.
    pub(crate) peer: Npub,
    /// Where the server is asked; at least one, each once.
    pub(crate) relays: Vec<RelayUrl>,
    /// Whom to ask for this machine's public address; possibly nobody.
    pub(crate) stun: Vec<StunServer>,
    pub(crate) forwards: Vec<Forward>,
    /// How long open connections wait for a network that is gone.
    pub(crate) grace: Duration,
    /// Where it tells health and metrics.
    pub(crate) health: Option<SocketAddr>,
}

impl NostrClientArgs {
    pub(in crate::config) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.nostr.prefer_command_line(matches);
    }

    /// `config` is the file that `read` is from.
    pub(in crate::config) fn resolve(
        self,
        both: BothArgs,
        read: NostrClientFile,
        config: Option<&Path>,
    ) -> Outcome<NostrClientConfig> {
        let forwards = both.forwards.resolve(ForwardFile {
            request_source: read.request_source,
            target: read.target,
            tunnels: read.tunnels,
            local_forward: read.local_forward.into(),
        })?;
        let file = NostrFile { nsec: read.nsec, nsec_file: read.nsec_file, relays: read.relays };
        let (key, relays) = self.nostr.resolve(file, config)?;
        let peers = peers(self.peer_npub.into_iter().collect(), read.peer_npub, key.npub())?;
        let [peer] = peers[..] else {
            let text =
                format!("peer_npub: {} keys, but a client has one server: leave one", peers.len());
            return Err(Failure::Usage(text));
        };
        let stun = both.stun.resolve(read.stun_servers)?;
        let grace = both.grace.resolve(read.session_grace)?;
        let health = both.health.resolve(read.health_addr);
        Ok(NostrClientConfig { key, peer, relays, stun, forwards, grace, health })
    }
}
