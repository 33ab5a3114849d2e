use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use thiserror::Error;

/// A SOCKS5 proxy (RFC 1928) that looks names up itself, written `socks5h://HOST:PORT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocksProxy(SocketAddr);

/// Why a text names no such proxy. None of them repeats it, as a password may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SocksProxyError {
    /// Another scheme, or none.
    #[error(
        "write socks5h://HOST:PORT; with the h, names go to the proxy and are not looked up here"
    )]
    Scheme,
    /// A user or a password.
    #[error(
        "leave the user and the password out: Tor needs none, and this program chooses its own to have circuits of its own"
    )]
    UserInfo,
    /// No port.
    #[error("the port is missing: Tor's is 9050 as a rule, as in socks5h://127.0.0.1:9050")]
    NoPort,
    /// A name where an address is needed.
    #[error(
        "give the proxy's address, as in socks5h://127.0.0.1:9050, or localhost: any other name would be looked up in DNS"
    )]
    Name,
}

const SCHEME: &str = "socks5h://";

impl SocksProxy {
    /// Where it listens.
    pub fn address(self) -> SocketAddr {
        self.0
    }
}

impl FromStr for SocksProxy {
    type Err = SocksProxyError;

    fn from_str(s: &str) -> Result<Self, SocksProxyError> {
        let is_scheme = |prefix: &str| prefix.eq_ignore_ascii_case(SCHEME);
        let rest = match s.split_at_checked(SCHEME.len()) {
            Some((prefix, rest)) if is_scheme(prefix) => rest,
            _ => return Err(SocksProxyError::Scheme),
        };
        if rest.contains('@') {
            return Err(SocksProxyError::UserInfo);
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if let Ok(address) = rest.parse() {
            return Ok(Self(address));
        }
        let (host, port) = match rest.rsplit_once(':') {
            // The colons of an address without brackets, or in them.
            Some((host, port)) if !host.contains(':') => (host, port),
            _ => return Err(SocksProxyError::NoPort),
        };
        let port = port.parse().map_err(|_| SocksProxyError::NoPort)?;
        if !host.eq_ignore_ascii_case("localhost") {
            return Err(SocksProxyError::Name);
        }
        Ok(Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)))
    }
}

impl fmt::Display for SocksProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_localhost_are_taken() {
        for (text, address) in [
            ("socks5h://127.0.0.1:9050", "127.0.0.1:9050"),
            ("SOCKS5H://127.0.0.1:9050/", "127.0.0.1:9050"),
            ("socks5h://[::1]:9150", "[::1]:9150"),
            ("socks5h://localhost:9050", "127.0.0.1:9050"),
        ] {
            let proxy: SocksProxy = text.parse().unwrap();
            assert_eq!(proxy.address(), address.parse().unwrap(), "{text}");
            assert_eq!(proxy.to_string().parse(), Ok(proxy));
        }
    }

    #[test]
    fn everything_else_is_told_apart() {
        use SocksProxyError as E;
        for (text, error) in [
            ("socks5://127.0.0.1:9050", E::Scheme),
            ("127.0.0.1:9050", E::Scheme),
            ("http://127.0.0.1:9050", E::Scheme),
            ("socks5h://user:secret@127.0.0.1:9050", E::UserInfo),
            ("socks5h://127.0.0.1", E::NoPort),
            ("socks5h://localhost", E::NoPort),
            ("socks5h://[::1]", E::NoPort),
            ("socks5h://localhost:99999", E::NoPort),
            ("socks5h://tor.example:9050", E::Name),
        ] {
            assert_eq!(text.parse::<SocksProxy>(), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(s in "\\PC{0,40}") {
            let _ = s.parse::<SocksProxy>();
            let _ = format!("socks5h://{s}").parse::<SocksProxy>();
        }
    }
}
