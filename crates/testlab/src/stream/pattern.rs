//! A sequence of bytes in which each place can be told from every other one near it.

/// Odd, so that no two numbers have the same product modulo 2^64: the golden ratio's (Knuth, volume 3, 6.4).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Fills the buffer with the bytes from `position` on.
pub(crate) fn fill(position: u64, buffer: &mut [u8]) {
    for (place, byte) in (position..).zip(buffer) {
        *byte = at(place);
    }
}

/// The position of the first byte that is not the one that belongs there.
pub(crate) fn first_difference(position: u64, bytes: &[u8]) -> Option<u64> {
    (position..).zip(bytes).find_map(|(place, byte)| (*byte != at(place)).then_some(place))
}

fn at(position: u64) -> u8 {
    let word = (position / 8).wrapping_add(1).wrapping_mul(FACTOR);
    word.to_be_bytes()[(position % 8) as usize]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pieces_fit_together(start in 0..1u64 << 40, cut in 0..64usize) {
            let mut whole = [0; 64];
            fill(start, &mut whole);
            let (one, other) = whole.split_at(cut);
            prop_assert_eq!(first_difference(start, one), None);
            prop_assert_eq!(first_difference(start + cut as u64, other), None);
        }

        #[test]
        fn what_was_lost_or_changed_is_seen(start in 0..1u64 << 40, lost in 1..1u64 << 40) {
            let mut bytes = [0; 64];
            fill(start + lost, &mut bytes);
            prop_assert!(first_difference(start, &bytes).is_some());
            fill(start, &mut bytes);
            bytes[7] ^= 1;
            prop_assert_eq!(first_difference(start, &bytes), Some(start + 7));
        }
    }
}
