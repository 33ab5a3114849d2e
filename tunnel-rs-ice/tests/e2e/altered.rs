//! Blocks that somebody has altered on their way, with a checksum that fits.

use std::time::Duration;

use tunnel_ice::Fingerprint;
use tunnel_testlab::process::Proc;

use crate::services::{connect, is_reset};
use crate::side::{Pair, Side, alter_answer, alter_offer};
use crate::support::{SOON, TestResult, exit_code, on_loopback, sessions, wait_log};

/// From the answer to the words.
const SAID: Duration = Duration::from_secs(10);

/// Of nobody's certificate.
const OTHER: Fingerprint = Fingerprint([0x5a; 32]);

/// A client and a server who got each other's blocks as they became on the way.
fn through(
    offer: impl FnOnce(&str) -> TestResult<String>,
    answer: impl FnOnce(&str) -> TestResult<String>,
) -> TestResult<Pair> {
    let source = "tcp://127.0.0.1:22";
    let (mut client, mut server) = (Side::client(&[source], &[])?, Side::server(&[])?);
    server.paste(&offer(&client.block()?)?)?;
    client.paste(&answer(&server.block()?)?)?;
    Ok(Pair { client, server, targets: Vec::new() })
}

fn unaltered(text: &str) -> TestResult<String> {
    Ok(text.to_owned())
}

/// Waits until both sides say what must have happened, and the client has ended because of it.
fn found_out(pair: &Pair) -> TestResult {
    // Whoever uses the forward meanwhile gets nothing.
    let mut tcp = connect(pair.client.targets(1)?[0])?;
    let (client, server) = (&pair.client.process, &pair.server.process);
    assert_eq!(exit_code(client, SAID)?, 3, "{}", client.output());
    wait_log(client, &["ERROR", "altered"], SAID)?;
    wait_log(server, &["altered"], SAID)?;
    assert!(is_reset(&mut tcp), "the application's connection ended in order");
    no_session(client);
    no_session(server);
    Ok(())
}

fn no_session(process: &Proc) {
    assert_eq!(sessions(process), 0, "{}", process.output());
    assert!(!process.stdout().contains("Code"), "{}", process.output());
}

#[test]
fn another_certificate_in_the_offer_leads_to_no_session() -> TestResult {
    on_loopback(|| {
        let alter = |offer: &str| alter_offer(offer, |o| o.description.fingerprint = OTHER);
        found_out(&through(alter, unaltered)?)
    })
}

#[test]
fn another_certificate_in_the_answer_leads_to_no_session() -> TestResult {
    on_loopback(|| {
        let alter = |answer: &str| alter_answer(answer, |a| a.description.fingerprint = OTHER);
        found_out(&through(unaltered, alter)?)
    })
}

#[test]
fn another_commitment_leads_to_no_session() -> TestResult {
    on_loopback(|| {
        let alter = |offer: &str| alter_offer(offer, |o| o.commitment[0] ^= 1);
        let pair = through(alter, unaltered)?;
        found_out(&pair)?;
        assert_eq!(pair.server.exit_code(SAID)?, 3, "{}", pair.server.process.output());
        Ok(())
    })
}

#[test]
fn another_nonce_leads_to_another_code() -> TestResult {
    on_loopback(|| {
        let alter = |answer: &str| alter_answer(answer, |a| a.nonce[15] ^= 1);
        let pair = through(unaltered, alter)?;
        assert_ne!(pair.client.code()?, pair.server.code()?);
        Ok(())
    })
}

#[test]
fn the_own_certificate_in_the_answer_is_refused_and_the_right_answer_taken() -> TestResult {
    on_loopback(|| {
        let client = Side::client(&["tcp://127.0.0.1:22"], &[])?;
        let mut pair = Pair::answered(client, Side::server(&[])?)?;
        let own = crate::side::offer(&pair.client.block()?)?.description.fingerprint;
        let reflected = alter_answer(&pair.server.block()?, |a| a.description.fingerprint = own)?;
        pair.client.paste(&reflected)?;
        wait_log(&pair.client.process, &["ERROR", "own certificate"], SOON)?;
        pair.hand_over()?.wait_connected()
    })
}
