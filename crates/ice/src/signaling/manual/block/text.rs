//! A block in text.
//!
//! Between the marker lines stands base64 (RFC 4648 section 4, without padding). Every character outside of that
//! alphabet is passed over, wherever it stands: white space, quoting marks, what mail puts at the end of a line that it
//! broke, dashes and what chat programs make of them. What remains of a marker line is its letters. Nothing is lost
//! by that, as the checksum tells whether all of the block has come.

use std::collections::VecDeque;
use std::fmt;

use data_encoding::BASE64_NOPAD;

use super::{Block, BlockError, BlockKind, wire};

/// Mail programs take longer lines apart (RFC 2045 section 6.8).
const LINE: usize = 76;

/// The most characters that the letters of a marker can be.
const MARKER: usize = 32;

/// The most characters between `&` and `;` of an HTML character reference that is recognised.
const REFERENCE: usize = 16;

/// Where a marker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Begin,
    End,
}

impl Edge {
    const ALL: [Self; 2] = [Self::Begin, Self::End];

    fn word(self) -> &'static str {
        match self {
            Self::Begin => "BEGIN",
            Self::End => "END",
        }
    }
}

fn marker(edge: Edge, kind: BlockKind) -> String {
    let kind = kind.to_string().to_ascii_uppercase();
    format!("-----{} TUNNEL-RS MANUAL {kind}-----", edge.word())
}

/// The text of a block.
pub(super) fn write(kind: BlockKind, bytes: &[u8]) -> String {
    let mut text = marker(Edge::Begin, kind);
    for (at, c) in BASE64_NOPAD.encode(bytes).chars().enumerate() {
        if at % LINE == 0 {
            text.push('\n');
        }
        text.push(c);
    }
    text.push('\n');
    text.push_str(&marker(Edge::End, kind));
    text.push('\n');
    text
}

fn read(begun: BlockKind, ended: BlockKind, body: &[u8]) -> Result<Block, BlockError> {
    let bytes = BASE64_NOPAD.decode(body).map_err(|_| BlockError::Damaged)?;
    let block = wire::decode(&bytes)?;
    if [begun, ended] != [block.kind(); 2] {
        return Err(BlockError::Damaged);
    }
    Ok(block)
}

fn is_kept(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '+' || c == '/'
}

/// The letters of a marker.
struct Letters {
    edge: Edge,
    kind: BlockKind,
    letters: String,
}

impl Letters {
    fn all() -> impl Iterator<Item = Self> {
        Edge::ALL.into_iter().flat_map(|edge| {
            BlockKind::ALL.into_iter().map(move |kind| {
                let letters = marker(edge, kind).chars().filter(|c| is_kept(*c)).collect();
                Self { edge, kind, letters }
            })
        })
    }

    /// What precedes it, if `kept` ends in it.
    fn strip<'a>(&self, kept: &'a [u8]) -> Option<&'a [u8]> {
        let (body, end) = kept.split_at_checked(kept.len().checked_sub(self.letters.len())?)?;
        end.eq_ignore_ascii_case(self.letters.as_bytes()).then_some(body)
    }
}

/// Finds blocks in text that comes in pieces.
///
/// It is an iterator over the blocks that were found up to now, damaged ones included: after a `None` there may be more
/// when more text has been pushed. The text around blocks is ignored. A block that is begun anew before its end counts
/// from there. What it keeps is bounded by [`Self::MAX_BLOCK`], if the blocks are taken out after each piece.
pub struct Scanner {
    markers: Vec<Letters>,
    /// The characters that count: within a block since its beginning, elsewhere the last few.
    kept: Vec<u8>,
    within: Option<BlockKind>,
    /// What came since an `&`.
    reference: Option<String>,
    found: VecDeque<Result<Block, BlockError>>,
    any: bool,
}

impl Scanner {
    /// The most characters of a block, not counting those that are ignored. The largest block that
    /// [`encode_offer`](super::encode_offer) makes has less than 23,000.
    pub const MAX_BLOCK: usize = 24 * 1024;

    /// Has seen nothing yet.
    pub fn new() -> Self {
        Self {
            markers: Letters::all().collect(),
            kept: Vec::new(),
            within: None,
            reference: None,
            found: VecDeque::new(),
            any: false,
        }
    }

    /// Takes the next piece of text, cut anywhere. For bytes that are not all UTF-8, or are cut within a character,
    /// [`String::from_utf8_lossy`] does.
    pub fn push(&mut self, text: &str) {
        text.chars().for_each(|c| self.push_char(c));
    }

    /// To be called where the text ends: whether a block was left open there, or there was none in all of the text.
    pub fn finish(&mut self) -> Option<BlockError> {
        let error = match self.within.take() {
            Some(_) => Some(BlockError::Truncated),
            None => (!self.any).then_some(BlockError::NoBlock),
        };
        self.reference = None;
        self.kept.clear();
        error
    }

    fn push_char(&mut self, c: char) {
        match &mut self.reference {
            Some(_) if c == ';' => {
                if let Some(c) = self.reference.take().and_then(|name| referred(&name)) {
                    self.push_char(c);
                }
            }
            Some(name) if name.len() < REFERENCE && (c.is_ascii_alphanumeric() || c == '#') => {
                name.push(c);
            }
            _ => {
                self.end_reference();
                if c == '&' {
                    self.reference = Some(String::new());
                } else {
                    self.keep(c);
                }
            }
        }
    }

    /// What looked like a character reference was none.
    fn end_reference(&mut self) {
        for c in self.reference.take().unwrap_or_default().chars() {
            self.keep(c);
        }
    }

    fn keep(&mut self, c: char) {
        if !is_kept(c) {
            return;
        }
        self.kept.push(c as u8);
        // All markers end in this letter.
        if c.eq_ignore_ascii_case(&'R') {
            self.look();
        }
        if self.within.is_some() && self.kept.len() > Self::MAX_BLOCK + MARKER {
            self.within = None;
            self.give(Err(BlockError::TooLarge));
        }
        if self.within.is_none() && self.kept.len() > 2 * MARKER {
            self.kept.drain(..self.kept.len() - MARKER);
        }
    }

    /// Whether a marker has just ended.
    fn look(&mut self) {
        let marker = self.markers.iter().find_map(|m| Some((m, m.strip(&self.kept)?)));
        let Some((&Letters { edge, kind, .. }, body)) = marker else {
            return;
        };
        let begun = self.within.take();
        match (edge, begun) {
            (Edge::Begin, _) => self.within = Some(kind),
            (Edge::End, Some(begun)) => {
                let block = read(begun, kind, body);
                self.give(block);
            }
            (Edge::End, None) => {}
        }
        self.kept.clear();
    }

    fn give(&mut self, block: Result<Block, BlockError>) {
        self.any = true;
        self.found.push_back(block);
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Iterator for Scanner {
    type Item = Result<Block, BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.found.pop_front()
    }
}

impl fmt::Debug for Scanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scanner").field("within", &self.within).finish_non_exhaustive()
    }
}

/// The character behind an HTML character reference (HTML Living Standard, section 13.1.4), where it may matter. Those
/// of the alphabet have no need to be written by name, and some programs write them by number.
fn referred(name: &str) -> Option<char> {
    if name == "amp" {
        return Some('&');
    }
    let number = name.strip_prefix('#')?;
    let number = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => number.parse(),
    };
    char::from_u32(number.ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_letters_of_every_marker_fit_and_end_alike() {
        for marker in Letters::all() {
            assert!(marker.letters.len() <= MARKER);
            assert!(marker.letters.ends_with('R'));
        }
    }

    #[test]
    fn text_without_a_block_is_not_kept() {
        let mut scanner = Scanner::new();
        for _ in 0..20_000 {
            scanner.push("Lorem ipsum, -----BEGIN CERTIFICATE----- & so on; &amp &bcd");
        }
        assert!(scanner.kept.capacity() < 8 * MARKER, "{}", scanner.kept.capacity());
        scanner.push(&format!("&{}", "a".repeat(20_000)));
        assert_eq!(scanner.reference, None);
        assert_eq!(scanner.next(), None);
        assert_eq!(scanner.finish(), Some(BlockError::NoBlock));
    }

    #[test]
    fn a_block_without_an_end_is_not_kept() {
        let mut scanner = Scanner::new();
        scanner.push(&marker(Edge::Begin, BlockKind::Offer));
        for _ in 0..1_000_000 {
            scanner.push("/// ");
        }
        assert!(scanner.kept.capacity() < 4 * Scanner::MAX_BLOCK, "{}", scanner.kept.capacity());
        assert_eq!(scanner.next(), Some(Err(BlockError::TooLarge)));
        assert_eq!(scanner.next(), None);
        assert_eq!(scanner.finish(), None);
    }
}
