use std::fmt;

use data_encoding::{BASE64_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Candidate;

/// The operating system gave no random numbers.
#[derive(Debug, Error)]
#[error("the operating system has no random numbers to give: {0}")]
pub struct NoRandomness(#[from] getrandom::Error);

/// Random bytes from the operating system.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// What a side's connectivity checks are authenticated with (RFC 8445 section 5.3: at least 24 bits of randomness for
/// the user name fragment and 128 for the password).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Credentials {
    ufrag: [u8; 4],
    password: [u8; 16],
}

impl Credentials {
    /// Fresh ones.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        Ok(Self { ufrag: random()?, password: random()? })
    }

    /// The user name fragment and the password, to tell them to the peer.
    pub(crate) fn to_bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.ufrag);
        bytes[4..].copy_from_slice(&self.password);
        bytes
    }

    /// What [`to_bytes`](Self::to_bytes) of the peer gave.
    pub(crate) fn from_bytes(bytes: &[u8; 20]) -> Self {
        let mut credentials = Self { ufrag: [0; 4], password: [0; 16] };
        credentials.ufrag.copy_from_slice(&bytes[..4]);
        credentials.password.copy_from_slice(&bytes[4..]);
        credentials
    }

    /// The user name fragment as STUN carries it.
    pub(crate) fn ufrag(&self) -> String {
        BASE64_NOPAD.encode(&self.ufrag)
    }

    /// The password as STUN's keys are made of.
    pub(crate) fn password(&self) -> String {
        BASE64_NOPAD.encode(&self.password)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// SHA-256 of the certificate (DER) that a side's QUIC handshake must present.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// What STUN servers have shown of the way out over one address family (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Mapping {
    /// No STUN server was asked, or there is no address of this family to ask from.
    #[default]
    NotAsked,
    /// Servers were asked, and none answered.
    NoAnswer,
    /// One server answered: there is a NAT, and how it maps is not known.
    Unknown,
    /// Nothing translates addresses.
    NoNat,
    /// Several servers saw the same address: the NAT maps without regard to the destination.
    Independent,
    /// Several servers saw different addresses: the NAT has another one for each destination ("symmetric").
    Dependent,
}

/// What one side tells the other, so that they find each other and know each other again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// For the connectivity checks.
    pub credentials: Credentials,
    /// Of the certificate that this side's QUIC handshake will present.
    pub fingerprint: Fingerprint,
    /// Where this side may be reached.
    pub candidates: Vec<Candidate>,
    /// How it gets out over IPv4.
    pub mapping_v4: Mapping,
    /// How it gets out over IPv6.
    pub mapping_v6: Mapping,
}
