//! Tells STUN from QUIC on one socket (RFC 7983 and RFC 9443), segment by segment: the kernel merges packets of one
//! sender whatever is in them.

/// The length of a STUN header (RFC 8489 section 5).
const STUN_HEADER: usize = 20;

/// RFC 8489 section 5.
const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// STUN messages begin with two zero bits, QUIC packets never do: the fixed bit is not greased here (RFC 9443 section 3).
fn is_stun(segment: &[u8]) -> bool {
    segment.len() >= STUN_HEADER && segment[0] < 4 && segment[4..8] == MAGIC_COOKIE
}

/// The fixed bit of RFC 9000 section 17.2.
fn is_quic(segment: &[u8]) -> bool {
    segment.first().is_some_and(|first| first & 0x40 != 0)
}

/// Goes through the segments of `buffer`, each `stride` bytes long but perhaps the last: those of STUN go to `stun`; those
/// of QUIC move together at the front if they are to be kept; the rest is dropped. Returns how many bytes are kept.
pub(super) fn sort(
    buffer: &mut [u8],
    stride: usize,
    keep: bool,
    mut stun: impl FnMut(&[u8]),
) -> usize {
    // A packet of no bytes has no stride.
    let stride = stride.clamp(1, buffer.len().max(1));
    let (mut kept, mut start) = (0, 0);
    while start < buffer.len() {
        let end = (start + stride).min(buffer.len());
        let segment = &buffer[start..end];
        if is_stun(segment) {
            stun(segment);
        } else if keep && is_quic(segment) {
            if kept != start {
                buffer.copy_within(start..end, kept);
            }
            kept += end - start;
        }
        start = end;
    }
    kept
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LENGTH: usize = 24;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Kind {
        Stun,
        Quic,
        Other,
    }

    fn segment(kind: Kind, number: u8, length: usize) -> Vec<u8> {
        let mut segment = vec![number; length];
        match kind {
            Kind::Stun => {
                segment[..2].copy_from_slice(&[1, 1]);
                segment[4..8].copy_from_slice(&MAGIC_COOKIE);
            }
            Kind::Quic => segment[0] = 0x40 | (number & 0x3f),
            Kind::Other => segment[0] = 20,
        }
        segment
    }

    proptest! {
        #[test]
        fn merged_segments_are_told_apart(
            kinds in prop::collection::vec(
                prop_oneof![Just(Kind::Stun), Just(Kind::Quic), Just(Kind::Other)], 0..20),
            last in STUN_HEADER..=LENGTH,
            keep: bool,
        ) {
            let lengths = |place: usize| if place + 1 == kinds.len() { last } else { LENGTH };
            let segments: Vec<_> = kinds
                .iter()
                .enumerate()
                .map(|(place, kind)| (*kind, segment(*kind, place as u8, lengths(place))))
                .collect();
            let of = |wanted: Kind| {
                segments.iter().filter(|(kind, _)| *kind == wanted).map(|(_, s)| s.clone()).collect::<Vec<_>>()
            };
            let mut buffer: Vec<u8> = segments.iter().flat_map(|(_, s)| s.clone()).collect();
            let mut stun = Vec::new();
            let kept = sort(&mut buffer, LENGTH, keep, |message| stun.push(message.to_vec()));
            prop_assert_eq!(stun, of(Kind::Stun));
            let quic = if keep { of(Kind::Quic).concat() } else { Vec::new() };
            prop_assert_eq!(&buffer[..kept], &quic[..]);
        }

        #[test]
        fn nothing_panics(mut buffer in prop::collection::vec(any::<u8>(), 0..200), stride in 0usize..300, keep: bool) {
            let length = buffer.len();
            prop_assert!(sort(&mut buffer, stride, keep, |_| ()) <= length);
        }
    }
}
