//! Offers and answers as text that survives chat programs and mail.

mod text;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt;

use thiserror::Error;

pub use text::Scanner;
pub use wire::{MAX_CANDIDATES, MAX_SOURCES};

use super::{Answer, Offer, OfferId};

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// An [`Offer`].
    Offer,
    /// An [`Answer`].
    Answer,
}

impl BlockKind {
    const ALL: [Self; 2] = [Self::Offer, Self::Answer];

    /// What the one who got a block of this kind was waiting for.
    fn wanted(self) -> &'static str {
        match self {
            Self::Offer => {
                "an answer is wanted here, which is what the other side prints after it has taken the offer"
            }
            Self::Answer => {
                "an offer is wanted here, which is what the client prints before it waits for the answer"
            }
        }
    }
}

impl fmt::Display for BlockKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Offer => "offer",
            Self::Answer => "answer",
        })
    }
}

/// Why a text gives no offer or answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The checksum does not fit, or the marker lines do not fit what is between them.
    #[error(
        "the block is damaged, as characters of it are missing, altered or too many: copy it again, from the BEGIN \
         line to the END line"
    )]
    Damaged,
    /// Intact, and of another version of the format.
    #[error(
        "the block has version {0}, and this program reads version {version}: use the same version of tunnel-rs-ice \
         on both sides",
        version = wire::VERSION
    )]
    Version(u8),
    /// Intact, and what it says cannot be.
    #[error(
        "the block is intact but says what cannot be ({0}): it was not made by tunnel-rs-ice, or by a faulty version \
         of it"
    )]
    Invalid(&'static str),
    /// An offer where an answer is wanted, or the other way round.
    #[error("this is an {found}, but {}", found.wanted())]
    WrongKind {
        /// What it is.
        found: BlockKind,
    },
    /// An answer to an offer other than the one that stands.
    #[error(
        "this answer is to offer {found}, and offer {wanted} waits for its answer here: give the other side this \
         offer, and copy what it answers"
    )]
    OtherSession {
        /// The offer that was answered.
        found: OfferId,
        /// The offer whose answer is waited for.
        wanted: OfferId,
    },
    /// The text ends within a block.
    #[error("the block has no END line: copy it again, from the BEGIN line to the END line")]
    Truncated,
    /// The text ends, and no block was in it.
    #[error(
        "there is no block: copy it whole, with the line that says BEGIN TUNNEL-RS MANUAL and the one that says END \
         TUNNEL-RS MANUAL"
    )]
    NoBlock,
    /// No END line follows within [`Scanner::MAX_BLOCK`] characters.
    #[error(
        "the block has no END line within {} characters: copy it again, from the BEGIN line to the END line",
        Scanner::MAX_BLOCK
    )]
    TooLarge,
}

/// What was found between two marker lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// The client's.
    Offer(Offer),
    /// The server's.
    Answer(Answer),
}

impl Block {
    /// Which of the two it is.
    pub fn kind(&self) -> BlockKind {
        match self {
            Self::Offer(_) => BlockKind::Offer,
            Self::Answer(_) => BlockKind::Answer,
        }
    }

    /// The offer.
    ///
    /// # Errors
    ///
    /// [`BlockError::WrongKind`] where it is an answer.
    pub fn into_offer(self) -> Result<Offer, BlockError> {
        match self {
            Self::Offer(offer) => Ok(offer),
            Self::Answer(_) => Err(BlockError::WrongKind { found: BlockKind::Answer }),
        }
    }

    /// The answer.
    ///
    /// # Errors
    ///
    /// [`BlockError::WrongKind`] where it is an offer.
    pub fn into_answer(self) -> Result<Answer, BlockError> {
        match self {
            Self::Answer(answer) => Ok(answer),
            Self::Offer(_) => Err(BlockError::WrongKind { found: BlockKind::Offer }),
        }
    }
}

impl Answer {
    /// Whether it answers this offer.
    ///
    /// # Errors
    ///
    /// [`BlockError::OtherSession`] where it answers another one.
    pub fn check_id(&self, id: OfferId) -> Result<(), BlockError> {
        if self.id == id {
            Ok(())
        } else {
            Err(BlockError::OtherSession { found: self.id, wanted: id })
        }
    }
}

/// The offer as a block of text, with a line feed behind each line.
///
/// Left out are candidates that no description may hold (peer reflexive ones, and addresses that nothing can be sent
/// to) and what exceeds [`MAX_CANDIDATES`] and [`MAX_SOURCES`]. The time to live is rounded down to whole seconds and
/// held within its bounds.
pub fn encode_offer(offer: &Offer) -> String {
    text::write(BlockKind::Offer, &wire::offer(offer))
}

/// The answer as a block of text, by the rules of [`encode_offer`].
pub fn encode_answer(answer: &Answer) -> String {
    text::write(BlockKind::Answer, &wire::answer(answer))
}
