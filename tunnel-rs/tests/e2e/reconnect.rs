//! Clients that come back by themselves.

use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Folder, SIGHUP, SIGKILL, SIGTERM, SOON, Server, TUNNEL_RS, TestResult, ask, client,
    connect, exit, is_reset, own_network, server, shouting_service, started, text,
};

/// A server with a lasting key and port, so that it is the same one after a restart.
fn lasting(folder: &Folder) -> TestResult<Server> {
    let key = folder.path("key");
    if !key.exists() {
        exit(&["generate-server-key", "--output", text(&key)])?;
    }
    let bind = ["--bind", "127.0.0.1:4433", "--allowed-tcp", "127.0.0.0/8"];
    server(folder, &[&["--secret-file", text(&key)], &bind[..]].concat())
}

fn restarted(signal: i32, limit: Duration) -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let first = lasting(&folder)?;
    let source = [shouting_service()?];
    let client = client(&folder, &["--ticket", &first.ticket], &source)?.open()?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "before")?;
    first.process.signal(signal)?;
    first.process.wait_exit(SOON)?;
    let _second = lasting(&folder)?;
    let start = Instant::now();
    client.wait_sessions(2, SOON)?;
    assert!(start.elapsed() < limit, "back only after {:?}", start.elapsed());
    assert!(is_reset(&mut tcp), "the old connection lives");
    ask(&mut connect(client.targets[0])?, "after")
}

#[test]
fn a_server_that_was_ended_and_restarted_has_its_clients_back() -> TestResult {
    restarted(SIGTERM, Duration::from_secs(5))
}

#[test]
fn a_server_that_was_killed_and_restarted_has_its_clients_back() -> TestResult {
    restarted(SIGKILL, Duration::from_secs(10))
}

#[test]
fn a_killed_servers_client_without_flows_comes_back_too() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let first = lasting(&folder)?;
    let client: Client =
        client(&folder, &["--ticket", &first.ticket], &[shouting_service()?])?.open()?;
    first.process.signal(SIGKILL)?;
    first.process.wait_exit(SOON)?;
    let _second = lasting(&folder)?;
    client.wait_sessions(2, SOON)
}

#[test]
fn connections_accepted_without_a_session_wait_for_it() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let first = lasting(&folder)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let source = [format!("tcp://{}", listener.local_addr()?)];
    let client = client(&folder, &["--ticket", &first.ticket], &source)?.open()?;
    first.process.signal(SIGTERM)?;
    first.process.wait_exit(SOON)?;
    client.process.wait_line(|line| line.contains("session lost"), SOON)?;
    let _waiting = connect(client.targets[0])?;
    let _second = lasting(&folder)?;
    listener.set_nonblocking(true)?;
    client.process.wait_for(|| listener.accept().ok(), SOON)?;
    Ok(())
}

#[test]
fn connections_are_closed_where_no_session_comes() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let first = lasting(&folder)?;
    let client = client(&folder, &["--ticket", &first.ticket], &[shouting_service()?])?.open()?;
    first.process.signal(SIGTERM)?;
    first.process.wait_exit(SOON)?;
    client.process.wait_line(|line| line.contains("session lost"), SOON)?;
    let start = Instant::now();
    let mut tcp = connect(client.targets[0])?;
    assert!(tcp.read(&mut [0]).is_err());
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(8) && waited < Duration::from_secs(28), "{waited:?}");
    Ok(())
}

#[test]
fn the_end_of_a_clients_terminal_ends_its_connections() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = lasting(&folder)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let source = [format!("tcp://{}", listener.local_addr()?)];
    let client = client(&folder, &["--ticket", &server.ticket], &source)?.open()?;
    let _tcp = connect(client.targets[0])?;
    let (mut at_target, _) = listener.accept()?;
    at_target.set_read_timeout(Some(SOON))?;
    // One is the shell's, the other the kernel's.
    client.process.signal(SIGHUP)?;
    client.process.signal(SIGHUP)?;
    assert_eq!(client.process.wait_exit(SOON)?.code(), Some(0));
    assert!(is_reset(&mut at_target), "it waits for the session");
    Ok(())
}

#[test]
fn a_client_that_ignores_the_end_of_its_terminal_goes_on() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = lasting(&folder)?;
    let mut command = Command::new("sh");
    command.args(["-c", r#"trap "" HUP; exec "$0" "$@""#, TUNNEL_RS, "client", "--ticket"]);
    command.args([&server.ticket, "--source", &shouting_service()?, "--target", "127.0.0.1:0"]);
    command.arg("--auth-token-file").arg(folder.path("token")).env_remove("RUST_LOG");
    let client = started(&mut command, 1)?.open()?;
    client.process.signal(SIGHUP)?;
    ask(&mut connect(client.targets[0])?, "still here")?;
    client.process.signal(SIGTERM)?;
    assert_eq!(client.process.wait_exit(SOON)?.code(), Some(0));
    Ok(())
}
