use std::{fmt, time::Duration};

/// What is done to the network or to a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The path in use goes black: the direct one, or the relay's. Another one is left, if the program has relays.
    PathLoss,
    /// A host takes another network: other addresses, another NAT.
    AddressChange,
    /// A relay loses all its connections and is away for a while.
    RelayKill,
    /// All mappings of a NAT end and get other ports.
    NatRebind,
    /// Every packet takes longer.
    Delay,
    /// Some packets are lost.
    Loss,
    /// A program is stopped and continued, as if its machine slept.
    Stop,
    /// A host is off every network.
    Outage,
}

/// One of the two hosts, with its program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that listens for local connections.
    Client,
    /// The one with the services.
    Server,
}

/// A disturbance with all its particulars; each kind uses those that concern it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fault {
    /// What is done.
    pub kind: Kind,
    /// To whom.
    pub side: Side,
    /// For how long at least; zero for what happens at once and stays so.
    pub length: Duration,
    /// How much longer packets are under way, in each direction.
    pub delay: Duration,
    /// How many of a hundred packets are lost, in each direction.
    pub percent: u8,
    /// Which packets chance takes.
    pub seed: u64,
}

/// An endless list of faults that follows from its seed: every kind once, in any order, and then all again.
#[derive(Debug)]
pub struct Deck {
    random: fastrand::Rng,
    left: Vec<Kind>,
    longest_outage: u64,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::PathLoss,
        Self::AddressChange,
        Self::RelayKill,
        Self::NatRebind,
        Self::Delay,
        Self::Loss,
        Self::Stop,
        Self::Outage,
    ];
}

impl Deck {
    /// The longest stop of a program, in seconds.
    const LONGEST_STOP: u64 = 20;

    /// The longest outage of all, in seconds.
    const LONGEST_OUTAGE: u64 = 90;

    /// The shortest outage, in seconds.
    const SHORTEST_OUTAGE: u64 = 5;

    /// For a run of this length, of which no outage takes more than a ninth: 20 s of 3 minutes.
    pub fn new(seed: u64, run: Duration) -> Self {
        let longest = (run.as_secs() / 9).clamp(Self::SHORTEST_OUTAGE, Self::LONGEST_OUTAGE);
        let random = fastrand::Rng::with_seed(seed);
        Self { random, left: Vec::new(), longest_outage: longest }
    }

    fn next_kind(&mut self) -> Kind {
        loop {
            if let Some(kind) = self.left.pop() {
                return kind;
            }
            self.left = Kind::ALL.to_vec();
            self.random.shuffle(&mut self.left);
        }
    }
}

impl Iterator for Deck {
    type Item = Fault;

    fn next(&mut self) -> Option<Fault> {
        let kind = self.next_kind();
        let random = &mut self.random;
        let length = match kind {
            Kind::AddressChange | Kind::NatRebind => 0,
            Kind::PathLoss | Kind::RelayKill | Kind::Delay | Kind::Loss => random.u64(4..=8),
            Kind::Stop => random.u64(3..=Self::LONGEST_STOP.min(self.longest_outage)),
            Kind::Outage => random.u64(Self::SHORTEST_OUTAGE..=self.longest_outage),
        };
        Some(Fault {
            kind,
            side: if random.bool() { Side::Client } else { Side::Server },
            length: Duration::from_secs(length),
            delay: Duration::from_millis(random.u64(30..=150)),
            percent: random.u8(1..=5),
            seed: random.u64(..),
        })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::PathLoss => "path loss",
            Self::AddressChange => "address change",
            Self::RelayKill => "relay killed",
            Self::NatRebind => "NAT rebind",
            Self::Delay => "delay",
            Self::Loss => "loss",
            Self::Stop => "stop and continue",
            Self::Outage => "outage",
        })
    }
}

impl fmt::Display for Side {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Client => "client",
            Self::Server => "server",
        })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, side, length, delay, percent, .. } = self;
        match kind {
            Kind::AddressChange | Kind::NatRebind => write!(formatter, "{kind}, {side}"),
            Kind::Stop | Kind::Outage => write!(formatter, "{kind}, {side}, {length:?}"),
            Kind::Delay => write!(formatter, "{kind} of {delay:?}, {length:?}"),
            Kind::Loss => write!(formatter, "{kind} of {percent} %, {length:?}"),
            Kind::PathLoss | Kind::RelayKill => write!(formatter, "{kind}, {length:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: Duration = Duration::from_secs(180);

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let faults = |seed| Deck::new(seed, RUN).take(100).collect::<Vec<_>>();
        assert_eq!(faults(1), faults(1));
        assert_ne!(faults(1), faults(2));
    }

    #[test]
    fn every_kind_comes_in_every_round() {
        let faults: Vec<_> = Deck::new(3, RUN).take(4 * Kind::ALL.len()).collect();
        for round in faults.chunks(Kind::ALL.len()) {
            let mut kinds: Vec<_> = round.iter().map(|fault| fault.kind).collect();
            kinds.sort();
            assert_eq!(kinds, Kind::ALL);
        }
    }

    #[test]
    fn an_outage_is_bounded_by_the_run() {
        for (run, longest) in [(10, 5), (180, 20), (3600, 90)] {
            let faults = Deck::new(4, Duration::from_secs(run)).take(2000);
            let outages = faults.filter(|fault| fault.kind == Kind::Outage);
            let most = outages.map(|fault| fault.length.as_secs()).max();
            assert_eq!(most, Some(longest));
        }
    }
}
