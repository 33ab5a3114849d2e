//! The client's side of authentication.

use tunnel_model::protocol::{self, FrameError, Hello, HelloProof, Welcome};
use tunnel_model::resume::{Resumption, ResumptionSecret, ResumptionTranscript};
use tunnel_model::{ROLE_CLIENT, ROLE_SERVER, Token, Transcript};

use super::AuthenticationError;
use crate::frame::{ReadFrameError, read_message};
use crate::transport::{Connection, SendStream};

/// What a client says of itself.
pub(super) struct Introduction<'a> {
    /// None where the transport's handshake proves both sides to each other.
    pub(super) token: Option<&'a Token>,
    /// Of the client process.
    pub(super) instance: [u8; 16],
    /// Of [`protocol::Hello`].
    pub(super) features: u64,
}

/// What comes of it: the server's answer, the control stream, and the secret with which the session can go on.
pub(super) struct Authenticated<C: Connection> {
    pub(super) welcome: Welcome,
    pub(super) control: (C::Send, C::Recv),
    pub(super) secret: Option<ResumptionSecret>,
}

/// Shows the server who this is, and has it prove itself. `resume` makes what is presented to go on with a session.
pub(super) async fn authenticate<C: Connection>(
    connection: &C,
    who: &Introduction<'_>,
    resume: impl FnOnce(&ResumptionTranscript<'_>) -> Option<Resumption>,
) -> Result<Authenticated<C>, AuthenticationError> {
    let &Introduction { token, instance, features } = who;
    let malformed = |error: FrameError| AuthenticationError::Malformed(error.to_string());
    let keying_material = connection
        .keying_material(Transcript::LABEL)
        .ok_or(AuthenticationError::NoKeyingMaterial)?;
    let identities = connection.identities();
    if token.is_none() && !identities.pinned {
        // Anybody could be the server.
        return Err(AuthenticationError::ServerNotProven);
    }
    let resume = resume(&ResumptionTranscript {
        keying_material: &keying_material,
        client: &identities.local,
        server: &identities.remote,
    });
    let resume = resume.map(|resumption| resumption.to_bytes());
    let hello = Hello { version: protocol::VERSION, features, instance, resume };
    let hello = protocol::encode(&hello).map_err(malformed)?;
    let transcript = Transcript {
        keying_material: &keying_material,
        client: &identities.local,
        server: &identities.remote,
        // The bytes of the frame behind its length, as the server reads them.
        hello: &hello[2..],
    };
    let proof = HelloProof { proof: transcript.prove(token, ROLE_CLIENT) };
    let proof = protocol::encode(&proof).map_err(malformed)?;
    let refused = AuthenticationError::Refused;
    let (mut send, mut recv) = connection.open_bi().await.map_err(refused)?;
    let sent = send.write_chunks(&mut [hello.clone().into(), proof.into()]).await;
    let welcome: Result<Welcome, _> = match sent {
        Ok(()) => read_message(&mut recv, protocol::MAX_FRAME).await,
        Err(_) => Err(ReadFrameError::Truncated),
    };
    let welcome = match welcome {
        Ok(welcome) => welcome,
        Err(ReadFrameError::Frame(error)) => return Err(malformed(error)),
        // The stream goes down with the connection, whose close says why.
        Err(ReadFrameError::Read(_) | ReadFrameError::Truncated) => {
            return Err(refused(connection.closed().await));
        }
    };
    if welcome.version != protocol::VERSION {
        return Err(AuthenticationError::VersionMismatch(welcome.version, protocol::VERSION));
    }
    if !transcript.verify(token, ROLE_SERVER, &welcome.proof) {
        return Err(AuthenticationError::ServerNotProven);
    }
    let secret = connection.keying_material(ResumptionSecret::LABEL).map(ResumptionSecret::new);
    Ok(Authenticated { welcome, control: (send, recv), secret })
}
