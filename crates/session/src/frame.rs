//! Messages on streams.

use bytes::Bytes;
use thiserror::Error;
use tunnel_model::protocol::{self, FrameError, Message};

use crate::transport::{ReadError, RecvStream, SendStream, WriteError};

/// Why no message came.
#[derive(Debug, Error)]
pub(crate) enum ReadFrameError {
    #[error("the peer sent {0}")]
    Frame(#[from] FrameError),
    #[error("the stream ended within a message")]
    Truncated,
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Bytes of a frame that are made room for at once.
const PIECE: usize = 4 * 1024;

/// Reads a frame of at most `limit` bytes. `None` where the stream ends before it.
pub(crate) async fn read_frame<R: RecvStream>(
    recv: &mut R,
    limit: usize,
) -> Result<Option<Vec<u8>>, ReadFrameError> {
    let mut head = [0; 2];
    // The first byte alone, to tell the end of the stream from the end within a message.
    if !recv.read_exact(&mut head[..1]).await? {
        return Ok(None);
    }
    if !recv.read_exact(&mut head[1..]).await? {
        return Err(ReadFrameError::Truncated);
    }
    let length = usize::from(u16::from_be_bytes(head));
    if length > limit {
        return Err(FrameError::TooLong(length).into());
    }
    let mut frame = Vec::new();
    // Room for what has come, not for what was announced.
    while frame.len() < length {
        let start = frame.len();
        frame.resize(length.min(start + PIECE), 0);
        if !recv.read_exact(&mut frame[start..]).await? {
            return Err(ReadFrameError::Truncated);
        }
    }
    Ok(Some(frame))
}

/// Reads one message of type `M`.
pub(crate) async fn read_message<R: RecvStream, M: Message>(
    recv: &mut R,
    limit: usize,
) -> Result<M, ReadFrameError> {
    let frame = read_frame(recv, limit).await?.ok_or(ReadFrameError::Truncated)?;
    Ok(protocol::decode(&frame)?)
}

/// Writes one message.
pub(crate) async fn write_message<S: SendStream, M: Message>(
    send: &mut S,
    message: &M,
) -> Result<(), WriteError> {
    match protocol::encode(message) {
        Ok(frame) => send.write_chunks(&mut [Bytes::from(frame)]).await,
        Err(error) => {
            // Every message built here is bounded below the limit; one that is not must not pass as sent.
            tracing::error!(%error, "a message of this side does not fit its frame");
            Err(WriteError::Lost(crate::transport::Lost::Transport(error.to_string())))
        }
    }
}
