use std::fmt;

use super::Nat;

/// The families of addresses that a host has beside its loopback ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 only.
    #[default]
    V4,
    /// IPv6 only, without a way to IPv4.
    V6,
    /// Both.
    Dual,
    /// IPv6 only, and a NAT64 (RFC 6146) leads to IPv4 under 64:ff9b::/96 (RFC 6052 section 2.1).
    V6Nat64,
}

/// How a host is connected to the internet.
///
/// A `Nat` alone is one with IPv4 only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What its routers do.
    pub nat: Nat,
    /// Which addresses it has.
    pub family: Family,
}

impl Family {
    /// Every one, for tests of all pairs.
    pub const ALL: [Self; 4] = [Self::V4, Self::V6, Self::Dual, Self::V6Nat64];

    /// Whether the host has an IPv4 address of its own.
    pub fn has_v4(self) -> bool {
        matches!(self, Self::V4 | Self::Dual)
    }

    /// Whether the host has a global IPv6 address.
    pub fn has_v6(self) -> bool {
        self != Self::V4
    }
}

impl From<Nat> for Access {
    fn from(nat: Nat) -> Self {
        Self { nat, family: Family::V4 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
            Self::Dual => "dual stack",
            Self::V6Nat64 => "IPv6 with NAT64",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family {
            Family::V4 => self.nat.fmt(formatter),
            family => write!(formatter, "{}, {family}", self.nat),
        }
    }
}
