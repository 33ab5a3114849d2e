//! `tunnel-rs relay`: a relay and discovery server of one's own.

use std::net::SocketAddr;

use tunnel_cli::signals::{self, Reload};
use tunnel_cli::{Failure, Outcome};
use tunnel_relay::{AcmeOptions, DiscoveryOptions, Relay, RelayOptions, Rules, Tls};
use url::Url;

use super::print;
use crate::config::relay::{RelayArgs, RelayConfig, TlsSource, own_address, url_of};

mod announce;
mod files;
mod watch;

/// The UDP port for address discovery. Clients look for it nowhere else (iroh-relay, `DEFAULT_RELAY_QUIC_PORT`).
const QUIC_PORT: u16 = 7842;

pub(super) async fn run(args: RelayArgs) -> Outcome {
    let config = args.resolve()?;
    files::make_folder(&config.state)?;
    let watched = watch::Watched::new(&config);
    let (rules, tls) = (watch::rules(&config.access)?, tls(&config)?);
    let shutdown = signals::shutdown().map_err(Failure::failed)?;
    let reload = Reload::new().map_err(Failure::failed)?;
    let relay = start(&config, rules.clone(), tls).await?;
    let url = url(&config, relay.address())?;
    announce::announce(&config, &relay, &url, &rules)?;
    let outcome = tokio::select! {
        () = watched.keep_fresh(&relay, reload, &url) => Ok(()),
        () = shutdown.cancelled() => Ok(()),
        () = relay.failed() => Err(Failure::Failed("a part of the relay has ended".to_owned())),
    };
    relay.shutdown().await;
    outcome
}

/// Fails where a relay with these settings would not start, as far as files tell. Nothing is written.
pub(super) fn check(args: RelayArgs) -> Outcome {
    let config = args.resolve()?;
    watch::rules(&config.access)?;
    match &config.tls {
        TlsSource::Plain(Some(at)) | TlsSource::Files(at) => files::certificate(at).map(drop),
        TlsSource::Acme { ca: Some(path), .. } => files::authorities(path).map(drop),
        TlsSource::Plain(None) | TlsSource::Own | TlsSource::Acme { .. } => Ok(()),
    }
}

fn tls(config: &RelayConfig) -> Outcome<Tls> {
    Ok(match &config.tls {
        TlsSource::Plain(None) => Tls::Plain(None),
        TlsSource::Plain(Some(at)) => Tls::Plain(Some(files::certificate(at)?)),
        TlsSource::Files(at) => Tls::Certificate(files::certificate(at)?),
        TlsSource::Own => {
            let name = config.public_url.as_ref().and_then(Url::host_str).map(str::to_owned);
            let name = name.unwrap_or_else(|| "localhost".to_owned());
            Tls::Certificate(files::own_certificate(&config.state, name)?)
        }
        TlsSource::Acme { names, contact, directory, ca } => {
            let folder = config.state.join("acme");
            files::make_private_folder(&folder)?;
            Tls::Acme(AcmeOptions {
                names: names.clone(),
                contact: contact.clone(),
                directory: directory.as_ref().map(Url::to_string),
                roots: ca.as_deref().map(files::authorities).transpose()?.unwrap_or_default(),
                folder,
            })
        }
    })
}

async fn start(config: &RelayConfig, rules: Rules, tls: Tls) -> Outcome<Relay> {
    let options = RelayOptions {
        listen: config.listen,
        tls,
        quic_port: QUIC_PORT,
        discovery: Some(DiscoveryOptions {
            folder: config.state.clone(),
            dns: config.dns,
            origin: config.dns_origin.clone(),
        }),
        rules,
        client_rate: config.client_rate,
        address_connections: config.address_connections,
        status: config.metrics,
    };
    Relay::start(options).await.map_err(Failure::failed)
}

/// What servers and clients are given.
fn url(config: &RelayConfig, address: SocketAddr) -> Outcome<Url> {
    if let Some(url) = &config.public_url {
        return Ok(url.clone());
    }
    let own = if address.ip().is_unspecified() { own_address() } else { Some(address.ip()) };
    let own = own.ok_or_else(|| {
        let text = "this machine has no address to give to others: give --public-url URL";
        // It may have one later, and services are not started again after a wrong command line.
        Failure::Failed(text.to_owned())
    })?;
    url_of(&config.tls, own, address.port())
}
