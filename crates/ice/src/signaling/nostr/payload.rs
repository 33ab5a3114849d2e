//! Messages as bytes: the version, and then the message as postcard writes it.

use thiserror::Error;

use super::message::{Candidates, Message, Offer, Reason, Refused, Request};
use crate::Description;
use crate::signaling::manual::{MAX_CANDIDATES, MAX_SOURCES};

#[cfg(test)]
mod tests;

/// The version that this program writes and reads. It is the first byte in every version.
pub const VERSION: u8 = 1;

/// The longest text of a refusal, in bytes: a source with the longest name, and why it is refused.
pub const MAX_TEXT: usize = 400;

/// The largest message, in bytes: a refusal of [`MAX_SOURCES`] services in the longest words. It is far below what
/// NIP-44 carries (65,535 bytes), and encrypted and signed it is an event of less than 64 KiB, which relays take.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// Why bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// Of another version.
    #[error(
        "the message has version {0}, and this program reads version {VERSION}: use the same version of tunnel-rs-ice \
         on both sides"
    )]
    Version(u8),
    /// Too short, too long, or not of the form.
    #[error("the message is damaged")]
    Damaged,
    /// Of the right form, and what it says cannot be.
    #[error("the message says what cannot be: {0}")]
    Invalid(&'static str),
}

/// The message as bytes.
///
/// Left out are candidates that nothing can be sent to and what exceeds [`MAX_CANDIDATES`] and [`MAX_SOURCES`]; texts
/// are cut at [`MAX_TEXT`], and their control characters become spaces.
pub fn encode(message: &Message) -> Vec<u8> {
    let message = fitting(message.clone());
    // Fails only where a type cannot be written at all, which none of these is.
    postcard::to_extend(&message, vec![VERSION]).unwrap_or_default()
}

/// Reads what [`encode`] writes. What a later version adds behind it is ignored.
///
/// # Errors
///
/// [`PayloadError`].
pub fn decode(bytes: &[u8]) -> Result<Message, PayloadError> {
    let (version, body) = bytes.split_first().ok_or(PayloadError::Damaged)?;
    if *version != VERSION {
        return Err(PayloadError::Version(*version));
    }
    if bytes.len() > MAX_PAYLOAD {
        return Err(PayloadError::Damaged);
    }
    let (message, _) =
        postcard::take_from_bytes::<Message>(body).map_err(|_| PayloadError::Damaged)?;
    check(&message)?;
    Ok(message)
}

fn check(message: &Message) -> Result<(), PayloadError> {
    match message {
        Message::Request(Request { description, sources, .. }) => {
            check_description(description)?;
            match sources.len() {
                0 => Err(PayloadError::Invalid("a request asks for no service")),
                1..=MAX_SOURCES => Ok(()),
                _ => Err(PayloadError::Invalid("a request asks for too many services")),
            }
        }
        Message::Offer(Offer { description, .. }) => check_description(description),
        Message::Candidates(Candidates { description, revision, .. }) => {
            if *revision == 0 {
                return Err(PayloadError::Invalid("an update has no number"));
            }
            check_description(description)
        }
        Message::Answer(_) => Ok(()),
        Message::Refused(Refused { reason, words, .. }) => {
            let sources = match reason {
                Reason::SourcesRefused(sources) => &sources[..],
                Reason::Full | Reason::Busy | Reason::Failed | Reason::Withdrawn => &[],
            };
            if sources.len() > MAX_SOURCES {
                return Err(PayloadError::Invalid("too many services are refused"));
            }
            if sources.iter().chain([words]).all(|text| is_text(text)) {
                Ok(())
            } else {
                Err(PayloadError::Invalid("the words of a refusal are too long or no words"))
            }
        }
    }
}

fn check_description(description: &Description) -> Result<(), PayloadError> {
    if description.candidates.len() > MAX_CANDIDATES {
        return Err(PayloadError::Invalid("there are too many addresses"));
    }
    if !description.candidates.iter().all(crate::Candidate::is_usable) {
        return Err(PayloadError::Invalid("nothing can be sent to an address"));
    }
    Ok(())
}

fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT && !text.chars().any(char::is_control)
}

/// The message within its bounds.
fn fitting(mut message: Message) -> Message {
    match &mut message {
        Message::Request(Request { description, sources, .. }) => {
            fit_description(description);
            sources.truncate(MAX_SOURCES);
        }
        Message::Offer(Offer { description, .. })
        | Message::Candidates(Candidates { description, .. }) => fit_description(description),
        Message::Answer(_) => {}
        Message::Refused(Refused { reason, words, .. }) => {
            fit_text(words);
            if let Reason::SourcesRefused(sources) = reason {
                sources.truncate(MAX_SOURCES);
                sources.iter_mut().for_each(fit_text);
            }
        }
    }
    message
}

fn fit_description(description: &mut Description) {
    description.candidates.retain(crate::Candidate::is_usable);
    description.candidates.truncate(MAX_CANDIDATES);
}

fn fit_text(text: &mut String) {
    *text = text.replace(char::is_control, " ");
    text.truncate(text.floor_char_boundary(MAX_TEXT));
}
