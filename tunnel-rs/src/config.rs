//! Settings: from flags and the environment, then from a file, to a configuration with nothing left open.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, ValueEnum};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tunnel_cli::{Failure, Outcome, file, secret};
use tunnel_iroh::{
    Congestion, Discovery, EndpointConfig, RelayCa, RelayServer, RelayUrl, Relays, SecretKey,
};
use url::Url;

pub(crate) mod client;
pub(crate) mod server;

/// Where the configuration file is.
#[derive(Args, Debug, Default)]
pub(crate) struct FileArgs {
    /// Read settings from this TOML file; flags win over it
    #[arg(
        short,
        long,
        value_name = "FILE",
        env = "TUNNEL_RS_CONFIG",
        conflicts_with = "default_config"
    )]
    config: Option<PathBuf>,
    /// Read settings from the file in ~/.config/tunnel-rs
    #[arg(long)]
    default_config: bool,
}

/// What says how to reach the outside.
#[derive(Args, Debug, Default)]
pub(crate) struct NetArgs {
    /// A relay of your own; repeatable. Turns iroh's public relays and discovery off
    #[arg(long, value_name = "URL", env = "TUNNEL_RS_RELAY_URL", value_delimiter = ',')]
    relay_url: Vec<RelayUrl>,
    /// What certificate your own relay or discovery server shows: a PEM file, or sha256:PIN; repeatable
    #[arg(long, value_name = "FILE|sha256:PIN", env = "TUNNEL_RS_RELAY_CA", value_delimiter = ',')]
    relay_ca: Vec<String>,
    /// A pkarr discovery server of your own. Turns iroh's public relays and discovery off
    #[arg(long, value_name = "URL", env = "TUNNEL_RS_DNS_SERVER")]
    dns_server: Option<Url>,
    /// Congestion control, where the default is not right: cubic, which slows down for every loss, or bbr
    #[arg(long, value_name = "ALGORITHM", env = "TUNNEL_RS_CONGESTION")]
    congestion: Option<CongestionName>,
    /// No direct paths
    #[cfg(feature = "test-utils")]
    #[arg(long)]
    relay_only: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum CongestionName {
    Bbr,
    Cubic,
}

impl From<CongestionName> for Congestion {
    fn from(name: CongestionName) -> Self {
        match name {
            CongestionName::Bbr => Self::Bbr,
            CongestionName::Cubic => Self::Cubic,
        }
    }
}

/// The part of a file's `[iroh]` that both roles have.
#[derive(Debug, Default)]
pub(crate) struct NetFile {
    relay_urls: Vec<RelayUrl>,
    relay_ca: Vec<String>,
    dns_server: Option<Url>,
    congestion: Option<CongestionName>,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RoleName {
    Server,
    Client,
}

#[derive(Deserialize, Debug, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ModeName {
    Iroh,
    Manual,
    Nostr,
}

/// A configuration file of one role.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct RoleFile<T> {
    // Checked before, by way of `Head`; here they are keys that may be there.
    #[serde(rename = "role")]
    _role: Option<RoleName>,
    #[serde(rename = "mode")]
    _mode: Option<ModeName>,
    iroh: Option<T>,
}

/// Only what tells whether a file is meant for a command, whatever else is in it.
#[derive(Deserialize)]
struct Head {
    role: Option<RoleName>,
    mode: Option<ModeName>,
}

impl FileArgs {
    fn path(&self, default_name: &str) -> Outcome<Option<PathBuf>> {
        if self.default_config {
            return file::default_path(default_name).map(Some).map_err(Failure::usage);
        }
        Ok(self.config.as_deref().map(file::expand))
    }
}

/// Reads the `[iroh]` section of a file that is meant for `role`; the default where there is no file.
fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>, role: RoleName) -> Outcome<T> {
    let Some(path) = path else { return Ok(T::default()) };
    // First, so that a client's file given to a server is called that, and not a file with unknown keys.
    let Head { role: given, mode } = file::read(path).map_err(Failure::usage)?;
    let shown = path.display();
    if given.is_some_and(|given| given != role) {
        let (is, wanted) = match role {
            RoleName::Server => ("client", "server"),
            RoleName::Client => ("server", "client"),
        };
        let text = format!("{shown}: role = \"{is}\", but the command is '{wanted}'");
        return Err(Failure::Usage(text));
    }
    if mode.is_some_and(|mode| mode != ModeName::Iroh) {
        let text = format!(
            "{shown}: only mode = \"iroh\" is for tunnel-rs; the others are for tunnel-rs-ice"
        );
        return Err(Failure::Usage(text));
    }
    let RoleFile { iroh, .. } = file::read::<RoleFile<T>>(path).map_err(Failure::usage)?;
    Ok(iroh.unwrap_or_default())
}

/// Reads a secret key from a file.
pub(crate) fn read_secret_key(path: &Path) -> Outcome<SecretKey> {
    let path = file::expand(path);
    let text = secret::read(&path).map_err(Failure::usage)?;
    text.parse().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// A key that takes a value or a list of them.
#[derive(Deserialize, Debug)]
#[serde(untagged, expecting = "expected a value or a list of values of the right kind")]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    fn is_empty(&self) -> bool {
        matches!(self, Self::Many(many) if many.is_empty())
    }
}

impl<T> From<OneOrMany<T>> for Vec<T> {
    fn from(value: OneOrMany<T>) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// Which of the settings `names` come from the environment although another of them is on the command line.
fn from_environment<const N: usize>(matches: &ArgMatches, names: [&str; N]) -> [bool; N] {
    let sources = names.map(|name| matches.value_source(name));
    let by_hand = sources.contains(&Some(ValueSource::CommandLine));
    sources.map(|source| by_hand && source == Some(ValueSource::EnvVariable))
}

/// A list of the file, unless flags or the environment give one.
fn list<T>(flags: Vec<T>, file: Vec<T>) -> Vec<T> {
    if flags.is_empty() { file } else { flags }
}

impl NetArgs {
    /// The part of an endpoint's configuration that both roles have.
    ///
    /// `own_servers` says that servers of one's own are named elsewhere: in a ticket.
    fn resolve(
        self,
        file: NetFile,
        bind: Vec<SocketAddr>,
        own_servers: bool,
    ) -> Outcome<EndpointConfig> {
        let urls = list(self.relay_url, file.relay_urls);
        let discovery = self.dns_server.or(file.dns_server);
        let relay_ca = list(self.relay_ca, file.relay_ca);
        if !relay_ca.is_empty() && urls.is_empty() && discovery.is_none() && !own_servers {
            let text =
                "--relay-ca is for your own servers: give --relay-url or --dns-server as well";
            return Err(Failure::Usage(text.to_owned()));
        }
        for url in &urls {
            http("--relay-url", url)?;
        }
        if let Some(url) = &discovery {
            http("--dns-server", url)?;
        }
        let relay_ca = RelayCa::read(&relay_ca, file::expand)
            .map_err(|error| Failure::Usage(format!("--relay-ca: {error}")))?;
        let own = !urls.is_empty() || discovery.is_some();
        let relays = urls.into_iter().map(|url| RelayServer { url, quic_port: None }).collect();
        Ok(EndpointConfig {
            secret: None,
            relays: if own { Relays::Own(relays) } else { Relays::Public },
            discovery: discovery.map_or(Discovery::Public, Discovery::Own),
            relay_ca,
            bind,
            external: Vec::new(),
            congestion: self
                .congestion
                .or(file.congestion)
                .map_or_else(Default::default, Into::into),
            #[cfg(feature = "test-utils")]
            relay_only: self.relay_only,
        })
    }
}

fn http(flag: &str, url: &Url) -> Outcome {
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() {
        return Ok(());
    }
    Err(Failure::Usage(format!("{flag}: '{url}' is not an http or https URL")))
}
