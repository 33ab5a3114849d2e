//! What is secret stays out of the logs, however much is logged.

use tunnel_ice::Description;

use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side, answer, client_line, offer, server_line};
use crate::support::{SOON, TestResult, log, on_loopback, wait_log};

/// The bytes of the password in a description.
fn password(description: &Description) -> TestResult<Vec<u8>> {
    let credentials = serde_json::to_value(&description.credentials)?;
    Ok(serde_json::from_value(credentials["password"].clone())?)
}

/// Base64 (RFC 4648 section 4) without padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for piece in bytes.chunks(3) {
        let at = |place: usize| u32::from(piece.get(place).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for place in 0..=piece.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * place) & 63) as usize]));
        }
    }
    text
}

/// The ways in which a log might show bytes.
fn shapes(bytes: &[u8]) -> Vec<String> {
    let hex = |separator: &str| {
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(separator)
    };
    let escaped: String = bytes.escape_ascii().to_string();
    let list = format!("{bytes:?}");
    vec![base64(bytes), hex(""), hex(" "), hex(":"), escaped, list[1..list.len() - 1].to_owned()]
}

#[test]
fn the_shapes_are_those_of_the_standards() {
    // The examples of RFC 4648 section 10, without padding.
    for (bytes, text) in [("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    assert!(shapes(&[1, 255]).contains(&"1, 255".to_owned()));
}

#[test]
fn no_secret_is_in_the_logs_however_much_is_logged() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        let start = |line: &[&str]| {
            Side::start_with(line, |command| {
                command.env("RUST_LOG", "trace");
            })
        };
        let (client, server) = (start(&client_line(&[&source], &[]))?, start(&server_line(&[]))?);
        let pair = Pair::connect_with(client, server, 1)?;
        let mut tcp = connect(pair.targets[0])?;
        ask(&mut tcp, "what the application says")?;
        drop(tcp);
        for (_, process) in pair.sides() {
            wait_log(process, &["flow", "closed"], SOON)?;
        }

        let blocks = [pair.client.block()?, pair.server.block()?];
        let descriptions = [offer(&blocks[0])?.description, answer(&blocks[1])?.description];
        for (name, process) in pair.sides() {
            let log = log(process);
            assert!(log.contains("TRACE"), "{name} does not log everything");
            let line_with = |text: &str| log.lines().find(|line| line.contains(text));
            for description in &descriptions {
                let password = password(description)?;
                assert_eq!(password.len(), 16);
                for shape in shapes(&password) {
                    let shown = line_with(&shape);
                    assert_eq!(shown, None, "{name} logs an ICE password as {shape}");
                }
            }
            for line in blocks.iter().flat_map(|block| block.lines()) {
                assert_eq!(line_with(line), None, "{name} logs a line of a block");
            }
            for text in ["PRIVATE KEY", "what the application says"] {
                assert_eq!(line_with(text), None, "{name} logs {text:?}");
            }
        }
        Ok(())
    })
}
