//! Rules that change while sessions are open.

use std::fs::{Permissions, set_permissions};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{
    Folder, OTHER_TOKEN, SIGHUP, SOON, TOKEN, TUNNEL_RS, TestResult, ask, client, connect,
    is_reset, own_network, server, serving, shouting_service, text,
};

/// From the change of a file to the cut: a second, and the time that a busy machine takes.
const CUT: Duration = Duration::from_secs(5);

#[test]
fn a_token_taken_back_ends_its_session_and_no_other() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    folder.write("token", &format!("{TOKEN} # laptop\n{OTHER_TOKEN}\n"))?;
    let server = server(&folder, &["--allowed-tcp", "127.0.0.0/8"])?;
    let source = [shouting_service()?];
    let users = [TOKEN, OTHER_TOKEN].map(|token| {
        let own = Folder::new()?;
        own.write("token", token)?;
        client(&own, &["--ticket", &server.ticket], &source)?.open()
    });
    let [cut, kept] = users;
    let (cut, kept) = (cut?, kept?);
    server.process.wait_line(|line| line.contains("\"laptop\""), SOON)?;
    let mut cut_tcp = connect(cut.targets[0])?;
    let mut kept_tcp = connect(kept.targets[0])?;
    ask(&mut cut_tcp, "before")?;
    ask(&mut kept_tcp, "before")?;

    folder.write("token", &format!("# {TOKEN}\n{OTHER_TOKEN}\n"))?;
    let start = Instant::now();
    assert!(is_reset(&mut cut_tcp));
    assert!(start.elapsed() < CUT, "{:?}", start.elapsed());
    assert_eq!(cut.process.wait_exit(SOON)?.code(), Some(3));
    assert!(cut.process.output().contains("revoked"), "{}", cut.process.output());
    ask(&mut kept_tcp, "after")
}

#[test]
fn a_network_taken_back_ends_its_flows_and_a_bad_file_changes_nothing() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let rules = |tcp: &str| format!("[iroh.allowed_sources]\ntcp = [{tcp}]\n");
    let config = folder.write("server.toml", &rules("\"127.0.0.0/8\""))?;
    let server = server(&folder, &["-c", text(&config)])?;
    let source = [shouting_service()?];
    let client = client(&folder, &["--ticket", &server.ticket], &source)?.open()?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "before")?;

    folder.write("server.toml", &rules("\"127.0.0.1/8\""))?;
    server.process.wait_line(|line| line.contains("rules stay as they are"), SOON)?;
    ask(&mut tcp, "still")?;

    folder.write("server.toml", &rules("\"10.0.0.0/8\""))?;
    let start = Instant::now();
    assert!(is_reset(&mut tcp));
    assert!(start.elapsed() < CUT, "{:?}", start.elapsed());
    server.process.wait_line(|line| line.contains("no longer allowed"), SOON)?;

    folder.write("server.toml", &rules("\"127.0.0.0/8\""))?;
    server.process.signal(SIGHUP)?;
    let read = |lines: &[tunnel_testlab::process::Line]| {
        let read = lines.iter().filter(|line| line.text.contains("rules read again"));
        (read.count() >= 2).then_some(())
    };
    server.process.wait_lines(read, SOON)?;
    ask(&mut connect(client.targets[0])?, "again")?;
    assert_eq!(client.sessions(), 1, "the session was lost: {}", client.process.output());
    Ok(())
}

#[test]
fn a_network_taken_back_ends_its_udp_flows() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let rules = |udp: &str| format!("[iroh.allowed_sources]\nudp = \"{udp}\"\n");
    let config = folder.write("server.toml", &rules("127.0.0.0/8"))?;
    let server = server(&folder, &["-c", text(&config)])?;
    let service = UdpSocket::bind("127.0.0.1:0")?;
    service.set_read_timeout(Some(SOON))?;
    let source = format!("udp://{}", service.local_addr()?);
    let client = client(&folder, &["--ticket", &server.ticket], &[source])?.open()?;
    let app = UdpSocket::bind("127.0.0.1:0")?;
    app.send_to(b"before", client.targets[0])?;
    let mut packet = [0; 64];
    let (_, from) = service.recv_from(&mut packet)?;

    folder.write("server.toml", &rules("10.0.0.0/8"))?;
    server.process.wait_line(|line| line.contains("no longer allowed"), SOON)?;
    // As long as the client does not know that the flow is over its packets are lost.
    let refused = || {
        app.send_to(b"after", client.targets[0]).ok()?;
        client.process.output().contains("refused").then_some(())
    };
    client.process.wait_for(refused, SOON)?;
    // Its socket is gone: whoever has it now is somebody else.
    server.process.wait_for(|| UdpSocket::bind(from).ok(), SOON)?;
    service.set_nonblocking(true)?;
    assert!(service.recv_from(&mut packet).is_err(), "a packet passed");
    Ok(())
}

#[test]
fn the_last_token_can_be_taken_back_too() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &["--allowed-tcp", "127.0.0.0/8"])?;
    let user = Folder::new()?;
    let source = [shouting_service()?];
    let client = client(&user, &["--ticket", &server.ticket], &source)?.open()?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "before")?;
    folder.write("token", "# nobody\n")?;
    assert!(is_reset(&mut tcp));
    assert_eq!(client.process.wait_exit(SOON)?.code(), Some(3));
    Ok(())
}

#[test]
fn what_could_not_be_read_counts_once_it_can() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    // Root reads everything without these.
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-dac_override,-dac_read_search", TUNNEL_RS, "server"]);
    command.args(["--allowed-tcp", "127.0.0.0/8", "--auth-tokens-file"]).arg(folder.path("token"));
    let server = serving(command.env_remove("RUST_LOG"))?;
    let user = Folder::new()?;
    let source = [shouting_service()?];
    let client = client(&user, &["--ticket", &server.ticket], &source)?.open()?;
    let mut tcp = connect(client.targets[0])?;
    ask(&mut tcp, "before")?;

    let beside = folder.write("other", &format!("{OTHER_TOKEN}\n"))?;
    set_permissions(&beside, Permissions::from_mode(0o000))?;
    std::fs::rename(&beside, folder.path("token"))?;
    server.process.wait_line(|line| line.contains("rules stay as they are"), SOON)?;
    ask(&mut tcp, "still")?;
    set_permissions(folder.path("token"), Permissions::from_mode(0o600))?;
    assert!(is_reset(&mut tcp));
    assert_eq!(client.process.wait_exit(SOON)?.code(), Some(3));
    let told = server.process.output().matches("rules stay as they are").count();
    assert_eq!(told, 1, "{}", server.process.output());
    Ok(())
}

#[test]
fn what_comes_through_a_pipe_is_read_whole_and_stays() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let rules = "role = \"server\"\n[iroh]\nmax_sessions = 1\n[iroh.allowed_sources]\ntcp = [\"127.0.0.0/8\"]\n";
    let config = folder.write("server.toml", rules)?;
    let mut command = Command::new("bash");
    let script = r#"exec "$0" server -c <(cat "$1") --auth-tokens-file <(cat "$2")"#;
    command.args(["-c", script, TUNNEL_RS]).arg(config).arg(folder.path("token"));
    let server = serving(command.env_remove("RUST_LOG"))?;
    let source = [shouting_service()?];
    let piped = client(&folder, &["--ticket", &server.ticket], &source)?.open()?;
    let mut tcp = connect(piped.targets[0])?;
    ask(&mut tcp, "before")?;
    server.process.signal(SIGHUP)?;
    let again = "rules read again: 1 tokens, 1 TCP and 0 UDP networks";
    server.process.wait_line(|line| line.contains(again), SOON)?;
    ask(&mut tcp, "after")?;
    let full = client(&folder, &["--ticket", &server.ticket], &source)?;
    full.process.wait_line(|line| line.contains("as many sessions"), SOON)?;
    Ok(())
}
