//! What is wrong is said, with the flag, the file and the line, before anything is started.

use std::net::TcpListener;

use crate::side::client_line;
use crate::support::{Folder, TestResult, exit, on_loopback};

const SERVER: [&str; 3] = ["server", "manual", "--no-stun"];
const CLIENT: [&str; 5] = ["client", "manual", "--no-stun", "-L", "0:h:1"];

/// Exit code 2, every one of `parts` in what is printed, and no block.
fn assert_usage(arguments: &[&str], parts: &[&str]) -> TestResult {
    let (code, printed) = exit(arguments)?;
    assert_eq!(code, 2, "{arguments:?}: {printed}");
    for part in parts {
        assert!(printed.contains(part), "{arguments:?} does not say {part:?}: {printed}");
    }
    assert!(!printed.contains("BEGIN"), "{arguments:?} made a block: {printed}");
    Ok(())
}

fn with<'a>(line: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [line, more].concat()
}

#[test]
fn what_is_missing_is_named() -> TestResult {
    assert_usage(&[], &["server", "client"])?;
    assert_usage(&["server", "--no-stun"], &["server manual", "mode"])?;
    assert_usage(&["client", "--no-stun", "-L", "0:h:1"], &["client manual", "mode"])?;
    assert_usage(&["client", "manual", "--no-stun"], &["--source"])?;
    assert_usage(&["client", "manual", "--no-stun", "-s", "tcp://h:1"], &["--target", "pairs"])
}

#[test]
fn a_wrong_value_is_named_with_its_flag() -> TestResult {
    for (flags, parts) in [
        (["--stun-server", "stun.example"], &["--stun-server", "port"][..]),
        (["--udp-idle-timeout", "0"], &["--udp-idle-timeout", "0"]),
        (["--allowed-tcp", "10.0.0.1/8"], &["--allowed-tcp", "10.0.0.0/8"]),
        (["--allowed-udp", "ten/8"], &["--allowed-udp", "ten/8"]),
        (["--offer-ttl", "60"], &["--offer-ttl"]),
        (["--answer-fil", "x"], &["--answer-fil"]),
    ] {
        assert_usage(&with(&["server", "manual"], &flags), parts)?;
    }
    for (flags, parts) in [
        (["--offer-ttl", "9"], &["--offer-ttl", "9", "10..=3600"][..]),
        (["--offer-ttl", "3601"], &["--offer-ttl", "3601"]),
        (["--offer-ttl", "soon"], &["--offer-ttl", "soon"]),
        (["-L", "22"], &["--local-forward", "22"]),
        (["--source", "sctp://h:22"], &["--source", "sctp"]),
        (["--stun-server", "a:1"], &["--stun-server", "--no-stun"]),
        (["--allowed-tcp", "10.0.0.0/8"], &["--allowed-tcp"]),
    ] {
        assert_usage(&with(&CLIENT, &flags), parts)?;
    }
    let same = ["--offer-file", "block", "--answer-file", "block"];
    assert_usage(&with(&CLIENT, &same), &["--offer-file", "--answer-file", "block"])?;
    assert_usage(&with(&SERVER, &same), &["--offer-file", "--answer-file", "block"])
}

#[test]
fn other_modes_are_called_that() -> TestResult {
    assert_usage(&["server", "nostr"], &["--nsec-file"])?;
    for role in ["server", "client"] {
        assert_usage(&[role, "iroh"], &["iroh", "tunnel-rs"])?;
        assert_usage(&[role, "manuel"], &["manuel", "manual"])?;
    }
    Ok(())
}

#[test]
fn a_wrong_file_is_named_with_its_key_and_line() -> TestResult {
    let folder = Folder::new()?;
    let nowhere = folder.text("nowhere");
    assert_usage(&with(&SERVER, &["-c", &nowhere]), &[&nowhere])?;
    for (config, parts) in [
        ("[manual]\nudp_idle_timout = 1\n", &["line 2", "udp_idle_timout"][..]),
        ("[manual]\nno_stun = true\n", &["line 2", "no_stun"]),
        ("role = \"client\"\n", &["role", "server"]),
        ("mode = \"nostr\"\n", &["nostr", "server manual"]),
        ("mode = \"iroh\"\n", &["iroh", "tunnel-rs"]),
        ("[iroh]\nmax_sessions = 1\n", &["[iroh]", "tunnel-rs"]),
        ("role = 7\n", &["line 1"]),
        ("[manual\n", &["line 1"]),
        ("[manual]\nstun_servers = []\n", &["stun_servers", "--no-stun"]),
        ("[manual.allowed_sources]\ntcp = [\"10.0.0.1/8\"]\n", &["10.0.0.1/8", "allowed_sources"]),
    ] {
        let config = folder.write("server.toml", config)?;
        // No --no-stun: an empty list is an error only without.
        assert_usage(&["server", "manual", "-c", &config], parts)?;
    }
    for (config, parts) in [
        ("[manual]\noffer_ttl = 9\n", &["offer_ttl", "9", "10", "3600"][..]),
        ("[manual]\ntarget = \"h:1\"\n", &["target", "request_source"]),
        ("[manual]\nallowed_tcp = []\n", &["line 2", "allowed_tcp"]),
    ] {
        let config = folder.write("client.toml", config)?;
        assert_usage(&with(&CLIENT, &["-c", &config]), parts)?;
    }
    let config = folder.write("client.toml", "role = \"client\"\n")?;
    assert_usage(&["client", "-c", &config, "-L", "0:h:1"], &[&config, "mode"])?;
    assert_usage(&["client", "-c", &config, "--default-config"], &["--default-config"])
}

#[test]
fn a_listener_that_cannot_listen_ends_the_client_before_it_offers() -> TestResult {
    on_loopback(|| {
        let taken = TcpListener::bind("127.0.0.1:0")?;
        let taken = taken.local_addr()?.to_string();
        for target in [taken.as_str(), "192.0.2.7:22"] {
            let more = ["--source", "tcp://h:2", "--target", target];
            let (code, printed) = exit(&client_line(&["tcp://h:1"], &more))?;
            assert_eq!(code, 1, "{printed}");
            assert!(printed.contains(target) && printed.contains("tcp://h:2"), "{printed}");
            assert!(!printed.contains("Forwarding"), "another forward was started: {printed}");
            assert!(!printed.contains("BEGIN"), "something was offered: {printed}");
        }
        Ok(())
    })
}

#[test]
fn more_sources_than_an_offer_holds_are_too_many() -> TestResult {
    on_loopback(|| {
        let sources: Vec<_> = (1..=65).map(|port| format!("tcp://h:{port}")).collect();
        let sources: Vec<_> = sources.iter().map(String::as_str).collect();
        assert_usage(&client_line(&sources, &[]), &["65", "64"])
    })
}

#[test]
fn help_names_what_there_is() -> TestResult {
    for (line, words) in [
        (&["--help"][..], &["server", "client"][..]),
        (&["server", "--help"], &["manual", "--allowed-tcp", "--offer-file", "--no-stun", "--qr"]),
        (&["client", "--help"], &["manual", "--source", "--target", "--offer-ttl", "--qr"]),
    ] {
        let (code, help) = exit(line)?;
        assert_eq!(code, 0, "{help}");
        for word in words {
            assert!(help.contains(word), "{line:?}: {word} is missing: {help}");
        }
    }
    Ok(())
}
