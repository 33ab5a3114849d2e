//! Ends in order, at whatever stage.

use std::io::Read;
use std::time::{Duration, Instant};

use tunnel_testlab::process::Proc;

use crate::services::{ask, connect, is_reset, shout, tcp_service};
use crate::side::{Pair, Side, alter_answer, alter_offer, client_line, server_line};
use crate::support::{
    Folder, SIGINT, SIGTERM, SOON, TestResult, exit_code, on_loopback, tunnel_rs_ice, wait_log,
};

/// From the signal to the end.
pub(crate) const END: Duration = Duration::from_secs(5);

const SOURCE: &str = "tcp://127.0.0.1:22";

/// Sends a signal and waits until all of these have ended, with exit code 0.
fn ends(signal: i32, signalled: &Proc, others: &[&Proc]) -> TestResult {
    signalled.signal(signal)?;
    let start = Instant::now();
    for process in [&[signalled], others].concat() {
        let code = exit_code(process, SOON)?;
        assert_eq!(code, 0, "{}", process.output());
        let took = start.elapsed();
        assert!(took < END, "ended only after {took:?}: {}", process.output());
    }
    Ok(())
}

#[test]
fn a_signal_ends_whoever_waits_for_a_block() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let absent = folder.text("absent");
        for signal in [SIGINT, SIGTERM] {
            let client = Side::client(&[SOURCE], &[])?;
            client.block()?;
            ends(signal, &client.process, &[])?;
            let client = Side::client(&[SOURCE], &["--answer-file", &absent])?;
            client.block()?;
            ends(signal, &client.process, &[])?;
            for arguments in [&[][..], &["--offer-file", &absent]] {
                let server = Side::server(arguments)?;
                wait_log(&server.process, &["offer"], SOON)?;
                ends(signal, &server.process, &[])?;
            }
        }
        Ok(())
    })
}

#[test]
fn a_signal_ends_whoever_waits_for_the_other_end_of_a_fifo() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let (offer, answer) = (folder.fifo("offer")?, folder.fifo("answer")?);
        let absent = folder.text("absent");
        // Nobody writes.
        let line = client_line(&[SOURCE], &["--offer-file", &absent, "--answer-file", &answer]);
        let client = Proc::spawn(&mut tunnel_rs_ice(&line))?;
        wait_log(&client, &["waiting"], SOON)?;
        ends(SIGINT, &client, &[])?;
        let server = Proc::spawn(&mut tunnel_rs_ice(&server_line(&["--offer-file", &offer])))?;
        wait_log(&server, &["waiting"], SOON)?;
        ends(SIGINT, &server, &[])
    })
}

#[test]
fn a_signal_ends_whoever_gives_a_block_to_a_fifo_that_nobody_reads() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let fifo = folder.fifo("fifo")?;
        let line = client_line(&[SOURCE], &["--offer-file", &fifo]);
        let client = Proc::spawn(&mut tunnel_rs_ice(&line))?;
        client.wait_line(|line| line.starts_with("Forwarding"), SOON)?;
        ends(SIGINT, &client, &[])?;

        let offering = Side::client(&[SOURCE], &[])?;
        let mut server = Side::server(&["--answer-file", &fifo])?;
        server.paste(&offering.block()?)?;
        wait_log(&server.process, &["the client asks for", SOURCE], SOON)?;
        ends(SIGINT, &server.process, &[])
    })
}

#[test]
fn a_signal_ends_a_server_whose_answer_nobody_has_taken() -> TestResult {
    on_loopback(|| {
        let pair = Pair::answered(Side::client(&[SOURCE], &[])?, Side::server(&[])?)?;
        ends(SIGINT, &pair.server.process, &[])?;
        ends(SIGINT, &pair.client.process, &[])
    })
}

/// Sides that have each other's blocks, with addresses in them where nobody is.
pub(crate) fn searching(arguments: &[&str]) -> TestResult<Pair> {
    let nowhere = "127.0.0.2:9".parse().ok();
    let (mut client, mut server) = (Side::client(&[SOURCE], arguments)?, Side::server(&[])?);
    server.paste(&alter_offer(&client.block()?, |offer| {
        offer.description.candidates.truncate(1);
        offer.description.candidates.iter_mut().zip(nowhere).for_each(|(c, to)| c.addr = to);
    })?)?;
    client.paste(&alter_answer(&server.block()?, |answer| {
        answer.description.candidates.truncate(1);
        answer.description.candidates.iter_mut().zip(nowhere).for_each(|(c, to)| c.addr = to);
    })?)?;
    Ok(Pair { client, server, targets: Vec::new() })
}

#[test]
fn a_signal_ends_whoever_searches_for_a_path() -> TestResult {
    on_loopback(|| {
        let pair = searching(&[])?;
        ends(SIGINT, &pair.client.process, &[])?;
        ends(SIGINT, &pair.server.process, &[])
    })
}

#[test]
fn a_signal_to_either_side_of_a_session_ends_both() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        for signal in [SIGINT, SIGTERM] {
            for client_first in [true, false] {
                let pair = Pair::connect(&[&source])?;
                let mut tcp = connect(pair.targets[0])?;
                ask(&mut tcp, "hello")?;
                let (client, server) = (&pair.client.process, &pair.server.process);
                if client_first {
                    ends(signal, client, &[server])?;
                    wait_log(server, &["the client has ended the session"], SOON)?;
                } else {
                    ends(signal, server, &[client])?;
                    wait_log(client, &["the server has ended the session"], SOON)?;
                }
                assert!(is_reset(&mut tcp), "the application takes it for an orderly end");
            }
        }
        Ok(())
    })
}

#[test]
fn a_session_without_flows_ends_as_well() -> TestResult {
    on_loopback(|| {
        for client_first in [true, false] {
            let pair = Pair::connect(&[SOURCE])?;
            let mut sides = [&pair.client.process, &pair.server.process];
            if !client_first {
                sides.reverse();
            }
            ends(SIGINT, sides[0], &[sides[1]])?;
        }
        Ok(())
    })
}

#[test]
fn the_end_of_standard_input_is_not_the_end_of_a_session() -> TestResult {
    on_loopback(|| {
        let Pair { client, server, targets } = Pair::connect(&[&tcp_service(shout)?])?;
        let (client, server) = (client.end_input()?, server.end_input()?);
        let mut tcp = connect(targets[0])?;
        ask(&mut tcp, "hello")?;
        ends(SIGINT, &client, &[&server])?;
        assert!(tcp.read(&mut [0]).is_err());
        Ok(())
    })
}
