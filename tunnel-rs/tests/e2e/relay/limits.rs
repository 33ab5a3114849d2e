//! What one client may take, and what is told of all.

use std::io::{Read, Write};
use std::net::SocketAddr;

use super::{ADDRESS, get, is_ended, relay};
use crate::support::{Folder, SOON, TestResult, connect, own_network};
#[cfg(feature = "test-utils")]
use crate::support::{ask, client, server, shouting_service};

#[test]
fn an_address_has_so_many_connections_and_no_more() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let arguments = ["--http", "--listen", "10.99.0.1:80", "--address-connections", "3"];
    let relay = relay(&folder, &arguments)?;
    let address = format!("{ADDRESS}:80").parse()?;
    let mut three = [connect(address)?, connect(address)?, connect(address)?];
    assert!(is_ended(&mut connect(address)?), "a fourth is not cut off");
    // Those that are there are served, and one that ends makes room.
    three[0].write_all(b"GET /healthz HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    three[0].read_to_string(&mut answer)?;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let served = || get(address, "/healthz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    relay.process.wait_for(|| served().then_some(()), SOON)?;
    Ok(())
}

/// A connection that is the relay's counts as well, and does not stay where its client keeps silent.
#[test]
fn who_does_not_show_who_it_is_is_cut_off() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let arguments = ["--http", "--listen", "10.99.0.1:80", "--address-connections", "1"];
    let relay = relay(&folder, &arguments)?;
    let address: SocketAddr = format!("{ADDRESS}:80").parse()?;
    let mut silent = connect(address)?;
    let request = "GET /relay HTTP/1.1\r\nHost: relay\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                   Sec-WebSocket-Protocol: iroh-relay-v1\r\n\r\n";
    silent.write_all(request.as_bytes())?;
    let mut answer = [0; 12];
    silent.read_exact(&mut answer)?;
    assert_eq!(&answer, b"HTTP/1.1 101");
    assert!(is_ended(&mut connect(address)?), "the relay's connection was not counted");
    // The challenge, and then the end, before the test's own patience is at its end.
    assert!(is_ended(&mut silent), "a silent client stays");
    let served = || get(address, "/healthz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"));
    relay.process.wait_for(|| served().then_some(()), SOON)?;
    Ok(())
}

#[test]
fn health_and_metrics_are_told_only_where_asked_for() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let arguments = ["--http", "--listen", "10.99.0.1:80", "--metrics-listen", "127.0.0.1:0"];
    let relay = relay(&folder, &arguments)?;
    let metrics = relay.process.wait_value("Metrics: http://", SOON)?;
    let metrics: SocketAddr = metrics.trim_end_matches("/metrics").parse()?;
    let told = get(metrics, "/metrics")?;
    for name in ["tunnel_relay_clients 0", "relayserver_accepts_total", "dns_server_", "# EOF"] {
        assert!(told.contains(name), "{name}: {told}");
    }
    assert!(get(metrics, "/healthz")?.ends_with("ok\n"));
    let public = get(format!("{ADDRESS}:80").parse()?, "/metrics")?;
    assert!(public.starts_with("HTTP/1.1 404"), "{public}");
    Ok(())
}

#[cfg(feature = "test-utils")]
#[test]
fn a_client_is_read_no_faster_than_it_may_send() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let relay = relay(&folder, &["--client-rate", "100000"])?;
    let arguments = relay.with(&["--relay-only", "--allowed-tcp", "127.0.0.0/8"]);
    let server = server(&folder, &arguments)?;
    super::answers(&server.process)?;
    let arguments = ["--ticket", &server.ticket, "--relay-only"];
    let client = client(&folder, &arguments, &[shouting_service()?])?.open()?;
    let start = std::time::Instant::now();
    ask(&mut connect(client.targets[0])?, &"x".repeat(500_000))?;
    // Up and then down again, at 100,000 bytes a second each, perhaps at once.
    let took = start.elapsed();
    assert!(took > std::time::Duration::from_secs(3), "{took:?}");
    Ok(())
}
