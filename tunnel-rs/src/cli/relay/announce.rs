//! What a relay prints: everything that servers and clients need to use it.

use tunnel_cli::Outcome;
use tunnel_relay::{Relay, Rules};
use url::{Host, Url};

use super::print;
use crate::config::relay::{AccessSource, RelayConfig, TlsSource};
use crate::config::relay_token::{is_private_v4, is_private_v6};

pub(super) fn announce(config: &RelayConfig, relay: &Relay, url: &Url, rules: &Rules) -> Outcome {
    let flags = flags(config, relay, url);
    let shown = root(url);
    print(&format!("Relay: {shown}"))?;
    print(&format!("Discovery: {}", discovery(url)))?;
    if let Some(pin) = needed_pin(config, relay, url) {
        print(&format!("Pin: {pin}"))?;
    }
    if let Some(address) = relay.dns_address() {
        print(&format!("DNS: {address}"))?;
    }
    if let Some(address) = relay.status_address() {
        print(&format!("Metrics: http://{address}/metrics"))?;
    }
    print(&format!("Flags: {flags}"))?;
    let token = match config.access {
        AccessSource::Tokens(_) => " --relay-token-file FILE",
        AccessSource::Everybody | AccessSource::Ids(_) => "",
    };
    print(&format!(
        "Server: tunnel-rs server {flags}{token} --allowed-tcp CIDR --auth-tokens-file FILE"
    ))?;
    print(&format!(
        "Client: tunnel-rs client --ticket TICKET{token} --auth-token-file FILE -L PORT:HOST:PORT"
    ))?;
    tell(config, relay, url, rules);
    print("Waiting for clients to connect...")
}

/// What the operator should know, and no script reads.
fn tell(config: &RelayConfig, relay: &Relay, url: &Url, rules: &Rules) {
    tracing::info!("listening on {}; who may use the relay: {rules}", relay.address());
    match relay.quic_address() {
        Some(address) => tracing::info!("address discovery on UDP {address}"),
        None => tracing::warn!(
            "no address discovery without a certificate: servers and clients behind NATs do not \
             learn their public addresses here, so fewer of them find a direct path"
        ),
    }
    let scheme = url.scheme();
    if scheme == "http" {
        tracing::warn!(
            "plain HTTP: who sees the packets learns which endpoints talk to each other; what they \
             say stays encrypted from end to end"
        );
    } else if matches!(config.tls, TlsSource::Plain(_)) {
        tracing::info!("expecting a reverse proxy at {} to do TLS", root(url));
    }
    if config.public_url.is_none() && is_private(url) {
        tracing::info!(
            "{} is a private address: for use beyond this network give --public-url",
            url.host_str().unwrap_or_default()
        );
    }
    if let (TlsSource::Files(_), Some(certificates)) = (&config.tls, relay.certificates())
        && let Some(why) = certificates.get().distrust(&host(url))
    {
        tracing::info!("clients know the certificate by its pin, as authorities do not do: {why}");
    }
    if let TlsSource::Acme { names, directory, .. } = &config.tls {
        let names = names.join(", ");
        tracing::info!(
            "asking for a certificate for {names}: until it is there, nobody can connect"
        );
        if relay.address().port() != 443 {
            tracing::warn!("the authority connects to TCP port 443 of {names}: forward it here");
        }
        if directory.is_some() {
            tracing::info!(
                "clients that do not trust the authority need its PEM file as --relay-ca"
            );
        }
    }
}

/// What a server is given; a client has it from the server's ticket.
fn flags(config: &RelayConfig, relay: &Relay, url: &Url) -> String {
    let mut flags = format!("--relay-url {} --dns-server {}", root(url), discovery(url));
    if let Some(pin) = needed_pin(config, relay, url) {
        flags.push_str(&format!(" --relay-ca {pin}"));
    }
    flags
}

/// The pin, where nobody else vouches for the certificate.
pub(super) fn needed_pin(config: &RelayConfig, relay: &Relay, url: &Url) -> Option<String> {
    let needed = match config.tls {
        TlsSource::Own => true,
        TlsSource::Files(_) => relay.certificates()?.get().distrust(&host(url)).is_some(),
        // A reverse proxy has its own, and an authority's changes.
        TlsSource::Plain(_) | TlsSource::Acme { .. } => false,
    };
    if needed { relay.pin() } else { None }
}

/// Without the stroke behind the host.
fn root(url: &Url) -> &str {
    url.as_str().trim_end_matches('/')
}

/// Where the discovery server takes records (iroh-dns-server, `http`).
fn discovery(url: &Url) -> String {
    format!("{}/pkarr", root(url))
}

/// As it stands in a certificate: an IPv6 address without brackets.
fn host(url: &Url) -> String {
    url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
}

fn is_private(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(ip)) => is_private_v4(ip),
        Some(Host::Ipv6(ip)) => is_private_v6(ip),
        Some(Host::Domain(_)) | None => false,
    }
}
