use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop};

const LENGTH: usize = 18;
const RANDOM: usize = 16;
const PREFIX: u8 = b'i';
const ALPHABET: &[u8; 65] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";

/// A pre-shared secret that lets a client in: `i`, 16 random characters, one checksum character.
///
/// The checksum catches typing errors and protects nothing. The 16 characters of 65 carry 96 bits. Never printed
/// by `Debug`, wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Token([u8; LENGTH]);

/// Why a token was not understood. The token itself is never part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// Not 18 characters.
    #[error("a token has 18 characters, this one has {0}")]
    Length(usize),
    /// Does not begin with `i`.
    #[error("a token begins with 'i'")]
    Prefix,
    /// A character outside the alphabet.
    #[error("character {0} of the token is none of A-Z a-z 0-9 - _ .")]
    Character(usize),
    /// The last character does not fit the others.
    #[error("the token's checksum is wrong: a character was mistyped or left out")]
    Checksum,
}

fn checksum(random: &[u8]) -> u8 {
    let sum: usize = random.iter().zip(1usize..).map(|(c, k)| k * usize::from(*c)).sum();
    ALPHABET[sum % ALPHABET.len()]
}

impl Token {
    /// Makes a token from the operating system's random numbers.
    ///
    /// # Errors
    ///
    /// Where the system has no random numbers to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; LENGTH];
        bytes[0] = PREFIX;
        let mut filled = 0;
        while filled < RANDOM {
            let mut pool = [0; 32];
            getrandom::fill(&mut pool)?;
            // 195 is the largest multiple of 65 in a byte: without this bound some characters come more often.
            for byte in pool.iter().filter(|b| **b < 195).take(RANDOM - filled) {
                filled += 1;
                bytes[filled] = ALPHABET[usize::from(*byte) % ALPHABET.len()];
            }
            pool.zeroize();
        }
        bytes[LENGTH - 1] = checksum(&bytes[1..=RANDOM]);
        Ok(Self(bytes))
    }

    /// The token's text, for the one who asked for it and for keying a proof.
    pub fn expose(&self) -> &str {
        // Only characters of the alphabet are ever held.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// A name for the token that tells nothing of it, for logs.
    pub fn id(&self) -> TokenId {
        let mut hash = Sha256::new();
        hash.update(b"tunnel-rs token id");
        hash.update(self.0);
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 4];
        id.copy_from_slice(&digest[..4]);
        TokenId(id)
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(s: &str) -> Result<Self, TokenError> {
        let length = s.chars().count();
        if length != LENGTH {
            return Err(TokenError::Length(length));
        }
        if let Some(at) = s.chars().position(|c| !c.is_ascii() || !ALPHABET.contains(&(c as u8))) {
            return Err(TokenError::Character(at + 1));
        }
        let mut bytes = [0; LENGTH];
        bytes.copy_from_slice(s.as_bytes());
        let token = Self(bytes);
        if token.0[0] != PREFIX {
            return Err(TokenError::Prefix);
        }
        if token.0[LENGTH - 1] != checksum(&token.0[1..=RANDOM]) {
            return Err(TokenError::Checksum);
        }
        Ok(token)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id())
    }
}

/// The first 32 bits of a hash of a token: enough to tell tokens apart in a log, useless to recover one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenId([u8; 4]);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// An accepted token and what its owner calls it.
#[derive(Clone, Debug)]
pub struct TokenEntry {
    /// The token.
    pub token: Token,
    /// The comment behind it in a token file.
    pub label: Option<String>,
}

/// The tokens of a token file: one a line, `#` begins a comment, also behind a token.
#[derive(Clone, Debug, Default)]
pub struct TokenList(pub Vec<TokenEntry>);

/// A line of a token file that holds no token. The line itself is not part of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {error}")]
pub struct TokenListError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub error: TokenError,
}

impl FromStr for TokenList {
    type Err = TokenListError;

    fn from_str(s: &str) -> Result<Self, TokenListError> {
        let mut entries = Vec::new();
        for (line, text) in s.lines().enumerate() {
            let (token, comment) = text.split_once('#').unwrap_or((text, ""));
            let (token, comment) = (token.trim().trim_start_matches('\u{feff}'), comment.trim());
            if token.is_empty() {
                continue;
            }
            let token = token.parse().map_err(|error| TokenListError { line: line + 1, error })?;
            let label = (!comment.is_empty()).then(|| comment.to_owned());
            entries.push(TokenEntry { token, label });
        }
        Ok(Self(entries))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: [&str; 2] = ["ikAdvudu_ZxNXhNLCD", "iw3nLKic3oV7zmFJ8v"];

    #[test]
    fn published_tokens_are_valid() {
        for s in GOOD {
            assert_eq!(s.parse::<Token>().unwrap().expose(), s);
        }
    }

    #[test]
    fn each_error_is_told_apart() {
        let error = |s: &str| s.parse::<Token>().unwrap_err();
        assert_eq!(error("ikAdvudu"), TokenError::Length(8));
        assert_eq!(error("xkAdvudu_ZxNXhNLCD"), TokenError::Prefix);
        assert_eq!(error("ikAdvudu+ZxNXhNLCD"), TokenError::Character(9));
        assert_eq!(error("ikAdvudu_ZxNXhNLCE"), TokenError::Checksum);
        assert_eq!(error("ikAdvudu_ZxNXhNLCé"), TokenError::Character(18));
    }

    #[test]
    fn nothing_of_a_token_is_in_its_debug_text() {
        let text = format!("{:?}", GOOD[0].parse::<Token>().unwrap());
        assert!(!text.contains("Advudu"), "{text}");
    }

    #[test]
    fn files_hold_comments_labels_and_carriage_returns() {
        let text = format!("\u{feff}# all\r\n\r\n{} # laptop\r\n  {}#\n", GOOD[0], GOOD[1]);
        let list: TokenList = text.parse().unwrap();
        assert_eq!(list.0.len(), 2);
        assert_eq!(list.0[0].label.as_deref(), Some("laptop"));
        assert_eq!(list.0[1].label, None);
    }

    #[test]
    fn a_bad_line_is_named_and_not_shown() {
        let error = format!("{}\nnot-a-token\n", GOOD[0]).parse::<TokenList>().unwrap_err();
        assert_eq!(error.line, 2);
        assert!(!error.to_string().contains("not-a-token"));
    }

    #[test]
    fn generated_tokens_are_valid_and_use_the_whole_alphabet() {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..400 {
            let token = Token::generate().unwrap();
            token.expose().parse::<Token>().unwrap();
            seen.extend(token.expose()[1..17].bytes());
        }
        assert_eq!(seen.len(), ALPHABET.len());
    }

    proptest! {
        #[test]
        fn a_changed_character_or_a_swap_is_caught(at in 1usize..17, new in 0usize..65) {
            let mut bytes = GOOD[0].as_bytes().to_vec();
            if bytes[at] != ALPHABET[new] {
                // Weight times difference is a multiple of 65 only where the weight shares a factor with 65.
                let difference = i64::from(bytes[at]) - i64::from(ALPHABET[new]);
                bytes[at] = ALPHABET[new];
                let parsed = String::from_utf8(bytes).unwrap().parse::<Token>();
                prop_assert_eq!(parsed.is_err(), (at as i64 * difference) % 65 != 0);
            }
        }

        #[test]
        fn nothing_panics(s in "\\PC{0,30}") {
            let _ = s.parse::<Token>();
            let _ = s.parse::<TokenList>();
        }
    }
}
