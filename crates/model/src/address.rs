use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a forward carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// Byte streams.
    Tcp,
    /// Packets.
    Udp,
}

impl Protocol {
    /// The scheme in front of `://`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())
    }
}

/// A host as a user writes it: an address or a name for the resolver.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Host {
    /// An IPv4 or IPv6 address, canonical (an IPv4-mapped IPv6 address is held as IPv4).
    Ip(IpAddr),
    /// A name, at most 253 characters (RFC 1035 section 2.3.4), lower case, without a trailing dot.
    Name(String),
}

/// Why a source, target or host was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// No scheme in front.
    #[error("'{0}' has no scheme: write tcp://HOST:PORT or udp://HOST:PORT")]
    NoScheme(String),
    /// A scheme other than tcp and udp.
    #[error("'{0}' is not a scheme that can be forwarded: use tcp:// or udp://")]
    UnknownScheme(String),
    /// No port behind the host.
    #[error("'{0}' has no port: write HOST:PORT")]
    NoPort(String),
    /// The port is no number from 0 (targets) or 1 (sources) to 65535.
    #[error("'{0}' is not a port: it must be a number from {1} to 65535")]
    BadPort(String, u16),
    /// The host is neither an address nor a name.
    #[error("'{0}' is neither an IP address nor a host name (IPv6 addresses go in brackets)")]
    BadHost(String),
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        let bad = || AddressError::BadHost(s.to_owned());
        if let Some(inner) = s.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or_else(bad)?;
            let ip: Ipv6Addr = inner.parse().map_err(|_| bad())?;
            return Ok(Self::Ip(IpAddr::V6(ip).to_canonical()));
        }
        if let Ok(ip) = s.parse::<Ipv4Addr>() {
            return Ok(Self::Ip(IpAddr::V4(ip)));
        }
        let name = s.strip_suffix('.').unwrap_or(s);
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if name.is_empty() || name.len() > 253 || !name.split('.').all(label_ok) {
            return Err(bad());
        }
        // Resolvers read "0177.1", "0x7f.1" and "2130706433" as IPv4 addresses; a name never ends in a number
        // (WHATWG URL, section 3.5, "ends in a number").
        let last = name.rsplit('.').next().unwrap_or(name);
        let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|b| b.is_ascii_digit())
            || hex.is_some_and(|h| h.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(bad());
        }
        Ok(Self::Name(name.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for Host {
    type Error = AddressError;

    fn try_from(s: String) -> Result<Self, AddressError> {
        s.parse()
    }
}

impl From<Host> for String {
    fn from(host: Host) -> Self {
        host.to_string()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

fn split_port(s: &str, least: u16) -> Result<(&str, u16), AddressError> {
    let (host, port) = s
        .rsplit_once(':')
        .filter(|(host, _)| !host.is_empty() && (host.starts_with('[') || !host.contains(':')))
        .ok_or_else(|| AddressError::NoPort(s.to_owned()))?;
    let number = port
        .parse::<u16>()
        .ok()
        .filter(|n| *n >= least && port.bytes().all(|b| b.is_ascii_digit()))
        .ok_or_else(|| AddressError::BadPort(port.to_owned(), least))?;
    Ok((host, number))
}

fn scheme(s: &str) -> Result<Protocol, AddressError> {
    match s {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        other => Err(AddressError::UnknownScheme(other.to_owned())),
    }
}

/// The service that a client asks for, as the server reaches it: `tcp://HOST:PORT` or `udp://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawSource")]
pub struct Source {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Resolved by the server, not by the client.
    pub host: Host,
    /// 1 to 65535.
    pub port: u16,
}

/// What travels; it becomes a [`Source`] only after the checks that parsing makes.
#[derive(Deserialize)]
#[serde(rename = "Source")]
struct RawSource {
    protocol: Protocol,
    host: Host,
    port: u16,
}

impl TryFrom<RawSource> for Source {
    type Error = AddressError;

    fn try_from(raw: RawSource) -> Result<Self, AddressError> {
        if raw.port == 0 {
            return Err(AddressError::BadPort("0".to_owned(), 1));
        }
        Ok(Self { protocol: raw.protocol, host: raw.host, port: raw.port })
    }
}

impl FromStr for Source {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        let (name, rest) =
            s.split_once("://").ok_or_else(|| AddressError::NoScheme(s.to_owned()))?;
        let protocol = scheme(name)?;
        let (host, port) = split_port(rest, 1)?;
        Ok(Self { protocol, host: host.parse()?, port })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.protocol, self.host, self.port)
    }
}

/// A local listen address: `HOST:PORT`, optionally with a scheme in front. Port 0 means any free port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The scheme, where one was written.
    pub protocol: Option<Protocol>,
    /// Resolved on this machine.
    pub host: Host,
    /// 0 to 65535.
    pub port: u16,
}

impl Target {
    /// The socket address, where the host is no name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Ip(ip) => Some(SocketAddr::new(ip, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl FromStr for Target {
    type Err = AddressError;

    fn from_str(s: &str) -> Result<Self, AddressError> {
        let (protocol, rest) = match s.split_once("://") {
            Some((name, rest)) => (Some(scheme(name)?), rest),
            None => (None, s),
        };
        let (host, port) = split_port(rest, 0)?;
        Ok(Self { protocol, host: host.parse()?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "{protocol}://")?;
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sources_are_read_and_printed_alike() {
        for s in ["tcp://127.0.0.1:22", "udp://[fd00::1]:53", "tcp://db.example.org:5432"] {
            assert_eq!(s.parse::<Source>().unwrap().to_string(), s);
        }
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let source: Source = "tcp://[::ffff:127.0.0.1]:22".parse().unwrap();
        assert_eq!(source.host, Host::Ip("127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn names_lose_their_trailing_dot_and_case() {
        let source: Source = "tcp://Nas.Local.:22".parse().unwrap();
        assert_eq!(source.host, Host::Name("nas.local".into()));
    }

    #[test]
    fn wrong_sources_say_what_is_wrong() {
        let is = |s: &str| s.parse::<Source>().unwrap_err();
        assert!(matches!(is("127.0.0.1:22"), AddressError::NoScheme(_)));
        assert!(matches!(is("http://x:80"), AddressError::UnknownScheme(_)));
        assert!(matches!(is("tcp://127.0.0.1"), AddressError::NoPort(_)));
        assert!(matches!(is("tcp://fd00::1:22"), AddressError::NoPort(_)));
        for port in ["0", "65536", "+22", "", "ssh"] {
            assert!(matches!(is(&format!("tcp://h:{port}")), AddressError::BadPort(..)), "{port}");
        }
    }

    #[test]
    fn spellings_that_resolvers_read_as_other_addresses_are_refused() {
        for host in [
            "0177.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "1.2.3",
            "1.2.3.4.5",
            "256.1.1.1",
            "[fe80::1%eth0]",
            "[127.0.0.1]",
            "a..b",
            "",
            "a b",
            "a/b",
            "[::1",
            "::1",
            "0x",
            "x.0X1f",
        ] {
            let s = format!("tcp://{host}:22");
            assert!(s.parse::<Source>().is_err(), "{s} was accepted");
        }
    }

    #[test]
    fn a_source_from_the_wire_passes_the_same_checks() {
        let good: Source = "tcp://h:1".parse().unwrap();
        let mut bytes = postcard::to_allocvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<Source>(&bytes).unwrap(), good);
        *bytes.last_mut().unwrap() = 0;
        assert!(postcard::from_bytes::<Source>(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_parses_prints_back(s in "\\PC{0,60}") {
            if let Ok(source) = s.parse::<Source>() {
                prop_assert_eq!(source.to_string().parse::<Source>().unwrap(), source);
            }
            if let Ok(target) = s.parse::<Target>() {
                prop_assert_eq!(target.to_string().parse::<Target>().unwrap(), target);
            }
        }
    }
}
