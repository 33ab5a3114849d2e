//! Who may use the relay.

use tunnel_testlab::process::Proc;

use super::{REFUSES, answers, relay, times, works};
use crate::support::{
    Folder, OTHER_TOKEN, SIGHUP, SOON, TestResult, ask, client, connect, exit, own_network, server,
    shouting_service, text, tunnel_rs,
};

/// A server's id that nobody has.
const NOBODY: &str = "ae58ff8833241ac82d6ff7611046ed67b5072d142c588d0063e942d9a75502b6";

/// A key in a file, and its id.
fn identity(folder: &Folder, name: &str) -> TestResult<(String, String)> {
    let path = folder.path(name);
    let (code, printed) = exit(&["generate-server-key", "--output", text(&path)])?;
    assert_eq!(code, 0, "{printed}");
    let id = printed.trim().strip_prefix("EndpointId: ").unwrap_or_default();
    Ok((text(&path).to_owned(), id.to_owned()))
}

#[test]
fn a_list_lets_in_whom_it_names_and_is_read_again() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (key, id) = identity(&folder, "key")?;
    let list = folder.write("ids", "# nobody yet\n")?;
    let relay = relay(&folder, &["--allowed-ids-file", text(&list)])?;
    let server = server(&folder, &relay.with(&["--secret-file", &key]))?;
    let said = |line: &str| line.contains(REFUSES) && line.contains("not listed at the relay");
    server.process.wait_line(said, SOON)?;

    folder.write("ids", &format!("{id}  # the server\n"))?;
    relay.process.wait_line(|line| line.contains("1 listed"), SOON)?;
    answers(&server.process)?;

    folder.write("ids", "")?;
    relay.process.wait_line(|line| line.contains("1 connection(s) cut"), SOON)?;
    times(&server.process, REFUSES, 2)?;

    folder.write("ids", "nonsense\n")?;
    relay
        .process
        .wait_line(|line| line.contains("stays as it is") && line.contains("line 1"), SOON)?;
    folder.write("ids", &id)?;
    relay.process.signal(SIGHUP)?;
    times(&server.process, "answers", 2)
}

#[test]
fn records_are_taken_of_listed_endpoints_alone() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let list = folder.write("ids", "")?;
    let relay =
        relay(&folder, &["--http", "--listen", "10.99.0.1:80", "--allowed-ids-file", text(&list)])?;
    let mut curl = std::process::Command::new("curl");
    // In z-base-32, all zeros: a public key, if one of nobody.
    let url = format!("http://10.99.0.1/pkarr/{}", "y".repeat(52));
    curl.args(["--silent", "--request", "PUT", "--data", "x"]).arg(url);
    let answer = tunnel_testlab::process::run(&mut curl, SOON)?;
    assert_eq!(answer.trim_end(), "this EndpointId is not listed at the relay");
    relay.end()
}

#[test]
fn a_token_lets_in_and_what_is_taken_back_is_cut() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let tokens = folder.write("relay-tokens", &format!("{OTHER_TOKEN} # all\n"))?;
    let token = folder.write("relay-token", OTHER_TOKEN)?;
    let token = ["--relay-token-file", text(&token)];
    let relay = relay(&folder, &["--relay-token-file", text(&tokens)])?;
    relay.process.wait_line(|line| line.contains("who may use the relay: 1 token"), SOON)?;
    let flags = [&relay.flags()[..], &token, &["--allowed-tcp", "127.0.0.0/8"]].concat();
    let server = server(&folder, &flags)?;
    answers(&server.process)?;
    let with_token = [&["--ticket", &server.ticket][..], &token].concat();
    works(client(&folder, &with_token, &[shouting_service()?])?)?;

    folder.write("relay-tokens", "")?;
    relay.process.wait_line(|line| line.contains("cut that are no longer"), SOON)?;
    times(&server.process, "does not accept this token", 1)
}

/// The client's own words for being kept out, and its exit code.
fn kept_out(arguments: &[&str]) -> TestResult<String> {
    let mut command = tunnel_rs(&["client", "-n", NOBODY, "-L", "0:127.0.0.1:9"]);
    let process = Proc::spawn(command.args(arguments))?;
    let status = process.wait_exit(SOON)?;
    assert_eq!(status.code(), Some(3), "{}", process.output());
    Ok(process.output())
}

#[test]
fn a_client_that_is_kept_out_says_so_and_ends() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let tokens = folder.write("relay-tokens", OTHER_TOKEN)?;
    let relay = relay(&folder, &["--relay-token-file", text(&tokens)])?;
    let session_token = folder.path("token");
    let session_token = ["--auth-token-file", text(&session_token)];
    let printed = kept_out(&relay.with(&session_token))?;
    assert!(printed.contains(REFUSES) && printed.contains("--relay-token-file"), "{printed}");
    // The token of the sessions is not the relay's.
    let wrong = ["--relay-token-file", session_token[1]];
    let printed = kept_out(&relay.with(&[session_token, wrong].concat()))?;
    assert!(printed.contains("does not accept this token"), "{printed}");
    Ok(())
}

#[test]
fn a_client_that_is_kept_out_goes_on_where_it_needs_no_relay() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let tokens = folder.write("relay-tokens", OTHER_TOKEN)?;
    let relay = relay(&folder, &["--relay-token-file", text(&tokens)])?;
    let arguments = ["--relay-token-file", text(&tokens), "--allowed-tcp", "127.0.0.0/8"];
    let server = server(&folder, &relay.with(&arguments))?;
    answers(&server.process)?;
    let client = client(&folder, &["--ticket", &server.ticket], &[shouting_service()?])?.open()?;
    client.process.wait_line(|line| line.contains("going on without the relay"), SOON)?;
    ask(&mut connect(client.targets[0])?, "works")
}

#[test]
fn a_flag_leaves_the_variable_of_the_other_rule_out() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let list = folder.write("ids", "")?;
    let state = folder.path("state");
    let words = ["relay", "--state-dir", text(&state), "--listen", "127.0.0.1:443"];
    let mut command = tunnel_rs(&words);
    command
        .env("TUNNEL_RS_RELAY_TOKEN_FILE", folder.path("token"))
        .env("TUNNEL_RS_ACME", "a.example");
    command.args(["--http", "--allowed-ids-file", text(&list)]);
    let relay = Proc::spawn(&mut command)?;
    relay.wait_line(|line| line.contains("who may use the relay: 0 listed"), SOON)?;
    assert_eq!(relay.wait_value("Relay: ", SOON)?, "http://127.0.0.1:443");
    Ok(())
}

/// Whatever `RUST_LOG` says, and whatever libraries write.
#[test]
fn no_log_and_no_ticket_has_the_token() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let tokens = folder.write("relay-tokens", OTHER_TOKEN)?;
    let token = ["--relay-token-file", text(&tokens)];
    let state = folder.path("state");
    let own_url = ["--public-url", "https://10.99.0.1"];
    let words = [&["relay", "--state-dir", text(&state)], &token[..], &own_url].concat();
    let relay = Proc::spawn(tunnel_rs(&words).env("RUST_LOG", "trace"))?;
    let flags = relay.wait_value("Flags: ", SOON)?;
    let flags: Vec<_> = flags.split(' ').collect();
    let session = folder.path("token");
    let words = [&["server", "--auth-tokens-file", text(&session)], &token[..], &flags].concat();
    let server = Proc::spawn(tunnel_rs(&words).env("RUST_LOG", "trace"))?;
    answers(&server)?;
    let ticket = server.wait_value("Ticket: ", SOON)?;
    let start = ["client", "--ticket", &ticket, "--auth-token-file", text(&session)];
    let words = [&start, &token[..], &["-L", "0:127.0.0.1:9"]].concat();
    let client = Proc::spawn(tunnel_rs(&words).env("RUST_LOG", "trace"))?;
    client.wait_line(|line| line.contains("refuses every source"), SOON)?;
    for (name, process) in [("relay", &relay), ("server", &server), ("client", &client)] {
        let printed = process.output();
        assert!(printed.contains("TRACE"), "{name} did not write everything");
        let shown = printed.lines().find(|line| line.contains(&OTHER_TOKEN[1..17]));
        assert_eq!(shown, None, "{name}");
    }
    Ok(())
}
