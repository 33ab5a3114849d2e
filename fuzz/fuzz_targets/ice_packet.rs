//! Two drivers over a network that does what the input says: packets are lost, late, altered, copied, and come from
//! elsewhere, and strangers send whatever they like.

#![no_main]

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use tunnel_ice::driver::{Driver, Event, Side, Transmit};
use tunnel_ice::{Candidate, CandidateKind, Credentials};

/// What is on its way; more is dropped.
const MAX_QUEUE: usize = 64;

/// Calls that a driver may want at one moment.
const MAX_CALLS: usize = 256;

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken.to_vec()
    }
}

struct End {
    driver: Driver,
    locals: HashSet<SocketAddr>,
    /// What the other end has been told, with the sockets behind it.
    told: Vec<(Candidate, SocketAddr)>,
    /// Where packets of the other end have come from, unaltered.
    heard: HashSet<SocketAddr>,
    up: bool,
}

struct Network {
    now: Instant,
    ends: [End; 2],
    /// With the end that each goes to.
    queue: Vec<(usize, Transmit)>,
}

/// Few addresses, so that they come again; of both families.
fn address(end: usize, byte: u8) -> SocketAddr {
    let (end, last) = (end as u8, byte % 4);
    match byte % 8 {
        0..4 => SocketAddr::new([192, 0, 2, 16 * end + last].into(), 4_000),
        _ => {
            let last = u16::from(16 * end + last);
            SocketAddr::new([0x2001, 0xdb8, 0, 0, 0, 0, 0, last].into(), 4_000)
        }
    }
}

/// Whose addresses: those of the two ends' sockets, of the outside of their NATs, and of strangers.
const OUTSIDE: usize = 2;
const STRANGERS: usize = 4;

impl Network {
    fn new() -> Self {
        let now = Instant::now();
        let credentials = [(); 2].map(|()| Credentials::generate().expect("random numbers"));
        let ends = [Side::Offering, Side::Answering].map(|side| End {
            driver: Driver::new(side, &credentials[usize::from(side == Side::Answering)], now),
            locals: HashSet::new(),
            told: Vec::new(),
            heard: HashSet::new(),
            up: false,
        });
        let mut network = Self { now, ends, queue: Vec::new() };
        for end in 0..2 {
            network.add(end, 0);
            network.add(end, 4);
            network.ends[end].driver.set_remote(&credentials[1 - end]);
        }
        network
    }

    /// One end gets an address, a socket's or one outside of it, and tells the other.
    fn add(&mut self, end: usize, byte: u8) {
        let base = address(end, byte);
        let candidate = if byte / 8 % 2 == 0 {
            self.ends[end].locals.insert(base);
            Candidate { kind: CandidateKind::Host, addr: base }
        } else if self.ends[end].locals.contains(&base) {
            let addr = address(end + OUTSIDE, byte % 8 / 4 * 4 + byte / 16 % 4);
            Candidate { kind: CandidateKind::ServerReflexive, addr }
        } else {
            return;
        };
        self.ends[end].driver.add_local(candidate, base);
        self.ends[end].told.push((candidate, base));
        self.ends[1 - end].driver.add_remote(candidate);
    }

    /// Lets the drivers do what is due, and takes what they send and say.
    fn attend(&mut self) {
        for (id, end) in self.ends.iter_mut().enumerate() {
            let calls = (0..MAX_CALLS)
                .take_while(|_| {
                    let due = end.driver.poll_timeout().is_some_and(|at| at <= self.now);
                    if due {
                        end.driver.handle_timeout(self.now);
                    }
                    due
                })
                .count();
            assert!(calls < MAX_CALLS, "the driver goes round and round");
            while let Some(transmit) = end.driver.poll_transmit() {
                assert_eq!(transmit.local.is_ipv4(), transmit.remote.is_ipv4());
                if self.queue.len() < MAX_QUEUE {
                    self.queue.push((1 - id, transmit));
                }
            }
            while let Some(event) = end.driver.poll_event() {
                match event {
                    Event::Selected(path) => {
                        assert!(end.locals.contains(&path.local), "no such socket");
                        assert!(end.heard.contains(&path.remote), "nobody is there");
                        end.up = true;
                    }
                    Event::Stalled => assert!(std::mem::take(&mut end.up)),
                    Event::Gone => assert!(!end.up),
                    Event::Trusted(addr) => assert!(end.heard.contains(&addr)),
                }
            }
        }
    }

    /// A packet of the other end comes as it was sent, though perhaps from another address.
    fn deliver(&mut self, to: usize, transmit: &Transmit, from: SocketAddr) {
        let end = &mut self.ends[to];
        if end.locals.contains(&transmit.remote) {
            end.heard.insert(from);
            end.driver.handle_packet(self.now, transmit.remote, from, &transmit.contents);
        }
    }

    fn act(&mut self, input: &mut Input<'_>) -> Option<()> {
        let what = input.byte()?;
        let end = usize::from(what >> 7);
        let queued = (what % 16 < 7 && !self.queue.is_empty())
            .then(|| input.byte().map(|place| usize::from(place) % self.queue.len()))
            .flatten();
        match (what % 16, queued) {
            (0..3, Some(place)) => {
                let (to, transmit) = self.queue.remove(place);
                self.deliver(to, &transmit, transmit.local);
            }
            (3, Some(place)) => drop(self.queue.remove(place)),
            (4, Some(place)) => {
                let (to, transmit) = self.queue[place].clone();
                self.deliver(to, &transmit, transmit.local);
            }
            (5, Some(place)) => {
                let (to, transmit) = self.queue[place].clone();
                let from = address(STRANGERS, input.byte()?);
                if from.is_ipv4() == transmit.remote.is_ipv4() {
                    self.deliver(to, &transmit, from);
                }
            }
            (6, Some(place)) => {
                let (to, mut transmit) = self.queue[place].clone();
                let (at, bits) = (usize::from(input.byte()?), input.byte()?);
                let at = at % transmit.contents.len();
                transmit.contents[at] ^= bits;
                // What stands behind MESSAGE-INTEGRITY is not authenticated (RFC 8489 section 14.5).
                if bits == 0 || at + 8 >= transmit.contents.len() {
                    self.ends[to].heard.insert(transmit.local);
                }
                let Transmit { local, remote, contents } = transmit;
                self.ends[to].driver.handle_packet(self.now, remote, local, &contents);
            }
            (7..12, _) => self.now += Duration::from_millis(u64::from(input.byte()?) * 8),
            (12, _) => self.add(end, input.byte()?),
            (13, _) => {
                let base = address(end, input.byte()?);
                self.ends[end].locals.remove(&base);
                self.ends[end].told.retain(|(_, known)| *known != base);
                self.ends[end].driver.remove_local(base);
                let told: Vec<_> = self.ends[end].told.iter().map(|(told, _)| *told).collect();
                self.ends[1 - end].driver.set_remote_addresses(&told);
            }
            (14, _) => {
                self.ends[end].driver.set_busy(input.byte()? % 2 == 0);
                self.ends[end].driver.heard(self.now);
            }
            (15, _) => {
                let (local, from) =
                    (address(end, input.byte()?), address(STRANGERS, input.byte()?));
                let length = input.byte()?;
                let bytes = input.bytes(length.into());
                let taken = self.ends[end].driver.handle_packet(self.now, local, from, &bytes);
                assert!(!taken, "a stranger is taken for the peer");
            }
            _ => {}
        }
        Some(())
    }
}

fuzz_target!(|data: &[u8]| {
    let mut network = Network::new();
    let mut input = Input(data);
    network.attend();
    while network.act(&mut input).is_some() {
        network.attend();
    }
});
