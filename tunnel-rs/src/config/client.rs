use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::settings::{
    FileArgs, ForwardArgs, ForwardFile, HealthArgs, OneOrMany, RoleName, SessionGraceArgs,
    TunnelFile, from_environment, key,
};
use tunnel_cli::{Failure, Outcome, SecretText, rules, secret};
use tunnel_iroh::{
    Discovery, EndpointConfig, EndpointId, RelayCa, RelayServer, RelayUrl, Relays, Ticket,
};
use tunnel_model::{Forward, Token};
use url::Url;

use super::tor::{TorFile, require_agreement};
use super::{CongestionName, NetArgs, NetFile, read_file, read_secret_key, relay_token};

#[derive(Args, Debug, Default)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    forwards: ForwardArgs,
    #[command(flatten)]
    peer: PeerArgs,
}

/// Which server, and who this client is to it, whatever it asks for.
#[derive(Args, Debug, Default)]
pub(super) struct PeerArgs {
    #[command(flatten)]
    net: NetArgs,
    /// The server's EndpointId
    #[arg(short = 'n', long, value_name = "ID", env = "TUNNEL_RS_SERVER_NODE_ID")]
    server_node_id: Option<EndpointId>,
    /// The server's ticket, instead of its id: needs no discovery
    #[arg(long, value_name = "TICKET", env = "TUNNEL_RS_TICKET")]
    ticket: Option<Ticket>,
    /// The token that the server accepts. Other users of this machine see it: prefer a file
    #[arg(long, value_name = "TOKEN", env = "TUNNEL_RS_AUTH_TOKEN", hide_env_values = true)]
    auth_token: Option<SecretText>,
    /// A file with that token
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_AUTH_TOKEN_FILE")]
    auth_token_file: Option<PathBuf>,
    /// A file with a lasting identity of the client [default: a fresh key each run]
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    #[command(flatten)]
    grace: SessionGraceArgs,
    #[command(flatten)]
    health: HealthArgs,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct ClientFile {
    server_node_id: Option<String>,
    ticket: Option<String>,
    #[serde(alias = "source")]
    request_source: Option<String>,
    target: Option<String>,
    tunnels: Vec<TunnelFile>,
    local_forward: OneOrMany<String>,
    #[serde(alias = "relay_url")]
    relay_urls: OneOrMany<RelayUrl>,
    relay_ca: OneOrMany<String>,
    dns_server: Option<Url>,
    relay_token_file: Option<PathBuf>,
    socks5_proxy: Option<String>,
    tor_only: Option<bool>,
    congestion: Option<CongestionName>,
    auth_token: Option<SecretText>,
    auth_token_file: Option<PathBuf>,
    secret_file: Option<PathBuf>,
    session_grace: Option<u64>,
    health_addr: Option<SocketAddr>,
}

/// The keys of a file that say what [`PeerArgs`] do.
#[derive(Default)]
pub(super) struct PeerFile {
    net: NetFile,
    server_node_id: Option<String>,
    ticket: Option<String>,
    token: (Option<SecretText>, Option<PathBuf>),
    secret_file: Option<PathBuf>,
    session_grace: Option<u64>,
    health_addr: Option<SocketAddr>,
}

/// A server, as the user names it.
pub(super) struct Server {
    id: EndpointId,
    ticket: Option<Ticket>,
}

/// Which server a client goes to, and how.
pub(crate) struct PeerConfig {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) server: EndpointId,
    pub(crate) ticket: Option<Ticket>,
    pub(crate) token: Token,
    /// How long what is open waits for a network that is gone.
    pub(crate) grace: Duration,
    /// Where it tells health and metrics.
    pub(crate) health: Option<SocketAddr>,
}

/// Everything that a client runs by.
pub(crate) struct ClientConfig {
    pub(crate) peer: PeerConfig,
    pub(crate) forwards: Vec<Forward>,
}

impl PeerArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(super) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let [id, ticket] = from_environment(matches, ["server_node_id", "ticket"]);
        self.server_node_id = self.server_node_id.filter(|_| !id);
        self.ticket = self.ticket.take().filter(|_| !ticket);
        let [token, file] = from_environment(matches, ["auth_token", "auth_token_file"]);
        self.auth_token = self.auth_token.take().filter(|_| !token);
        self.auth_token_file = self.auth_token_file.take().filter(|_| !file);
    }

    /// Which server it is.
    pub(super) fn server(&mut self, file: &mut PeerFile) -> Outcome<Server> {
        let by_hand = (self.server_node_id, self.ticket.take());
        let (id, ticket) = if by_hand == (None, None) {
            let id = file.server_node_id.take().map(|id| key("server_node_id", &id)).transpose()?;
            (id, file.ticket.take().map(|ticket| key("ticket", &ticket)).transpose()?)
        } else {
            by_hand
        };
        let id = match (id, &ticket) {
            (Some(id), Some(ticket)) if ticket.id != id => {
                let text = "the ticket is of another server than --server-node-id";
                return Err(Failure::Usage(text.to_owned()));
            }
            (Some(id), _) => id,
            (None, Some(ticket)) => ticket.id,
            (None, None) => {
                let text = "no server: give --server-node-id ID or --ticket TICKET, as the server prints them";
                return Err(Failure::Usage(text.to_owned()));
            }
        };
        Ok(Server { id, ticket })
    }

    /// The way to `server`, and who this client is.
    pub(super) fn resolve(self, server: Server, file: PeerFile) -> Outcome<PeerConfig> {
        let Server { id: server, ticket } = server;
        let by_hand = (self.auth_token, self.auth_token_file);
        let token = token(if by_hand == (None, None) { file.token } else { by_hand })?;
        let own_servers = ticket.as_ref().is_some_and(|ticket| ticket.own_infrastructure);
        let mut endpoint = self.net.resolve(file.net, Vec::new(), own_servers)?;
        if let Some(ticket) = &ticket {
            take_from_ticket(&mut endpoint, ticket);
        }
        require_agreement(&endpoint, ticket.as_ref())?;
        relay_token::check(&endpoint)?;
        if let Some(path) = self.secret_file.or(file.secret_file) {
            endpoint.secret = Some(read_secret_key(&path)?);
        }
        let grace = self.grace.resolve(file.session_grace)?;
        let health = self.health.resolve(file.health_addr);
        Ok(PeerConfig { endpoint, server, ticket, token, grace, health })
    }
}

impl ClientArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.file.prefer_command_line(matches);
        self.peer.prefer_command_line(matches);
        self.forwards.prefer_command_line(matches);
    }

    pub(crate) fn resolve(mut self) -> Outcome<ClientConfig> {
        let config = self.file.path("client.toml")?;
        let read: ClientFile = read_file(config.as_deref(), RoleName::Client)?;
        if read.auth_token.is_some()
            && let Some(config) = &config
        {
            secret::warn_if_open_to_others(config);
        }
        let mut file = PeerFile {
            net: NetFile {
                relay_urls: read.relay_urls.into(),
                relay_ca: read.relay_ca.into(),
                dns_server: read.dns_server,
                relay_token_file: read.relay_token_file,
                congestion: read.congestion,
                tor: TorFile { socks5_proxy: read.socks5_proxy, tor_only: read.tor_only },
            },
            server_node_id: read.server_node_id,
            ticket: read.ticket,
            token: (read.auth_token, read.auth_token_file),
            secret_file: read.secret_file,
            session_grace: read.session_grace,
            health_addr: read.health_addr,
        };
        let server = self.peer.server(&mut file)?;
        let forwards = self.forwards.resolve(ForwardFile {
            request_source: read.request_source,
            target: read.target,
            tunnels: read.tunnels,
            local_forward: read.local_forward.into(),
        })?;
        Ok(ClientConfig { peer: self.peer.resolve(server, file)?, forwards })
    }
}

fn token((given, path): (Option<SecretText>, Option<PathBuf>)) -> Outcome<Token> {
    if let Some(text) = given {
        return rules::parse_token("--auth-token", &text).map(|entry| entry.token);
    }
    let Some(path) = path else {
        let text =
            "no token: give --auth-token-file FILE or --auth-token TOKEN, as the server accepts it";
        return Err(Failure::Usage(text.to_owned()));
    };
    relay_token::the_only_one(&path)
}

/// What the ticket says of infrastructure holds where nothing else was said.
fn take_from_ticket(endpoint: &mut EndpointConfig, ticket: &Ticket) {
    if endpoint.own_infrastructure() || !ticket.own_infrastructure {
        return;
    }
    let relays = ticket.relays.iter().zip(&ticket.quic_ports);
    let relays = relays
        .map(|(url, quic_port)| RelayServer { url: url.clone(), quic_port: *quic_port })
        .collect();
    endpoint.relays = Relays::Own(relays);
    endpoint.discovery = ticket.discovery.clone().map_or(Discovery::None, Discovery::Own);
    if !ticket.relay_pins.is_empty() && endpoint.relay_ca == RelayCa::WebRoots {
        endpoint.relay_ca = RelayCa::Pins(ticket.relay_pins.clone());
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tunnel_iroh::SecretKey;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ClientArgs,
    }

    const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";

    fn resolve(text: &str, flags: &[&str]) -> Outcome<ClientConfig> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("client.toml");
        std::fs::write(&path, text).unwrap();
        let config = path.to_str().unwrap();
        let line = ["client", "--config", config].into_iter().chain(flags.iter().copied());
        Line::try_parse_from(line).unwrap().args.resolve()
    }

    fn usage(text: &str, flags: &[&str]) -> String {
        match resolve(text, flags) {
            Err(Failure::Usage(text)) => text,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("accepted"),
        }
    }

    #[test]
    fn pairs_and_local_forwards_are_one_list() {
        let id = SecretKey::generate().id().to_string();
        let flags = [
            "-n",
            &id,
            "--auth-token",
            TOKEN,
            "-s",
            "tcp://a:1",
            "-t",
            "127.0.0.1:1",
            "-s",
            "udp://b:2",
            "-t",
            "127.0.0.1:2",
            "-L",
            "3:c:3/udp",
        ];
        let config = resolve("[iroh]\nrequest_source = \"tcp://x:1\"\ntarget = \"h:1\"\n", &flags);
        let shown: Vec<_> = config.unwrap().forwards.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "tcp://127.0.0.1:1 to tcp://a:1",
                "udp://127.0.0.1:2 to udp://b:2",
                "udp://127.0.0.1:3 to udp://c:3"
            ]
        );
    }

    #[test]
    fn a_file_alone_is_enough() {
        let id = SecretKey::generate().id();
        let text = format!(
            "role = \"client\"\nmode = \"iroh\"\n[iroh]\nserver_node_id = \"{id}\"\n\
             auth_token = \"{TOKEN}\"\nrequest_source = \"tcp://a:1\"\ntarget = \"127.0.0.1:1\"\n\
             [[iroh.tunnels]]\nsource = \"udp://b:2\"\ntarget = \"127.0.0.1:2\"\n"
        );
        let config = resolve(&text, &[]).unwrap();
        assert_eq!((config.peer.server, config.forwards.len()), (id, 2));
    }

    #[test]
    fn what_is_missing_is_named() {
        let id = SecretKey::generate().id().to_string();
        assert!(usage("", &[]).contains("--server-node-id"));
        assert!(usage("", &["-n", &id]).contains("--source"));
        assert!(usage("", &["-n", &id, "-L", "1:h:1"]).contains("--auth-token"));
        assert!(usage("", &["-n", &id, "-s", "tcp://h:1"]).contains("pairs"));
        assert!(usage("[iroh]\ntarget = \"h:1\"\n", &["-n", &id]).contains("request_source"));
    }

    #[test]
    fn a_ticket_of_own_infrastructure_leaves_the_public_one_out() {
        let ticket = Ticket {
            id: SecretKey::generate().id(),
            addresses: Vec::new(),
            relays: vec!["https://relay.example".parse().unwrap()],
            quic_ports: vec![None],
            discovery: None,
            relay_pins: Vec::new(),
            own_infrastructure: true,
        };
        let text = ticket.to_string();
        let flags = ["--ticket", &text, "--auth-token", TOKEN, "-L", "1:h:1"];
        let config = resolve("", &flags).unwrap().peer;
        assert!(config.endpoint.own_infrastructure());
        assert_eq!(config.server, ticket.id);
    }
}
