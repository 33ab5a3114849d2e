//! Blocks by hand, through a chat program that does with them what such programs do.

use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side};
use crate::support::{TestResult, on_loopback};

/// What becomes of a text on its way, with a name for it.
type Way = (&'static str, fn(&str) -> String);

const WAYS: [Way; 6] = [
    ("as it is", str::to_owned),
    ("quoted twice, with CRLF", |text| lines(text, "> > ", "\r\n")),
    ("wrapped and indented", wrapped),
    ("on one line, without an end of line", |text| text.trim().replace('\n', " ")),
    ("made typographic, with references", typographic),
    ("within other text", |text| format!("Hi! Here it is: -----\n\n{text}\nBEGIN when you like\n")),
];

fn lines(text: &str, before: &str, behind: &str) -> String {
    text.lines().map(|line| format!("{before}{line}{behind}")).collect()
}

/// Lines of 21 characters, so that the marker lines are broken as well.
fn wrapped(text: &str) -> String {
    let mut wrapped = String::new();
    for line in text.lines() {
        for piece in line.as_bytes().chunks(21) {
            wrapped.extend(["\t  ", &String::from_utf8_lossy(piece), " \n"]);
        }
    }
    wrapped
}

/// Dashes joined, blanks that do not break, and HTML's references for what has a meaning elsewhere.
fn typographic(text: &str) -> String {
    let joined = text.replace("--", "\u{2014}").replace(' ', "\u{a0}");
    joined.replace('+', "&#43;").replace('/', "&#x2F;").replace('\n', "\u{200b}\n")
}

fn passes(way: impl Fn(&str) -> String, paste: fn(&mut Side, &str) -> TestResult) -> TestResult {
    let source = tcp_service(shout)?;
    let (mut client, mut server) = (Side::client(&[&source], &[])?, Side::server(&[])?);
    paste(&mut server, &way(&client.block()?))?;
    paste(&mut client, &way(&server.block()?))?;
    let pair = Pair { targets: client.targets(1)?, client, server };
    pair.wait_connected()?;
    ask(&mut connect(pair.targets[0])?, "hello")
}

#[test]
fn blocks_survive_what_chat_programs_do() -> TestResult {
    on_loopback(|| {
        for (name, way) in WAYS {
            passes(way, Side::paste).inspect_err(|_| eprintln!("{name}:"))?;
        }
        Ok(())
    })
}

#[test]
fn blocks_may_come_character_by_character() -> TestResult {
    let typed = |side: &mut Side, text: &str| {
        // A piece may end within the dash, which has three bytes.
        text.as_bytes().chunks(1).try_for_each(|byte| side.type_bytes(byte))
    };
    on_loopback(|| passes(typographic, typed))
}

#[test]
fn a_block_is_short_and_alone_on_standard_output() -> TestResult {
    crate::support::on_a_lan(|| {
        let client = Side::client(&["tcp://127.0.0.1:22"], &[])?;
        let block = client.block()?;
        // One forward, over IPv4 and IPv6.
        assert!(block.lines().count() <= 8, "{block}");
        assert!(block.lines().all(|line| line.len() <= 76), "{block}");
        let printed = client.process.stdout();
        let rest = printed.replace(&block, "");
        let target = client.targets(1)?[0];
        assert_eq!(rest, format!("Forwarding tcp://{target} to tcp://127.0.0.1:22\n"));
        Ok(())
    })
}
