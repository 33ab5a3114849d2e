//! Text as people paste it, and bytes under a checksum that fits, which random text never gets to.
//!
//! The first byte says which of the two the others are.

#![no_main]

use data_encoding::BASE64_NOPAD;
use libfuzzer_sys::fuzz_target;
use sha2::{Digest, Sha256};
use tunnel_ice::signaling::manual::{Block, BlockError, Scanner, encode_answer, encode_offer};

type Found = Vec<Result<Block, BlockError>>;

fn scan<'a>(pieces: impl IntoIterator<Item = &'a str>) -> (Found, Option<BlockError>) {
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    for piece in pieces {
        scanner.push(piece);
        found.extend(scanner.by_ref());
    }
    (found, scanner.finish())
}

/// What was read is written and read alike.
fn check(found: &Found) {
    for block in found.iter().flatten() {
        let text = match block {
            Block::Offer(offer) => encode_offer(offer),
            Block::Answer(answer) => encode_answer(answer),
        };
        assert_eq!(scan([&*text]), (vec![Ok(block.clone())], None));
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else {
        return;
    };
    if first % 2 == 0 {
        let text = String::from_utf8_lossy(data);
        let whole = scan([&*text]);
        let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
        assert_eq!(scan(characters), whole);
        check(&whole.0);
    } else {
        let body = BASE64_NOPAD.encode(&[data, &Sha256::digest(data)[..4]].concat());
        for kind in ["OFFER", "ANSWER"] {
            let found = scan([
                &*format!("-----BEGIN TUNNEL-RS MANUAL {kind}-----"),
                &*body,
                &*format!("-----END TUNNEL-RS MANUAL {kind}-----"),
            ]);
            assert_eq!((found.0.len(), &found.1), (1, &None));
            check(&found.0);
        }
    }
});
