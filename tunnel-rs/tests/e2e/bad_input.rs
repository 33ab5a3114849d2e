//! What is wrong is said, with the flag, the file and the line, before anything is started.

use std::net::TcpListener;

use tunnel_testlab::process::Proc;

use crate::support::{
    Folder, SIGTERM, SOON, TOKEN, TestResult, exit, own_network, text, tunnel_rs,
};

const ID: &str = "ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6";

/// Exit code 2, and every one of `parts` in what is printed.
fn assert_usage(arguments: &[&str], parts: &[&str]) -> TestResult {
    let (code, printed) = exit(arguments)?;
    assert_eq!(code, 2, "{arguments:?}: {printed}");
    for part in parts {
        assert!(printed.contains(part), "{arguments:?} does not say {part:?}: {printed}");
    }
    Ok(())
}

#[test]
fn a_bad_token_is_named_by_its_line_and_never_shown() -> TestResult {
    let folder = Folder::new()?;
    for (bad, part) in [
        ("ikAdvudu_ZxNXhNLC", "18 characters"),
        ("ikAdvudu_ZxNXhNLCE", "checksum"),
        ("ikAdvudu+ZxNXhNLCD", "character 9"),
    ] {
        let file = folder.write("bad", &format!("# tokens\n{TOKEN}\n{bad}\n"))?;
        let file = text(&file);
        assert_usage(&["server", "--auth-tokens-file", file], &[file, "line 3", part])?;
        assert_usage(&["server", "--auth-tokens", bad], &["--auth-tokens", part])?;
        let client = ["client", "-n", ID, "-L", "1:h:1", "--auth-token", bad];
        assert_usage(&client, &["--auth-token", part])?;
        let (_, printed) = exit(&client)?;
        assert!(!printed.contains("Advudu"), "the token is shown: {printed}");
    }
    Ok(())
}

#[test]
fn what_is_missing_is_named() -> TestResult {
    assert_usage(&["server"], &["--auth-tokens-file"])?;
    assert_usage(&["client"], &["--server-node-id", "--ticket"])?;
    assert_usage(&["client", "-n", ID], &["--source"])?;
    assert_usage(&["client", "-n", ID, "-L", "1:h:1"], &["--auth-token-file"])?;
    assert_usage(&["client", "-n", ID, "-s", "tcp://h:1"], &["--target"])
}

#[test]
fn a_wrong_value_is_named_with_its_flag() -> TestResult {
    let (s, t) = ("--source", "--target");
    for (value, part) in
        [("tcp://h", "port"), ("h:22", "scheme"), ("sctp://h:22", "sctp"), ("tcp://h:0", "'0'")]
    {
        assert_usage(
            &["client", "-n", ID, s, value, t, "127.0.0.1:1"],
            &[value, "--source", part],
        )?;
    }
    assert_usage(&["client", "-n", ID, "-L", "22"], &["--local-forward", "22"])?;
    assert_usage(&["client", "-n", "xyz"], &["--server-node-id", "xyz"])?;
    assert_usage(&["client", "--ticket", "tunnelrs1aaaa"], &["--ticket", "cut short"])?;
    for (cidr, part) in
        [("10.0.0.1/8", "10.0.0.0/8"), ("10.0.0.1", "10.0.0.1/32"), ("ten/8", "ten/8")]
    {
        assert_usage(&["server", "--allowed-tcp", cidr], &["--allowed-tcp", cidr, part])?;
    }
    assert_usage(&["server", "--relay-url", "ftp://h"], &["--relay-url", "ftp://h"])?;
    assert_usage(&["server", "--congestion", "reno"], &["--congestion", "reno"])
}

#[test]
fn a_wrong_number_of_threads_is_named() -> TestResult {
    for given in ["0", "auto", ""] {
        let mut command = tunnel_rs(&["server", "--auth-tokens", TOKEN]);
        let process = Proc::spawn(command.env("TOKIO_WORKER_THREADS", given))?;
        assert_eq!(process.wait_exit(SOON)?.code(), Some(2), "{}", process.output());
        let expected = format!("TOKIO_WORKER_THREADS: '{given}'");
        assert!(process.output().contains(&expected), "{}", process.output());
    }
    Ok(())
}

#[test]
fn a_wrong_file_is_named_with_its_key_and_line() -> TestResult {
    let folder = Folder::new()?;
    let (token, nowhere) = (folder.path("token"), folder.path("nowhere"));
    let nowhere = text(&nowhere);
    assert_usage(&["server", "-c", nowhere], &[nowhere])?;
    assert_usage(&["server", "--auth-tokens-file", nowhere], &[nowhere])?;
    assert_usage(&["show-server-id", "--secret-file", nowhere], &[nowhere])?;
    let secret = ["server", "--auth-tokens-file", text(&token), "--secret-file", text(&token)];
    assert_usage(&secret, &[text(&token), "base64"])?;
    for (config, parts) in [
        ("[iroh]\nmax_sesions = 1\n", &["line 2", "max_sesions"][..]),
        ("role = \"client\"\n", &["role", "server"]),
        ("mode = \"nostr\"\n", &["mode", "tunnel-rs-ice"]),
        ("role = 7\n", &["line 1"]),
        ("[iroh\n", &["line 1"]),
        ("[iroh.allowed_sources]\ntcp = [\"10.0.0.1/8\"]\n", &["10.0.0.1/8", "allowed_sources"]),
    ] {
        let config = folder.write("server.toml", config)?;
        let line = ["server", "-c", text(&config), "--auth-tokens-file", text(&token)];
        assert_usage(&line, parts)?;
    }
    Ok(())
}

#[test]
fn a_listener_that_cannot_listen_ends_the_client_before_it_dials() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let token = folder.path("token");
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    for target in [taken.as_str(), "192.0.2.7:22"] {
        let (code, printed) = exit(&[
            "client",
            "-n",
            ID,
            "--auth-token-file",
            text(&token),
            "-s",
            "tcp://h:1",
            "-t",
            "127.0.0.1:0",
            "-s",
            "tcp://h:2",
            "-t",
            target,
        ])?;
        assert_eq!(code, 1, "{printed}");
        assert!(printed.contains(target) && printed.contains("tcp://h:2"), "{printed}");
        assert!(!printed.contains("Forwarding"), "another forward was started: {printed}");
        assert!(!printed.contains("connecting"), "something was dialled: {printed}");
    }
    Ok(())
}

#[test]
fn a_port_that_is_taken_ends_the_server() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let token = folder.path("token");
    let taken = std::net::UdpSocket::bind("127.0.0.1:0")?;
    let taken = taken.local_addr()?.to_string();
    let (code, printed) = exit(&["server", "--auth-tokens-file", text(&token), "--bind", &taken])?;
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains(&taken), "{printed}");
    Ok(())
}

#[test]
fn a_log_filter_that_is_none_is_said_and_counts_as_not_set() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let tokens = folder.write("token", TOKEN)?;
    let words = ["server", "--auth-tokens-file", text(&tokens), "--allowed-tcp", "127.0.0.0/8"];
    for (filter, said) in [("tunnel=bug", true), ("tunnel=info", false)] {
        let server = Proc::spawn(tunnel_rs(&words).env("RUST_LOG", filter))?;
        server.wait_value("Ticket: ", SOON)?;
        server.signal(SIGTERM)?;
        server.wait_exit(SOON)?;
        let output = server.output();
        assert_eq!(output.contains("RUST_LOG is not understood"), said, "{output}");
        assert!(output.contains(" INFO "), "{output}");
    }
    Ok(())
}
