//! Certificates in files.

use std::path::PathBuf;
use std::process::Command;

use tunnel_testlab::process::run;

use super::{answers, relay};
use crate::support::{Folder, SOON, TestResult, own_network, server, text};

/// Makes a certificate with openssl, and puts it in the place of the one before.
fn make(folder: &Folder) -> TestResult<(PathBuf, PathBuf)> {
    let (key, cert) = (folder.path("new.key"), folder.path("new.pem"));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    openssl.args(["-nodes", "-days", "2", "-subj", "/CN=relay.example"]);
    run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&cert), SOON)?;
    let key = folder.write("key.pem", &std::fs::read_to_string(key)?)?;
    let cert = folder.write("cert.pem", &std::fs::read_to_string(cert)?)?;
    Ok((cert, key))
}

#[test]
fn a_certificate_that_is_replaced_is_shown_from_then_on() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (cert, key) = make(&folder)?;
    let files = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let relay = relay(&folder, &files)?;
    let old = relay.process.wait_value("Pin: ", SOON)?;
    let first = server(&folder, &relay.flags())?;
    answers(&first.process)?;

    make(&folder)?;
    let changed = relay.process.wait_line(|line| line.contains("pin has changed"), SOON)?;
    let new = changed.split_whitespace().find(|word| word.starts_with("sha256:")).unwrap();
    assert_ne!(old, new);
    let url = ["--relay-url", "https://10.99.0.1"];
    let second = server(&folder, &[&url[..], &["--relay-ca", new]].concat())?;
    answers(&second.process)?;
    let third = server(&folder, &[&url[..], &["--relay-ca", &old]].concat())?;
    third.process.wait_line(|line| line.contains("your relays do not answer"), SOON)?;

    // Half of a pair, as in the middle of a renewal, changes nothing.
    folder.write("key.pem", "nothing\n")?;
    relay.process.wait_line(|line| line.contains("certificate stays as it is"), SOON)?;
    let fourth = server(&folder, &[&url[..], &["--relay-ca", new]].concat())?;
    answers(&fourth.process)
}

#[test]
fn with_a_certificate_plain_http_has_address_discovery() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let (cert, key) = make(&folder)?;
    let files = ["--tls-cert", text(&cert), "--tls-key", text(&key)];
    let plain = ["--http", "--listen", "127.0.0.1:8080", "--public-url", "https://10.99.0.1"];
    let relay = relay(&folder, &[&files[..], &plain].concat())?;
    relay.process.wait_line(|line| line.contains("address discovery on UDP"), SOON)?;
    let (url, discovery) = ("https://10.99.0.1", "https://10.99.0.1/pkarr");
    assert_eq!(relay.flags(), ["--relay-url", url, "--dns-server", discovery]);
    Ok(())
}
