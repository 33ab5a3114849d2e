//! Settings of `tunnel-rs relay`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::settings::{FileArgs, OneOrMany, from_environment, list};
use tunnel_cli::{Failure, Outcome, file};
use tunnel_iroh::tor::is_onion;
use url::{Host, Url};

use super::relay_token::{is_private_v4, is_private_v6, may_carry};

/// Connections of an address where nothing is said: hundreds of clients behind one NAT.
const ADDRESS_CONNECTIONS: usize = 1000;

/// Bytes a second below which a rate is a mistake: the library lets nobody in below 10 (iroh-relay, `streams.rs`), and a
/// handshake alone takes some hundreds.
const LEAST_RATE: u32 = 1000;

#[derive(Args, Debug, Default)]
pub(crate) struct RelayArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Where to listen for HTTPS, or with --http for HTTP [default: every address, port 443 or 80]
    #[arg(long, value_name = "ADDR:PORT", env = "TUNNEL_RS_LISTEN")]
    listen: Option<SocketAddr>,
    /// The URL that servers and clients are given [default: this machine's address, or the name of --acme]
    #[arg(long, value_name = "URL", env = "TUNNEL_RS_PUBLIC_URL")]
    public_url: Option<Url>,
    #[command(flatten)]
    tls: TlsArgs,
    /// The folder for the certificate's key and the discovery server's records
    #[cfg_attr(not(windows), doc = "[default: ~/.local/state/tunnel-rs/relay]")]
    #[cfg_attr(windows, doc = r"[default: %LOCALAPPDATA%\tunnel-rs\relay]")]
    #[arg(long, value_name = "DIR", env = "TUNNEL_RS_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// Let in only the EndpointIds in this file, one a line; # begins a comment
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_ALLOWED_IDS_FILE")]
    allowed_ids_file: Option<PathBuf>,
    /// Let in only who shows a token in this file, one a line; # begins a comment
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_RELAY_TOKEN_FILE")]
    relay_token_file: Option<PathBuf>,
    /// What is taken from each client, in bytes a second; 0 is no limit [default: 0]
    #[arg(long, value_name = "BYTES", env = "TUNNEL_RS_CLIENT_RATE")]
    client_rate: Option<u32>,
    /// Connections of one address at once; 0 is no limit. Loopback is not counted [default: 1000]
    #[arg(long, value_name = "N", env = "TUNNEL_RS_ADDRESS_CONNECTIONS")]
    address_connections: Option<usize>,
    /// Where to tell health (/livez, /readyz) and Prometheus metrics (/metrics) over HTTP [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "TUNNEL_RS_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Where to answer DNS over UDP and TCP, for programs that look endpoints up that way [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "TUNNEL_RS_DNS_LISTEN")]
    dns_listen: Option<SocketAddr>,
    /// The domain below which DNS answers [default: the root]
    #[arg(long, value_name = "NAME", env = "TUNNEL_RS_DNS_ORIGIN")]
    dns_origin: Option<String>,
}

/// How connections are secured; without any of these, by a certificate of the relay's own making.
#[derive(Args, Debug, Default, PartialEq, Eq)]
struct TlsArgs {
    /// No TLS: for a network of your own, or behind a reverse proxy. No address discovery then, unless there is --tls-cert
    #[arg(long, env = "TUNNEL_RS_HTTP")]
    http: bool,
    /// A certificate chain in PEM; read again when it changes
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// Its private key in PEM
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Get a certificate for this public name from Let's Encrypt, whose terms you accept; repeatable
    #[arg(long, value_name = "NAME", env = "TUNNEL_RS_ACME", value_delimiter = ',')]
    acme: Vec<String>,
    /// An e-mail address that the authority may write to
    #[arg(long, value_name = "EMAIL", env = "TUNNEL_RS_ACME_CONTACT")]
    acme_contact: Option<String>,
    /// The directory of another authority that speaks ACME
    #[arg(long, value_name = "URL", env = "TUNNEL_RS_ACME_DIRECTORY")]
    acme_directory: Option<Url>,
    /// The authorities, in PEM, that vouch for that directory's own certificate
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_ACME_CA")]
    acme_ca: Option<PathBuf>,
}

/// A file's `role`, which must be this one.
#[derive(Deserialize, Debug, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Role {
    Relay,
    Server,
    Client,
}

/// Only what tells whether a file is a relay's, whatever else is in it.
#[derive(Deserialize)]
struct Head {
    role: Option<Role>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields)]
struct WholeFile {
    #[serde(rename = "role")]
    _role: Option<Role>,
    #[serde(default)]
    relay: RelayFile,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct RelayFile {
    listen: Option<SocketAddr>,
    public_url: Option<Url>,
    http: bool,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    acme: OneOrMany<String>,
    acme_contact: Option<String>,
    acme_directory: Option<Url>,
    acme_ca: Option<PathBuf>,
    state_dir: Option<PathBuf>,
    allowed_ids_file: Option<PathBuf>,
    relay_token_file: Option<PathBuf>,
    client_rate: Option<u32>,
    address_connections: Option<usize>,
    metrics_listen: Option<SocketAddr>,
    dns_listen: Option<SocketAddr>,
    dns_origin: Option<String>,
}

/// Everything that a relay runs by.
#[derive(Debug)]
pub(crate) struct RelayConfig {
    pub(crate) listen: SocketAddr,
    /// What servers and clients are given; where it is missing, this machine's address tells.
    pub(crate) public_url: Option<Url>,
    pub(crate) tls: TlsSource,
    pub(crate) state: PathBuf,
    pub(crate) access: AccessSource,
    pub(crate) client_rate: Option<NonZeroU32>,
    pub(crate) address_connections: usize,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) dns: Option<SocketAddr>,
    pub(crate) dns_origin: Option<String>,
}

/// Where the certificate comes from.
#[derive(Debug)]
pub(crate) enum TlsSource {
    /// None for HTTP; perhaps one for address discovery.
    Plain(Option<Files>),
    /// Files.
    Files(Files),
    /// The relay's own making.
    Own,
    /// An authority.
    Acme {
        names: Vec<String>,
        contact: Option<String>,
        directory: Option<Url>,
        ca: Option<PathBuf>,
    },
}

/// A certificate chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Who may use the relay, and where that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessSource {
    Everybody,
    Ids(PathBuf),
    Tokens(PathBuf),
}

fn usage<T>(text: impl Into<String>) -> Outcome<T> {
    Err(Failure::Usage(text.into()))
}

impl RelayArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.file.prefer_command_line(matches);
        let [ids, token] = from_environment(matches, ["allowed_ids_file", "relay_token_file"]);
        self.allowed_ids_file = self.allowed_ids_file.take().filter(|_| !ids);
        self.relay_token_file = self.relay_token_file.take().filter(|_| !token);
        let [http, cert, acme] = from_environment(matches, ["http", "tls_cert", "acme"]);
        self.tls.http &= !http;
        self.tls.tls_cert = self.tls.tls_cert.take().filter(|_| !cert);
        self.tls.acme.retain(|_| !acme);
    }

    pub(crate) fn resolve(self) -> Outcome<RelayConfig> {
        let read = self.read()?;
        let in_file = TlsArgs {
            http: read.http,
            tls_cert: read.tls_cert,
            tls_key: read.tls_key,
            acme: read.acme.into(),
            acme_contact: read.acme_contact,
            acme_directory: read.acme_directory,
            acme_ca: read.acme_ca,
        };
        let tls = self.tls.over(in_file)?.resolve()?;
        let port = if matches!(tls, TlsSource::Plain(_)) { 80 } else { 443 };
        let every = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        let listen = self.listen.or(read.listen).unwrap_or(every);
        let public_url = public_url(self.public_url.or(read.public_url), &tls, listen)?;
        let by_hand = (self.allowed_ids_file, self.relay_token_file);
        let in_file = (read.allowed_ids_file, read.relay_token_file);
        let access = match if by_hand == (None, None) { in_file } else { by_hand } {
            (None, None) => AccessSource::Everybody,
            (Some(ids), None) => AccessSource::Ids(file::expand(&ids)),
            (None, Some(tokens)) => {
                no_token_in_the_clear(listen, public_url.as_ref(), &tls)?;
                AccessSource::Tokens(file::expand(&tokens))
            }
            (Some(_), Some(_)) => {
                return usage("give either --allowed-ids-file or --relay-token-file");
            }
        };
        let dns = self.dns_listen.or(read.dns_listen);
        let dns_origin = self.dns_origin.or(read.dns_origin);
        if dns_origin.is_some() && dns.is_none() {
            return usage("--dns-origin is for DNS: give --dns-listen as well");
        }
        let state = match self.state_dir.or(read.state_dir) {
            Some(path) => file::expand(&path),
            None => file::state_folder().map(|folder| folder.join("relay")).ok_or_else(|| {
                let text = "there is no home directory to keep state in: give --state-dir DIR";
                Failure::Usage(text.to_owned())
            })?,
        };
        let address_connections = self.address_connections.or(read.address_connections);
        let client_rate = self.client_rate.or(read.client_rate).unwrap_or(0);
        if (1..LEAST_RATE).contains(&client_rate) {
            return usage(format!(
                "--client-rate: {client_rate} bytes a second let no client in: give {LEAST_RATE} or more, or 0 for no limit"
            ));
        }
        Ok(RelayConfig {
            listen,
            public_url,
            tls,
            state,
            access,
            client_rate: NonZeroU32::new(client_rate),
            address_connections: address_connections.unwrap_or(ADDRESS_CONNECTIONS),
            metrics: self.metrics_listen.or(read.metrics_listen),
            dns,
            dns_origin,
        })
    }

    fn read(&self) -> Outcome<RelayFile> {
        let Some(path) = self.file.path("relay.toml")? else { return Ok(RelayFile::default()) };
        let Head { role } = file::read(&path).map_err(Failure::usage)?;
        let other = match role {
            None | Some(Role::Relay) => None,
            Some(Role::Server) => Some("server"),
            Some(Role::Client) => Some("client"),
        };
        if let Some(other) = other {
            let path = path.display();
            return usage(format!("{path}: role = \"{other}\", but the command is 'relay'"));
        }
        let WholeFile { relay, .. } = file::read(&path).map_err(Failure::usage)?;
        Ok(relay)
    }
}

impl TlsArgs {
    /// These, or where they say nothing of where a certificate comes from, those of the file.
    fn over(self, file: Self) -> Outcome<Self> {
        if self.http || self.tls_cert.is_some() || !self.acme.is_empty() {
            self.require_sources()?;
            return Ok(Self {
                tls_key: self.tls_key.or(file.tls_key),
                acme_contact: self.acme_contact.or(file.acme_contact),
                acme_directory: self.acme_directory.or(file.acme_directory),
                acme_ca: self.acme_ca.or(file.acme_ca),
                ..self
            });
        }
        let both = Self {
            http: file.http,
            tls_cert: file.tls_cert,
            tls_key: self.tls_key.or(file.tls_key),
            acme: list(self.acme, file.acme),
            acme_contact: self.acme_contact.or(file.acme_contact),
            acme_directory: self.acme_directory.or(file.acme_directory),
            acme_ca: self.acme_ca.or(file.acme_ca),
        };
        both.require_sources()?;
        Ok(both)
    }

    /// Refuses what belongs to a certificate that is not named: it would be left out without a word.
    fn require_sources(&self) -> Outcome {
        if self.tls_key.is_some() && self.tls_cert.is_none() {
            return usage("--tls-key needs --tls-cert as well");
        }
        let details = [
            ("--acme-contact", self.acme_contact.is_some()),
            ("--acme-directory", self.acme_directory.is_some()),
            ("--acme-ca", self.acme_ca.is_some()),
        ];
        match details.iter().find(|(_, given)| *given) {
            Some((flag, _)) if self.acme.is_empty() => usage(format!(
                "{flag} is for certificates of an authority: give --acme NAME as well"
            )),
            _ => Ok(()),
        }
    }

    fn resolve(self) -> Outcome<TlsSource> {
        let files = match (self.tls_cert, self.tls_key) {
            (Some(cert), Some(key)) => {
                Some(Files { cert: file::expand(&cert), key: file::expand(&key) })
            }
            (Some(_), None) => return usage("--tls-cert needs --tls-key as well"),
            // One in the file goes with a certificate there.
            (None, _) => None,
        };
        match (self.http, files, self.acme.is_empty()) {
            (true, files, true) => Ok(TlsSource::Plain(files)),
            (false, Some(files), true) => Ok(TlsSource::Files(files)),
            (false, None, true) => Ok(TlsSource::Own),
            (false, None, false) => Ok(TlsSource::Acme {
                names: self.acme,
                contact: self.acme_contact,
                directory: self.acme_directory,
                ca: self.acme_ca.map(|path| file::expand(&path)),
            }),
            _ => usage("--acme gets a certificate: leave out --http and --tls-cert"),
        }
    }
}

/// What the user or the certificate says of the relay's URL.
fn public_url(given: Option<Url>, tls: &TlsSource, listen: SocketAddr) -> Outcome<Option<Url>> {
    if let Some(url) = given {
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return usage(format!("--public-url: '{url}' is not an http or https URL"));
        }
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return usage(format!(
                "--public-url: '{url}' has a path, but a relay is always at the root of its host"
            ));
        }
        if url.scheme() == "http" && !matches!(tls, TlsSource::Plain(_)) {
            return usage(format!("--public-url: '{url}', but the relay listens for HTTPS"));
        }
        return Ok(Some(url));
    }
    let TlsSource::Acme { names, .. } = tls else { return Ok(None) };
    let name = names.first().map(String::as_str).unwrap_or_default();
    let text = format!("https://{name}:{}", listen.port());
    text.parse().map(Some).map_err(|error| Failure::Usage(format!("--acme: '{name}': {error}")))
}

/// Refuses tokens that strangers could read on their way here.
fn no_token_in_the_clear(listen: SocketAddr, public_url: Option<&Url>, tls: &TlsSource) -> Outcome {
    if !matches!(tls, TlsSource::Plain(_)) {
        return Ok(());
    }
    let private = match listen.ip() {
        IpAddr::V4(ip) => is_private_v4(ip),
        IpAddr::V6(ip) => is_private_v6(ip),
    };
    // What goes to an onion service is encrypted by Tor, up to this machine.
    if private && public_url.is_none_or(|url| may_carry(url) || is_onion(url)) {
        return Ok(());
    }
    usage(
        "--relay-token-file: over plain HTTP, others could read the token on its way. Leave --http \
         out, or give --listen a private address: your network's, or 127.0.0.1 behind a reverse \
         proxy with an https:// --public-url",
    )
}

/// The URL of an address, without the scheme's usual port.
pub(crate) fn url_of(tls: &TlsSource, ip: IpAddr, port: u16) -> Outcome<Url> {
    let plain = matches!(tls, TlsSource::Plain(_));
    let (scheme, usual) = if plain { ("http", 80) } else { ("https", 443) };
    let host: Host<String> = match ip.to_canonical() {
        IpAddr::V4(ip) => Host::Ipv4(ip),
        IpAddr::V6(ip) => Host::Ipv6(ip),
    };
    let port = if port == usual { String::new() } else { format!(":{port}") };
    format!("{scheme}://{host}{port}").parse().map_err(Failure::failed)
}

/// An address of this machine that others know, found without sending anything: the one that packets to the outside
/// would have.
pub(crate) fn own_address() -> Option<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849), for which the default route is taken.
    let outside = [
        SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 9)),
        SocketAddr::from((Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9)),
    ];
    outside.into_iter().find_map(|outside| {
        let any: IpAddr = match outside {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((any, 0)).ok()?;
        socket.connect(outside).ok()?;
        Some(socket.local_addr().ok()?.ip())
    })
}

#[cfg(test)]
mod tests;
