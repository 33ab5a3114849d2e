use std::str::FromStr;

use data_encoding::BASE64;
use iroh::EndpointId;
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// The secret half of an endpoint's identity (Ed25519, RFC 8032). Never printed by `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct SecretKey(pub(crate) iroh::SecretKey);

/// Why a text is no key. The text is not part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Not base64.
    #[error("the key is not base64")]
    NotBase64,
    /// Not 32 bytes.
    #[error("the key has {0} bytes instead of 32")]
    Length(usize),
}

impl SecretKey {
    /// Makes a key from the operating system's random numbers.
    pub fn generate() -> Self {
        Self(iroh::SecretKey::generate())
    }

    /// The public half: the identity that others see.
    pub fn id(&self) -> EndpointId {
        self.0.public()
    }

    /// The key's file form: base64 of its 32 bytes.
    pub fn to_base64(&self) -> Zeroizing<String> {
        let mut bytes = self.0.to_bytes();
        let text = Zeroizing::new(BASE64.encode(&bytes));
        bytes.zeroize();
        text
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    /// Reads base64 of 32 bytes, with or without white space around it.
    fn from_str(s: &str) -> Result<Self, KeyError> {
        let bytes = BASE64.decode(s.trim().as_bytes()).map_err(|_| KeyError::NotBase64)?;
        let bytes = Zeroizing::new(bytes);
        let mut key: [u8; 32] =
            bytes.as_slice().try_into().map_err(|_| KeyError::Length(bytes.len()))?;
        let secret = iroh::SecretKey::from_bytes(&key);
        key.zeroize();
        Ok(Self(secret))
    }
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey(of {})", self.id().fmt_short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_survive_their_file_form() {
        let key = SecretKey::generate();
        let text = format!("  {}\n", *key.to_base64());
        assert_eq!(text.parse::<SecretKey>().unwrap().id(), key.id());
        assert!(!format!("{key:?}").contains(key.to_base64().as_str()));
    }

    #[test]
    fn other_texts_are_refused() {
        assert_eq!("??".parse::<SecretKey>().unwrap_err(), KeyError::NotBase64);
        assert_eq!("AAAA".parse::<SecretKey>().unwrap_err(), KeyError::Length(3));
    }
}
