//! Rules that change while sessions are open.

use std::time::{Duration, Instant};

use crate::support::{
    Folder, OTHER_TOKEN, SIGHUP, SOON, TOKEN, TestResult, ask, client, connect, is_reset,
    own_network, server, shouting_service, text,
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
