//! Relays behind Tor: what goes together, and what does not.

use clap::Args;
use tunnel_cli::settings::key;
use tunnel_cli::{Failure, Outcome};
use tunnel_iroh::tor::{SocksProxy, Tor, is_onion, require_onion};
use tunnel_iroh::{Discovery, EndpointConfig, Relays, Ticket};

#[derive(Args, Debug, Default)]
pub(crate) struct TorArgs {
    /// Experimental: reach the relays, all of them onion services over plain HTTP, through Tor's proxy at
    /// socks5h://HOST:PORT. Nothing is looked up then: clients need a ticket, or the id and the relay. Direct paths are
    /// still taken where there are some
    #[arg(long, value_name = "URL", env = "TUNNEL_RS_SOCKS5_PROXY")]
    // Parsed later: what clap says of a wrong value repeats it, and a password may stand in it.
    socks5_proxy: Option<String>,
    /// With --socks5-proxy: no direct paths, so that nothing leaves this machine but through Tor
    #[arg(
        long,
        value_name = "BOOL",
        env = "TUNNEL_RS_TOR_ONLY",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    tor_only: Option<bool>,
}

/// The same keys of a file's `[iroh]`.
#[derive(Debug, Default)]
pub(crate) struct TorFile {
    pub(crate) socks5_proxy: Option<String>,
    pub(crate) tor_only: Option<bool>,
}

impl TorArgs {
    pub(crate) fn resolve(self, file: &TorFile) -> Outcome<Option<Tor>> {
        let given = self.socks5_proxy.as_deref().map(|text| key("--socks5-proxy", text));
        let in_file = || file.socks5_proxy.as_deref().map(|text| key("socks5_proxy", text));
        let proxy: Option<SocksProxy> = given.or_else(in_file).transpose()?;
        let only = self.tor_only.or(file.tor_only).unwrap_or(false);
        match proxy {
            Some(proxy) => Ok(Some(Tor { proxy, only })),
            None if only => {
                usage("--tor-only needs --socks5-proxy: Tor's, such as socks5h://127.0.0.1:9050")
            }
            None => Ok(None),
        }
    }
}

/// Makes sure that what an endpoint is to do fits with Tor, or without.
///
/// # Errors
///
/// What does not, and what can be done.
pub(crate) fn require_agreement(config: &EndpointConfig, ticket: Option<&Ticket>) -> Outcome {
    let own = match &config.relays {
        Relays::Own(relays) => &relays[..],
        Relays::Public => &[],
    };
    let urls = own.iter().map(|relay| &relay.url);
    let mut relays = urls.chain(ticket.iter().flat_map(|ticket| &ticket.relays));
    let Some(tor) = config.tor else {
        return match relays.find(|url| is_onion(url)) {
            Some(url) => usage(&format!(
                "relay {url} is reached through Tor only: give --socks5-proxy, Tor's, such as socks5h://127.0.0.1:9050"
            )),
            None => Ok(()),
        };
    };
    if matches!(config.discovery, Discovery::Own(_)) {
        return usage(
            "--socks5-proxy excludes --dns-server: nothing is looked up when relays are behind Tor",
        );
    }
    if own.is_empty() {
        return usage(
            "--socks5-proxy needs relays that are onion services: --relay-url http://NAME.onion, or a ticket with one",
        );
    }
    for url in relays {
        require_onion(url).map_err(Failure::usage)?;
    }
    if tor.only && !(config.bind.is_empty() && config.external.is_empty()) {
        return usage(
            "--bind and --external-address are for direct paths, which --tor-only forbids",
        );
    }
    Ok(())
}

fn usage<T>(text: &str) -> Outcome<T> {
    Err(Failure::Usage(text.to_owned()))
}

#[cfg(test)]
mod tests;
