//! The keys of a directory authority.

use std::{
    fs::{self, DirBuilder},
    net::SocketAddr,
    os::unix::fs::DirBuilderExt,
    path::Path,
    process::Command,
    time::Duration,
};

use crate::{Error, Result, process::run};

/// For keys of RSA with 3,072 bits.
const LIMIT: Duration = Duration::from_secs(60);

/// How an authority is known to others.
#[derive(Debug)]
pub(super) struct Keys {
    /// By which its votes are known.
    pub(super) identity: String,
    /// By which it is known as a relay.
    pub(super) fingerprint: String,
}

/// Makes an authority's keys in the folder where it will keep its state.
pub(super) fn make_keys(folder: &Path, directory: SocketAddr) -> Result<Keys> {
    let data = folder.join("data");
    let keys = data.join("keys");
    // Tor uses none that others can look into.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&keys);
    made.map_err(Error::io(format!("create {}", keys.display())))?;

    // tor-gencert(1) asks for a passphrase at the terminal, unless it is told where to read it.
    let script = r#"echo passphrase | exec tor-gencert --create-identity-key --passphrase-fd 0 -m 12 \
        -a "$0" -i "$1/authority_identity_key" -s "$1/authority_signing_key" -c "$1/authority_certificate""#;
    let mut gencert = Command::new("sh");
    gencert.args(["-c", script, &directory.to_string()]).arg(&keys);
    run(&mut gencert, LIMIT)?;
    let file = keys.join("authority_certificate");
    let read = Error::io(format!("read {}", file.display()));
    let certificate = fs::read_to_string(&file).map_err(read)?;
    let identity = certificate.lines().find_map(|line| line.strip_prefix("fingerprint "));

    let empty = folder.join("empty");
    super::write(&empty, "")?;
    let mut tor = Command::new("tor");
    tor.args(["--hush", "--list-fingerprint", "--ORPort", "1", "--SocksPort", "0", "-f"]);
    tor.arg(&empty).arg("--defaults-torrc").arg(&empty).arg("--DataDirectory").arg(&data);
    let listed = run(&mut tor, LIMIT)?;
    // The last line: a name, and the fingerprint in groups of four digits.
    let fingerprint = listed.lines().last().and_then(|line| line.split_once(' '));
    let fingerprint = fingerprint.map(|(_, groups)| groups.replace(' ', ""));

    match (identity, fingerprint) {
        (Some(identity), Some(fingerprint)) if fingerprint.len() == 40 => {
            Ok(Keys { identity: identity.to_owned(), fingerprint })
        }
        _ => Err(Error::Malformed { what: "what tor says of its keys", text: listed }),
    }
}
