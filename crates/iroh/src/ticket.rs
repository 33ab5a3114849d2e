use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use iroh::{EndpointId, RelayUrl};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use thiserror::Error;
use url::Url;

use crate::Pin;

/// All that a client needs to find a server, in one string without white space: never a secret.
///
/// Form: `tunnelrs1`, then base32 (RFC 4648 without padding, lower case) of the body in postcard and the first four
/// bytes of its SHA-256, so that a ticket cut short is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Who the server is.
    pub id: EndpointId,
    /// Where it can perhaps be reached directly.
    pub addresses: Vec<SocketAddr>,
    /// Relays that it can be reached through.
    pub relays: Vec<RelayUrl>,
    /// The UDP port for address discovery of each relay, in their order, where it is not the usual one.
    pub quic_ports: Vec<Option<u16>>,
    /// A discovery server of the owner's.
    pub discovery: Option<Url>,
    /// The public keys that the relays' and the discovery server's certificates must have; none is the web's authorities.
    pub relay_pins: Vec<Pin>,
    /// Whether the relays, the discovery server, or both are the owner's, so that a client asks nobody else.
    pub own_infrastructure: bool,
}

#[derive(Serialize, Deserialize)]
struct Body {
    id: [u8; 32],
    addresses: Vec<SocketAddr>,
    relays: Vec<(String, Option<u16>)>,
    discovery: Option<String>,
    relay_pins: Vec<Pin>,
    own_infrastructure: bool,
}

/// Why a text is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TicketError {
    /// Begins otherwise.
    #[error("a ticket begins with '{PREFIX}'")]
    Prefix,
    /// Characters are missing or altered.
    #[error("the ticket is damaged or cut short: copy it again, whole")]
    Damaged,
}

const PREFIX: &str = "tunnelrs1";
const CHECKSUM: usize = 4;

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.quic_ports.iter().copied().chain(std::iter::repeat(None));
        let body = Body {
            id: *self.id.as_bytes(),
            addresses: self.addresses.clone(),
            relays: self.relays.iter().map(ToString::to_string).zip(ports).collect(),
            discovery: self.discovery.as_ref().map(ToString::to_string),
            relay_pins: self.relay_pins.clone(),
            own_infrastructure: self.own_infrastructure,
        };
        let mut bytes = postcard::to_allocvec(&body).map_err(|_| fmt::Error)?;
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum[..CHECKSUM]);
        write!(f, "{PREFIX}{}", BASE32_NOPAD.encode(&bytes).to_ascii_lowercase())
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(s: &str) -> Result<Self, TicketError> {
        let text = s.trim().to_ascii_uppercase();
        let text = text.strip_prefix(&PREFIX.to_ascii_uppercase()).ok_or(TicketError::Prefix)?;
        let bytes = BASE32_NOPAD.decode(text.as_bytes()).map_err(|_| TicketError::Damaged)?;
        let (bytes, sum) = bytes
            .split_at_checked(bytes.len().saturating_sub(CHECKSUM))
            .ok_or(TicketError::Damaged)?;
        if Sha256::digest(bytes)[..CHECKSUM] != *sum {
            return Err(TicketError::Damaged);
        }
        // Bytes behind the body are a later version's.
        let (body, _): (Body, _) =
            postcard::take_from_bytes(bytes).map_err(|_| TicketError::Damaged)?;
        let mut relays = Vec::new();
        let mut quic_ports = Vec::new();
        for (url, port) in body.relays {
            relays.push(url.parse().map_err(|_| TicketError::Damaged)?);
            quic_ports.push(port);
        }
        let discovery = body.discovery.map(|url| url.parse()).transpose();
        Ok(Self {
            id: EndpointId::from_bytes(&body.id).map_err(|_| TicketError::Damaged)?,
            addresses: body.addresses,
            relays,
            quic_ports,
            discovery: discovery.map_err(|_| TicketError::Damaged)?,
            relay_pins: body.relay_pins,
            own_infrastructure: body.own_infrastructure,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::SecretKey;

    fn ticket() -> Ticket {
        Ticket {
            id: SecretKey::generate().id(),
            addresses: vec!["192.0.2.1:4433".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()],
            relays: vec!["https://relay.example.org/".parse().unwrap()],
            quic_ports: vec![Some(7000)],
            discovery: Some("https://dns.example.org/pkarr".parse().unwrap()),
            relay_pins: vec![format!("sha256:{}", "ab".repeat(32)).parse().unwrap()],
            own_infrastructure: true,
        }
    }

    #[test]
    fn tickets_come_back_whole_in_either_case() {
        let ticket = ticket();
        let text = ticket.to_string();
        assert_eq!(text.parse::<Ticket>().unwrap(), ticket);
        assert_eq!(text.to_ascii_uppercase().parse::<Ticket>().unwrap(), ticket);
        assert_eq!(format!(" {text}\n").parse::<Ticket>().unwrap(), ticket);
    }

    #[test]
    fn a_ticket_cut_anywhere_is_refused() {
        let text = ticket().to_string();
        for end in 0..text.len() {
            assert!(text[..end].parse::<Ticket>().is_err(), "cut at {end} was accepted");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(s in "\\PC{0,80}", body in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = s.parse::<Ticket>();
            let mut bytes = body.clone();
            bytes.extend_from_slice(&Sha256::digest(&body)[..CHECKSUM]);
            let _ = format!("{PREFIX}{}", BASE32_NOPAD.encode(&bytes)).parse::<Ticket>();
        }
    }
}
