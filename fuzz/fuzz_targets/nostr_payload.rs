//! What a peer's event holds once it is decrypted: as it is, and behind the version that this program reads, which random
//! bytes seldom begin with.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tunnel_ice::signaling::nostr::{MAX_PAYLOAD, VERSION, decode, encode};

/// What was read is written, within its bounds, and read alike.
fn check(bytes: &[u8]) {
    if let Ok(message) = decode(bytes) {
        let bytes = encode(&message);
        assert!(bytes.len() <= MAX_PAYLOAD);
        assert_eq!(decode(&bytes), Ok(message));
    }
}

fuzz_target!(|data: &[u8]| {
    check(data);
    check(&[&[VERSION], data].concat());
});
