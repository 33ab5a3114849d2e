use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::Token;

/// The proof that one side knows a token: HMAC-SHA256 keyed by the token over a [`Transcript`].
///
/// Where the handshake itself has proved both sides, because each knew the other's certificate beforehand, there is no
/// token and the key is empty: the proof then says only that both sides mean the same connection.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Proof([u8; 32]);

impl Proof {
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Whether it is `expected`; takes the same time whatever the answer.
    pub(crate) fn is(&self, expected: &[u8; 32]) -> bool {
        self.0.ct_eq(expected).into()
    }
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proof(..)")
    }
}

/// What a proof covers besides the role.
///
/// The exported keying material (RFC 5705, RFC 8446 section 7.5) differs in every TLS connection, so that a proof is
/// worth nothing on another one, to a man in the middle or later.
#[derive(Clone, Copy)]
pub struct Transcript<'a> {
    /// 32 bytes exported under [`Transcript::LABEL`] with an empty context.
    pub keying_material: &'a [u8; 32],
    /// The client's identity in the transport.
    pub client: &'a [u8],
    /// The server's identity in the transport.
    pub server: &'a [u8],
    /// The client's hello without the proof, as sent.
    pub hello: &'a [u8],
}

/// The client's role in a proof.
pub const ROLE_CLIENT: u8 = b'C';
/// The server's role in a proof.
pub const ROLE_SERVER: u8 = b'S';

impl Transcript<'_> {
    /// The exporter's label (RFC 8446 section 7.5).
    pub const LABEL: &'static [u8] = b"EXPORTER-tunnel-rs authentication";

    fn mac(&self, token: Option<&Token>, role: u8) -> Hmac<Sha256> {
        // HMAC takes keys of every length; a token has 18 bytes.
        let mut mac = Hmac::<Sha256>::new_from_slice(token.map_or(b"", Token::as_bytes))
            .unwrap_or_else(|_| unreachable!("HMAC refuses no key length"));
        mac.update(&[role]);
        mac.update(self.keying_material);
        for part in [self.client, self.server, self.hello] {
            // Lengths in front, so that no two transcripts have the same bytes.
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac
    }

    /// The proof that `role` gives with `token`.
    pub fn prove(&self, token: Option<&Token>, role: u8) -> Proof {
        Proof(self.mac(token, role).finalize().into_bytes().into())
    }

    /// Whether `proof` was made with `token` by `role`; takes the same time whatever the answer.
    pub fn verify(&self, token: Option<&Token>, role: u8, proof: &Proof) -> bool {
        proof.is(&self.prove(token, role).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(s: &str) -> Token {
        s.parse().unwrap()
    }

    #[test]
    fn a_proof_holds_for_its_token_role_and_transcript_only() {
        let good = token("ikAdvudu_ZxNXhNLCD");
        let base =
            Transcript { keying_material: &[7; 32], client: b"cc", server: b"ss", hello: b"hi" };
        let proof = base.prove(Some(&good), ROLE_CLIENT);
        assert!(base.verify(Some(&good), ROLE_CLIENT, &proof));
        assert!(!base.verify(Some(&good), ROLE_SERVER, &proof));
        assert!(!base.verify(Some(&token("iw3nLKic3oV7zmFJ8v")), ROLE_CLIENT, &proof));
        assert!(!base.verify(None, ROLE_CLIENT, &proof));
        for other in [
            Transcript { keying_material: &[8; 32], ..base },
            Transcript { client: b"c", server: b"css", ..base },
            Transcript { server: b"sx", ..base },
            Transcript { hello: b"ho", ..base },
        ] {
            assert!(!other.verify(Some(&good), ROLE_CLIENT, &proof));
        }
    }
}
