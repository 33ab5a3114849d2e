//! Health, metrics, and a server that drains, in manual mode.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};

use tunnel_testlab::process::Proc;

use crate::services::{ask, connect, is_reset, is_turned_away, shout, tcp_service};
use crate::side::{Pair, Side};
use crate::support::{SIGTERM, SOON, TestResult, exit_code, on_loopback, wait_log};

const HEALTH: [&str; 2] = ["--health-addr", "127.0.0.1:0"];

fn get(process: &Proc, path: &str) -> TestResult<String> {
    let address: SocketAddr = process.wait_value("Health: http://", SOON)?.parse()?;
    let mut tcp = connect(address)?;
    write!(tcp, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    tcp.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn sides_are_ready_once_they_have_a_session_and_a_server_drains() -> TestResult {
    on_loopback(|| {
        let source = tcp_service(shout)?;
        let client = Side::client(&[&source], &HEALTH)?;
        let server = Side::server(&[&HEALTH[..], &["--drain-timeout", "600"]].concat())?;
        for (side, why) in [(&client, "starting"), (&server, "no session")] {
            let unready = || {
                let answer = get(&side.process, "/readyz").ok()?;
                (answer.starts_with("HTTP/1.1 503 ") && answer.contains(why)).then_some(())
            };
            side.process.wait_for(unready, SOON)?;
            assert!(get(&side.process, "/livez")?.starts_with("HTTP/1.1 200 "));
        }
        let pair = Pair::connect_with(client, server, 1)?;
        let mut tcp = connect(pair.targets[0])?;
        ask(&mut tcp, "hello")?;
        for (name, process) in pair.sides() {
            assert!(get(process, "/readyz")?.ends_with("ok\n"), "{name}");
            let told = get(process, "/metrics")?;
            assert!(told.contains("tunnel_sessions{path=\"direct\"} 1\n"), "{name}: {told}");
            assert!(told.contains("tunnel_sent_bytes_total 5\n"), "{name}: {told}");
        }
        let server = &pair.server.process;
        server.signal(SIGTERM)?;
        wait_log(server, &["draining"], SOON)?;
        assert!(get(server, "/readyz")?.contains("draining"));
        assert!(is_turned_away(pair.targets[0])?);
        ask(&mut tcp, "meanwhile")?;
        tcp.shutdown(Shutdown::Write)?;
        assert!(!is_reset(&mut tcp), "its end was not in order");
        assert_eq!(exit_code(server, SOON)?, 0);
        assert_eq!(exit_code(&pair.client.process, SOON)?, 0);
        Ok(())
    })
}
