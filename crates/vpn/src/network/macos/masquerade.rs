//! The address of this machine for packets that go on from here, by the system's packet filter (pf.conf(5), pfctl(8)).

use ipnet::IpNet;

use super::NetworkError;
use super::system::System;
use super::undo::{Command, Undo};

const PFCTL: &str = "/sbin/pfctl";

/// The main ruleset of macOS evaluates every anchor below this one (/etc/pf.conf), so that it need not be changed.
const ANCHOR: &str = "com.apple/tunnel-rs";

/// How these rules say so.
const BELOW: &str = "\"com.apple/*\"";

pub(super) struct Masquerade<'a> {
    /// The VPN's own device: what stays inside keeps its address.
    pub(super) device: &'a str,
    pub(super) networks: &'a [IpNet],
}

impl Masquerade<'_> {
    /// Starts it, and notes how it is ended.
    pub(super) fn start(&self, system: &dyn System, undo: &mut Undo) -> Result<(), NetworkError> {
        let failed = |source: std::io::Error| NetworkError::Pf(source.to_string());
        let anchor = format!("{ANCHOR}-{}", self.device);
        let main = system.run(PFCTL, &["-s", "nat"]).map_err(failed)?;
        let is_main =
            |line: &str| line.trim_start().starts_with("nat-anchor") && line.contains(BELOW);
        if !main.lines().any(is_main) {
            let why = format!("the main rules have no `nat-anchor {BELOW}` (see /etc/pf.conf)");
            return Err(NetworkError::Pf(why));
        }
        let listed = system.run("/sbin/ifconfig", &["-l"]).map_err(failed)?;
        let rules = rules(self.networks, self.device, &listed);
        undo.note(command(&["-a", &anchor, "-F", "all"]))?;
        system.run_with(PFCTL, &["-a", &anchor, "-f", "-"], &rules).map_err(failed)?;
        // The filter is on as long as somebody has asked for it.
        let said = system.run(PFCTL, &["-E"]).map_err(failed)?;
        let Some(token) = token(&said) else {
            return Err(NetworkError::Pf(format!("it is on, and gave no token: {}", said.trim())));
        };
        undo.note(command(&["-X", token]))
    }
}

fn command(words: &[&str]) -> Command {
    std::iter::once(&PFCTL).chain(words).map(|word| (*word).to_owned()).collect()
}

/// A rule for each network at each device but the VPN's own and loopback's. Which of them leads on is the table's matter.
fn rules(networks: &[IpNet], own: &str, devices: &str) -> String {
    let devices = devices.split_ascii_whitespace();
    let mut rules = String::new();
    for device in devices.filter(|device| *device != own && !device.starts_with("lo")) {
        for network in networks {
            let family = if network.addr().is_ipv4() { "inet" } else { "inet6" };
            let network = network.trunc();
            rules += &format!("nat on {device} {family} from {network} to any -> ({device})\n");
        }
    }
    rules
}

/// The number that `pfctl -E` prints, by which it is turned off again.
fn token(said: &str) -> Option<&str> {
    let line = said.lines().find(|line| line.trim_start().starts_with("Token"))?;
    line.split_once(':').map(|(_, token)| token.trim()).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_device_has_a_rule_for_each_network() {
        let networks: Vec<IpNet> =
            ["10.0.0.1/24", "fd00::1/64"].map(|net| net.parse().unwrap()).to_vec();
        let made = rules(&networks, "utun4", "lo0 en0 utun4\n");
        let expected = "nat on en0 inet from 10.0.0.0/24 to any -> (en0)\n\
                        nat on en0 inet6 from fd00::/64 to any -> (en0)\n";
        assert_eq!(made, expected);
    }

    #[test]
    fn the_token_is_found_among_the_words() {
        let said = "No ALTQ support in kernel\nALTQ related functions disabled\npf enabled\nToken : 1234567\n";
        assert_eq!(token(said), Some("1234567"));
        assert_eq!(token("pf enabled\n"), None);
    }
}
