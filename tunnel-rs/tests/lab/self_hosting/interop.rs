//! Unmodified programs of iroh in place of ours, and with ours. They take minutes to build, so these tests are run by
//! hand: `.ci/interop` installs the programs and runs them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tunnel_testlab::{
    enter::listen_tcp,
    nat::Nat,
    net::NatLab,
    netns::Namespace,
    process::{Proc, run},
    programs::{MIB, Payload},
    stream::{FLOW_LIMIT, Stream, settled},
    tunnel::{ClientConfig, PathKind, ServerConfig},
};

use super::{LIMIT, OwnRelay, folder};
use crate::support::{SESSION_LIMIT, TUNNEL_RS, TestResult, alone};

const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";

/// A program that `.ci/interop` has installed.
fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("INTEROP_BIN");
    Path::new(&folder.unwrap_or_else(|| panic!("INTEROP_BIN is not set: run .ci/interop")))
        .join(name)
}

/// Starts iroh-relay and iroh-dns-server on the relay's host; what a server and a client need to use them.
fn servers(host: &Namespace, folder: &TempDir) -> TestResult<([Proc; 2], Vec<String>)> {
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=relay", "-addext"]);
    openssl.arg(format!("subjectAltName=IP:{}", NatLab::RELAY));
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"]).arg(&key);
    run(openssl.arg("-out").arg(&cert), LIMIT)?;
    let relay = format!(
        "enable_quic_addr_discovery = true\nenable_metrics = false\n\
         access.shared_token = [\"{TOKEN}\"]\n\
         [tls]\ncert_mode = \"Manual\"\nmanual_cert_path = \"{cert}\"\nmanual_key_path = \"{key}\"\n"
    );
    fs::write(path("relay.toml"), relay)?;
    let dns = format!(
        "data_dir = \"{}\"\n[http]\nport = 8080\nbind_addr = \"{}\"\n[metrics]\ndisabled = true\n\
         [dns]\nport = 5300\nbind_addr = \"127.0.0.1\"\norigins = [\".\"]\ndefault_ttl = 30\n\
         default_soa = \"a.example hostmaster.a.example 0 10800 3600 604800 3600\"\n",
        path("records"),
        NatLab::RELAY
    );
    fs::create_dir(path("records"))?;
    fs::write(path("dns.toml"), dns)?;
    let start = |name: &str, flag: &str, config: &str| {
        Proc::spawn(host.command(program(name)).args([flag, &path(config)]).env("RUST_LOG", "info"))
    };
    let relay = start("iroh-relay", "--config-path", "relay.toml")?;
    let dns = start("iroh-dns-server", "--config", "dns.toml")?;
    dns.wait_line(|line| line.contains("HTTP server listening"), LIMIT)?;
    fs::write(path("token"), TOKEN)?;
    let flags = [
        "--relay-url",
        &format!("https://{}", NatLab::RELAY),
        "--relay-ca",
        &cert,
        "--relay-token-file",
        &path("token"),
        "--dns-server",
        &format!("http://{}:8080/pkarr", NatLab::RELAY),
    ];
    Ok(([relay, dns], flags.map(str::to_owned).into()))
}

#[test]
#[ignore = "needs programs that take minutes to build: run .ci/interop"]
fn iroh_relay_and_iroh_dns_server_serve_server_and_client() -> TestResult {
    let _alone = alone();
    let folder = folder()?;
    // No direct path between the first two, and one that needs address discovery between the others.
    for (nat, kind) in [(Nat::Symmetric, PathKind::Relay), (Nat::PortRestricted, PathKind::Direct)]
    {
        let lab = NatLab::new(nat, nat)?;
        let state = TempDir::new_in(folder.path())?;
        let (_servers, flags) = servers(&lab.relay, &state)?;
        let service = listen_tcp(&lab.b.host, ([127, 0, 0, 1], 0).into())?;
        let source = format!("tcp://{}", service.local_addr()?);
        let server = ServerConfig::new(TUNNEL_RS)
            .allow_tcp("127.0.0.0/8")
            .arguments(flags.iter().map(String::as_str))
            .start(Some(&lab.b.host))?;
        server
            .process
            .wait_line(|line| line.contains("relay") && line.contains("answers"), LIMIT)?;
        let client = ClientConfig::with_id(TUNNEL_RS, &server.endpoint_id)
            .arguments(flags.iter().map(String::as_str))
            .forward(&source, "127.0.0.1:0")
            .start(Some(&lab.a.host))?;
        client.wait_session_open(SESSION_LIMIT)?;
        client.wait_path(kind, LIMIT)?;
        let stream = Stream::open(&lab.a.host, client.target(&source)?, &service, FLOW_LIMIT)?;
        settled(&stream)?;
        stream.finish(LIMIT)?;
    }
    Ok(())
}

#[test]
#[ignore = "needs programs that take minutes to build: run .ci/interop"]
fn another_program_of_iroh_uses_our_relay() -> TestResult {
    let _alone = alone();
    let lab = NatLab::new(Nat::Symmetric, Nat::Symmetric)?;
    let state = folder()?;
    let url = format!("http://{}", NatLab::RELAY);
    let listen = format!("{}:80", NatLab::RELAY);
    let arguments = ["--http", "--listen", &listen, "--metrics-listen", "127.0.0.1:9090"];
    let _relay = OwnRelay::start(&lab.relay, &state, &arguments)?;
    let payload = Payload::new(16 * MIB)?;
    let (from, to) = (folder()?, folder()?);
    fs::copy(payload.folder.path().join(Payload::NAME), from.path().join("file"))?;

    let mut send = lab.b.host.command(program("sendme"));
    send.args(["send", "--relay", &url, "--no-progress", "file"]).current_dir(from.path());
    let sending = Proc::spawn(&mut send)?;
    let ticket = sending.wait_value("sendme receive ", LIMIT)?;
    let mut receive = lab.a.host.command(program("sendme"));
    receive.args(["receive", "--relay", &url, "--no-progress", &ticket]).current_dir(to.path());
    run(&mut receive, LIMIT)?;

    assert!(fs::read(from.path().join("file"))? == fs::read(to.path().join("file"))?);
    let mut curl = lab.relay.command("curl");
    let told = run(curl.args(["--silent", "http://127.0.0.1:9090/metrics"]), LIMIT)?;
    let sent = told.lines().find_map(|line| line.strip_prefix("relayserver_bytes_sent_total "));
    let sent: u64 = sent.unwrap_or_default().parse()?;
    assert!(sent > 16 * MIB, "only {sent} bytes went through the relay");
    Ok(())
}
