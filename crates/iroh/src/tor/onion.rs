use thiserror::Error;
use url::Url;

/// The length of an onion service's name before `.onion`: base32 of 35 bytes (Tor's rend-spec-v3, "Encoding onion
/// addresses").
const NAME: usize = 56;

/// What that name ends with: the version, 3, in its last byte's five low bits.
const VERSION: char = 'd';

/// Why a relay cannot be reached through Tor.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum OnionError {
    /// It is no onion service.
    #[error(
        "'{0}' is not an onion service, and with --socks5-proxy every relay must be one: http://NAME.onion"
    )]
    NotOnion(String),
    /// It speaks TLS.
    #[error(
        "'{0}' must be http://: what goes to an onion service is encrypted by Tor, and its name stands for its key"
    )]
    NotHttp(String),
    /// No onion service has such a name.
    #[error(
        "'{0}' is not the name of an onion service: there are {NAME} characters before .onion, a to z and 2 to 7"
    )]
    BadName(String),
}

/// Whether the name is one that only Tor knows, and DNS must not be asked for (RFC 7686 section 2).
pub fn is_onion(url: &Url) -> bool {
    onion_name(url).is_some()
}

/// Accepts the URL of a relay that is an onion service.
///
/// # Errors
///
/// Why it is none.
pub fn require_onion(url: &Url) -> Result<(), OnionError> {
    let Some(name) = onion_name(url) else { return Err(OnionError::NotOnion(url.to_string())) };
    if !is_service(name) {
        return Err(OnionError::BadName(url.host_str().unwrap_or_default().to_owned()));
    }
    if url.scheme() != "http" {
        return Err(OnionError::NotHttp(url.to_string()));
    }
    Ok(())
}

/// Whether a host is an onion service, perhaps with a name of its own in front.
pub(super) fn is_onion_host(host: &str) -> bool {
    host.trim_end_matches('.').strip_suffix(".onion").is_some_and(is_service)
}

/// What stands before `.onion`; URLs of known schemes have hosts in lower case.
fn onion_name(url: &Url) -> Option<&str> {
    url.host_str()?.trim_end_matches('.').strip_suffix(".onion")
}

fn is_service(name: &str) -> bool {
    let name = name.rsplit('.').next().unwrap_or_default();
    let base32 = |c| matches!(c, 'a'..='z' | '2'..='7');
    name.len() == NAME && name.chars().all(base32) && name.ends_with(VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The Tor Project's.
    const SERVICE: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

    fn checked(url: &str) -> Result<(), OnionError> {
        require_onion(&url.parse().unwrap())
    }

    #[test]
    fn onion_services_over_http_are_taken() {
        for url in [
            format!("http://{SERVICE}"),
            format!("http://{SERVICE}:3340/"),
            format!("HTTP://RELAY.{}", SERVICE.to_uppercase()),
        ] {
            assert_eq!(checked(&url), Ok(()), "{url}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for url in
            ["http://relay.example", "http://192.0.2.1", "http://onion", "http://x.onion.example"]
        {
            assert!(matches!(checked(url), Err(OnionError::NotOnion(_))), "{url}");
        }
        for url in ["http://expyuzz4wqqyqhjn.onion", "http://.onion", "http://relay.onion:1"] {
            assert!(matches!(checked(url), Err(OnionError::BadName(_))), "{url}");
        }
        let other_version = format!("http://{}", SERVICE.replace("wid.", "wie."));
        assert!(matches!(checked(&other_version), Err(OnionError::BadName(_))));
        assert!(matches!(checked(&format!("https://{SERVICE}")), Err(OnionError::NotHttp(_))));
    }

    #[test]
    fn every_name_that_dns_must_not_see_is_known() {
        for (url, onion) in [
            ("https://relay.onion", true),
            ("https://relay.onion.", true),
            ("https://RELAY.ONION", true),
            ("https://relay.onion.example", false),
            ("https://onion", false),
        ] {
            assert_eq!(is_onion(&url.parse().unwrap()), onion, "{url}");
        }
    }
}
