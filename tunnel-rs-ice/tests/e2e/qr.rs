//! QR codes, read from the terminal's picture by a decoder of another make.

use tunnel_testlab::process::{Line, Stream};

use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side};
use crate::support::{SOON, TestResult, log, on_a_lan, on_loopback};

/// Pixels for each module, so that the decoder has something to look at.
const SCALE: usize = 4;

/// Two rows of a picture in each line: above and below. Full is light, as on a terminal that is dark.
fn half(character: char) -> Option<[bool; 2]> {
    match character {
        ' ' => Some([false, false]),
        '▀' => Some([true, false]),
        '▄' => Some([false, true]),
        '█' => Some([true, true]),
        _ => None,
    }
}

/// The rows of the picture in a log, once it is whole: the line below it has come.
fn picture(lines: &[Line]) -> Option<Vec<Vec<bool>>> {
    let drawn =
        |line: &&Line| line.text.contains('█') && line.text.chars().all(|c| half(c).is_some());
    let mut logged = lines.iter().filter(|line| line.stream == Stream::Stderr);
    let logged: Vec<_> = logged.by_ref().skip_while(|line| !drawn(line)).collect();
    let lines: Vec<_> = logged.iter().copied().take_while(drawn).collect();
    if lines.is_empty() || lines.len() == logged.len() {
        return None;
    }
    let row = |line: &Line, which: usize| -> Vec<bool> {
        line.text.chars().filter_map(half).map(|halves| halves[which]).collect()
    };
    Some(lines.iter().flat_map(|line| [row(line, 0), row(line, 1)]).collect())
}

/// What the QR code in a side's log says.
fn decoded(side: &Side) -> TestResult<String> {
    let rows = side.process.wait_lines(picture, SOON)?;
    let (width, height) = (rows[0].len(), rows.len());
    assert!(rows.iter().all(|row| row.len() == width), "not all lines are equally long");
    assert!(width.abs_diff(height) <= 1, "{width} modules wide and {height} high");
    let mut image =
        rqrr::PreparedImage::prepare_from_greyscale(width * SCALE, height * SCALE, |x, y| {
            if rows[y / SCALE][x / SCALE] { u8::MAX } else { 0 }
        });
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1, "not one QR code: {}", side.process.output());
    Ok(grids[0].decode()?.1)
}

#[test]
fn blocks_pass_as_qr_codes() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        let (mut client, mut server) =
            (Side::client(&[&source], &["--qr"])?, Side::server(&["--qr"])?);
        let offer = decoded(&client)?;
        assert_eq!(offer.trim(), client.block()?.trim());
        server.paste(&offer)?;
        let answer = decoded(&server)?;
        assert_eq!(answer.trim(), server.block()?.trim());
        client.paste(&answer)?;
        let pair = Pair { targets: client.targets(1)?, client, server };
        pair.wait_connected()?;
        ask(&mut connect(pair.targets[0])?, "hello")?;
        for (_, process) in pair.sides() {
            assert!(!process.stdout().contains('█'), "the picture is on standard output");
        }
        Ok(())
    })
}

#[test]
fn many_forwards_fit_a_qr_code_or_their_block_is_printed_nevertheless() -> TestResult {
    on_a_lan(|| {
        let sources: Vec<_> =
            (1..=5).map(|port| format!("tcp://service-{port}.example.org:{port}")).collect();
        let sources: Vec<_> = sources.iter().map(String::as_str).collect();
        let client = Side::client(&sources, &["--qr"])?;
        assert_eq!(decoded(&client)?.trim(), client.block()?.trim());

        // A QR code has room for 2,953 bytes at the most (ISO/IEC 18004, table 7).
        let sources: Vec<_> =
            (1..=64).map(|port| format!("tcp://{}.example.org:{port}", "x".repeat(60))).collect();
        let sources: Vec<_> = sources.iter().map(String::as_str).collect();
        let client = Side::client(&sources, &["--qr"])?;
        assert_eq!(crate::side::offer(&client.block()?)?.sources.len(), 64);
        client.process.wait_line(|line| line.contains("too long for a QR code"), SOON)?;
        Ok(())
    })
}

#[test]
fn there_is_no_picture_that_nobody_asked_for() -> TestResult {
    on_loopback(|| {
        let pair = Pair::connect(&["tcp://127.0.0.1:22"])?;
        for (name, process) in pair.sides() {
            assert!(!log(process).contains(['█', '▀', '▄']), "{name}: {}", process.output());
        }
        Ok(())
    })
}
