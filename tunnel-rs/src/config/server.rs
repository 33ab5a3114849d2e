use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::settings::{
    AllowArgs, AllowFile, AllowedSources, DrainArgs, FileArgs, HealthArgs, OneOrMany, RoleName,
    SessionGraceArgs, UdpIdleArgs, from_environment, list,
};
use tunnel_cli::{Failure, Outcome, SecretText, file, rules, secret};
use tunnel_iroh::{EndpointConfig, RelayUrl};
use tunnel_model::{Policy, TokenEntry};
use tunnel_session::server::Limits;
use url::Url;

use super::tor::{TorFile, require_agreement};
use super::{CongestionName, NetArgs, NetFile, read_file, read_secret_key, relay_token};

#[derive(Args, Debug, Default)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    rules: RuleArgs,
    #[command(flatten)]
    host: HostArgs,
    #[command(flatten)]
    udp_idle: UdpIdleArgs,
}

/// Where a server is, who it is, and how many it takes, whatever it serves.
#[derive(Args, Debug, Default)]
pub(super) struct HostArgs {
    #[command(flatten)]
    net: NetArgs,
    /// Sessions at once; 0 is no limit [default: 100]
    #[arg(long, value_name = "N", env = "TUNNEL_RS_MAX_SESSIONS")]
    max_sessions: Option<usize>,
    /// The secret key that makes the server's identity last, in base64. Other users of this machine see it: prefer a file
    #[arg(long, value_name = "BASE64", env = "TUNNEL_RS_SECRET", hide_env_values = true)]
    secret: Option<SecretText>,
    /// A file with that key; see generate-server-key [default: a fresh key each run]
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_SECRET_FILE")]
    secret_file: Option<PathBuf>,
    /// The UDP socket; repeatable [default: any port of every address]
    #[arg(long, value_name = "ADDR:PORT", env = "TUNNEL_RS_BIND", value_delimiter = ',')]
    bind: Vec<SocketAddr>,
    /// An address to advertise that the server cannot see itself; repeatable
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "TUNNEL_RS_EXTERNAL_ADDRESS",
        value_delimiter = ','
    )]
    external_address: Vec<SocketAddr>,
    #[command(flatten)]
    grace: SessionGraceArgs,
    #[command(flatten)]
    drain: DrainArgs,
    #[command(flatten)]
    health: HealthArgs,
}

/// Who may come in and what they may reach; read again when files change.
#[derive(Args, Debug, Default, Clone)]
struct RuleArgs {
    #[command(flatten)]
    allowed: AllowArgs,
    #[command(flatten)]
    tokens: TokenArgs,
}

/// Which tokens let clients in.
#[derive(Args, Debug, Default, Clone)]
pub(super) struct TokenArgs {
    /// An accepted token; repeatable. Other users of this machine see it: prefer a file
    #[arg(
        long,
        value_name = "TOKEN",
        env = "TUNNEL_RS_AUTH_TOKENS",
        value_delimiter = ',',
        hide_env_values = true
    )]
    auth_tokens: Vec<SecretText>,
    /// A file with accepted tokens, one a line; # begins a comment
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_AUTH_TOKENS_FILE")]
    auth_tokens_file: Option<PathBuf>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct ServerFile {
    secret: Option<SecretText>,
    secret_file: Option<PathBuf>,
    #[serde(alias = "relay_url")]
    relay_urls: OneOrMany<RelayUrl>,
    relay_ca: OneOrMany<String>,
    dns_server: Option<Url>,
    relay_token_file: Option<PathBuf>,
    socks5_proxy: Option<String>,
    tor_only: Option<bool>,
    congestion: Option<CongestionName>,
    max_sessions: Option<usize>,
    auth_tokens: OneOrMany<SecretText>,
    auth_tokens_file: Option<PathBuf>,
    bind: OneOrMany<SocketAddr>,
    external_address: OneOrMany<SocketAddr>,
    udp_idle_timeout: Option<u64>,
    session_grace: Option<u64>,
    drain_timeout: Option<u64>,
    health_addr: Option<SocketAddr>,
    allowed_sources: AllowedSources,
    allowed_tcp: OneOrMany<String>,
    allowed_udp: OneOrMany<String>,
}

/// The keys of a file that say what [`HostArgs`] do.
#[derive(Default)]
pub(super) struct HostFile {
    net: NetFile,
    secret: Option<SecretText>,
    secret_file: Option<PathBuf>,
    max_sessions: Option<usize>,
    bind: Vec<SocketAddr>,
    external_address: Vec<SocketAddr>,
    session_grace: Option<u64>,
    drain_timeout: Option<u64>,
    health_addr: Option<SocketAddr>,
}

/// Everything that a server runs by.
pub(crate) struct ServerConfig {
    pub(crate) host: HostConfig,
    pub(crate) rules: RuleSource,
}

/// Where a server is, who it is, and how many it takes, whatever it serves.
pub(crate) struct HostConfig {
    pub(crate) endpoint: EndpointConfig,
    pub(crate) limits: Limits,
    /// How long it drains on SIGTERM; zero for not at all.
    pub(crate) drain: Duration,
    /// Where it tells health and metrics.
    pub(crate) health: Option<SocketAddr>,
}

/// Where the rules come from, so that they can be read again.
#[derive(Clone, Debug)]
pub(crate) struct RuleSource {
    flags: RuleArgs,
    config: Option<PathBuf>,
}

impl HostArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(super) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let [secret, file] = from_environment(matches, ["secret", "secret_file"]);
        self.secret = self.secret.take().filter(|_| !secret);
        self.secret_file = self.secret_file.take().filter(|_| !file);
    }

    pub(super) fn resolve(self, file: HostFile) -> Outcome<HostConfig> {
        let mut endpoint = self.net.resolve(file.net, list(self.bind, file.bind), false)?;
        relay_token::check(&endpoint)?;
        endpoint.external = list(self.external_address, file.external_address);
        require_agreement(&endpoint, None)?;
        let key = (self.secret, self.secret_file);
        let file_key = (file.secret, file.secret_file);
        // A key given by hand is not half overruled by one in the file.
        let key = if key == (None, None) { file_key } else { key };
        endpoint.secret = match key {
            (Some(text), _) => {
                Some(text.expose().parse().map_err(|e| Failure::Usage(format!("--secret: {e}")))?)
            }
            (None, Some(path)) => Some(read_secret_key(&path)?),
            (None, None) => None,
        };
        let mut limits = Limits::default();
        if let Some(max) = self.max_sessions.or(file.max_sessions) {
            limits.max_sessions = max;
        }
        limits.grace = self.grace.resolve(file.session_grace)?;
        Ok(HostConfig {
            endpoint,
            limits,
            drain: self.drain.resolve(file.drain_timeout)?,
            health: self.health.resolve(file.health_addr),
        })
    }
}

impl TokenArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(super) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let [tokens, file] = from_environment(matches, ["auth_tokens", "auth_tokens_file"]);
        self.auth_tokens.retain(|_| !tokens);
        self.auth_tokens_file = self.auth_tokens_file.take().filter(|_| !file);
    }

    /// The file with tokens, where there is one.
    pub(super) fn file(&self) -> Option<PathBuf> {
        self.auth_tokens_file.as_deref().map(file::expand)
    }

    /// Whether flags or the environment name tokens; then no key of a file does.
    fn is_given(&self) -> bool {
        !self.auth_tokens.is_empty() || self.auth_tokens_file.is_some()
    }

    /// Reads the tokens as they stand: those of the flags, or else those given here from a file's keys.
    pub(super) fn load(
        &self,
        in_file: (Vec<SecretText>, Option<PathBuf>),
    ) -> Outcome<Vec<TokenEntry>> {
        let by_hand = (self.auth_tokens.clone(), self.auth_tokens_file.clone());
        let (given, file) = if self.is_given() { by_hand } else { in_file };
        let mut tokens = Vec::new();
        for token in given {
            tokens.push(rules::parse_token("--auth-tokens", &token)?);
        }
        if let Some(path) = file {
            tokens.extend(rules::read_tokens(&file::expand(&path))?.0);
        }
        Ok(tokens)
    }
}

impl ServerArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.file.prefer_command_line(matches);
        self.host.prefer_command_line(matches);
        self.rules.tokens.prefer_command_line(matches);
    }

    pub(crate) fn resolve(self) -> Outcome<ServerConfig> {
        let config = self.file.path("server.toml")?;
        let read: ServerFile = read_file(config.as_deref(), RoleName::Server)?;
        let file = HostFile {
            net: NetFile {
                relay_urls: read.relay_urls.into(),
                relay_ca: read.relay_ca.into(),
                dns_server: read.dns_server,
                relay_token_file: read.relay_token_file,
                congestion: read.congestion,
                tor: TorFile { socks5_proxy: read.socks5_proxy, tor_only: read.tor_only },
            },
            secret: read.secret,
            secret_file: read.secret_file,
            max_sessions: read.max_sessions,
            bind: read.bind.into(),
            external_address: read.external_address.into(),
            session_grace: read.session_grace,
            drain_timeout: read.drain_timeout,
            health_addr: read.health_addr,
        };
        let mut host = self.host.resolve(file)?;
        if let Some(time) = self.udp_idle.resolve(read.udp_idle_timeout)? {
            host.limits.udp_idle = time;
        }
        Ok(ServerConfig { host, rules: RuleSource { flags: self.rules, config } })
    }
}

impl RuleSource {
    /// The files that the rules come from, as far as the configuration can be read.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = self.config.iter().cloned().collect();
        let in_file = || {
            let read: Outcome<ServerFile> = read_file(self.config.as_deref(), RoleName::Server);
            read.ok()?.auth_tokens_file
        };
        let tokens = &self.flags.tokens;
        files.extend(match tokens.is_given() {
            true => tokens.file(),
            false => in_file().map(|path| file::expand(&path)),
        });
        files
    }

    /// Reads the rules as they stand.
    pub(crate) fn load(&self) -> Outcome<Policy> {
        let read: ServerFile = read_file(self.config.as_deref(), RoleName::Server)?;
        if (!read.auth_tokens.is_empty() || read.secret.is_some())
            && let Some(config) = &self.config
        {
            secret::warn_if_open_to_others(config);
        }
        let allowed = self.flags.allowed.resolve(AllowFile {
            allowed_sources: read.allowed_sources,
            allowed_tcp: read.allowed_tcp,
            allowed_udp: read.allowed_udp,
        })?;
        let tokens = self.flags.tokens.load((read.auth_tokens.into(), read.auth_tokens_file))?;
        Ok(Policy::new(tokens, allowed))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServerArgs,
    }

    fn resolve(folder: &Path, text: &str, flags: &[&str]) -> Outcome<ServerConfig> {
        let path = folder.join("server.toml");
        std::fs::write(&path, text).unwrap();
        let config = path.to_str().unwrap();
        let line = ["server", "--config", config].into_iter().chain(flags.iter().copied());
        Line::try_parse_from(line).unwrap().args.resolve()
    }

    const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";

    #[test]
    fn flags_win_and_lists_replace() {
        let folder = tempfile::tempdir().unwrap();
        let text = format!(
            "role = \"server\"\nmode = \"iroh\"\n[iroh]\nmax_sessions = 7\nauth_tokens = [\"{TOKEN}\"]\n\
             [iroh.allowed_sources]\ntcp = [\"10.0.0.0/8\"]\nudp = [\"10.0.0.0/8\"]\n"
        );
        let config = resolve(folder.path(), &text, &["--allowed-tcp", "127.0.0.0/8"]).unwrap();
        assert_eq!(config.host.limits.max_sessions, 7);
        let (policy, files) = (config.rules.load().unwrap(), config.rules.files());
        assert_eq!(policy.allowed().tcp, ["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(policy.allowed().udp, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!((policy.token_count(), files.len()), (1, 1));
    }

    #[test]
    fn tokens_by_hand_leave_those_of_the_file_out() {
        const OTHER: &str = "iww7Q84wqPRvlfiH9H";
        let folder = tempfile::tempdir().unwrap();
        let tokens = folder.path().join("tokens");
        std::fs::write(&tokens, format!("{TOKEN}\n{OTHER}\n")).unwrap();
        let tokens = tokens.to_str().unwrap();
        for (text, flags, expected) in [
            (format!("auth_tokens_file = '{tokens}'"), &["--auth-tokens", TOKEN][..], (1, 1)),
            (format!("auth_tokens = '{TOKEN}'"), &["--auth-tokens-file", tokens], (2, 2)),
            (format!("auth_tokens_file = '{tokens}'"), &[], (2, 2)),
        ] {
            let config = resolve(folder.path(), &format!("[iroh]\n{text}\n"), flags).unwrap();
            let count = config.rules.load().unwrap().token_count();
            assert_eq!((count, config.rules.files().len()), expected, "{text} {flags:?}");
        }
    }

    #[test]
    fn a_file_for_another_command_is_called_that() {
        let folder = tempfile::tempdir().unwrap();
        let error =
            resolve(folder.path(), "role = \"client\"\n[iroh]\ntarget = \"x\"\n", &[]).err();
        assert!(matches!(&error, Some(Failure::Usage(text)) if text.contains("role")), "{error:?}");
        let error = resolve(folder.path(), "mode = \"nostr\"\n", &[]).err();
        assert!(matches!(&error, Some(Failure::Usage(text)) if text.contains("tunnel-rs-ice")));
    }

    #[test]
    fn errors_name_the_key_and_never_show_a_token() {
        let folder = tempfile::tempdir().unwrap();
        let error = resolve(folder.path(), "[iroh]\nmax_session = 3\n", &[]).err();
        assert!(matches!(&error, Some(Failure::Usage(text)) if text.contains("max_session")));
        let bad = "[iroh]\nauth_tokens = [\"ikAdvudu_ZxNXhNLCE\"]\n";
        let config = resolve(folder.path(), bad, &[]).unwrap();
        let error = config.rules.load().unwrap_err().to_string();
        assert!(error.contains("checksum") && !error.contains("Advudu"), "{error}");
    }

    #[test]
    fn a_token_under_a_key_of_another_kind_is_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        let bad = "[iroh]\nmax_sessions = \"ikAdvudu_ZxNXhNLCD\"\n";
        let error = resolve(folder.path(), bad, &[]).err().unwrap().to_string();
        assert!(error.contains("line 2") && !error.contains("Advudu"), "{error}");
    }

    #[test]
    fn own_infrastructure_leaves_the_public_one_out() {
        let folder = tempfile::tempdir().unwrap();
        let config = resolve(folder.path(), "", &["--relay-url", "https://relay.example"]).unwrap();
        assert!(config.host.endpoint.own_infrastructure());
        let error = resolve(folder.path(), "", &["--relay-ca", "sha256:00"]).err();
        assert!(matches!(error, Some(Failure::Usage(text)) if text.contains("--relay-url")));
    }

    #[test]
    fn authorities_are_read_as_programs_of_windows_write_them() {
        // What is in it is not looked at here.
        const PEM: &str = "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n";
        let folder = tempfile::tempdir().unwrap();
        let crlf = PEM.replace('\n', "\r\n");
        let utf16: Vec<u8> = crlf.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let path = folder.path().join("ca.pem");
        let mut read = Vec::new();
        let latin1 = [b"# \xe9\n", PEM.as_bytes()].concat();
        let marked = [b"\xef\xbb\xbf", crlf.as_bytes()].concat();
        for bytes in [PEM.as_bytes().to_vec(), marked, [b"\xff\xfe", &utf16[..]].concat(), latin1] {
            std::fs::write(&path, bytes).unwrap();
            let words = ["--relay-url", "https://relay.example", "--relay-ca"];
            let words = [&words[..], &[path.to_str().unwrap()]].concat();
            read.push(resolve(folder.path(), "", &words).unwrap().host.endpoint.relay_ca);
        }
        assert!(matches!(&read[0], tunnel_iroh::RelayCa::Roots(roots) if roots.len() == 1));
        assert!(read.iter().all(|other| *other == read[0]));
    }
}
