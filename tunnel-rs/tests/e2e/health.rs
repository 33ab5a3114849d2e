//! Health, metrics, and the end of a server that lets open connections come to theirs.

use std::net::{Shutdown, SocketAddr};
use std::time::{Duration, Instant};

use tunnel_testlab::process::Proc;

use crate::support::{
    Client, Folder, SIGINT, SIGTERM, SOON, Server, TestResult, ask, client, connect, exit, get,
    is_reset, is_turned_away, own_network, server, shouting_service,
};

/// A server that wants no relay, and asks nobody who answers.
const ALONE: [&str; 6] = [
    "--dns-server",
    "http://10.99.0.1:9/pkarr",
    "--allowed-tcp",
    "127.0.0.0/8",
    "--health-addr",
    "127.0.0.1:0",
];

fn health(process: &Proc) -> TestResult<SocketAddr> {
    Ok(process.wait_value("Health: http://", SOON)?.parse()?)
}

fn is_ready(health: SocketAddr) -> bool {
    get(health, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 "))
}

fn wait_ready(process: &Proc, health: SocketAddr, ready: bool) -> TestResult {
    Ok(process.wait_for(|| (is_ready(health) == ready).then_some(()), SOON)?)
}

/// A server that drains, its client, and where both tell how they are.
fn pair(folder: &Folder, arguments: &[&str]) -> TestResult<(Server, Client, [SocketAddr; 2])> {
    let server = server(folder, &[&ALONE, arguments].concat())?;
    let arguments = ["--ticket", &server.ticket, "--health-addr", "127.0.0.1:0"];
    let client = client(folder, &arguments, &[shouting_service()?])?.open()?;
    let both = [health(&server.process)?, health(&client.process)?];
    Ok((server, client, both))
}

#[test]
fn both_sides_are_ready_while_they_are_of_use_and_count_what_they_do() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (server, client, [at_server, at_client]) = pair(&folder, &[])?;
    wait_ready(&server.process, at_server, true)?;
    wait_ready(&client.process, at_client, true)?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "twelve bytes")?;
    for (process, at, way) in
        [(&server.process, at_server, "received"), (&client.process, at_client, "sent")]
    {
        let lines = [
            "tunnel_sessions{path=\"direct\"} 1",
            "tunnel_flows{protocol=\"tcp\"} 1",
            "tunnel_ready 1",
            &format!("tunnel_{way}_bytes_total 12"),
        ];
        let all = || {
            let told = get(at, "/metrics").ok()?;
            lines.iter().all(|line| told.lines().any(|told| told == *line)).then_some(told)
        };
        let told = process.wait_for(all, SOON)?;
        assert!(!told.contains(&server.id) && !told.contains("127.0.0.1"), "{told}");
    }
    server.process.signal(SIGINT)?;
    assert_eq!(server.process.wait_exit(SOON)?.code(), Some(0));
    wait_ready(&client.process, at_client, false)?;
    assert!(get(at_client, "/livez")?.starts_with("HTTP/1.1 200 "));
    assert!(get(at_client, "/readyz")?.contains("no session with the server"));
    let failed = || {
        let told = get(at_client, "/metrics").ok()?;
        (!told.contains("tunnel_attempts_failed_total 0")).then_some(())
    };
    Ok(client.process.wait_for(failed, SOON)?)
}

#[test]
fn a_server_whose_relay_does_not_answer_is_not_ready() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let arguments = ["--relay-url", "http://10.99.0.1:9", "--health-addr", "127.0.0.1:0"];
    let server = server(&folder, &arguments)?;
    let health = health(&server.process)?;
    let answer = get(health, "/readyz")?;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("no relay answers"), "{answer}");
    assert!(get(health, "/livez")?.starts_with("HTTP/1.1 200 "));

    let taken = health.to_string();
    let tokens = folder.path("token");
    let line =
        ["server", "--auth-tokens-file", crate::support::text(&tokens), "--health-addr", &taken];
    let (code, output) = exit(&line)?;
    assert!(code == 1 && output.contains("--health-addr") && output.contains(&taken), "{output}");
    Ok(())
}

#[test]
fn sigterm_lets_open_connections_come_to_their_end() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (server, client, [at_server, _]) = pair(&folder, &["--drain-timeout", "600"])?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "before")?;
    server.process.signal(SIGTERM)?;
    wait_ready(&server.process, at_server, false)?;
    assert!(get(at_server, "/readyz")?.contains("draining"));
    assert!(is_turned_away(client.targets[0])?);
    ask(&mut tcp, "meanwhile")?;
    tcp.shutdown(Shutdown::Write)?;
    assert!(!is_reset(&mut tcp), "its end was not in order");
    assert_eq!(server.process.wait_exit(SOON)?.code(), Some(0));
    let output = server.process.output();
    assert!(output.contains("drained"), "{output}");
    Ok(())
}

#[test]
fn a_drain_ends_with_its_time_or_a_second_signal() -> TestResult {
    own_network()?;
    for (time, again) in [("1", false), ("600", true)] {
        let folder = Folder::new()?;
        let (server, client, _) = pair(&folder, &["--drain-timeout", time])?;
        let mut tcp = connect(client.targets[0])?;
        ask(&mut tcp, "before")?;
        let begun = Instant::now();
        server.process.signal(SIGTERM)?;
        server.process.wait_line(|line| line.contains("draining for up to"), SOON)?;
        if again {
            server.process.signal(SIGTERM)?;
        }
        assert!(is_reset(&mut tcp));
        assert_eq!(server.process.wait_exit(SOON)?.code(), Some(0));
        assert!(again || begun.elapsed() >= Duration::from_secs(1));
        // The client is told, and does not wait for silence.
        client.process.wait_line(|line| line.contains("the peer is shutting down"), SOON)?;
    }
    Ok(())
}

#[test]
fn without_a_time_to_drain_and_on_sigint_it_ends_at_once() -> TestResult {
    own_network()?;
    for (arguments, signal) in [(&[][..], SIGTERM), (&["--drain-timeout", "600"], SIGINT)] {
        let folder = Folder::new()?;
        let (server, client, _) = pair(&folder, arguments)?;
        let mut tcp = connect(client.targets[0])?;
        ask(&mut tcp, "before")?;
        server.process.signal(signal)?;
        assert!(is_reset(&mut tcp));
        assert_eq!(server.process.wait_exit(SOON)?.code(), Some(0));
    }
    Ok(())
}
