use super::{Access, Family, Nat};

/// What kind of path two hosts can come to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Hole punching succeeds.
    Direct,
    /// It cannot succeed, so the relay carries everything.
    Relay,
    /// It cannot succeed, and there is no relay.
    Impossible,
    /// It is a matter of timing.
    Either,
}

impl Outcome {
    /// The same pair where no relay is in reach of both.
    pub fn without_relay(self) -> Self {
        match self {
            Self::Relay => Self::Impossible,
            other => other,
        }
    }
}

/// What must come of a pair once both hosts know the address that the other one has at a relay which is in
/// reach of both, and learn more from the packets that reach them. The order of the two does not matter.
///
/// 1. A side without UDP leaves only the relay, in every family.
/// 2. Two hosts with IPv6 have a direct path: nothing translates their addresses, so each knows the other
///    one's, and a stateful firewall lets in what answers a packet that went out (RFC 6092 section 3.2).
/// 3. Two hosts without a common family have only the relay. An IPv6 host behind a NAT64 could reach an IPv4
///    address by the name that a DNS64 makes of it or by an address that it makes itself (RFC 7050, RFC 8305
///    section 7.1), but peers give each other bare addresses, and iroh makes none of them.
/// 4. Otherwise IPv4 decides. One side that maps each peer to another port and another side that accepts no
///    packets from a port that it never sent to leave only the relay: the port to send to is not known before
///    its packets come, and they are not let in. What maps independently of the peer, or lets in every port
///    of an address that it sent to, is found.
/// 5. Of a bare masquerade with another NAT that filters by port it is a matter of who sends first.
///
/// Two NATs in series map like the one of them that depends more on the peer, and filter like the stricter
/// one: a carrier's NAT decides for the home's port-restricted one before it. Mappings that expire count as
/// they are while they last, for a path is found in much less than their lifetime.
pub fn expected(a: impl Into<Access>, b: impl Into<Access>) -> Outcome {
    use Nat::{Masquerade, PortRestricted, Symmetric, UdpBlocked};
    let (a, b) = (a.into(), b.into());
    match (a.nat.lasting(), b.nat.lasting()) {
        (UdpBlocked, _) | (_, UdpBlocked) => Outcome::Relay,
        _ if a.family.has_v6() && b.family.has_v6() => Outcome::Direct,
        _ if !has_common_family(a.family, b.family) => Outcome::Relay,
        (Symmetric, Symmetric | PortRestricted | Masquerade)
        | (PortRestricted | Masquerade, Symmetric) => Outcome::Relay,
        (Masquerade, PortRestricted | Masquerade) | (PortRestricted, Masquerade) => Outcome::Either,
        _ => Outcome::Direct,
    }
}

fn has_common_family(a: Family, b: Family) -> bool {
    (a.has_v4() && b.has_v4()) || (a.has_v6() && b.has_v6())
}

impl Nat {
    /// The kind of one router that does the same to a flow, as long as no mapping expires.
    fn lasting(self) -> Self {
        match self {
            Self::Expiring => Self::PortRestricted,
            other => other.carrier().unwrap_or(other),
        }
    }
}
