//! Services reached through a server, on loopback.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use tunnel_testlab::process::Proc;

use crate::support::{
    Client, Folder, OTHER_TOKEN, SIGTERM, SOON, Server, TOKEN, TestResult, ask, client, connect,
    echo_service, is_reset, is_turned_away, own_network, server, shouting_service, started, text,
    tunnel_rs,
};

const LOOPBACK: [&str; 4] = ["--allowed-tcp", "127.0.0.0/8", "--allowed-udp", "127.0.0.0/8"];

fn pair(folder: &Folder, sources: &[String]) -> TestResult<(Server, Client)> {
    let server = server(folder, &LOOPBACK)?;
    let client = client(folder, &["--ticket", &server.ticket], sources)?.open()?;
    Ok((server, client))
}

#[test]
fn many_forwards_share_one_session_and_both_sides_tell_what_happened() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (tcp, udp) = (shouting_service()?, echo_service()?);
    let (server, client) = pair(&folder, &[tcp.clone(), udp, tcp])?;
    for target in [client.targets[0], client.targets[2]] {
        ask(&mut connect(target)?, "hello")?;
    }
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(client.targets[1])?;
    let mut buffer = vec![0; 65_536];
    for size in [0, 1, 1200, 1452, 4000, 9000, 65_507] {
        let packet = vec![size as u8; size];
        // UDP may lose it, and does where this machine stands still.
        let mut comes_back = || {
            socket.send(&packet).is_ok()
                && matches!(socket.recv(&mut buffer), Ok(n) if buffer[..n] == packet)
        };
        assert!((0..15).any(|_| comes_back()), "{size} bytes never came back");
    }
    for process in [&server.process, &client.process] {
        process.wait_line(|l| l.contains("session open") && l.contains("direct to"), SOON)?;
        process.wait_line(|l| l.contains("flow") && l.contains("5 B sent, 5 B received"), SOON)?;
    }
    assert_eq!(client.sessions(), 1);
    assert!(!server.process.output().contains(TOKEN), "the token is in the log");
    assert!(!client.process.output().contains(TOKEN), "the token is in the log");
    Ok(())
}

#[test]
fn ssh_users_find_their_option() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let source = shouting_service()?;
    let server = server(&folder, &LOOPBACK)?;
    let mut command = tunnel_rs(&["client", "--ticket", &server.ticket]);
    let forward = format!("4711:{}", source.trim_start_matches("tcp://"));
    command.arg("--auth-token-file").arg(folder.path("token")).args(["-L", &forward]);
    let client = started(&mut command, 1)?;
    assert_eq!(client.targets[0].to_string(), "127.0.0.1:4711");
    ask(&mut connect(client.targets[0])?, "hello")
}

#[test]
fn a_config_file_and_the_environment_are_enough() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let source = shouting_service()?;
    let key = folder.path("key");
    crate::support::exit(&["generate-server-key", "--output", text(&key)])?;
    let token = folder.path("token");
    let config = format!(
        "role = \"server\"\nmode = \"iroh\"\n[iroh]\nsecret_file = \"{}\"\nauth_tokens_file = \"{}\"\n\
         max_sessions = 5\nbind = \"127.0.0.1:0\"\n[iroh.allowed_sources]\ntcp = [\"127.0.0.0/8\"]\n",
        text(&key),
        text(&token)
    );
    let config = folder.write("server.toml", &config)?;
    let server = Proc::spawn(&mut tunnel_rs(&["server", "-c", text(&config)]))?;
    let ticket = server.wait_value("Ticket: ", SOON)?;
    server.wait_line(|line| line == "Auth tokens: 1 token(s) configured", SOON)?;
    let config = format!(
        "[iroh]\nticket = \"{ticket}\"\n[[iroh.tunnels]]\nsource = \"{source}\"\ntarget = \"127.0.0.1:0\"\n"
    );
    let config = folder.write("client.toml", &config)?;
    let mut command = tunnel_rs(&["client", "-c", text(&config)]);
    let client = started(command.env("TUNNEL_RS_AUTH_TOKEN", TOKEN), 1)?;
    ask(&mut connect(client.targets[0])?, "hello")
}

#[test]
fn a_wrong_token_is_refused_at_once() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &LOOPBACK)?;
    folder.write("token", OTHER_TOKEN)?;
    let client = client(&folder, &["--ticket", &server.ticket], &[shouting_service()?])?;
    let start = Instant::now();
    let status = client.process.wait_exit(SOON)?;
    assert_eq!(status.code(), Some(3), "{}", client.process.output());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    let line = server.process.wait_line(|line| line.contains("refused"), SOON)?;
    assert!(line.contains("token is not accepted"), "{line}");
    for output in [server.process.output(), client.process.output()] {
        assert!(!output.contains(OTHER_TOKEN), "the token is in the log: {output}");
    }
    Ok(())
}

#[test]
fn a_source_that_is_not_allowed_is_named_and_the_others_live() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let good = shouting_service()?;
    let bad = "tcp://10.11.12.13:22".to_owned();
    let (_server, client) = pair(&folder, &[bad.clone(), good])?;
    client.process.wait_line(|l| l.contains(&bad) && l.contains("not allowed"), SOON)?;
    assert!(is_turned_away(client.targets[0])?);
    ask(&mut connect(client.targets[1])?, "hello")
}

#[test]
fn a_client_whose_every_source_is_refused_ends_with_4() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &LOOPBACK)?;
    let sources = ["tcp://10.11.12.13:22".to_owned(), "udp://10.11.12.13:53".to_owned()];
    let client = client(&folder, &["--ticket", &server.ticket], &sources)?;
    assert_eq!(client.process.wait_exit(SOON)?.code(), Some(4));
    for source in sources {
        assert!(client.process.output().contains(&source), "{source} is not named");
    }
    Ok(())
}

#[test]
fn targets_that_cannot_be_reached_close_the_connection_and_say_why() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    // Nobody answers for an address of a network that has nobody else: the system says so only after a while.
    let server =
        server(&folder, &["--allowed-tcp", "127.0.0.0/8", "--allowed-tcp", "10.99.0.0/24"])?;
    let sources =
        ["tcp://127.0.0.1:9".to_owned(), "tcp://name.invalid:9".into(), "tcp://10.99.0.9:9".into()];
    let client = client(&folder, &["--ticket", &server.ticket], &sources)?.open()?;
    for (target, part) in
        client.targets.iter().zip(["connection refused", "name not found", "target"])
    {
        let start = Instant::now();
        assert!(is_turned_away(*target)?, "{part}");
        assert!(start.elapsed() < Duration::from_secs(10), "{part}: {:?}", start.elapsed());
        client.process.wait_line(|l| l.contains("refused:") && l.contains(part), SOON)?;
    }
    Ok(())
}

#[test]
fn a_full_server_says_so() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let mut arguments = LOOPBACK.to_vec();
    arguments.extend(["--max-sessions", "1"]);
    let server = server(&folder, &arguments)?;
    let source = [shouting_service()?];
    let first = client(&folder, &["--ticket", &server.ticket], &source)?.open()?;
    let second = client(&folder, &["--ticket", &server.ticket], &source)?;
    second.process.wait_line(|line| line.contains("as many sessions as it takes"), SOON)?;
    first.process.signal(SIGTERM)?;
    assert_eq!(first.process.wait_exit(SOON)?.code(), Some(0));
    second.open()?;
    Ok(())
}

#[test]
fn a_signal_ends_both_sides_in_order() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (server, client) = pair(&folder, &[shouting_service()?])?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "hello")?;
    server.process.signal(SIGTERM)?;
    assert_eq!(server.process.wait_exit(SOON)?.code(), Some(0));
    client.process.wait_line(|line| line.contains("shutting down"), SOON)?;
    assert!(is_reset(&mut tcp));
    client.process.signal(SIGTERM)?;
    assert_eq!(client.process.wait_exit(SOON)?.code(), Some(0));
    Ok(())
}

#[test]
fn a_thousand_connections_at_once_share_a_session() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (_server, client) = pair(&folder, &[shouting_service()?])?;
    let mut connections =
        (0..1000).map(|_| connect(client.targets[0])).collect::<TestResult<Vec<_>>>()?;
    for (number, tcp) in connections.iter_mut().enumerate() {
        ask(tcp, &format!("connection number {number}"))?;
    }
    for (number, tcp) in connections.iter_mut().enumerate().rev() {
        ask(tcp, &format!("again {number}"))?;
    }
    assert_eq!(client.sessions(), 1);
    Ok(())
}

#[test]
fn the_demo_shows_a_direct_post_quantum_session() -> TestResult {
    own_network()?;
    let (code, printed) = crate::support::exit(&["demo", "--json"])?;
    assert_eq!(code, 0, "{printed}");
    let report: serde_json::Value = serde_json::from_str(printed.trim())?;
    assert_eq!(report["direct"], true, "{report}");
    assert_eq!(report["key_exchange"], "X25519MLKEM768");
    assert!(report["tcp_up_mbit_s"].as_f64().is_some_and(|rate| rate > 0.0));
    Ok(())
}

#[test]
fn an_idle_udp_flow_ends_and_begins_anew() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &[&LOOPBACK[..], &["--udp-idle-timeout", "1"]].concat())?;
    let client = client(&folder, &["--ticket", &server.ticket], &[echo_service()?])?.open()?;
    let app = UdpSocket::bind("127.0.0.1:0")?;
    app.set_read_timeout(Some(Duration::from_millis(200)))?;
    for closed in 1..=2 {
        // As long as the client does not know that the flow is over its packets are lost.
        let answered = || {
            app.send_to(b"anew", client.targets[0]).ok()?;
            app.recv(&mut [0; 64]).ok()
        };
        assert_eq!(client.process.wait_for(answered, SOON)?, 4);
        let idle = |lines: &[tunnel_testlab::process::Line]| {
            let idle = |text: &str| text.contains("closed") && text.contains("idle");
            (lines.iter().filter(|line| idle(&line.text)).count() >= closed).then_some(())
        };
        server.process.wait_lines(idle, SOON)?;
    }
    Ok(())
}
