//! Forwarding of packets between this machine's interfaces, as long as a server wants it.

use std::io;
use std::path::Path;

use super::NetworkError;
use super::journal::{Change, Share};
use super::sysctl;

/// Turns forwarding on, of the families that are asked for, until the result is dropped and nobody else wants it.
///
/// What the kernel changes together with it (ip-sysctl.rst, `ip_forward` and `forwarding`) is put back as well. Where this
/// machine learns its own IPv6 routes from routers, it goes on to: that otherwise ends with forwarding (`accept_ra`).
pub(super) fn enable(state: &Path, v4: bool, v6: bool) -> Result<Option<Share>, NetworkError> {
    Share::take(state, || {
        let mut changes = Vec::new();
        if v4 {
            changes.extend(ipv4()?);
        }
        if v6 {
            changes.extend(ipv6()?);
        }
        Ok(changes)
    })
}

fn ipv4() -> io::Result<Option<Change>> {
    let key = "net/ipv4/ip_forward";
    let mut dependent = originals("ipv4")?;
    let redirects = "net/ipv4/conf/all/accept_redirects";
    dependent.push((redirects.to_owned(), sysctl::get(redirects)?));
    change(key, "1", dependent)
}

fn ipv6() -> io::Result<Vec<Change>> {
    let Some(forwarding) = change("net/ipv6/conf/all/forwarding", "1", originals("ipv6")?)? else {
        return Ok(Vec::new());
    };
    let mut changes = Vec::new();
    for interface in sysctl::interfaces("ipv6")? {
        let key = format!("net/ipv6/conf/{interface}/accept_ra");
        // 2: also where forwarding is on. Before that, as routes that were learnt are removed otherwise.
        if sysctl::get(&key).is_ok_and(|value| value == "1") {
            changes.extend(change(&key, "2", Vec::new())?);
        }
    }
    changes.push(forwarding);
    Ok(changes)
}

/// What each interface has, which changes together with what counts for all.
fn originals(family: &str) -> io::Result<Vec<(String, String)>> {
    let mut originals = Vec::new();
    for interface in std::iter::once("default".to_owned()).chain(sysctl::interfaces(family)?) {
        let key = format!("net/{family}/conf/{interface}/forwarding");
        // An interface may go at any time.
        if let Ok(value) = sysctl::get(&key) {
            originals.push((key, value));
        }
    }
    Ok(originals)
}

/// None where the parameter has that value.
fn change(key: &str, value: &str, dependent: Vec<(String, String)>) -> io::Result<Option<Change>> {
    let original = sysctl::get(key)?;
    let (key, set) = (key.to_owned(), value.to_owned());
    Ok((original != value).then_some(Change { key, original, set, dependent }))
}
