//! Blocks that are not the ones wanted: each is called what it is, and the right one is taken afterwards.

use std::collections::BTreeSet;

use tunnel_testlab::process::Proc;

use crate::services::{ask, connect, shout, tcp_service};
use crate::side::{Pair, Side, client_line, connected, server_line, targets};
use crate::support::{
    Folder, SOON, TestResult, exit, exit_code, log, on_loopback, sessions, tunnel_rs_ice,
    wait_file, wait_log,
};

/// What a later version might write: its number, 2, in front, then whatever it likes, and the first four bytes of the
/// SHA-256 of both.
const LATER: &str =
    "AndoYXRldmVyIGEgbGF0ZXIgdmVyc2lvbiBoYXMgdG8gc2F5LCBpbiBpdHMgb3duIG9yZGVy32dEWg";

fn of_later_version(kind: &str) -> String {
    format!(
        "-----BEGIN TUNNEL-RS MANUAL {kind}-----\n{LATER}\n-----END TUNNEL-RS MANUAL {kind}-----\n"
    )
}

/// Without the third of its lines.
fn shortened(block: &str) -> String {
    let kept = block.lines().enumerate().filter(|(at, _)| *at != 2);
    kept.map(|(_, line)| format!("{line}\n")).collect()
}

/// With another character in the middle.
fn altered(block: &str) -> String {
    let at = block.len() / 2;
    let other = if block[at..].starts_with('A') { "B" } else { "A" };
    format!("{}{other}{}", &block[..at], &block[at + 1..])
}

/// Another session's offer and answer.
fn foreign() -> TestResult<[String; 2]> {
    let client = Side::client(&["tcp://127.0.0.1:22"], &[])?;
    let pair = Pair::answered(client, Side::server(&[])?)?;
    Ok([pair.client.block()?, pair.server.block()?])
}

/// Pastes wrong blocks, waits until each is called by its words, and returns what was said.
fn told_apart(side: &mut Side, wrong: &[(&str, &[&str])]) -> TestResult {
    let before = log(&side.process).lines().count();
    for (number, (block, words)) in wrong.iter().enumerate() {
        side.paste(block)?;
        let said = |lines: &[tunnel_testlab::process::Line]| {
            let lines: Vec<_> = lines.iter().filter(|line| line.text.contains("ERROR")).collect();
            lines.get(number).map(|line| line.text.clone())
        };
        let line = side.process.wait_lines(said, SOON)?;
        for word in *words {
            assert!(line.contains(word), "{word:?} is missing: {line}");
        }
    }
    let said = log(&side.process);
    // Without the time in front.
    let said: BTreeSet<_> = said.lines().skip(before).map(|line| line.split_once(' ')).collect();
    let different: BTreeSet<_> = said.into_iter().flatten().map(|(_, words)| words).collect();
    assert!(different.len() >= wrong.len() - 1, "not told apart: {different:?}");
    Ok(())
}

#[test]
fn a_client_tells_wrong_answers_apart_and_takes_the_right_one() -> TestResult {
    on_loopback(|| {
        let client = Side::client(&[&tcp_service(shout)?], &[])?;
        let mut pair = Pair::answered(client, Side::server(&[])?)?;
        let (offer, answer) = (pair.client.block()?, pair.server.block()?);
        let [_, foreign] = foreign()?;
        told_apart(
            &mut pair.client,
            &[
                (&altered(&answer), &["damaged", "copy it again"]),
                (&shortened(&answer), &["damaged", "copy it again"]),
                (&offer, &["this is an offer", "an answer is wanted"]),
                (&foreign, &["this answer is to offer", "waits for its answer"]),
                (&of_later_version("ANSWER"), &["version 2", "version 1"]),
            ],
        )?;
        let pair = pair.hand_over()?;
        pair.wait_connected()?;
        ask(&mut connect(pair.client.targets(1)?[0])?, "hello")
    })
}

#[test]
fn a_server_tells_wrong_offers_apart_and_takes_the_right_one() -> TestResult {
    on_loopback(|| {
        let client = Side::client(&[&tcp_service(shout)?], &[])?;
        let mut server = Side::server(&[])?;
        let offer = client.block()?;
        let [_, foreign] = foreign()?;
        told_apart(
            &mut server,
            &[
                (&altered(&offer), &["damaged", "copy it again"]),
                (&shortened(&offer), &["damaged", "copy it again"]),
                (&foreign, &["this is an answer", "an offer is wanted"]),
                (&of_later_version("OFFER"), &["version 2", "version 1"]),
            ],
        )?;
        let pair = Pair::connect_with(client, server, 1)?;
        ask(&mut connect(pair.targets[0])?, "hello")
    })
}

#[test]
fn a_wrong_file_may_be_replaced() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let (right_offer, right_answer) = (folder.text("right-offer"), folder.text("right-answer"));
        let (offer, answer) = (folder.text("offer"), folder.text("answer"));
        let source = tcp_service(shout)?;
        let files = ["--offer-file", &right_offer, "--answer-file", &answer];
        let client = Proc::spawn(&mut tunnel_rs_ice(&client_line(&[&source], &files)))?;
        let files = ["--offer-file", &offer, "--answer-file", &right_answer];
        let server = Proc::spawn(&mut tunnel_rs_ice(&server_line(&files)))?;

        let block = wait_file(&client, &folder.path("right-offer"), SOON)?;
        folder.write("offer", &altered(&block))?;
        wait_log(&server, &["damaged"], SOON)?;
        folder.write("offer", &format!("Here it is:\n{block}"))?;
        let block = wait_file(&server, &folder.path("right-answer"), SOON)?;
        folder.write("answer", &foreign()?[1])?;
        wait_log(&client, &["this answer is to offer"], SOON)?;
        folder.write("answer", &format!("Here it is:\n{block}"))?;
        connected(&client, &server)?;
        ask(&mut connect(targets(&client, 1)?[0])?, "hello")
    })
}

/// A file system's clock may stand still for 10 ms (on Linux, a tick of the kernel), and blocks are often equally long.
#[test]
fn a_file_replaced_within_a_tick_of_the_clock_is_another_one() -> TestResult {
    on_loopback(|| {
        let client = Side::client(&["tcp://127.0.0.1:22"], &[])?;
        let block = client.block()?;
        let folder = Folder::new()?;
        let offer = folder.write("offer", &altered(&block))?;
        let written = std::fs::metadata(&offer)?.modified()?;
        let server = Side::server(&["--offer-file", &offer])?;
        wait_log(&server.process, &["damaged"], SOON)?;
        let beside = folder.write("beside", &block)?;
        std::fs::File::options().write(true).open(&beside)?.set_modified(written)?;
        std::fs::rename(&beside, &offer)?;
        server.block()?;
        Ok(())
    })
}

#[test]
fn the_end_of_the_input_without_a_block_is_said() -> TestResult {
    on_loopback(|| {
        let [offer, answer] = foreign()?;
        let cut = |block: &str| block[..block.len() / 2].to_owned();
        for (pasted, words) in [
            (String::new(), "there is no block"),
            ("hello?\n".to_owned(), "there is no block"),
            (cut(&answer), "no END line"),
            (shortened(&answer), "damaged"),
            (offer.clone(), "this is an offer"),
        ] {
            let mut client = Side::client(&["tcp://127.0.0.1:22"], &[])?;
            client.paste(&pasted)?;
            let client = client.end_input()?;
            assert_eq!(exit_code(&client, SOON)?, 1, "{}", client.output());
            wait_log(&client, &["ERROR", words], SOON)?;
        }
        for (pasted, words) in [
            (String::new(), "there is no block"),
            (cut(&offer), "no END line"),
            (answer.clone(), "this is an answer"),
        ] {
            let mut server = Side::server(&[])?;
            server.paste(&pasted)?;
            let server = server.end_input()?;
            assert_eq!(exit_code(&server, SOON)?, 1, "{}", server.output());
            wait_log(&server, &["ERROR", words], SOON)?;
            assert_eq!(server.stdout(), "");
        }
        Ok(())
    })
}

#[test]
fn a_device_without_anything_in_it_is_an_input_that_ends() -> TestResult {
    on_loopback(|| {
        for line in [
            server_line(&["--offer-file", "/dev/null"]),
            client_line(&["tcp://127.0.0.1:22"], &["--answer-file", "/dev/null"]),
        ] {
            let (code, printed) = exit(&line)?;
            assert_eq!(code, 1, "{printed}");
            assert!(printed.contains("there is no block"), "{printed}");
        }
        Ok(())
    })
}

#[test]
fn other_sessions_blocks_do_not_disturb_a_session() -> TestResult {
    on_loopback(|| {
        let mut pair = Pair::connect(&[&tcp_service(shout)?])?;
        let mut tcp = connect(pair.targets[0])?;
        // A second server answers the same offer: that has been used.
        let mut second = Side::server(&[])?;
        second.paste(&pair.client.block()?)?;
        pair.client.paste(&second.block()?)?;
        wait_log(&pair.client.process, &["ERROR", "peer already"], SOON)?;
        let [offer, answer] = foreign()?;
        pair.client.paste(&answer)?;
        wait_log(&pair.client.process, &["ERROR", "this answer is to offer"], SOON)?;
        pair.server.paste(&offer)?;
        wait_log(&pair.server.process, &["ERROR", "another session"], SOON)?;
        ask(&mut tcp, "still here")?;
        for (_, process) in pair.sides() {
            assert_eq!(sessions(process), 1);
        }
        assert!(!second.process.output().contains("Code: "), "{}", second.process.output());
        Ok(())
    })
}
