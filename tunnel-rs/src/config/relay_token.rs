//! The token that one's own relay asks for.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use clap::Args;
use tunnel_cli::{Failure, Outcome, file, rules};
use tunnel_iroh::tor::is_onion;
use tunnel_iroh::{EndpointConfig, Relays};
use tunnel_model::Token;
use url::{Host, Url};

/// What the relay asks for, by a flag.
#[derive(Args, Debug, Default)]
pub(crate) struct RelayTokenArgs {
    /// A file with the token that your own relay asks for. It is no part of tickets
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_RELAY_TOKEN_FILE")]
    relay_token_file: Option<PathBuf>,
}

impl RelayTokenArgs {
    /// The token of the flag's file, or else of the one that is named in the configuration.
    pub(crate) fn resolve(self, file: Option<PathBuf>) -> Outcome<Option<Token>> {
        self.relay_token_file.or(file).map(|path| the_only_one(&path)).transpose()
    }
}

/// The token of a file that holds one.
pub(crate) fn the_only_one(path: &Path) -> Outcome<Token> {
    let path = file::expand(path);
    let tokens = rules::read_tokens(&path)?.0;
    match <[_; 1]>::try_from(tokens) {
        Ok([entry]) => Ok(entry.token),
        Err(tokens) => {
            let (path, count) = (path.display(), tokens.len());
            let text = format!("{path} holds {count} tokens; exactly one is needed");
            Err(Failure::Usage(text))
        }
    }
}

/// Refuses a relay token that nobody asks for, or that strangers could read on its way.
pub(crate) fn check(endpoint: &EndpointConfig) -> Outcome {
    if endpoint.relay_token.is_none() {
        return Ok(());
    }
    let relays = match &endpoint.relays {
        Relays::Own(relays) if !relays.is_empty() => relays,
        Relays::Own(_) | Relays::Public => {
            let text = "--relay-token-file is for your own relay: give --relay-url as well";
            return Err(Failure::Usage(text.to_owned()));
        }
    };
    // What goes to an onion service through Tor is encrypted up to it.
    let by_tor = |url| endpoint.tor.is_some() && is_onion(url);
    match relays.iter().find(|relay| !may_carry(&relay.url) && !by_tor(&relay.url)) {
        Some(relay) => Err(Failure::Usage(format!(
            "--relay-token-file: {} is not encrypted, and beyond private addresses others could \
             read the token on its way: use an https:// relay",
            relay.url
        ))),
        None => Ok(()),
    }
}

/// Whether a token may go to this URL: over TLS, or to a private address. A name can lead anywhere.
pub(crate) fn may_carry(url: &Url) -> bool {
    url.scheme() == "https"
        || match url.host() {
            Some(Host::Ipv4(ip)) => is_private_v4(ip),
            Some(Host::Ipv6(ip)) => is_private_v6(ip),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        }
}

/// RFC 1918, RFC 3927 and loopback.
pub(crate) fn is_private_v4(ip: Ipv4Addr) -> bool {
    ip.is_private() || ip.is_loopback() || ip.is_link_local()
}

/// RFC 4193, RFC 4291 and loopback.
pub(crate) fn is_private_v6(ip: Ipv6Addr) -> bool {
    match ip.to_ipv4_mapped() {
        Some(ip) => is_private_v4(ip),
        None => ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use tunnel_iroh::RelayServer;

    use super::*;

    fn endpoint(url: &str) -> EndpointConfig {
        EndpointConfig {
            relays: Relays::Own(vec![RelayServer { url: url.parse().unwrap(), quic_port: None }]),
            relay_token: Some("ikAdvudu_ZxNXhNLCD".parse().unwrap()),
            ..EndpointConfig::default()
        }
    }

    #[test]
    fn a_token_goes_over_tls_or_to_private_addresses() {
        for url in [
            "https://relay.example.org",
            "http://127.0.0.1:8080",
            "http://192.168.1.2",
            "http://[fd00::1]:80",
            "http://localhost:80",
        ] {
            assert!(check(&endpoint(url)).is_ok(), "{url}");
        }
        for url in [
            "http://relay.example.org",
            "http://203.0.113.7",
            "http://[2001:db8::1]",
            "http://100.64.0.1",
            "http://10.0.0.1.example.org",
        ] {
            assert!(matches!(check(&endpoint(url)), Err(Failure::Usage(_))), "{url}");
        }
    }

    #[test]
    fn a_token_goes_to_an_onion_service_through_tor_alone() {
        let onion = format!("http://{}.onion", "a".repeat(56));
        assert!(check(&endpoint(&onion)).is_err());
        let proxy = "socks5h://127.0.0.1:9050".parse().unwrap();
        let tor = tunnel_iroh::tor::Tor { proxy, only: false };
        assert!(check(&EndpointConfig { tor: Some(tor), ..endpoint(&onion) }).is_ok());
        let tor = EndpointConfig { tor: Some(tor), ..endpoint("http://relay.example.org") };
        assert!(check(&tor).is_err());
    }

    #[test]
    fn public_relays_get_no_token() {
        let endpoint = EndpointConfig { relays: Relays::Public, ..endpoint("https://x") };
        assert!(matches!(check(&endpoint), Err(Failure::Usage(text)) if text.contains("own")));
    }

    #[test]
    fn a_file_with_two_tokens_is_not_understood() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, "ikAdvudu_ZxNXhNLCD\niw3nLKic3oV7zmFJ8v\n").unwrap();
        let error = the_only_one(&path).unwrap_err().to_string();
        assert!(error.contains("2 tokens") && !error.contains("Advudu"), "{error}");
    }
}
