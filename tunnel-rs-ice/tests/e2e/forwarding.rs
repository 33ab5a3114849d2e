//! What forwards carry over one session.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use tunnel_ice::Description;
use tunnel_testlab::ice::{IceKind, wait_path};

use crate::services::{
    answer_at_the_end, ask, connect, echo, echo_service, held_service, is_reset, is_turned_away,
    shout, tcp_service,
};
use crate::side::{Pair, Side, answer, offer};
use crate::support::{LAN_V4, LAN_V6, SOON, TestResult, on_a_lan, on_loopback, sessions, wait_log};

/// Bytes of a large transfer.
const LARGE: usize = 48 * 1024 * 1024;

#[test]
fn many_forwards_share_one_session_and_both_sides_tell_what_happened() -> TestResult {
    on_loopback(|| {
        let (tcp, udp, other) = (tcp_service(shout)?, echo_service()?, tcp_service(shout)?);
        let pair = Pair::connect(&[&tcp, &udp, &other])?;
        for target in [pair.targets[0], pair.targets[2]] {
            ask(&mut connect(target)?, "hello")?;
        }
        echo(pair.targets[1], &[0, 1, 1200, 1452, 4000, 9000, 65_507])?;
        for (_, process) in pair.sides() {
            wait_log(process, &["session open", "path direct to"], SOON)?;
            for source in [&tcp, &other] {
                wait_log(process, &["closed", source, "5 B sent, 5 B received"], SOON)?;
            }
            assert_eq!(sessions(process), 1);
        }
        Ok(())
    })
}

#[test]
fn many_connections_at_once_are_kept_apart() -> TestResult {
    on_loopback(|| {
        let pair = Pair::connect(&[&tcp_service(shout)?, &echo_service()?])?;
        let connections = (0..300).map(|_| connect(pair.targets[0]));
        let mut connections = connections.collect::<TestResult<Vec<_>>>()?;
        for (number, tcp) in connections.iter_mut().enumerate() {
            ask(tcp, &format!("connection number {number}"))?;
        }
        echo(pair.targets[1], &[100])?;
        for (number, tcp) in connections.iter_mut().enumerate().rev() {
            ask(tcp, &format!("again {number}"))?;
        }
        assert_eq!(sessions(&pair.server.process), 1);
        Ok(())
    })
}

#[test]
fn ssh_users_find_their_option() -> TestResult {
    on_loopback(|| {
        let (tcp, udp) = (tcp_service(shout)?, echo_service()?);
        let tcp = format!("4711:{}", tcp.trim_start_matches("tcp://"));
        let udp = format!("[::1]:4712:{}/udp", udp.trim_start_matches("udp://"));
        let client = Side::client(&[], &["-L", &tcp, "-L", &udp])?;
        let pair = Pair::connect_with(client, Side::server(&[])?, 2)?;
        let expected = ["127.0.0.1:4711", "[::1]:4712"];
        assert_eq!(pair.targets.iter().map(SocketAddr::to_string).collect::<Vec<_>>(), expected);
        ask(&mut connect(pair.targets[0])?, "hello")
    })
}

#[test]
fn both_sides_name_the_path_they_take() -> TestResult {
    on_a_lan(|| {
        let pair = Pair::connect(&[&tcp_service(shout)?])?;
        let addresses = |description: Description| -> Vec<SocketAddr> {
            let own = [IpAddr::from(LAN_V4), LAN_V6.into()];
            let addresses = description.candidates.iter().map(|candidate| candidate.addr);
            addresses.inspect(|addr| assert!(own.contains(&addr.ip()), "{addr}")).collect()
        };
        let offered = addresses(offer(&pair.client.block()?)?.description);
        let answered = addresses(answer(&pair.server.block()?)?.description);
        // Which of the pairs it is each side chooses for itself.
        let ends = [(&offered, &answered), (&answered, &offered)];
        for ((name, process), (own, peers)) in pair.sides().into_iter().zip(ends) {
            let (path, _) = wait_path(process, |_| true, SOON)?;
            assert_eq!(path.kind, IceKind::Host, "{name}");
            assert!(own.contains(&path.local) && peers.contains(&path.remote), "{name}: {path:?}");
        }
        ask(&mut connect(pair.targets[0])?, "hello")
    })
}

#[test]
fn either_side_may_finish_first() -> TestResult {
    on_loopback(|| {
        let (held, accepted) = held_service()?;
        let pair = Pair::connect(&[&tcp_service(answer_at_the_end)?, &held])?;
        // The application has said all, and is answered only then.
        let mut tcp = connect(pair.targets[0])?;
        tcp.write_all(b"all that I have to say")?;
        tcp.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer)?;
        assert_eq!(answer, "ALL THAT I HAVE TO SAY");

        // The service has said all, and still hears.
        let mut tcp = connect(pair.targets[1])?;
        let mut service = accepted.recv_timeout(SOON)?;
        service.write_all(b"farewell")?;
        service.shutdown(Shutdown::Write)?;
        tcp.read_to_string(&mut answer)?;
        assert_eq!(answer, "ALL THAT I HAVE TO SAYfarewell");
        tcp.write_all(b"wait, one more thing")?;
        tcp.shutdown(Shutdown::Write)?;
        let mut heard = String::new();
        service.read_to_string(&mut heard)?;
        assert_eq!(heard, "wait, one more thing");
        Ok(())
    })
}

#[test]
fn a_reset_is_a_reset_on_the_other_side() -> TestResult {
    on_loopback(|| {
        let (held, accepted) = held_service()?;
        let pair = Pair::connect(&[&held])?;
        let open = || -> TestResult<(TcpStream, TcpStream)> {
            let mut tcp = connect(pair.targets[0])?;
            let mut service = accepted.recv_timeout(SOON)?;
            // Both have heard of each other, and the client has something that it does not read.
            tcp.write_all(b"?")?;
            service.read_exact(&mut [0])?;
            service.write_all(b"!")?;
            tcp.peek(&mut [0])?;
            Ok((tcp, service))
        };
        let (tcp, mut service) = open()?;
        // The system resets a connection that is closed with bytes unread (RFC 2525 section 2.17).
        drop(tcp);
        assert!(is_reset(&mut service), "the service's connection lives on or ended in order");

        let (mut tcp, service) = open()?;
        tcp.write_all(b"?")?;
        service.peek(&mut [0])?;
        drop(service);
        assert!(is_reset(&mut tcp), "the application's connection lives on or ended in order");
        // Neither is the end of anything else.
        open()?;
        Ok(())
    })
}

#[test]
fn a_service_that_is_not_there_is_said_to_be() -> TestResult {
    on_loopback(|| {
        let pair = Pair::connect(&["tcp://127.0.0.1:9"])?;
        assert!(is_turned_away(pair.targets[0])?);
        for (_, process) in pair.sides() {
            wait_log(process, &["refused: tcp://127.0.0.1:9", "connection refused"], SOON)?;
        }
        Ok(())
    })
}

/// Bytes that no piece of which is like another, from a seed.
fn bytes(seed: u64) -> Vec<u8> {
    // Xorshift (Marsaglia 2003); any seed but 0 does.
    let mut state = seed;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(LARGE / 8).flatten().collect()
}

/// Sends all of it while it reads what the other end sends.
fn exchange(tcp: &TcpStream, sent: &[u8]) -> io::Result<Vec<u8>> {
    thread::scope(|scope| {
        let writing = scope.spawn(move || {
            let mut tcp = tcp;
            tcp.write_all(sent)?;
            tcp.shutdown(Shutdown::Write)
        });
        let mut received = Vec::with_capacity(LARGE);
        let mut tcp = tcp;
        tcp.read_to_end(&mut received)?;
        writing.join().unwrap_or_else(|_| Err(io::Error::other("the writer panicked")))?;
        Ok(received)
    })
}

#[test]
fn large_transfers_arrive_as_they_were_sent_both_ways_at_once() -> TestResult {
    on_loopback(|| {
        let (held, accepted) = held_service()?;
        let pair = Pair::connect(&[&held])?;
        let tcp = connect(pair.targets[0])?;
        let service = accepted.recv_timeout(SOON)?;
        let (up, down) = (bytes(1), bytes(2));
        let (up_received, down_received) = thread::scope(|scope| {
            let far = scope.spawn(|| exchange(&service, &down));
            let down_received = exchange(&tcp, &up);
            (far.join(), down_received)
        });
        let Ok(up_received) = up_received else { panic!("the service panicked") };
        assert!(up_received? == up, "what the service got is not what was sent");
        assert!(down_received? == down, "what the application got is not what was sent");
        let totals = format!("{LARGE} B sent, {LARGE} B received");
        for (_, process) in pair.sides() {
            wait_log(process, &["flow", "closed", "finished", &totals], SOON)?;
        }
        Ok(())
    })
}

#[test]
fn an_idle_udp_flow_ends_and_begins_anew() -> TestResult {
    on_loopback(|| {
        let source = echo_service()?;
        let server = Side::server(&["--udp-idle-timeout", "1"])?;
        let pair = Pair::connect_with(Side::client(&[&source], &[])?, server, 1)?;
        echo(pair.targets[0], &[10])?;
        let limit = Duration::from_secs(10);
        wait_log(&pair.server.process, &["flow", "closed", "idle", &source], limit)?;
        echo(pair.targets[0], &[20])
    })
}
