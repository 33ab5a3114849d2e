use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use super::{Client, START_LIMIT};
use crate::{
    Result,
    process::{Line, run},
};

/// What a VPN's client says once it carries packets.
#[derive(Clone, Debug)]
pub struct VpnUp {
    /// Its address in the VPN; the first one, where it has several.
    pub address: IpAddr,
    /// The whole line.
    pub text: String,
    /// When.
    pub at: Instant,
}

impl Client {
    /// Waits until the client has said so many times that the VPN is up, and returns the last of them.
    pub fn wait_vpn(&self, times: usize, limit: Duration) -> Result<VpnUp> {
        self.process.wait_lines(|lines| lines.iter().filter_map(up).nth(times - 1), limit)
    }
}

/// Makes a key for `--secret-file` of either side in a folder that lasts as long as it is needed.
pub fn lasting_key(binary: &Path, folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(name);
    let mut command = Command::new(binary);
    run(command.arg("generate-server-key").arg("--output").arg(&path), START_LIMIT)?;
    Ok(path)
}

fn up(line: &Line) -> Option<VpnUp> {
    let (_, rest) = line.text.split_once("VPN up on ")?;
    let (_, rest) = rest.split_once(": address ")?;
    let address = rest.split('/').next()?.parse().ok()?;
    Some(VpnUp { address, text: line.text.clone(), at: line.at })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Stream;

    #[test]
    fn the_address_is_the_one_behind_the_word() {
        for (text, address) in [
            ("INFO VPN up on tun0: address 10.0.0.2/24, server 10.0.0.1", Some([10, 0, 0, 2])),
            ("INFO VPN up on tun7: address 10.9.0.3/16, fd99::3/64, server", Some([10, 9, 0, 3])),
            ("INFO VPN up on tun0", None),
            ("INFO session open: address 10.0.0.2/24", None),
        ] {
            let line = Line { stream: Stream::Stderr, text: text.to_owned(), at: Instant::now() };
            assert_eq!(up(&line).map(|up| up.address), address.map(IpAddr::from), "{text}");
        }
    }
}
