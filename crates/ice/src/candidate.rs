use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How an address came to be known (RFC 8445 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum CandidateKind {
    /// An address of one of the machine's interfaces.
    Host,
    /// What a STUN server saw: the address on the outside of a NAT.
    ServerReflexive,
    /// What the peer saw, and no STUN server did. Never told to anyone.
    PeerReflexive,
}

impl fmt::Display for CandidateKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "Direct (Host)",
            Self::ServerReflexive => "NAT Traversal (Server Reflexive)",
            Self::PeerReflexive => "NAT Traversal (Peer Reflexive)",
        })
    }
}

/// An address at which a side may be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Candidate {
    /// How it is known.
    pub kind: CandidateKind,
    /// The address; IPv4 is never mapped into IPv6, and the port is not 0.
    pub addr: SocketAddr,
}

impl Candidate {
    /// Whether packets may be sent to it: a peer could name any address.
    pub fn is_usable(&self) -> bool {
        let usable = match self.addr {
            SocketAddr::V4(addr) => {
                let ip = addr.ip();
                !(ip.is_unspecified()
                    || ip.is_multicast()
                    || ip.is_broadcast()
                    || ip.is_link_local())
            }
            SocketAddr::V6(addr) => {
                let ip = addr.ip();
                // A mapped address would be sent to over IPv4, past what was told of it.
                !(ip.is_unspecified() || ip.is_multicast() || ip.to_ipv4_mapped().is_some())
            }
        };
        usable && self.addr.port() != 0 && self.kind != CandidateKind::PeerReflexive
    }
}

impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            CandidateKind::Host => "host",
            CandidateKind::ServerReflexive => "srflx",
            CandidateKind::PeerReflexive => "prflx",
        };
        write!(f, "{kind} {}", self.addr)
    }
}
