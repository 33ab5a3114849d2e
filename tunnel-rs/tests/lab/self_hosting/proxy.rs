//! The relay behind nginx, which does TLS.

use std::{fs, process::Command};

use tempfile::TempDir;
use tunnel_testlab::{
    enter::listen_tcp,
    nat::Nat,
    net::NatLab,
    process::{Proc, run},
    stream::{FLOW_LIMIT, Stream, settled},
    tunnel::{ClientConfig, PathKind, ServerConfig},
};

use super::{LIMIT, OwnRelay, folder};
use crate::support::{SESSION_LIMIT, TUNNEL_RS, TestResult, alone};

/// The part of the configuration that docs/SELF-HOSTING.md shows.
const SITE: &str = include_str!("../../../../docs/relay.nginx.conf");

/// Starts nginx with a certificate of its own for the relay's name, and returns the certificate's file.
fn nginx(lab: &NatLab, folder: &TempDir) -> TestResult<(Proc, String)> {
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (cert, key, config) = (path("fullchain.pem"), path("privkey.pem"), path("nginx.conf"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=relay", "-addext"]);
    openssl.arg(format!("subjectAltName=DNS:{}", NatLab::RELAY_NAME));
    run(
        openssl
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&cert),
        LIMIT,
    )?;
    let site = SITE
        .replace("/etc/ssl/relay/fullchain.pem", &cert)
        .replace("/etc/ssl/relay/privkey.pem", &key)
        .replace("relay.example.org", NatLab::RELAY_NAME);
    let whole = format!(
        "daemon off; pid {}; error_log stderr; user root;\nevents {{}}\nhttp {{ access_log off;\n{site}\n}}\n",
        path("pid")
    );
    fs::write(&config, whole)?;
    let mut command = lab.relay.command("nginx");
    let process = Proc::spawn(command.args(["-p", &path(""), "-c", &config]))?;
    Ok((process, cert))
}

#[test]
fn the_page_shows_what_is_tested() {
    let page = include_str!("../../../../docs/SELF-HOSTING.md");
    assert!(page.contains(SITE), "docs/SELF-HOSTING.md has another configuration");
}

#[test]
fn behind_a_reverse_proxy_it_relays_and_discovers() -> TestResult {
    let _alone = alone();
    // No direct path between these two.
    let lab = NatLab::new(Nat::Symmetric, Nat::Symmetric)?;
    let (state, proxy) = (folder()?, folder()?);
    let token = state.path().join("relay-token");
    fs::write(&token, "ikAdvudu_ZxNXhNLCD\n")?;
    let token = token.to_string_lossy().into_owned();
    let (_nginx, cert) = nginx(&lab, &proxy)?;
    let url = format!("https://{}", NatLab::RELAY_NAME);
    let listen = ["--http", "--listen", "127.0.0.1:8080", "--public-url", &url];
    let access = ["--relay-token-file", &token];
    let relay = OwnRelay::start(&lab.relay, &state, &[&listen[..], &access].concat())?;
    let more = ["--relay-ca", &cert, "--relay-token-file", &token];

    let service = listen_tcp(&lab.b.host, ([127, 0, 0, 1], 0).into())?;
    let address = service.local_addr()?;
    let server = ServerConfig::new(TUNNEL_RS)
        .allow_tcp("127.0.0.0/8")
        .arguments(relay.flags().chain(more))
        .start(Some(&lab.b.host))?;
    server.process.wait_line(|line| line.contains("relay") && line.contains("answers"), LIMIT)?;
    let source = format!("tcp://{address}");
    let client = ClientConfig::with_id(TUNNEL_RS, &server.endpoint_id)
        .arguments(relay.flags().chain(more))
        .forward(&source, "127.0.0.1:0")
        .start(Some(&lab.a.host))?;
    client.wait_session_open(SESSION_LIMIT)?;
    client.wait_path(PathKind::Relay, LIMIT)?;
    let stream = Stream::open(&lab.a.host, client.target(&source)?, &service, FLOW_LIMIT)?;
    settled(&stream)?;
    stream.finish(LIMIT)?;
    Ok(())
}
