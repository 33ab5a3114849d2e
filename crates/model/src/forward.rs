use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

use crate::{AddressError, Host, Protocol, Source, Target};

/// One forward of a client: what to ask for, and where to listen for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// What to ask the server for.
    pub source: Source,
    /// Where to listen; its scheme, if any, is that of the source.
    pub target: Target,
}

/// Why a forward was not understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ForwardError {
    /// A part of it is no address.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The target's scheme is not the source's.
    #[error("target '{target}' does not match source '{source_}': both must be tcp or both udp")]
    SchemeMismatch {
        /// The source as written.
        source_: String,
        /// The target as written.
        target: String,
    },
    /// Not of ssh's form.
    #[error("'{0}' is not a forward: write [BIND:]PORT:HOST:PORT, with /udp behind it for UDP")]
    Malformed(String),
}

impl Forward {
    /// Joins a source and a target.
    ///
    /// # Errors
    ///
    /// [`ForwardError::SchemeMismatch`] where the target has a scheme that is not the source's.
    pub fn new(source: Source, target: Target) -> Result<Self, ForwardError> {
        if target.protocol.is_some_and(|p| p != source.protocol) {
            return Err(ForwardError::SchemeMismatch {
                source_: source.to_string(),
                target: target.to_string(),
            });
        }
        Ok(Self { source, target })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Target { host, port, .. } = &self.target;
        write!(f, "{}://{host}:{port} to {}", self.source.protocol, self.source)
    }
}

/// Reads ssh's form (`ssh(1)`, option `-L`): `[BIND:]PORT:HOST:PORT`, with `/udp` or `/tcp` behind it.
///
/// Without BIND the listener is on the IPv4 loopback address; `*` or an empty BIND means every address.
impl FromStr for Forward {
    type Err = ForwardError;

    fn from_str(s: &str) -> Result<Self, ForwardError> {
        let malformed = || ForwardError::Malformed(s.to_owned());
        let (spec, protocol) = match s.rsplit_once('/') {
            Some((spec, "udp")) => (spec, Protocol::Udp),
            Some((spec, "tcp")) => (spec, Protocol::Tcp),
            Some(_) => return Err(malformed()),
            None => (s, Protocol::Tcp),
        };
        let (bind, port, host, host_port) = match split_outside_brackets(spec)[..] {
            [port, host, host_port] => (None, port, host, host_port),
            [bind, port, host, host_port] => (Some(bind), port, host, host_port),
            _ => return Err(malformed()),
        };
        let bind = match bind {
            None => Host::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            Some("" | "*") => Host::Ip(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
            Some(host) => host.parse()?,
        };
        let target: Target = format!("{bind}:{port}").parse()?;
        let source: Source = format!("{protocol}://{host}:{host_port}").parse()?;
        Self::new(source, target)
    }
}

fn split_outside_brackets(s: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, c) in s.char_indices() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            ':' if !inside => {
                parts.push(&s[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&s[start..]);
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ssh_form_is_read() {
        for (given, shown) in [
            ("8080:web:80", "tcp://127.0.0.1:8080 to tcp://web:80"),
            ("5353:10.0.0.1:53/udp", "udp://127.0.0.1:5353 to udp://10.0.0.1:53"),
            ("0.0.0.0:22:[fd00::1]:22", "tcp://0.0.0.0:22 to tcp://[fd00::1]:22"),
            ("[::1]:1:h:2/tcp", "tcp://[::1]:1 to tcp://h:2"),
            ("*:1:h:2", "tcp://[::]:1 to tcp://h:2"),
        ] {
            assert_eq!(given.parse::<Forward>().unwrap().to_string(), shown, "{given}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for s in ["", "22", "22:h", "h:22", "1:2:3:4:5", "1:h:2/sctp", "x:h:2", "1:h:0", "1:1.2:2"]
        {
            assert!(s.parse::<Forward>().is_err(), "{s} was accepted");
        }
    }

    #[test]
    fn a_target_of_another_scheme_is_refused() {
        let source = "tcp://h:1".parse().unwrap();
        let target = "udp://127.0.0.1:1".parse().unwrap();
        assert!(matches!(Forward::new(source, target), Err(ForwardError::SchemeMismatch { .. })));
    }

    proptest! {
        #[test]
        fn nothing_panics(s in "\\PC{0,40}") {
            let _ = s.parse::<Forward>();
        }
    }
}
