//! The client's half: authenticates, keeps a session for as long as it takes, and hands it to the listeners.

use thiserror::Error;
use tunnel_model::CloseCode;

use crate::transport::Lost;

mod authenticate;
mod link;
mod rest;
mod session;
mod vpn;

pub use link::{DialError, Dialer, Link, LinkError, Notice};
pub(crate) use session::Session;

/// Why a server did not let this client in, or this client did not trust the server.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AuthenticationError {
    /// The server closed the connection, and said why.
    #[error("{0}")]
    Refused(Lost),
    /// The server did not prove that it knows the token.
    #[error("the server did not prove that it knows the token: it is not the one that was meant")]
    ServerNotProven,
    /// The server speaks another version.
    #[error("the server speaks protocol version {0}, this client {1}")]
    VersionMismatch(u16, u16),
    /// What came was no answer.
    #[error("the server's answer is not understood: {0}")]
    Malformed(String),
    /// The transport has no keying material to bind the proof to.
    #[error("the transport has no keying material")]
    NoKeyingMaterial,
}

impl AuthenticationError {
    /// The session that was to go on is over.
    fn ended() -> Self {
        Self::Malformed("the session has ended meanwhile".to_owned())
    }

    /// Whether trying again cannot help.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::ServerNotProven | Self::VersionMismatch(..) | Self::NoKeyingMaterial => true,
            Self::Refused(lost) => is_fatal(lost),
            Self::Malformed(_) => false,
        }
    }
}

/// Whether a connection ended for a reason that dialling again cannot heal.
fn is_fatal(lost: &Lost) -> bool {
    matches!(
        lost,
        Lost::Closed {
            code: CloseCode::BadToken
                | CloseCode::VersionMismatch
                | CloseCode::Revoked
                | CloseCode::NotPostQuantum
                | CloseCode::ServerNotProven
                | CloseCode::UnknownPeer,
            ..
        }
    )
}
