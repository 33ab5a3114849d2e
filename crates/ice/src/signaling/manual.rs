//! Descriptions that people copy and paste: an offer, and the answer to it.

mod block;
mod code;

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use tunnel_model::Source;

pub use block::{
    Block, BlockError, BlockKind, MAX_CANDIDATES, MAX_SOURCES, Scanner, encode_answer, encode_offer,
};

pub use code::{CodePart, ShortCode};

use crate::Description;
use crate::description::{NoRandomness, random};

/// Names an offer and everything that belongs to it. Random.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OfferId(pub [u8; 8]);

impl OfferId {
    /// A fresh one.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }
}

impl fmt::Display for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..4]))
    }
}

impl fmt::Debug for OfferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OfferId({self})")
    }
}

/// What the client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub id: OfferId,
    /// How long the client waits for the answer, from when the offer was made; in whole seconds, from 1 to 65,535.
    pub ttl: Duration,
    /// What binds the client to its part of the [`ShortCode`], which it tells later.
    pub commitment: [u8; 16],
    /// Who and where the client is.
    pub description: Description,
    /// The services it asks for; at least one, in the order of its forwards.
    pub sources: Vec<Source>,
}

/// What the server says to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The offer that it answers.
    pub id: OfferId,
    /// The server's part of the short code.
    pub nonce: [u8; 16],
    /// Who and where the server is.
    pub description: Description,
}
