use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tunnel_model::{Host, Protocol, Source};

use super::*;

fn addresses() -> impl Strategy<Value = SocketAddr> {
    // Neither multicast nor of no machine, by what they begin with.
    let v4 = (1..224_u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d]));
    let v6 = (1..0xff00_u16, any::<[u16; 7]>())
        .prop_map(|(a, [b, c, d, e, f, g, h])| IpAddr::from([a, b, c, d, e, f, g, h]));
    let ip = prop_oneof![v4, v6];
    (ip, 1..=u16::MAX).prop_map(SocketAddr::from)
}

fn candidates() -> impl Strategy<Value = Candidate> {
    let kind = select(vec![CandidateKind::Host, CandidateKind::ServerReflexive]);
    (kind, addresses()).prop_map(|(kind, addr)| Candidate { kind, addr })
}

fn descriptions() -> impl Strategy<Value = Description> {
    let mapping = || {
        select(vec![
            Mapping::NotAsked,
            Mapping::NoAnswer,
            Mapping::Unknown,
            Mapping::NoNat,
            Mapping::Independent,
            Mapping::Dependent,
        ])
    };
    let candidates = vec(candidates(), 0..=MAX_CANDIDATES);
    (any::<[u8; 20]>(), any::<[u8; 32]>(), candidates, mapping(), mapping()).prop_map(
        |(credentials, fingerprint, candidates, mapping_v4, mapping_v6)| Description {
            credentials: Credentials::from_bytes(&credentials),
            fingerprint: Fingerprint(fingerprint),
            candidates,
            mapping_v4,
            mapping_v6,
        },
    )
}

fn sources() -> impl Strategy<Value = Source> {
    let ip = any::<IpAddr>().prop_map(|ip| Host::Ip(ip.to_canonical()));
    let name = "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,40}){0,3}\\.[a-z]{1,20}".prop_map(Host::Name);
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    (protocol, prop_oneof![ip, name], 1..=u16::MAX).prop_map(|(protocol, host, port)| Source {
        protocol,
        host,
        port,
    })
}

fn blocks() -> impl Strategy<Value = Block> {
    let id = || any::<[u8; 8]>().prop_map(OfferId);
    let offers =
        (id(), 1..=u16::MAX, any::<[u8; 16]>(), descriptions(), vec(sources(), 1..=MAX_SOURCES))
            .prop_map(|(id, ttl, commitment, description, sources)| {
                let ttl = Duration::from_secs(ttl.into());
                Block::Offer(Offer { id, ttl, commitment, description, sources })
            });
    let answers = (id(), any::<[u8; 16]>(), descriptions())
        .prop_map(|(id, nonce, description)| Block::Answer(Answer { id, nonce, description }));
    prop_oneof![offers, answers]
}

/// What chat programs, mail and people do to a text.
#[derive(Clone, Debug)]
enum Mangling {
    Quote(&'static str),
    LineEnds(&'static str),
    Wrap(usize, &'static str),
    Dashes(&'static str),
    Emphasis(&'static str),
    Sprinkle(Vec<(Index, char)>),
    Around(String, String),
}

fn manglings() -> impl Strategy<Value = Mangling> {
    let text = || prop_oneof![Just(PEM.to_owned()), "\\PC{0,60}"];
    let ignored = select(
        " \t\r\n>|*_`~=-–—\u{a0}\u{200b}\u{200d}\u{2060}\u{feff}\0".chars().collect::<Vec<_>>(),
    );
    prop_oneof![
        select(vec![">", "> ", ">> ", "> > ", "| ", "\u{a0}> ", "\t"]).prop_map(Mangling::Quote),
        select(vec!["\r\n", "\r", "\n\n", " ", ""]).prop_map(Mangling::LineEnds),
        (1..90_usize, select(vec!["\n", "\r\n", "=\n", "=\r\n"]))
            .prop_map(|(width, end)| Mangling::Wrap(width, end)),
        select(vec!["–", "—", "--", ""]).prop_map(Mangling::Dashes),
        select(vec!["*", "**", "_", "`"]).prop_map(Mangling::Emphasis),
        vec((any::<Index>(), ignored), 0..20).prop_map(Mangling::Sprinkle),
        (text(), text()).prop_map(|(before, after)| Mangling::Around(before, after)),
    ]
}

fn mangle(text: String, mangling: &Mangling) -> String {
    match mangling {
        Mangling::Quote(mark) => quoted(&text, mark),
        Mangling::LineEnds(end) => text.replace('\n', end),
        Mangling::Wrap(width, end) => wrapped(&text, *width, end),
        Mangling::Dashes(other) => text.replace('-', other),
        Mangling::Emphasis(mark) => text.replace("--", &format!("{mark}--{mark}")),
        Mangling::Sprinkle(places) => {
            let mut chars: Vec<char> = text.chars().collect();
            for (place, c) in places {
                chars.insert(place.index(chars.len() + 1), *c);
            }
            chars.into_iter().collect()
        }
        Mangling::Around(before, after) => format!("{before}\n{text}{after}"),
    }
}

/// The text in pieces.
fn pieces<'a>(mut text: &'a str, cuts: &[Index]) -> Vec<&'a str> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let at = text.floor_char_boundary(cut.index(text.len() + 1));
        let (piece, rest) = text.split_at(at);
        pieces.push(piece);
        text = rest;
    }
    pieces.push(text);
    pieces
}

fn read_pieces(pieces: &[&str]) -> (Vec<Result<Block, BlockError>>, Option<BlockError>) {
    let mut scanner = Scanner::new();
    let mut found = Vec::new();
    for piece in pieces {
        scanner.push(piece);
        found.extend(scanner.by_ref());
    }
    (found, scanner.finish())
}

proptest! {
    #[test]
    fn blocks_come_back_whole(block in blocks()) {
        prop_assert_eq!(read(&encode(&block)), [Ok(block)]);
    }

    #[test]
    fn blocks_survive_what_chat_programs_do(
        block in blocks(),
        lower in any::<bool>(),
        manglings in vec(manglings(), 0..6),
        html in any::<bool>(),
        cuts in vec(any::<Index>(), 0..4),
    ) {
        let mut text = encode(&block);
        if lower {
            text = text.replace("TUNNEL-RS MANUAL", "Tunnel-rs manual").replace("--END", "--end");
        }
        text = manglings.iter().fold(text, mangle);
        if html {
            text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        }
        prop_assert_eq!(read_pieces(&pieces(&text, &cuts)), (vec![Ok(block)], None));
    }

    #[test]
    fn pieces_give_the_same_as_the_whole(
        parts in vec(prop_oneof![
            blocks().prop_map(|block| encode(&block)),
            "\\PC{0,40}",
            "-----(BEGIN|END) TUNNEL-RS MANUAL (OFFER|ANSWER)-----",
            "&(amp|gt|#43);?",
        ], 0..6),
        cuts in vec(any::<Index>(), 0..20),
    ) {
        let text = parts.concat();
        prop_assert_eq!(read_pieces(&pieces(&text, &cuts)), read_pieces(&[&text]));
    }

    #[test]
    fn nothing_panics(
        text in "(\\PC|[\r\n\t&;]|-----(BEGIN|END) TUNNEL-RS MANUAL (OFFER|ANSWER)-----){0,60}",
        body in vec(any::<u8>(), 0..200),
    ) {
        read_pieces(&[&text]);
        prop_assert_eq!(read(&sealed(&body)).len(), 1);
        prop_assert_eq!(read(&sealed(&[&[1, 1], &body[..]].concat())).len(), 1);
    }

    #[test]
    fn what_is_read_from_altered_bytes_is_written_and_read_alike(
        block in blocks(),
        alterations in vec((any::<Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = match &block {
            Block::Offer(offer) => wire::offer(offer),
            Block::Answer(answer) => wire::answer(answer),
        };
        bytes.truncate(bytes.len() - 4);
        for (at, value) in alterations {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let sum = Sha256::digest(&bytes);
        bytes.extend_from_slice(&sum[..4]);
        if let Ok(block) = wire::decode(&bytes) {
            prop_assert_eq!(read(&encode(&block)), [Ok(block)]);
        }
    }
}
