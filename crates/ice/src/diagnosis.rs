//! Why two sides find no path, as far as what they know of themselves and of each other tells.

use crate::description::{Description, Mapping};

/// What follows from both descriptions, in words for the user.
pub(crate) fn explain(own: &Description, peer: &Description, unresolved: &[String]) -> String {
    let v4 = Family::of(own, peer, true);
    let v6 = Family::of(own, peer, false);
    let mut reasons = Vec::new();
    if !v4.is_common() && !v6.is_common() {
        let text = format!(
            "no common address family: this side has {}, the peer {}",
            families(own),
            families(peer)
        );
        reasons.push(text);
    } else {
        for (family, name) in [(&v4, "IPv4"), (&v6, "IPv6")] {
            if family.is_common() {
                reasons.push(format!("over {name} {}", family.reason()));
            }
        }
    }
    if !unresolved.is_empty() {
        reasons.push(format!("STUN servers were not found ({})", unresolved.join(", ")));
    }
    reasons.join("; ")
}

fn families(side: &Description) -> &'static str {
    match (has(side, true), has(side, false)) {
        (true, true) => "IPv4 and IPv6",
        (true, false) => "IPv4 only",
        (false, true) => "IPv6 only",
        (false, false) => "no address",
    }
}

fn has(side: &Description, v4: bool) -> bool {
    side.candidates.iter().any(|candidate| candidate.addr.is_ipv4() == v4)
}

/// One address family of both sides.
struct Family {
    common: bool,
    own: Mapping,
    peer: Mapping,
}

impl Family {
    fn of(own: &Description, peer: &Description, v4: bool) -> Self {
        let mapping = |side: &Description| if v4 { side.mapping_v4 } else { side.mapping_v6 };
        let common = has(own, v4) && has(peer, v4);
        Self { common, own: mapping(own), peer: mapping(peer) }
    }

    fn is_common(&self) -> bool {
        self.common
    }

    fn reason(&self) -> String {
        use Mapping::{Dependent, NoAnswer, NotAsked};
        match (self.own, self.peer) {
            (NoAnswer, NoAnswer) => {
                "no STUN server answers either side: UDP is blocked, or the servers are unreachable"
                    .to_owned()
            }
            (NoAnswer, _) => {
                "no STUN server answers this side: its network blocks UDP, or the servers are unreachable"
                    .to_owned()
            }
            (_, NoAnswer) => {
                "no STUN server answers the peer: its network blocks UDP, or the servers are unreachable"
                    .to_owned()
            }
            (Dependent, Dependent) => {
                "both NATs are symmetric (they give every destination another port), which only a relay gets past"
                    .to_owned()
            }
            (Dependent, _) => symmetric("this side's", "the peer's"),
            (_, Dependent) => symmetric("the peer's", "this side's"),
            (NotAsked, NotAsked) => {
                "neither side asked a STUN server, so only addresses of the machines themselves were tried: \
                 they are not in one network, or a firewall is between them"
                    .to_owned()
            }
            (NotAsked, _) => "this side asked no STUN server, so the peer cannot reach it from outside"
                .to_owned(),
            (_, NotAsked) => {
                "the peer asked no STUN server, so it cannot be reached from outside".to_owned()
            }
            _ => "nothing comes through, although both sides have a way out: the peer is gone, or a \
                  firewall is between them"
                .to_owned(),
        }
    }
}

fn symmetric(whose: &str, others: &str) -> String {
    format!(
        "{whose} NAT is symmetric (it gives every destination another port) and {others} lets nothing in \
         from a port it has not sent to, which only a relay gets past"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Candidate, CandidateKind, Credentials, Fingerprint};

    fn side(addresses: &[&str], mapping: Mapping) -> Description {
        let candidate =
            |addr: &&str| Candidate { kind: CandidateKind::Host, addr: addr.parse().unwrap() };
        Description {
            credentials: Credentials::generate().unwrap(),
            fingerprint: Fingerprint([0; 32]),
            candidates: addresses.iter().map(candidate).collect(),
            mapping_v4: mapping,
            mapping_v6: mapping,
        }
    }

    const V4: &[&str] = &["10.0.0.1:1"];
    const V6: &[&str] = &["[2001:db8::1]:1"];

    #[test]
    fn each_cause_is_named() {
        use Mapping::{Dependent, Independent, NoAnswer, NotAsked};
        for (own, peer, words) in [
            (side(V4, Independent), side(V6, Independent), "no common address family"),
            (side(V4, Dependent), side(V4, Dependent), "both NATs are symmetric"),
            (side(V4, Dependent), side(V4, Independent), "this side's NAT is symmetric"),
            (side(V4, Independent), side(V4, Dependent), "the peer's NAT is symmetric"),
            (
                side(V4, NoAnswer),
                side(V4, Independent),
                "answers this side: its network blocks UDP",
            ),
            (side(V4, Independent), side(V4, NoAnswer), "answers the peer"),
            (side(V4, NotAsked), side(V4, NotAsked), "neither side asked"),
            (side(V4, Independent), side(V4, Independent), "nothing comes through"),
        ] {
            let text = explain(&own, &peer, &[]);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn what_was_not_resolved_is_told() {
        let own = side(V4, Mapping::NotAsked);
        let text = explain(&own, &own, &["stun.example:1: no such host".to_owned()]);
        assert!(text.contains("stun.example"), "{text}");
    }
}
