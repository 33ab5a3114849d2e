//! What is written into a configuration file of Tor (tor(1)).

use std::{net::SocketAddr, path::Path};

/// What every node has: short terms (`TestingTorNetwork`), one machine for all relays, and every relay fit for every
/// part, as nobody measures them for days.
const COMMON: &str = "\
TestingTorNetwork 1
Log notice stdout
ShutdownWaitLength 0
AssumeReachable 1
EnforceDistinctSubnets 0
";

/// Of an authority: a vote every 10 s, and every relay is good for every part.
const AUTHORITY: &str = "\
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
ContactInfo nobody@example.org
V3AuthVotingInterval 10
V3AuthVoteDelay 2
V3AuthDistDelay 2
TestingV3AuthInitialVotingInterval 10
TestingV3AuthInitialVoteDelay 2
TestingV3AuthInitialDistDelay 2
TestingDirAuthVoteGuard *
TestingDirAuthVoteHSDir *
AuthDirMaxServersPerAddr 0
";

/// A configuration file in the making.
#[derive(Debug)]
pub(super) struct Torrc(String);

/// A name of letters and digits, as Tor wants it.
pub(super) fn nickname(kind: &str, number: u16) -> String {
    format!("{kind}{number}")
}

impl Torrc {
    /// Of a node that neither relays nor serves anybody yet.
    pub(super) fn new(nickname: &str, authorities: &str) -> Self {
        Self(format!("{COMMON}Nickname {nickname}\n{authorities}"))
    }

    /// Relays for others, and leads nowhere outside.
    pub(super) fn relay(self, address: SocketAddr) -> Self {
        self.line(&format!("Address {}", address.ip()))
            .line(&format!("ORPort {address}"))
            .line("ExitPolicy reject *:*")
    }

    /// Is an authority, asked at this address.
    pub(super) fn authority(self, directory: SocketAddr) -> Self {
        Self(format!("{}{AUTHORITY}", self.0)).line(&format!("DirPort {directory}"))
    }

    /// Takes requests of SOCKS5, and says what is wrong with onion services.
    pub(super) fn socks(self, address: SocketAddr) -> Self {
        self.line(&format!("SocksPort {address} ExtendedErrors"))
    }

    /// Publishes an onion service whose keys are in the folder.
    pub(super) fn service(self, folder: &Path, port: u16, to: SocketAddr) -> Self {
        self.line(&format!("HiddenServiceDir {}", folder.display()))
            .line(&format!("HiddenServicePort {port} {to}"))
    }

    /// The file's text, for a node that keeps its state in the folder.
    pub(super) fn finish(self, folder: &Path) -> String {
        let none = if self.0.contains("SocksPort ") { "" } else { "SocksPort 0\n" };
        format!("{}{none}DataDirectory {}\n", self.0, folder.join("data").display())
    }

    fn line(mut self, line: &str) -> Self {
        self.0.push_str(line);
        self.0.push('\n');
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_takes_requests() {
        let address: SocketAddr = "127.0.0.1:9050".parse().expect("an address");
        let relay = Torrc::new("x", "").relay(address).finish(Path::new("/tmp/x"));
        assert!(relay.contains("\nSocksPort 0\n") && relay.contains("\nORPort 127.0.0.1:9050\n"));
        let client = Torrc::new("x", "").socks(address).finish(Path::new("/tmp/x"));
        assert!(!client.contains("SocksPort 0"), "{client}");
        assert!(client.ends_with("DataDirectory /tmp/x/data\n"));
    }
}
