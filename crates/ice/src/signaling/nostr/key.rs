use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use nostr_sdk::prelude::{FromBech32, ToBech32};
use nostr_sdk::{Keys, PublicKey, SecretKey};
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::description::{NoRandomness, random};

/// Why a text is not the key that is wanted. Never quotes the text: a secret key may stand in the place of a public one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// A public key where the secret one is wanted.
    #[error("this is an npub, which is public: the secret key begins with nsec1")]
    Public,
    /// A secret key where a public one is wanted.
    #[error(
        "this is an nsec, which is secret: give the npub that belongs to it, and tell the nsec nobody"
    )]
    Secret,
    /// No secret key in any form.
    #[error(
        "this is no secret key of Nostr: it is written as nsec1... or as 64 hexadecimal digits"
    )]
    NotSecret,
    /// No public key in any form.
    #[error(
        "this is no public key of Nostr: it is written as npub1... or as 64 hexadecimal digits"
    )]
    NotPublic,
}

/// A public key (NIP-01): an x-only point of secp256k1 (BIP-340).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Npub(PublicKey);

impl Npub {
    /// The raw key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.0
    }

    /// Whose event it is; `None` where the bytes are no point of the curve.
    pub(super) fn of(key: PublicKey) -> Option<Self> {
        key.xonly().is_ok().then_some(Self(key))
    }
}

impl FromStr for Npub {
    type Err = KeyError;

    /// Reads `npub1...` (NIP-19) or 64 hexadecimal digits; white space around them does no harm.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if has_prefix(text, "nsec1") {
            return Err(KeyError::Secret);
        }
        let key = PublicKey::from_hex(text).ok().or_else(|| PublicKey::from_bech32(text).ok());
        key.and_then(Self::of).ok_or(KeyError::NotPublic)
    }
}

impl fmt::Display for Npub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(text) = self.0.to_bech32();
        f.write_str(&text)
    }
}

impl fmt::Debug for Npub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Npub({self})")
    }
}

/// A secret key and its public one. Never shown by `Debug`.
///
/// On drop the library overwrites the secret key, but not the copy of it in the key pair that it signs with.
#[derive(Clone)]
pub struct NostrKey(Keys);

impl NostrKey {
    /// A fresh one.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`] where the system gives none.
    pub fn generate() -> Result<Self, NoRandomness> {
        loop {
            let bytes = Zeroizing::new(random::<32>()?);
            // All but one in 2^128 numbers of 32 bytes are keys.
            if let Ok(key) = SecretKey::from_slice(&*bytes) {
                return Ok(Self(Keys::new(key)));
            }
        }
    }

    /// The public key.
    pub fn npub(&self) -> Npub {
        Npub(self.0.public_key())
    }

    /// The secret key as `nsec1...` (NIP-19).
    pub fn to_nsec(&self) -> Zeroizing<String> {
        let Ok(text) = self.0.secret_key().to_bech32();
        Zeroizing::new(text)
    }

    pub(super) fn keys(&self) -> &Keys {
        &self.0
    }
}

impl FromStr for NostrKey {
    type Err = KeyError;

    /// Reads `nsec1...` (NIP-19) or 64 hexadecimal digits; white space around them does no harm.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if has_prefix(text, "npub1") {
            return Err(KeyError::Public);
        }
        let key = SecretKey::parse(text).map_err(|_| KeyError::NotSecret)?;
        Ok(Self(Keys::new(key)))
    }
}

impl fmt::Debug for NostrKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NostrKey({})", self.npub())
    }
}

/// Whether a text begins with this in either case: Bech32 may be all upper case (BIP-173).
fn has_prefix(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Names what two keys have to tell each other: the SHA-256 of both, in the order of their bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransferId([u8; 32]);

impl fmt::Display for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TransferId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransferId({self})")
    }
}

/// The transfer id of two keys, in whatever order they are given.
pub fn transfer_id(a: Npub, b: Npub) -> TransferId {
    let (first, second) = if a.as_bytes() <= b.as_bytes() { (a, b) } else { (b, a) };
    let digest = Sha256::new().chain_update(first.as_bytes()).chain_update(second.as_bytes());
    TransferId(digest.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of NIP-19.
    const NPUB: &str = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";
    const NPUB_HEX: &str = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
    const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
    const NSEC_HEX: &str = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa";

    #[test]
    fn both_forms_of_both_keys_are_read() {
        let npub: Npub = NPUB.parse().unwrap();
        assert_eq!(npub.to_string(), NPUB);
        assert_eq!(format!(" {NPUB_HEX}\n").parse(), Ok(npub));
        assert_eq!(NPUB.to_uppercase().parse(), Ok(npub));

        let key: NostrKey = NSEC.parse().unwrap();
        assert_eq!(*key.to_nsec(), NSEC);
        assert_eq!(NSEC_HEX.parse::<NostrKey>().unwrap().npub(), key.npub());
        assert_eq!(format!("{NSEC}\r\n").parse::<NostrKey>().unwrap().npub(), key.npub());
        assert_eq!(npub, key.npub());
    }

    #[test]
    fn one_kind_of_key_in_the_place_of_the_other_is_told() {
        for nsec in [NSEC.to_owned(), NSEC.to_uppercase()] {
            assert_eq!(nsec.parse::<Npub>(), Err(KeyError::Secret));
        }
        for npub in [NPUB.to_owned(), NPUB.to_uppercase()] {
            assert_eq!(npub.parse::<NostrKey>().unwrap_err(), KeyError::Public);
        }
    }

    #[test]
    fn what_is_no_key_is_told() {
        let typo = NPUB.replace('q', "p");
        // Not on the curve (BIP-340, test vector 5), and not the length of a key.
        let off_curve = "eefdea4cdb677750a420fee807eacf21eb9898ae79b9768766e4faa04a2d4a34";
        for text in ["", "npub1", &typo, off_curve, &NPUB_HEX[1..], "\u{e9}\u{e9}\u{e9}"] {
            assert_eq!(text.parse::<Npub>(), Err(KeyError::NotPublic), "{text}");
        }
        // Zero, and the order of the group.
        let (zero, order) =
            ("0".repeat(64), "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141");
        for text in ["", "nsec1", &NSEC.replace('q', "p"), &zero, order, &NSEC_HEX[1..]] {
            assert_eq!(text.parse::<NostrKey>().unwrap_err(), KeyError::NotSecret, "{text}");
        }
    }

    #[test]
    fn a_secret_key_is_never_shown() {
        let key: NostrKey = NSEC.parse().unwrap();
        let shown = format!("{key:?}");
        assert!(shown.contains(NPUB) && !shown.contains("nsec"), "{shown}");
        assert!(!shown.contains(NSEC_HEX), "{shown}");
    }

    #[test]
    fn fresh_keys_differ() {
        let (a, b) = (NostrKey::generate().unwrap(), NostrKey::generate().unwrap());
        assert_ne!(a.npub(), b.npub());
    }

    #[test]
    fn the_transfer_id_is_the_hash_of_both_sorted_keys() {
        let (a, b) = (NPUB.parse::<Npub>().unwrap(), NostrKey::generate().unwrap().npub());
        assert_eq!(transfer_id(a, b), transfer_id(b, a));
        let mut keys = [*a.as_bytes(), *b.as_bytes()];
        keys.sort();
        let hash: [u8; 32] = Sha256::digest(keys.concat()).into();
        assert_eq!(transfer_id(a, b).to_string(), HEXLOWER.encode(&hash));
        assert_ne!(transfer_id(a, b), transfer_id(a, a));
    }
}
