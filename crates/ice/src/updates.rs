//! What the two ends of a connection tell each other about ICE, inside the connection itself: its first stream, opened by
//! the client.

use std::time::Duration;

use quinn::{RecvStream, SendStream};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use crate::Candidate;
use crate::agent::{Command, View};

/// Bytes of a message at most; the candidates of one side take some 600.
const MAX_MESSAGE: usize = 4096;

/// Between two messages.
const PAUSE: Duration = Duration::from_millis(200);

/// Candidates of one side at most.
const MAX_CANDIDATES: usize = 32;

/// A message; two bytes of its length (big-endian) stand in front.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The client's first.
    Hello {
        /// The number behind the offer's commitment, where there was one.
        reveal: Option<[u8; 16]>,
    },
    /// Where the sender may be reached from here on, in place of what it said before.
    Candidates(Vec<Candidate>),
}

/// Why the stream is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum UpdateError {
    /// It ended, or the connection did.
    #[error("the stream of updates ended")]
    Ended,
    /// What came is no message.
    #[error("an update that is not understood")]
    Malformed,
}

pub(crate) async fn write(send: &mut SendStream, message: &Message) -> Result<(), UpdateError> {
    let body = postcard::to_extend(message, vec![0, 0]).map_err(|_| UpdateError::Malformed)?;
    let length = u16::try_from(body.len() - 2).map_err(|_| UpdateError::Malformed)?;
    let mut frame = body;
    frame[..2].copy_from_slice(&length.to_be_bytes());
    send.write_all(&frame).await.map_err(|_| UpdateError::Ended)
}

pub(crate) async fn read(recv: &mut RecvStream) -> Result<Message, UpdateError> {
    let mut length = [0; 2];
    recv.read_exact(&mut length).await.map_err(|_| UpdateError::Ended)?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_MESSAGE {
        return Err(UpdateError::Malformed);
    }
    let mut body = vec![0; length];
    recv.read_exact(&mut body).await.map_err(|_| UpdateError::Ended)?;
    postcard::from_bytes(&body).map_err(|_| UpdateError::Malformed)
}

/// Tells the peer of changes and takes its own, until the connection ends.
pub(crate) async fn exchange(
    mut send: SendStream,
    mut recv: RecvStream,
    mut view: watch::Receiver<View>,
    agent: mpsc::Sender<Command>,
) {
    let tell = async {
        let mut told = Vec::new();
        loop {
            let candidates = view.borrow_and_update().candidates.clone();
            if candidates != told {
                told.clone_from(&candidates);
                write(&mut send, &Message::Candidates(candidates)).await?;
            }
            // Addresses that come and go together are told together.
            sleep(PAUSE).await;
            if view.changed().await.is_err() {
                return Ok(());
            }
        }
    };
    let take = async {
        loop {
            match read(&mut recv).await? {
                Message::Candidates(candidates) if candidates.len() <= MAX_CANDIDATES => {
                    let candidates = candidates.into_iter().filter(Candidate::is_usable).collect();
                    if agent.send(Command::Candidates(candidates)).await.is_err() {
                        return Ok(());
                    }
                    // More often than this nobody has anything to tell.
                    sleep(PAUSE / 2).await;
                }
                Message::Candidates(_) | Message::Hello { .. } => {
                    return Err(UpdateError::Malformed);
                }
            }
        }
    };
    let ended: Result<(), UpdateError> = tokio::select! {
        ended = tell => ended,
        ended = take => ended,
    };
    if let Err(error) = ended {
        tracing::debug!("{error}");
    }
}
