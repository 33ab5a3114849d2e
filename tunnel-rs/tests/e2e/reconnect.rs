//! Clients that come back by themselves.

use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Folder, SIGKILL, SIGTERM, SOON, Server, TestResult, ask, client, connect, exit,
    is_reset, own_network, server, shouting_service, text,
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
