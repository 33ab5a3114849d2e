//! Settings: from flags and the environment, then from a file, to a configuration with nothing left open.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tunnel_cli::settings::{ModeName, Program, RoleName, list};
use tunnel_cli::{Failure, Outcome, file, secret};
use tunnel_iroh::{
    Congestion, Discovery, EndpointConfig, RelayCa, RelayServer, RelayUrl, Relays, SecretKey,
};
use url::Url;

use relay_token::RelayTokenArgs;

pub(crate) mod client;
#[cfg(feature = "relay")]
pub(crate) mod relay;
pub(crate) mod relay_token;
pub(crate) mod server;
mod tor;
#[cfg(all(feature = "vpn", any(target_os = "linux", target_os = "macos")))]
pub(crate) mod vpn;

const PROGRAM: Program = Program {
    modes: &[ModeName::Iroh],
    others: "only mode = \"iroh\" is for tunnel-rs; the others are for tunnel-rs-ice",
};

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
    #[command(flatten)]
    relay_token: RelayTokenArgs,
    /// Congestion control, where the default is not right: cubic, which slows down for every loss, or bbr
    #[arg(long, value_name = "ALGORITHM", env = "TUNNEL_RS_CONGESTION")]
    congestion: Option<CongestionName>,
    #[command(flatten)]
    tor: tor::TorArgs,
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
    relay_token_file: Option<PathBuf>,
    congestion: Option<CongestionName>,
    tor: tor::TorFile,
}

/// A configuration file of one role.
#[derive(Deserialize, Debug)]
#[serde(deny_unknown_fields)]
struct RoleFile<T> {
    // Checked before, by way of `Program`; here they are keys that may be there.
    #[serde(rename = "role")]
    _role: Option<RoleName>,
    #[serde(rename = "mode")]
    _mode: Option<ModeName>,
    iroh: Option<T>,
}

/// Reads the `[iroh]` section of a file that is meant for `role`; the default where there is no file.
fn read_file<T: DeserializeOwned + Default>(path: Option<&Path>, role: RoleName) -> Outcome<T> {
    let Some(path) = path else { return Ok(T::default()) };
    PROGRAM.mode(path, role)?;
    let RoleFile { iroh, .. } = file::read::<RoleFile<T>>(path).map_err(Failure::usage)?;
    Ok(iroh.unwrap_or_default())
}

/// Reads a secret key from a file.
pub(crate) fn read_secret_key(path: &Path) -> Outcome<SecretKey> {
    let path = file::expand(path);
    let text = secret::read(&path).map_err(Failure::usage)?;
    text.parse().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
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
        let relay_ca = RelayCa::read(&relay_ca, |path| file::read_text(&file::expand(path)))
            .map_err(|error| Failure::Usage(format!("--relay-ca: {error}")))?;
        let own = !urls.is_empty() || discovery.is_some();
        let relays = urls.into_iter().map(|url| RelayServer { url, quic_port: None }).collect();
        Ok(EndpointConfig {
            secret: None,
            relays: if own { Relays::Own(relays) } else { Relays::Public },
            discovery: discovery.map_or(Discovery::Public, Discovery::Own),
            relay_ca,
            relay_token: self.relay_token.resolve(file.relay_token_file)?,
            bind,
            external: Vec::new(),
            hidden: Vec::new(),
            nameserver: None,
            on_bound: None,
            congestion: self
                .congestion
                .or(file.congestion)
                .map_or_else(Default::default, Into::into),
            tor: self.tor.resolve(&file.tor)?,
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
