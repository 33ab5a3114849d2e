use std::fmt;

use super::Link;
use crate::stream::Direction;

/// What carries the bytes that are measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// No tunnel, and a congestion control of the kernel.
    Raw(Kernel),
    /// A tunnel with what is given to both sides as `--congestion`; `None` leaves the flag out.
    Tunnel(Option<String>),
}

/// A congestion control of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// RFC 9438. Every kernel has it.
    Cubic,
    /// BBR, version 1 in kernels as they are published (`net/ipv4/tcp_bbr.c`).
    Bbr,
}

/// What is measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One TCP stream alone.
    Alone(Carrier, Direction),
    /// One TCP stream from `a` to `b`, beside one without a tunnel from `c` to `d`, with the kernel's CUBIC.
    Shared(Carrier),
    /// UDP packets at a steady rate.
    Datagrams(Carrier, Direction),
    /// UDP packets from `a` to `b`, beside a TCP stream on the same way; in the same tunnel, where there is one.
    Mixed(Carrier),
}

/// One line of the plan: what is measured on which link.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The link.
    pub link: Link,
    /// What is measured on it.
    pub kind: Kind,
}

impl Kernel {
    /// For `iperf3 -C`, and as /proc names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Bbr => "bbr",
        }
    }
}

impl Item {
    /// Everything that is measured, in the order of the tables. `congestions` are those of the tunnel.
    pub fn all(congestions: &[Option<String>]) -> Vec<Self> {
        let tunnels = congestions.iter().cloned().map(Carrier::Tunnel);
        let cubic = [Carrier::Raw(Kernel::Cubic)].into_iter();
        let with_cubic: Vec<_> = cubic.clone().chain(tunnels.clone()).collect();
        let bbr = [Carrier::Raw(Kernel::Bbr)].into_iter();
        let every: Vec<_> = cubic.chain(bbr).chain(tunnels).collect();
        let both = [Direction::Up, Direction::Down];
        let each_way = |carriers: &[Carrier], kind: fn(Carrier, Direction) -> Kind| {
            let ways = carriers.iter().flat_map(|carrier| both.map(|way| (carrier.clone(), way)));
            ways.map(|(carrier, way)| kind(carrier, way)).collect::<Vec<_>>()
        };
        let mut items = Vec::new();
        for link in Link::ALL {
            let mut kinds = each_way(&every, Kind::Alone);
            if link.shared {
                kinds.extend(every.iter().cloned().map(Kind::Shared));
            }
            if link.datagrams {
                kinds.extend(each_way(&with_cubic, Kind::Datagrams));
            }
            if link.mixed {
                kinds.extend(with_cubic.iter().cloned().map(Kind::Mixed));
            }
            items.extend(kinds.into_iter().map(|kind| Self { link, kind }));
        }
        items
    }
}

impl fmt::Display for Carrier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Raw(kernel) => write!(formatter, "raw {}", kernel.name()),
            Self::Tunnel(None) => formatter.pad("tunnel default"),
            Self::Tunnel(Some(congestion)) => write!(formatter, "tunnel {congestion}"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.link.name;
        match &self.kind {
            Kind::Alone(carrier, way) => write!(formatter, "{name}, {carrier}, {}", arrow(*way)),
            Kind::Shared(carrier) => write!(formatter, "{name}, {carrier}, shared"),
            Kind::Datagrams(carrier, way) => {
                write!(formatter, "{name}, {carrier}, datagrams {}", arrow(*way))
            }
            Kind::Mixed(carrier) => write!(formatter, "{name}, {carrier}, datagrams mixed"),
        }
    }
}

/// A direction as tables show it.
pub(super) fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "a -> b",
        Direction::Down => "b -> a",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_has_a_name_of_its_own() {
        let items = Item::all(&[None, Some("bbr".to_owned())]);
        let mut names: Vec<_> = items.iter().map(ToString::to_string).collect();
        assert!(names.contains(&"lossy, tunnel default, a -> b".to_owned()), "{names:?}");
        assert!(names.contains(&"deep, tunnel bbr, shared".to_owned()), "{names:?}");
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
        // 4 carriers both ways on 6 links, 4 shared on 3, 3 with datagrams both ways on 2, 3 mixed.
        assert_eq!(count, 48 + 12 + 12 + 3);
    }
}
