//! What the server allows, and what becomes of it when that changes.

use std::time::{Duration, Instant};

use tunnel_testlab::process::{Line, Proc};

use crate::services::{
    ask, connect, echo, echo_service, is_reset, is_turned_away, shout, tcp_service,
};
use crate::side::{Pair, Side, code, printed_block, server_line};
use crate::support::{
    Folder, SIGHUP, SOON, TUNNEL_RS_ICE, TestResult, command, exit_code, on_loopback, sessions,
    tunnel_rs_ice, wait_log,
};

/// From the change of a file to the cut: a second, and the time that a busy machine takes.
const CUT: Duration = Duration::from_secs(5);

const REFUSED_TCP: &str = "tcp://10.11.12.13:22";
const REFUSED_UDP: &str = "udp://10.11.12.13:53";

#[test]
fn a_server_that_refuses_everything_says_so_and_gives_no_answer() -> TestResult {
    on_loopback(|| {
        for sources in [&[REFUSED_TCP][..], &[REFUSED_TCP, REFUSED_UDP]] {
            let client = Side::client(sources, &[])?;
            let mut server = Side::server(&[])?;
            server.paste(&client.block()?)?;
            assert_eq!(server.exit_code(SOON)?, 4, "{}", server.process.output());
            for source in sources {
                wait_log(&server.process, &[source, "not allowed"], SOON)?;
            }
            assert_eq!(server.process.stdout(), "", "something is on standard output");
        }
        Ok(())
    })
}

#[test]
fn a_refused_offer_leaves_no_answer_file() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let client = Side::client(&[REFUSED_UDP], &[])?;
        let offer = folder.write("offer", &client.block()?)?;
        let answer = folder.text("answer");
        // Nothing at all is allowed, which is said beforehand.
        let line = ["server", "manual", "--no-stun", "--offer-file", &offer];
        let mut server = tunnel_rs_ice(&line);
        let server = Proc::spawn(server.args(["--answer-file", &answer]))?;
        assert_eq!(exit_code(&server, SOON)?, 4, "{}", server.output());
        wait_log(&server, &["--allowed-tcp", "--allowed-udp"], SOON)?;
        wait_log(&server, &[REFUSED_UDP, "not allowed"], SOON)?;
        assert_eq!(folder.names()?, ["offer"]);
        Ok(())
    })
}

#[test]
fn what_is_refused_is_said_before_the_answer_and_the_rest_goes_on() -> TestResult {
    on_loopback(|| {
        let (tcp, udp) = (tcp_service(shout)?, echo_service()?);
        let sources = [REFUSED_TCP, &tcp, REFUSED_UDP, &udp];
        let mut client = Side::client(&sources, &[])?;
        let folder = Folder::new()?;
        let offer = folder.write("offer", &client.block()?)?;
        // Both outputs as one, which shows what comes first.
        let mut server = command("sh");
        server.args(["-c", r#"exec "$0" "$@" 2>&1"#, TUNNEL_RS_ICE]);
        let server = Proc::spawn(server.args(server_line(&["--offer-file", &offer])))?;
        let answer = printed_block(&server)?;
        let printed = server.stdout();
        let Some((said, _)) = printed.split_once("BEGIN") else { panic!("no answer: {printed}") };
        for source in [REFUSED_TCP, REFUSED_UDP] {
            let refused = |line: &str| line.contains(source) && line.contains("not allowed");
            assert!(said.lines().any(refused), "{source} is not refused in words: {said}");
        }
        for source in [&tcp, &udp] {
            let refused = |line: &str| line.contains(source.as_str()) && line.contains("refused");
            assert!(!said.lines().any(refused), "{source} is refused: {said}");
        }
        client.paste(&answer)?;
        assert_eq!(client.code()?, code(&server)?);
        for source in [REFUSED_TCP, REFUSED_UDP] {
            wait_log(&client.process, &["refuses", source, "not allowed"], SOON)?;
        }
        let targets = client.targets(4)?;
        assert!(is_turned_away(targets[0])?);
        ask(&mut connect(targets[1])?, "hello")?;
        echo(targets[3], &[100])
    })
}

#[test]
fn networks_taken_back_are_cut_within_a_second_and_nothing_else_is() -> TestResult {
    on_loopback(|| {
        let folder = Folder::new()?;
        let rules = |tcp: &str| {
            format!("[manual.allowed_sources]\ntcp = [{tcp}]\nudp = [\"127.0.0.0/8\"]\n")
        };
        let config = folder.write("server.toml", &rules("\"127.0.0.0/8\""))?;
        let (tcp, udp) = (tcp_service(shout)?, echo_service()?);
        let server = Side::start(&["server", "manual", "--no-stun", "-c", &config])?;
        let pair = Pair::connect_with(Side::client(&[&tcp, &udp], &[])?, server, 2)?;
        let server = &pair.server.process;
        let mut open = connect(pair.targets[0])?;
        ask(&mut open, "before")?;

        // A file that is wrong changes nothing.
        folder.write("server.toml", &rules("\"127.0.0.1/8\""))?;
        wait_log(server, &["rules stay as they are", "127.0.0.1/8"], SOON)?;
        ask(&mut open, "still")?;

        folder.write("server.toml", &rules("\"10.0.0.0/8\""))?;
        let changed = Instant::now();
        assert!(is_reset(&mut open), "the connection ended in order");
        let cut = changed.elapsed();
        assert!(cut < CUT, "cut only after {cut:?}");
        wait_log(server, &["flow", "no longer allowed", &tcp], SOON)?;
        assert!(is_turned_away(pair.targets[0])?);
        echo(pair.targets[1], &[100])?;

        // SIGHUP asks for the rules at once.
        folder.write("server.toml", &rules("\"127.0.0.0/8\""))?;
        server.signal(SIGHUP)?;
        let read_twice = |lines: &[Line]| {
            let read = lines.iter().filter(|line| line.text.contains("rules read again"));
            (read.count() >= 2).then_some(())
        };
        server.wait_lines(read_twice, SOON)?;
        ask(&mut connect(pair.targets[0])?, "again")?;
        assert_eq!(sessions(&pair.client.process), 1, "{}", pair.client.process.output());
        Ok(())
    })
}
