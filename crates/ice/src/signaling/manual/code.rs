//! The short code that both sides show, so that two people can tell whether their blocks arrived as they were sent.
//!
//! Whoever can alter a block could put his own certificate into it: with the offer altered he is taken for the client,
//! with the answer altered for the server, with both he is in the middle. Then the two people have codes that differ, or
//! one of them has none, but for one chance in a million: the client's part of the code is fixed by the offer, which holds
//! its hash, and told only once the connection stands; the server's part stands in the answer. So whoever is in the
//! middle has to settle what he sends to one side before he knows what the other side's code will be, and has one try
//! (the same way as ZRTP's short authentication string, RFC 6189 section 4.3).

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Answer, Offer};
use crate::description::{NoRandomness, random};

/// What the client's part of the code is hashed with for the offer.
const COMMITMENT: &[u8] = b"tunnel-rs manual commitment";

/// What the code is hashed with.
const CODE: &[u8] = b"tunnel-rs manual code";

/// One side's part of the code. That of the client is to be told to nobody before the connection stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CodePart(pub [u8; 16]);

impl fmt::Debug for CodePart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CodePart(..)")
    }
}

impl CodePart {
    /// A random one.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        random().map(Self)
    }

    /// What the offer says of it: the first half of a SHA-256. To find two parts with one commitment takes 2^64 tries,
    /// and they would have to be made before the offer is.
    pub fn commitment(&self) -> [u8; 16] {
        let digest: [u8; 32] =
            Sha256::new().chain_update(COMMITMENT).chain_update(self.0).finalize().into();
        let mut commitment = [0; 16];
        commitment.copy_from_slice(&digest[..16]);
        commitment
    }
}

/// Six digits, the same on both sides if the blocks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortCode(u32);

impl ShortCode {
    /// The code of a session, from both blocks and what the client told when the connection stood; `None` where that is
    /// not what the offer committed to.
    pub fn new(offer: &Offer, answer: &Answer, told: CodePart) -> Option<Self> {
        if !bool::from(told.commitment().ct_eq(&offer.commitment)) {
            return None;
        }
        let digest: [u8; 32] = Sha256::new()
            .chain_update(CODE)
            .chain_update(offer.id.0)
            .chain_update(offer.description.fingerprint.0)
            .chain_update(answer.description.fingerprint.0)
            .chain_update(told.0)
            .chain_update(answer.nonce)
            .finalize()
            .into();
        let [a, b, c, d, e, f, g, h, ..] = digest;
        let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]) % 1_000_000;
        // Less than a million.
        Some(Self(u32::try_from(number).unwrap_or_default()))
    }
}

impl fmt::Display for ShortCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03} {:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::OfferId;
    use super::*;
    use crate::{Credentials, Description, Fingerprint, Mapping};

    fn description(fingerprint: u8) -> Description {
        Description {
            credentials: Credentials::generate().unwrap(),
            fingerprint: Fingerprint([fingerprint; 32]),
            candidates: Vec::new(),
            mapping_v4: Mapping::NotAsked,
            mapping_v6: Mapping::NotAsked,
        }
    }

    fn blocks(part: CodePart) -> (Offer, Answer) {
        let id = OfferId([7; 8]);
        let offer = Offer {
            id,
            ttl: Duration::from_secs(600),
            commitment: part.commitment(),
            description: description(1),
            sources: vec!["tcp://nas:22".parse().unwrap()],
        };
        (offer, Answer { id, nonce: [9; 16], description: description(2) })
    }

    #[test]
    fn both_sides_have_the_same_code_of_the_same_blocks() {
        let part = CodePart([5; 16]);
        let (offer, answer) = blocks(part);
        let code = ShortCode::new(&offer, &answer, part).unwrap();
        assert_eq!(ShortCode::new(&offer, &answer, part), Some(code));
        assert_eq!(code.to_string().len(), 7);
        assert_eq!(ShortCode(42).to_string(), "000 042");
    }

    #[test]
    fn whatever_is_altered_shows() {
        let part = CodePart([5; 16]);
        let (offer, answer) = blocks(part);
        let code = ShortCode::new(&offer, &answer, part);
        let other = Offer { description: description(3), ..offer.clone() };
        assert_ne!(ShortCode::new(&other, &answer, part), code);
        let other = Answer { description: description(3), ..answer.clone() };
        assert_ne!(ShortCode::new(&offer, &other, part), code);
        let other = Answer { nonce: [8; 16], ..answer.clone() };
        assert_ne!(ShortCode::new(&offer, &other, part), code);
    }

    #[test]
    fn what_was_not_committed_to_gives_no_code() {
        let (offer, answer) = blocks(CodePart([5; 16]));
        assert_eq!(ShortCode::new(&offer, &answer, CodePart([6; 16])), None);
    }
}
