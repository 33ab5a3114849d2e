//! A certificate from an authority that speaks ACME: pebble, which Let's Encrypt tests its clients with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;
use tunnel_testlab::{
    net::{Capture, PairLab},
    process::{Proc, run},
    tunnel::ServerConfig,
};

use super::{LIMIT, OwnRelay, end, folder};
use crate::support::{TUNNEL_RS, TestResult, alone};

/// The relay's name, and where it is.
const NAME: &str = "relay.lab.test";

/// A running authority.
struct Authority {
    _process: Proc,
    /// What vouches for its own certificate.
    ca: PathBuf,
}

impl Authority {
    /// Its directory, and where it tells the root of the certificates that it issues.
    const DIRECTORY: &'static str = "https://localhost:14000/dir";
    const ROOT: &'static str = "https://localhost:15000/roots/0";

    fn start(lab: &PairLab, folder: &TempDir) -> TestResult<Self> {
        let path = |name: &str| folder.path().join(name);
        let (key, ca) = (path("pebble.key"), path("pebble.pem"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-nodes", "-days", "2", "-subj", "/CN=pebble"]);
        openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        run(openssl.arg("-keyout").arg(&key).arg("-out").arg(&ca), LIMIT)?;
        let config = serde_json::json!({ "pebble": {
            "listenAddress": "127.0.0.1:14000",
            "managementListenAddress": "127.0.0.1:15000",
            "certificate": ca, "privateKey": key,
            "httpPort": 80, "tlsPort": 443,
        }});
        let file = path("pebble.json");
        fs::write(&file, config.to_string())?;
        let mut command = lab.a.command("pebble");
        // It would wait before it validates, and refuse some requests to try its clients.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", "0");
        let process = Proc::spawn(command.arg("-config").arg(&file))?;
        process.wait_line(|line| line.contains("ACME directory available"), LIMIT)?;
        Ok(Self { _process: process, ca })
    }

    /// The root of the certificates that it issues, in a file.
    fn root(&self, lab: &PairLab, folder: &Path) -> TestResult<PathBuf> {
        let mut curl = lab.a.command("curl");
        curl.args(["--silent", "--fail", "--cacert"]).arg(&self.ca).arg(Self::ROOT);
        let file = folder.join("root.pem");
        fs::write(&file, run(&mut curl, LIMIT)?)?;
        Ok(file)
    }
}

#[test]
fn an_authority_gives_it_a_certificate_that_it_keeps() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    for host in [&lab.a, &lab.b] {
        host.set_hosts(&[(PairLab::A4.into(), NAME)])?;
    }
    let (state, other) = (folder()?, folder()?);
    let authority = Authority::start(&lab, &other)?;
    let ca = authority.ca.to_string_lossy().into_owned();
    let acme = ["--acme", NAME, "--acme-directory", Authority::DIRECTORY, "--acme-ca", &ca];
    let relay = OwnRelay::start(&lab.a, &state, &acme)?;
    assert_eq!(relay.flags[..2], ["--relay-url".to_owned(), format!("https://{NAME}")]);
    relay.process.wait_line(|line| line.contains("a new certificate"), LIMIT)?;
    let root = authority.root(&lab, other.path())?;
    let root = root.to_string_lossy().into_owned();
    let with_root = relay.flags().chain(["--relay-ca", &root]);
    let server = ServerConfig::new(TUNNEL_RS).arguments(with_root).start(Some(&lab.b))?;
    server.process.wait_line(|line| line.contains("relay") && line.contains("answers"), LIMIT)?;
    end(&relay.process)?;

    // The certificate is kept: nobody is asked for another one.
    let capture = Capture::start(&lab.a, "tcp port 14000")?;
    let again = OwnRelay::start(&lab.a, &state, &acme)?;
    again
        .process
        .wait_line(|line| line.contains(&format!("certificate for {NAME} is in use")), LIMIT)?;
    let third = ServerConfig::new(TUNNEL_RS)
        .arguments(again.flags().chain(["--relay-ca", &root]))
        .start(Some(&lab.b))?;
    third.process.wait_line(|line| line.contains("relay") && line.contains("answers"), LIMIT)?;
    assert_eq!(capture.finish()?, []);
    Ok(())
}
