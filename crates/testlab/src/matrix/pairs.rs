use std::fmt;

use crate::nat::{Access, Family, Nat};

/// Two hosts that are to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pair {
    /// How the client's host is connected to the internet.
    pub client: Access,
    /// How the server's host is.
    pub server: Access,
}

impl Pair {
    /// Either side may be a `Nat` alone, which has IPv4 only.
    pub fn new(client: impl Into<Access>, server: impl Into<Access>) -> Self {
        Self { client: client.into(), server: server.into() }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} -> {}", self.client, self.server)
    }
}

/// Every ordered pair of kinds of NAT over IPv4, and every ordered pair of families behind port-restricted
/// NATs and stateful firewalls; what is in both is there once.
pub fn all() -> Vec<Pair> {
    let nats = Nat::ALL.map(Access::from);
    let families = Family::ALL.map(|family| Access { nat: Nat::PortRestricted, family });
    let mut pairs = ordered(&nats);
    for pair in ordered(&families) {
        if !pairs.contains(&pair) {
            pairs.push(pair);
        }
    }
    pairs
}

/// Twenty pairs in which every kind of NAT and every family is on each side once or more.
pub fn quick() -> Vec<Pair> {
    use Nat::{
        AddressRestricted, CarrierGradePortRestricted, CarrierGradeSymmetric, Expiring, FullCone,
        Masquerade, None, PortRestricted, Symmetric, UdpBlocked,
    };
    let nats = [
        (None, Symmetric),
        (None, Masquerade),
        (None, UdpBlocked),
        (FullCone, Symmetric),
        (FullCone, CarrierGradeSymmetric),
        (AddressRestricted, Symmetric),
        (PortRestricted, PortRestricted),
        (PortRestricted, Expiring),
        (Symmetric, PortRestricted),
        (Symmetric, Symmetric),
        (Symmetric, AddressRestricted),
        (CarrierGradePortRestricted, CarrierGradePortRestricted),
        (CarrierGradeSymmetric, FullCone),
        (Expiring, CarrierGradeSymmetric),
        (Masquerade, None),
        (UdpBlocked, None),
    ];
    let families = [
        (Family::V4, Family::Dual),
        (Family::V6, Family::V6Nat64),
        (Family::Dual, Family::V6),
        (Family::V6Nat64, Family::V4),
    ];
    let nats = nats.into_iter().map(|(client, server)| Pair::new(client, server));
    let behind = |family| Access { nat: PortRestricted, family };
    let families = families.into_iter().map(|(a, b)| Pair::new(behind(a), behind(b)));
    nats.chain(families).collect()
}

fn ordered(kinds: &[Access]) -> Vec<Pair> {
    let pairs = kinds.iter().flat_map(|a| kinds.iter().map(|b| Pair::new(*a, *b)));
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn all_pairs_are_there_once() {
        let pairs = all();
        let different: HashSet<_> = pairs.iter().collect();
        assert_eq!((pairs.len(), different.len()), (100 + 16 - 1, 100 + 16 - 1));
    }

    #[test]
    fn the_quick_pairs_have_everything_on_each_side() {
        let (quick, all) = (quick(), all());
        assert_eq!(quick.iter().collect::<HashSet<_>>().len(), 20);
        for side in [|pair: &Pair| pair.client, |pair: &Pair| pair.server] {
            let nats: HashSet<_> = quick.iter().map(|pair| side(pair).nat).collect();
            let families: HashSet<_> = quick.iter().map(|pair| side(pair).family).collect();
            assert_eq!((nats.len(), families.len()), (Nat::ALL.len(), Family::ALL.len()));
        }
        for pair in quick {
            assert!(all.contains(&pair), "{pair} is not among all pairs");
        }
    }
}
