use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::signaling::nostr::samples::{self, description, messages};
use crate::{Candidate, CandidateKind};

fn host(addr: &str) -> Candidate {
    Candidate { kind: CandidateKind::Host, addr: addr.parse().unwrap() }
}

#[test]
fn the_first_byte_is_the_version() {
    let mut bytes = encode(&samples::request());
    assert_eq!(bytes[0], VERSION);
    for version in [0, 2, 255] {
        bytes[0] = version;
        assert_eq!(decode(&bytes), Err(PayloadError::Version(version)));
        assert_eq!(decode(&[version]), Err(PayloadError::Version(version)));
    }
    assert_eq!(decode(&[]), Err(PayloadError::Damaged));
}

#[test]
fn a_message_cut_short_is_damaged_and_one_with_more_behind_it_is_not() {
    let message = samples::request();
    let bytes = encode(&message);
    for end in 1..bytes.len() {
        assert_eq!(decode(&bytes[..end]), Err(PayloadError::Damaged), "{end}");
    }
    assert_eq!(decode(&[&bytes, &b"more"[..]].concat()), Ok(message));
    let long = [&bytes[..], &vec![0; MAX_PAYLOAD]].concat();
    assert_eq!(decode(&long), Err(PayloadError::Damaged));
}

#[test]
fn the_largest_messages_fit() {
    let name = ["x"; 126].join(".");
    let source = format!("tcp://{name}:65535").parse().unwrap();
    let candidates = vec![host("[2001:db8::1]:65535"); MAX_CANDIDATES];
    let request = Message::Request(Request {
        description: Description { candidates, ..description() },
        sources: vec![source; MAX_SOURCES],
        ..samples::request_body()
    });
    let refused = Message::Refused(Refused {
        session: request.session(),
        reason: Reason::SourcesRefused(vec!["x".repeat(MAX_TEXT); MAX_SOURCES]),
        words: "x".repeat(MAX_TEXT),
    });
    for message in [request, refused] {
        let bytes = encode(&message);
        assert!(bytes.len() > MAX_PAYLOAD / 2 && bytes.len() <= MAX_PAYLOAD, "{}", bytes.len());
        assert_eq!(decode(&bytes), Ok(message));
    }
}

/// As a faulty program would write it.
fn unchecked(message: &Message) -> Vec<u8> {
    postcard::to_extend(message, vec![VERSION]).unwrap()
}

#[test]
fn what_exceeds_the_bounds_is_not_told_and_not_taken() {
    let too_many = vec![host("192.0.2.1:1"); MAX_CANDIDATES + 1];
    let source = samples::request_body().sources.remove(0);
    let request = |candidates, sources| {
        let description = Description { candidates, ..description() };
        Message::Request(Request { description, sources, ..samples::request_body() })
    };
    let refused = |sources, words| {
        let session = samples::request().session();
        Message::Refused(Refused { session, reason: Reason::SourcesRefused(sources), words })
    };
    for message in [
        request(too_many, vec![source.clone()]),
        request(Vec::new(), vec![source.clone(); MAX_SOURCES + 1]),
        refused(vec![String::new(); MAX_SOURCES + 1], String::new()),
        refused(vec!["\u{e9}".repeat(MAX_TEXT)], String::new()),
        refused(Vec::new(), "x".repeat(MAX_TEXT + 1)),
        refused(Vec::new(), "\u{1b}[2J".to_owned()),
    ] {
        assert!(matches!(decode(&unchecked(&message)), Err(PayloadError::Invalid(_))));
        assert!(decode(&encode(&message)).is_ok());
    }
    let none = request(Vec::new(), Vec::new());
    assert!(matches!(decode(&unchecked(&none)), Err(PayloadError::Invalid(_))));
    let unnumbered = Message::Candidates(Candidates {
        session: none.session(),
        revision: 0,
        description: description(),
    });
    assert!(matches!(decode(&unchecked(&unnumbered)), Err(PayloadError::Invalid(_))));
}

#[test]
fn addresses_that_nothing_can_be_sent_to_are_not_told_and_not_taken() {
    let good = host("192.0.2.1:1");
    for bad in ["0.0.0.0:1", "10.0.0.1:0", "224.0.0.251:5353", "[ff02::1]:1", "[::ffff:10.0.0.1]:1"]
    {
        let candidates = vec![host(bad), good];
        let with = |candidates| {
            let description = Description { candidates, ..description() };
            Message::Request(Request { description, ..samples::request_body() })
        };
        let message = with(candidates);
        let read = decode(&unchecked(&message));
        assert_eq!(read, Err(PayloadError::Invalid("nothing can be sent to an address")), "{bad}");
        assert_eq!(decode(&encode(&message)), Ok(with(vec![good])));
    }
}

proptest! {
    #[test]
    fn messages_come_back_whole(message in messages()) {
        let bytes = encode(&message);
        prop_assert!(bytes.len() <= MAX_PAYLOAD);
        prop_assert_eq!(decode(&bytes), Ok(message));
    }

    #[test]
    fn nothing_panics(bytes in vec(any::<u8>(), 0..300)) {
        let _ = decode(&bytes);
        let _ = decode(&[&[VERSION], &bytes[..]].concat());
    }

    #[test]
    fn what_is_read_from_altered_bytes_is_written_and_read_alike(
        message in messages(),
        alterations in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&message);
        for (at, value) in alterations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(message) = decode(&bytes) {
            prop_assert_eq!(decode(&encode(&message)), Ok(message));
        }
    }
}
