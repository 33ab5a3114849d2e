//! A relay of one's own: what it prints is all that servers and clients need, and what they are refused is said.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};

use tunnel_testlab::process::Proc;

use crate::support::{
    Client, Folder, SIGTERM, SOON, TestResult, ask, client, connect, exit, get, own_network,
    server, shouting_service, text, tunnel_rs,
};

mod access;
mod certificates;
mod limits;

/// This machine's address in the test's network, which is not loopback.
const ADDRESS: &str = "10.99.0.1";

/// A running relay.
struct Relay {
    process: Proc,
    /// For server and client: `--relay-url` and what goes with it.
    flags: Vec<String>,
}

/// Starts a relay at the usual ports, with its state in the folder.
fn relay(folder: &Folder, arguments: &[&str]) -> TestResult<Relay> {
    let state = folder.path("state");
    let url = ["--public-url", "https://10.99.0.1"];
    // Where a test gives none, the network of these tests has no default route to tell the address by.
    let given =
        arguments.iter().any(|word| matches!(*word, "--listen" | "--public-url" | "--http"));
    let url = if given { &[][..] } else { &url };
    let words = [&["relay", "--state-dir", text(&state)], url, arguments].concat();
    let process = Proc::spawn(&mut tunnel_rs(&words))?;
    process.wait_line(|line| line == "Waiting for clients to connect...", SOON)?;
    let flags = process.wait_value("Flags: ", SOON)?;
    Ok(Relay { process, flags: flags.split(' ').map(str::to_owned).collect() })
}

impl Relay {
    fn flags(&self) -> Vec<&str> {
        self.flags.iter().map(String::as_str).collect()
    }

    /// The flags, and these before them.
    fn with<'a>(&'a self, before: &[&'a str]) -> Vec<&'a str> {
        [before, &self.flags()].concat()
    }

    fn end(&self) -> TestResult {
        self.process.signal(SIGTERM)?;
        let status = self.process.wait_exit(SOON)?;
        assert_eq!(status.code(), Some(0), "{}", self.process.output());
        Ok(())
    }
}

/// What the relay says that keeps a server or client out.
const REFUSES: &str = "refuses this endpoint";

fn answers(process: &Proc) -> TestResult {
    process.wait_line(|line| line.contains("relay") && line.contains("answers"), SOON)?;
    Ok(())
}

/// Waits until a line has been printed so many times.
fn times(process: &Proc, part: &str, count: usize) -> TestResult {
    let find = |lines: &[tunnel_testlab::process::Line]| {
        (lines.iter().filter(|line| line.text.contains(part)).count() >= count).then_some(())
    };
    Ok(process.wait_lines(find, SOON)?)
}

/// Whether the other side ends the connection, whatever it says before.
fn is_ended(tcp: &mut TcpStream) -> bool {
    match tcp.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn works(client: Client) -> TestResult {
    ask(&mut connect(client.open()?.targets[0])?, "works")
}

#[test]
fn a_client_needs_the_ticket_and_nothing_else() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let relay = relay(&folder, &[])?;
    let server = server(&folder, &relay.with(&["--allowed-tcp", "127.0.0.0/8"]))?;
    answers(&server.process)?;
    let ticket: tunnel_iroh::Ticket = server.ticket.parse()?;
    assert!(ticket.own_infrastructure);
    assert_eq!(ticket.relays[0].as_str(), "https://10.99.0.1/");
    assert_eq!(ticket.discovery.map(String::from).unwrap(), "https://10.99.0.1/pkarr");
    assert_eq!(ticket.relay_pins[0].to_string(), relay.process.wait_value("Pin: ", SOON)?);
    works(client(&folder, &["--ticket", &server.ticket], &[shouting_service()?])?)?;
    relay.end()
}

/// By the records of the discovery server: on the local link the two find each other as well, but only by what was
/// published does the client know the relay.
#[test]
fn a_server_is_found_by_its_id_at_the_discovery_server() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let relay = relay(&folder, &["--metrics-listen", "127.0.0.1:0"])?;
    let metrics = relay.process.wait_value("Metrics: http://", SOON)?;
    let metrics: SocketAddr = metrics.trim_end_matches("/metrics").parse()?;
    let server = server(&folder, &relay.with(&["--allowed-tcp", "127.0.0.0/8"]))?;
    answers(&server.process)?;
    let client = client(&folder, &relay.with(&["-n", &server.id]), &[shouting_service()?])?;
    let client = client.open()?;
    ask(&mut connect(client.targets[0])?, "works")?;
    let counted = |name: &str| {
        let told = get(metrics, "/metrics").ok()?;
        let line = told.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().parse::<u32>().ok()
    };
    // That something was published, and that both discovered their address.
    for (name, least) in [
        ("dns_server_pkarr_publish_update_total", 1),
        ("quic_relayserver_qad_connections_total", 2),
    ] {
        let reached = || counted(name).filter(|count| *count >= least);
        relay.process.wait_for(reached, SOON)?;
    }
    Ok(())
}

#[test]
fn the_pin_outlasts_a_restart_and_the_server_comes_back() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let first = relay(&folder, &[])?;
    let server = server(&folder, &first.flags())?;
    answers(&server.process)?;
    first.end()?;
    let second = relay(&folder, &["--metrics-listen", "127.0.0.1:0"])?;
    assert_eq!(first.flags, second.flags);
    let metrics = second.process.wait_value("Metrics: http://", SOON)?;
    let metrics: SocketAddr = metrics.trim_end_matches("/metrics").parse()?;
    let back =
        || get(metrics, "/metrics").is_ok_and(|told| told.contains("tunnel_relay_clients 1"));
    server.process.wait_for(|| back().then_some(()), SOON)?;
    Ok(())
}

#[test]
fn over_plain_http_it_works_and_says_what_is_lost() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let relay = relay(&folder, &["--http", "--listen", "10.99.0.1:8080"])?;
    relay.process.wait_line(|line| line.contains("no address discovery"), SOON)?;
    let url = ["--relay-url", "http://10.99.0.1:8080"];
    let discovery = ["--dns-server", "http://10.99.0.1:8080/pkarr"];
    assert_eq!(relay.flags(), [url, discovery].concat());
    let server = server(&folder, &relay.with(&["--allowed-tcp", "127.0.0.0/8"]))?;
    answers(&server.process)?;
    works(client(&folder, &["--ticket", &server.ticket], &[shouting_service()?])?)
}

#[test]
fn the_file_says_the_same() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let state = folder.path("elsewhere");
    let config = format!(
        "role = \"relay\"\n[relay]\nlisten = \"10.99.0.1:8443\"\nstate_dir = \"{}\"\n",
        text(&state)
    );
    let config = folder.write("relay.toml", &config)?;
    let process = Proc::spawn(&mut tunnel_rs(&["relay", "--config", text(&config)]))?;
    assert_eq!(process.wait_value("Relay: ", SOON)?, "https://10.99.0.1:8443");
    use std::os::unix::fs::PermissionsExt;
    for (path, mode) in [(state.clone(), 0o700), (state.join("relay.key"), 0o600)] {
        assert_eq!(std::fs::metadata(&path)?.permissions().mode() & 0o777, mode, "{path:?}");
    }
    let (code, printed) = exit(&["server", "--config", text(&config)])?;
    assert_eq!(code, 2, "{printed}");
    Ok(())
}

#[test]
fn a_port_that_is_taken_ends_the_relay() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let taken = std::net::TcpListener::bind((ADDRESS, 443))?;
    let state = folder.path("state");
    let words = ["relay", "--listen", "10.99.0.1:443", "--state-dir", text(&state)];
    let (code, printed) = exit(&words)?;
    assert!(code == 1 && printed.contains("10.99.0.1:443"), "{code}: {printed}");
    drop(taken);
    Ok(())
}
