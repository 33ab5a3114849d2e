//! What is asked of Tor's proxy at the start, by a real Tor that has no network, and by what is not Tor.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};

use tunnel_testlab::process::Proc;

use crate::support::{
    Folder, SIGKILL, SOON, TOKEN, TestResult, exit, own_network, text, tunnel_rs,
};

const ONION: &str = "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// What iroh sends to our own proxy begins with this: base64 of its user's name.
const CREDENTIALS: &str = "dHVubmVsLXJzO";

fn server<'a>(proxy: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let flags = ["server", "--auth-tokens", TOKEN, "--socks5-proxy", proxy, "--relay-url", ONION];
    [&flags[..], more].concat()
}

#[test]
fn without_tor_it_ends_at_once_and_says_what_is_there() -> TestResult {
    own_network()?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let proxy = format!("socks5h://{}", listener.local_addr()?);
    // A proxy that knows no request but CONNECT, as most.
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().flatten() {
            let mut buffer = [0; 300];
            for answer in [&[5, 0][..], &[5, 7, 0, 1, 0, 0, 0, 0, 0, 0]] {
                let _ = tcp.read(&mut buffer);
                let _ = tcp.write_all(answer);
            }
        }
    });
    let (code, printed) = exit(&server(&proxy, &[]))?;
    assert!(code == 1 && printed.contains("is not Tor"), "{code}: {printed}");

    let (code, printed) = exit(&server("socks5h://127.0.0.1:9", &[]))?;
    assert!(code == 1 && printed.contains("is Tor running"), "{code}: {printed}");

    let plain = ["server", "--auth-tokens", TOKEN, "--relay-url", ONION];
    let (code, printed) = exit(&plain)?;
    assert!(code == 2 && printed.contains("give --socks5-proxy"), "{code}: {printed}");
    Ok(())
}

#[test]
fn tor_is_known_before_it_has_a_network_and_missed_when_it_is_gone() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (data, torrc) = (folder.path("tor"), folder.write("torrc", "")?);
    let mut tor = Command::new("tor");
    tor.args([
        "-f",
        text(&torrc),
        "--defaults-torrc",
        text(&torrc),
        "--DataDirectory",
        text(&data),
    ]);
    let tor = Proc::spawn(tor.args(["--SocksPort", "127.0.0.1:9050"]))?;
    tor.wait_line(|line| line.contains("Opened Socks listener connection"), SOON)?;

    let process =
        Proc::spawn(&mut tunnel_rs(&server("socks5h://localhost:9050", &["--tor-only"])))?;
    process.wait_line(|line| line.contains("relays are reached through Tor"), SOON)?;
    tor.signal(SIGKILL)?;
    // Depending on whether Tor has taken the connection.
    let missed = ["the connection to Tor's proxy has ended", "is Tor running?"];
    process.wait_line(|line| missed.iter().any(|words| line.contains(words)), SOON)?;
    Ok(())
}

#[test]
fn no_log_shows_the_password_of_the_proxy_in_front_of_tors() -> TestResult {
    own_network()?;
    let (proxy, upgrades) = fake_tor()?;
    let arguments = server(&proxy, &["--tor-only"]);
    let process = Proc::spawn(tunnel_rs(&arguments).env("RUST_LOG", "trace"))?;
    // The relay's turn: the password has been sent.
    upgrades.recv_timeout(SOON)?;
    process.wait_line(|line| line.contains("home is now relay"), SOON)?;
    let output = process.output();
    let shown = output.lines().find(|l| l.contains("tunnel-rs:") || l.contains(CREDENTIALS));
    assert_eq!(shown, None);
    Ok(())
}

/// A proxy that answers as Tor does and reaches nothing. It tells of each stream that is used as iroh uses a relay.
fn fake_tor() -> TestResult<(String, Receiver<()>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let proxy = format!("socks5h://{}", listener.local_addr()?);
    let (used, uses) = channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            let used = used.clone();
            std::thread::spawn(move || serve_as_tor(tcp, &used));
        }
    });
    Ok((proxy, uses))
}

fn serve_as_tor(mut tcp: TcpStream, used: &Sender<()>) -> Option<()> {
    let mut buffer = [0; 1000];
    let mut ask = |answer: &[u8]| {
        tcp.write_all(answer).ok()?;
        let n = tcp.read(&mut buffer).ok()?;
        Some(buffer[..n].to_vec())
    };
    // RFC 1928 section 3: the second method is "name and password".
    let mut request = match ask(&[])?[..] {
        [5, 2, ..] => {
            ask(&[5, 2])?;
            ask(&[1, 0])?
        }
        _ => ask(&[5, 0])?,
    };
    let name = request.split_off(5);
    let name = std::str::from_utf8(name.get(..name.len().checked_sub(2)?)?).ok()?;
    let address: Ipv4Addr = name.parse().unwrap_or(Ipv4Addr::UNSPECIFIED);
    let answer = [&[5, 0, 0, 1][..], &address.octets(), &[0, 0]].concat();
    if ask(&answer)?.starts_with(b"GET /relay") {
        let _ = used.send(());
    }
    Some(())
}
