use std::fmt;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use tunnel_model::Source;

use crate::Description;
use crate::description::{NoRandomness, random};

/// Names a negotiation, and the session that it leads to. Random, made by the client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// A fresh one.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0[..4]))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self})")
    }
}

/// What the other side has to echo, so that it is there now and not in a recording. Random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Nonce(pub [u8; 16]);

impl Nonce {
    /// A fresh one.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonce(..)")
    }
}

/// What the client begins with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Its name.
    pub session: SessionId,
    /// What the offer echoes.
    pub nonce: Nonce,
    /// Who and where the client is.
    pub description: Description,
    /// The services it asks for; at least one, in the order of its forwards.
    pub sources: Vec<Source>,
}

/// What the server says to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The request's.
    pub session: SessionId,
    /// What the answer echoes.
    pub nonce: Nonce,
    /// The request's nonce.
    pub echo: Nonce,
    /// Who and where the server is.
    pub description: Description,
}

/// What the client says to an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The request's.
    pub session: SessionId,
    /// The offer's nonce.
    pub echo: Nonce,
}

/// Where a side is now, in place of what it said before; for the time until a path stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidates {
    /// The request's.
    pub session: SessionId,
    /// From 1, and one more each time: an update that overtook another one is not undone by it.
    pub revision: u32,
    /// The same credentials and fingerprint as before, with the candidates of now.
    pub description: Description,
}

/// Why there will be no session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The server has as many sessions as it may have.
    Full,
    /// The server negotiates as much with this key as it does at once.
    Busy,
    /// The server allows none of the services; in words, one for each.
    SourcesRefused(Vec<String>),
    /// The server cannot do it.
    Failed,
    /// The side that says so has given up or ends.
    Withdrawn,
}

/// Ends a negotiation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The request's.
    pub session: SessionId,
    /// For programs.
    pub reason: Reason,
    /// For people; the peer wrote it. Without control characters.
    pub words: String,
}

/// What the two sides tell each other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The client's first.
    Request(Request),
    /// The server's answer to it.
    Offer(Offer),
    /// The client's answer to that.
    Answer(Answer),
    /// Either side's refusal.
    Refused(Refused),
    /// Either side's news of where it is.
    Candidates(Candidates),
}

impl Message {
    /// The negotiation that it belongs to.
    pub fn session(&self) -> SessionId {
        match self {
            Self::Request(Request { session, .. })
            | Self::Offer(Offer { session, .. })
            | Self::Answer(Answer { session, .. })
            | Self::Refused(Refused { session, .. })
            | Self::Candidates(Candidates { session, .. }) => *session,
        }
    }

    /// What it is, for logs.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Request(_) => "request",
            Self::Offer(_) => "offer",
            Self::Answer(_) => "answer",
            Self::Refused(_) => "refusal",
            Self::Candidates(_) => "candidates",
        }
    }
}
