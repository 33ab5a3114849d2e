mod properties;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use data_encoding::BASE64_NOPAD;
use sha2::{Digest, Sha256};
use tunnel_model::{Host, Protocol, Source};

use super::*;
use crate::{Candidate, CandidateKind, Credentials, Description, Fingerprint, Mapping};

/// A block of another program.
const PEM: &str =
    "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIUe+N/\n-----END CERTIFICATE-----\n";

fn candidate(kind: CandidateKind, addr: &str) -> Candidate {
    Candidate { kind, addr: addr.parse().unwrap() }
}

fn description() -> Description {
    Description {
        credentials: Credentials::from_bytes(&std::array::from_fn(|i| (i * 37) as u8)),
        fingerprint: Fingerprint(std::array::from_fn(|i| (i * 91 + 5) as u8)),
        candidates: vec![
            candidate(CandidateKind::Host, "192.168.178.23:54321"),
            candidate(CandidateKind::Host, "[2001:db8:1234:5678:9abc:def0:1234:5678]:54321"),
            candidate(CandidateKind::ServerReflexive, "198.51.100.77:54321"),
            candidate(
                CandidateKind::ServerReflexive,
                "[2001:db8:8765:4321:9abc:def0:1234:5678]:54321",
            ),
        ],
        mapping_v4: Mapping::Independent,
        mapping_v6: Mapping::NoNat,
    }
}

fn offer() -> Offer {
    Offer {
        id: OfferId(*b"\x00\xffabcdef"),
        ttl: Duration::from_secs(600),
        commitment: std::array::from_fn(|i| (i * 53 + 11) as u8),
        description: description(),
        sources: vec!["tcp://127.0.0.1:22".parse().unwrap()],
    }
}

fn answer() -> Answer {
    Answer { id: offer().id, nonce: [0xf8; 16], description: description() }
}

fn encode(block: &Block) -> String {
    match block {
        Block::Offer(offer) => encode_offer(offer),
        Block::Answer(answer) => encode_answer(answer),
    }
}

fn read(text: &str) -> Vec<Result<Block, BlockError>> {
    let mut scanner = Scanner::new();
    scanner.push(text);
    scanner.collect()
}

/// The block of these bytes, as if they had been made by a program of this or a later version.
fn sealed(bytes: &[u8]) -> String {
    let sum = Sha256::digest(bytes);
    text::write(BlockKind::Offer, &[bytes, &sum[..4]].concat())
}

/// The bytes of the offer without their checksum.
fn unsealed(offer: &Offer) -> Vec<u8> {
    let mut bytes = wire::offer(offer);
    bytes.truncate(bytes.len() - 4);
    bytes
}

#[track_caller]
fn still_reads(text: &str) {
    assert_eq!(read(text), [Ok(Block::Offer(offer()))], "{text}");
}

/// Each line with something in front.
fn quoted(text: &str, mark: &str) -> String {
    text.lines().map(|line| format!("{mark}{line}\n")).collect()
}

/// A line break after each `width` characters.
fn wrapped(text: &str, width: usize, end: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    chars.chunks(width).map(|line| line.iter().collect::<String>() + end).collect()
}

#[test]
fn an_offer_of_one_forward_over_both_families_is_short() {
    let text = encode_offer(&offer());
    assert!(text.lines().count() <= 8, "{text}");
    assert!(text.lines().all(|line| line.len() <= 76 && !line.is_empty()), "{text}");
    assert!(text.starts_with("-----BEGIN TUNNEL-RS MANUAL OFFER-----\n"));
    assert!(text.ends_with("\n-----END TUNNEL-RS MANUAL OFFER-----\n"));
    assert!(encode_answer(&answer()).starts_with("-----BEGIN TUNNEL-RS MANUAL ANSWER-----\n"));
}

#[test]
fn the_largest_offer_is_read() {
    let mut offer = offer();
    let candidate = candidate(CandidateKind::Host, "[2001:db8::1]:1");
    offer.description.candidates = vec![candidate; MAX_CANDIDATES + 1];
    let host = Host::Name(["x"; 127].join("."));
    offer.sources = vec![Source { protocol: Protocol::Tcp, host, port: 1 }; MAX_SOURCES + 1];
    let text = encode_offer(&offer);
    offer.description.candidates.pop();
    offer.sources.pop();
    assert_eq!(read(&text), [Ok(Block::Offer(offer))]);
}

#[test]
fn more_candidates_or_sources_than_the_most_are_invalid() {
    let mut offer = offer();
    offer.description.candidates.truncate(1);
    let bytes = unsealed(&offer);
    let (candidate, source) = (64..71, bytes.len() - 13..bytes.len());
    // Always more of them than the number says.
    let many = |count: usize, at: usize, one: &[u8], end: usize| {
        let mut many = bytes[..at].to_vec();
        many.push(count as u8);
        many.extend(one.repeat(100));
        many.extend_from_slice(&bytes[end..]);
        read(&sealed(&many)).remove(0)
    };
    let invalid = |what| Err(BlockError::Invalid(what));
    let with = |count| many(count, 63, &bytes[candidate.clone()], candidate.end);
    assert_ne!(with(MAX_CANDIDATES), invalid("there are too many addresses"));
    assert_eq!(with(MAX_CANDIDATES + 1), invalid("there are too many addresses"));
    let with = |count| many(count, source.start - 1, &bytes[source.clone()], source.end);
    assert!(with(MAX_SOURCES).is_ok());
    assert_eq!(with(MAX_SOURCES + 1), invalid("an offer asks for too many services"));
    assert_eq!(with(0), invalid("an offer asks for no service"));
}

#[test]
fn the_time_to_live_is_held_within_its_bounds() {
    for (millis, read_secs) in
        [(0, 1), (1_000, 1), (1_999, 1), (65_535_999, 65_535), (65_536_000, 65_535)]
    {
        let mut offer = offer();
        offer.ttl = Duration::from_millis(millis);
        let read = read(&encode_offer(&offer)).remove(0).unwrap().into_offer().unwrap();
        assert_eq!(read.ttl, Duration::from_secs(read_secs));
    }
}

#[test]
fn the_wire_form_is_as_described() {
    let mut offer = offer();
    offer.description.candidates.truncate(3);
    let bytes = wire::offer(&offer);
    assert_eq!(bytes[..2], [1, 1]);
    assert_eq!(bytes[2..10], offer.id.0);
    assert_eq!(bytes[10..30], offer.description.credentials.to_bytes());
    assert_eq!(bytes[30..62], offer.description.fingerprint.0);
    assert_eq!(bytes[62..64], [0x43, 3]);
    assert_eq!(bytes[64..71], [4, 192, 168, 178, 23, 0xd4, 0x31]);
    assert_eq!(bytes[71..75], [6, 0x20, 0x01, 0x0d]);
    assert_eq!(bytes[90..97], [20, 198, 51, 100, 77, 0xd4, 0x31]);
    assert_eq!(bytes[97..113], offer.commitment);
    assert_eq!(bytes[113..129], *b"\x02\x58\x01t\x00\x16\x09127.0.0.1");
    assert_eq!(bytes[129..], Sha256::digest(&bytes[..129])[..4]);
    assert_eq!(wire::answer(&answer())[..2], [1, 2]);
}

#[test]
fn a_block_of_a_later_version_is_no_damage() {
    for version in [0, 2, 3, 255] {
        let text = sealed(&[version, 9, 9, 9]);
        assert_eq!(read(&text), [Err(BlockError::Version(version))]);
        assert!(BlockError::Version(version).to_string().contains("reads version 1"));
    }
    assert_eq!(read(&sealed(&[])), [Err(BlockError::Damaged)]);
}

#[test]
fn what_a_later_version_adds_is_ignored() {
    let mut bytes = unsealed(&offer());
    bytes.extend_from_slice(b"more");
    still_reads(&sealed(&bytes));
}

#[test]
fn a_block_cut_short_with_a_checksum_that_fits_is_invalid() {
    let bytes = unsealed(&offer());
    for end in 1..bytes.len() {
        assert!(matches!(read(&sealed(&bytes[..end]))[..], [Err(BlockError::Invalid(_))]), "{end}");
    }
}

#[test]
fn fields_out_of_their_bounds_are_invalid() {
    let bytes = unsealed(&offer());
    let sources = bytes.len() - 14;
    for (at, value) in [
        (1, 0),        // kind
        (1, 3),        // kind
        (62, 0x60),    // mapping of IPv4
        (62, 0x06),    // mapping of IPv6
        (63, 33),      // number of candidates
        (64, 5),       // family
        (64, 36),      // family
        (sources, 0),  // number of sources
        (sources, 65), // number of sources
        (sources + 1, b'T'),
        (sources + 4, 8), // length of the host, which then ends in a dot
        (sources + 5, b' '),
        (sources + 5, 0xff),
    ] {
        let mut bytes = bytes.clone();
        assert_ne!(bytes[at], value);
        bytes[at] = value;
        let read = read(&sealed(&bytes));
        assert!(matches!(read[..], [Err(BlockError::Invalid(_))]), "{at} {value}: {read:?}");
    }
    for at in [sources - 2, sources + 2] {
        let mut bytes = bytes.clone();
        bytes[at..at + 2].fill(0);
        assert!(matches!(read(&sealed(&bytes))[..], [Err(BlockError::Invalid(_))]), "{at}");
    }
}

#[test]
fn addresses_that_nothing_can_be_sent_to_are_refused_and_not_told() {
    for addr in [
        "0.0.0.0:1",
        "10.0.0.1:0",
        "224.0.0.251:5353",
        "255.255.255.255:1",
        "[::]:1",
        "[2001:db8::1]:0",
        "[ff02::1]:1",
        "[::ffff:10.0.0.1]:1",
    ] {
        let mut offer = offer();
        // The first candidate, and one of its length in its place.
        let addr: SocketAddr = addr.parse().unwrap();
        let (good, family) = match addr.ip() {
            IpAddr::V4(_) => ("10.0.0.1:1", 4),
            IpAddr::V6(_) => ("[2001:db8::1]:1", 6),
        };
        offer.description.candidates = vec![candidate(CandidateKind::Host, good)];
        let mut bytes = unsealed(&offer);
        assert_eq!(bytes[64], family);
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.octets().to_vec(),
            IpAddr::V6(ip) => ip.octets().to_vec(),
        };
        let end = 65 + ip.len();
        bytes[65..end].copy_from_slice(&ip);
        bytes[end..end + 2].copy_from_slice(&addr.port().to_be_bytes());
        assert!(matches!(read(&sealed(&bytes))[..], [Err(BlockError::Invalid(_))]), "{addr}");

        let bad = Candidate { kind: CandidateKind::Host, addr };
        let peer_reflexive = candidate(CandidateKind::PeerReflexive, "10.0.0.1:1");
        let told = encode_offer(&offer);
        offer.description.candidates.insert(0, bad);
        offer.description.candidates.push(peer_reflexive);
        assert_eq!(encode_offer(&offer), told, "{addr}");
    }
}

#[test]
fn loopback_is_an_address_like_others() {
    let mut offer = offer();
    offer.description.candidates =
        ["127.0.0.1:1", "[::1]:1"].map(|addr| candidate(CandidateKind::Host, addr)).to_vec();
    assert_eq!(read(&encode_offer(&offer)), [Ok(Block::Offer(offer))]);
}

#[test]
fn kinds_and_sessions_are_told_apart() {
    let [offer, answer] = [Block::Offer(offer()), Block::Answer(answer())];
    let is_answer = answer.clone().into_offer().unwrap_err();
    assert_eq!(is_answer, BlockError::WrongKind { found: BlockKind::Answer });
    assert!(is_answer.to_string().starts_with("this is an answer, but an offer is wanted"));
    let is_offer = offer.clone().into_answer().unwrap_err();
    assert_eq!(is_offer, BlockError::WrongKind { found: BlockKind::Offer });
    assert!(is_offer.to_string().starts_with("this is an offer, but an answer is wanted"));

    let (offer, answer) = (offer.into_offer().unwrap(), answer.into_answer().unwrap());
    assert_eq!(answer.check_id(offer.id), Ok(()));
    let wanted = OfferId([7; 8]);
    let other = BlockError::OtherSession { found: offer.id, wanted };
    assert_eq!(answer.check_id(wanted), Err(other));
}

#[test]
fn markers_that_do_not_fit_the_block_are_damage() {
    let text = encode_offer(&offer());
    let (begin, end) = text.split_at(text.len() / 2);
    let other = |text: &str| text.replace("OFFER", "ANSWER");
    for (begin, end) in
        [(begin, &*other(end)), (&*other(begin), end), (&*other(begin), &*other(end))]
    {
        assert_eq!(read(&format!("{begin}{end}")), [Err(BlockError::Damaged)], "{begin}{end}");
    }
}

#[test]
fn the_end_of_the_text_says_what_is_missing() {
    let text = encode_offer(&offer());
    let finish = |text: &str| {
        let mut scanner = Scanner::new();
        scanner.push(text);
        while scanner.next().is_some() {}
        scanner.finish()
    };
    assert_eq!(finish(""), Some(BlockError::NoBlock));
    assert_eq!(finish("hello & goodbye"), Some(BlockError::NoBlock));
    assert_eq!(finish(&text), None);
    assert_eq!(finish(&text.replace("A", "")), Some(BlockError::NoBlock));
    assert_eq!(finish(&format!("{text}{text}")), None);
    assert_eq!(
        finish(&format!("{text}-----BEGIN TUNNEL-RS MANUAL OFFER--")),
        Some(BlockError::Truncated)
    );
    let last = text.rfind('R').unwrap();
    for end in 39..=last {
        assert_eq!(finish(&text[..end]), Some(BlockError::Truncated), "{}", &text[..end]);
    }
}

#[test]
fn quoting_marks_do_no_harm() {
    let text = encode_offer(&offer());
    for mark in
        ["> ", ">", ">> ", "> > ", ">>", "| ", "|", "»", "│ ", "&gt; ", "&gt;&gt; ", "&#62; "]
    {
        still_reads(&quoted(&text, mark));
    }
    still_reads(&quoted(&quoted(&text, "&gt; "), "> "));
}

#[test]
fn html_does_no_harm() {
    let text = encode_offer(&offer());
    still_reads(&text.replace('/', "&#x2F;").replace('+', "&#43;"));
    still_reads(&format!("<p>{}</p>", text.replace('\n', "&nbsp;\r\n")).replace('<', "&lt;"));
    still_reads(&text.replace("--", "&mdash;"));
    still_reads(&quoted(&text, "&amp;gt; "));
    for width in 1..80 {
        still_reads(&wrapped(&text, width, "&"));
    }
}

#[test]
fn white_space_does_no_harm() {
    let text = encode_offer(&offer());
    for end in ["\r\n", "\r", "\n\n", " \n", "\u{2028}", " ", ""] {
        still_reads(&text.replace('\n', end));
    }
    for width in 1..80 {
        for end in ["\n", "\r\n", "\t", "\u{a0}", "\u{200b}", "\u{feff}", "\u{ad}", "  \u{202f}"] {
            still_reads(&wrapped(&text, width, end));
        }
    }
    still_reads(&format!("\u{feff}{text}"));
}

#[test]
fn lines_broken_by_mail_do_no_harm() {
    let text = encode_offer(&offer());
    for width in 1..80 {
        still_reads(&wrapped(&text, width, "=\n"));
        still_reads(&wrapped(&text, width, "=\r\n"));
    }
    // Dash-escaped (RFC 9580 section 7.2).
    still_reads(&text.replace("\n-", "\n- -"));
}

#[test]
fn text_in_16_bit_units_does_no_harm() {
    let text = format!("\u{feff}{}", encode_offer(&offer()));
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    still_reads(&String::from_utf8_lossy(&bytes));
}

#[test]
fn altered_dashes_do_no_harm() {
    let text = encode_offer(&offer());
    for (dashes, other) in
        [("-----", "—-"), ("--", "–"), ("--", "—"), ("-", "−"), ("-----", "-"), ("-", "")]
    {
        still_reads(&text.replace(dashes, other));
    }
}

#[test]
fn markers_in_another_case_do_no_harm() {
    let text = encode_offer(&offer());
    for word in ["BEGIN", "END", "TUNNEL-RS", "MANUAL", "OFFER"] {
        still_reads(&text.replace(word, &word.to_ascii_lowercase()));
    }
}

#[test]
fn emphasis_and_code_fences_do_no_harm() {
    let text = encode_offer(&offer());
    for mark in ["*", "**", "_", "__", "~~", "`"] {
        still_reads(&quoted(&text, mark).replace('\n', &format!("{mark}\n")));
    }
    still_reads(&format!("```text\n{text}```\n"));
}

#[test]
fn text_around_does_no_harm() {
    let text = encode_offer(&offer());
    still_reads(&format!("Hi Jo, here it is:{text}Bye, R&D; END"));
    still_reads(&format!("[12:34] jo: {}; thanks!", text.trim()));
    still_reads(&format!("{PEM}{text}{PEM}"));
    still_reads(&format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{}-----BEGIN PGP SIGNATURE-----\n\nwsBz\n-----END PGP \
         SIGNATURE-----\n",
        text.replace("\n-", "\n- -"),
    ));
}

#[test]
fn blocks_come_in_their_order_each_as_soon_as_it_ends() {
    let (offer, answer) = (Block::Offer(offer()), Block::Answer(answer()));
    let text = encode(&offer);
    let last = text.rfind('R').unwrap();
    let mut scanner = Scanner::new();
    scanner.push(&text[..last]);
    assert_eq!(scanner.next(), None);
    scanner.push("R");
    assert_eq!(scanner.next(), Some(Ok(offer.clone())));
    assert_eq!(scanner.next(), None);

    assert_eq!(read(&(text + &encode(&answer))), [Ok(offer), Ok(answer)]);
}

#[test]
fn a_block_begun_anew_counts_from_there() {
    let text = encode_offer(&offer());
    for end in 38..text.len() - 12 {
        still_reads(&format!("{}{text}", &text[..end]));
    }
    still_reads(&format!("{}{text}", &encode_answer(&answer())[..100]));
}

#[test]
fn a_damaged_block_does_not_hide_the_next_one() {
    let text = encode_offer(&offer());
    let damaged = text.replace("AQ", "Aq");
    assert_ne!(damaged, text);
    let read = read(&(damaged + &text));
    assert_eq!(read, [Err(BlockError::Damaged), Ok(Block::Offer(offer()))]);
}

/// All that can happen to a single character, at each of the characters of a text.
fn accidents(text: &str) -> impl Iterator<Item = String> {
    let alphabet = BASE64_NOPAD.specification().symbols + ">-\n é";
    (0..text.len()).flat_map(move |at| {
        let (before, rest) = text.split_at(at);
        let (this, after) = rest.split_at(1);
        let mut altered: Vec<_> = alphabet
            .chars()
            .filter(|c| !this.starts_with(*c))
            .map(|c| format!("{before}{c}{after}"))
            .collect();
        altered.push(format!("{before}{after}"));
        altered.push(format!("{before}{this}{this}{after}"));
        altered.extend(after.char_indices().map(|(i, other)| {
            format!("{before}{other}{}{this}{}", &after[..i], &after[i + other.len_utf8()..])
        }));
        altered
    })
}

#[test]
fn a_block_with_any_character_altered_is_never_accepted() {
    let text = encode_offer(&offer());
    let body: String = text.lines().filter(|line| !line.starts_with('-')).collect();
    let (begin, end) =
        ("-----BEGIN TUNNEL-RS MANUAL OFFER-----", "-----END TUNNEL-RS MANUAL OFFER-----");
    let mut all = 0;
    for altered in accidents(&body).filter(|altered| *altered != body) {
        all += 1;
        let text = format!("{begin}{altered}{end}");
        assert_eq!(read(&text), [Err(BlockError::Damaged)], "{text}");
    }
    assert!(all > 10_000, "{all}");
}

#[test]
fn a_marker_with_any_character_altered_gives_nothing_else() {
    let text = encode_answer(&answer());
    let good = [Ok(Block::Answer(answer()))];
    let end = text.find("-----END").unwrap();
    for altered in accidents(&text[..39]).map(|begin| begin + &text[39..]) {
        let read = read(&altered);
        assert!(read.is_empty() || read == [Err(BlockError::Damaged)] || read == good, "{altered}");
    }
    for altered in accidents(&text[end..]).map(|end_line| format!("{}{end_line}", &text[..end])) {
        let read = read(&altered);
        assert!(read.is_empty() || read == [Err(BlockError::Damaged)] || read == good, "{altered}");
    }
}
