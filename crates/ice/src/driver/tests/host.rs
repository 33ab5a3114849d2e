//! A host: what the crate's task does with a driver and a gatherer, and what a test wants to know of it.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::network::SiteId;
use crate::driver::{Driver, Event, Path, Side, Transmit};
use crate::gather::{Gatherer, Mapped};
use crate::{Candidate, CandidateKind, Credentials};

/// [`Event::Selected`] is only true of a pair that has lately been answered on.
const LATELY: Duration = Duration::from_secs(10);

/// What the driver said last of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Searching,
    Up,
    Stalled,
    Gone,
}

pub(super) struct Host {
    pub(super) driver: Driver,
    pub(super) gatherer: Gatherer,
    pub(super) credentials: Credentials,
    pub(super) bases: Vec<(SocketAddr, SiteId)>,
    pub(super) state: State,
    pub(super) events: Vec<(Instant, Event)>,
    /// Calls of `handle_timeout` that the driver wanted.
    pub(super) wakes: u64,
    /// Packets that the driver sent.
    pub(super) sent: u64,
    /// Whether the driver hears of the time whenever anything happens, as in the task, or only when it wants to.
    pub(super) eager: bool,
    /// Whether what was told to the peer is out of date.
    pub(super) news: bool,
    pub(super) next: Option<Instant>,
    /// When the peer's last answer came on each pair.
    pub(super) answers: HashMap<(SocketAddr, SocketAddr), Instant>,
    /// The addresses that packets of the peer came from.
    pub(super) genuine: HashSet<SocketAddr>,
    pub(super) trusted: HashSet<SocketAddr>,
}

impl Host {
    pub(super) fn new(side: Side, eager: bool, now: Instant) -> Self {
        let credentials = Credentials::generate().unwrap();
        Self {
            driver: Driver::new(side, &credentials, now),
            gatherer: Gatherer::default(),
            credentials,
            bases: Vec::new(),
            state: State::Searching,
            events: Vec::new(),
            wakes: 0,
            sent: 0,
            eager,
            news: false,
            next: None,
            answers: HashMap::new(),
            genuine: HashSet::new(),
            trusted: HashSet::new(),
        }
    }

    pub(super) fn site_of(&self, base: SocketAddr) -> Option<SiteId> {
        self.bases.iter().find(|(known, _)| *known == base).map(|(_, site)| *site)
    }

    pub(super) fn add_base(&mut self, base: SocketAddr, site: SiteId, now: Instant) {
        self.bases.push((base, site));
        self.gatherer.add_base(base, now);
        self.driver.add_local(Candidate { kind: CandidateKind::Host, addr: base }, base);
        self.news = true;
    }

    pub(super) fn remove_base(&mut self, base: SocketAddr) {
        self.bases.retain(|(known, _)| *known != base);
        self.gatherer.remove_base(base);
        self.driver.remove_local(base);
        self.news = true;
    }

    /// What the peer is told.
    pub(super) fn candidates(&self) -> Vec<Candidate> {
        let hosts: Vec<_> = self.bases.iter().map(|(base, _)| *base).collect();
        let outside = self.gatherer.outside().map(|(_, outside)| outside);
        let outside: BTreeSet<_> = outside.filter(|addr| !hosts.contains(addr)).collect();
        let hosts = hosts.into_iter().map(|addr| (CandidateKind::Host, addr));
        let outside = outside.into_iter().map(|addr| (CandidateKind::ServerReflexive, addr));
        hosts.chain(outside).map(|(kind, addr)| Candidate { kind, addr }).collect()
    }

    /// Takes what the peer tells of itself, in place of what it told before.
    pub(super) fn set_candidates(&mut self, candidates: &[Candidate]) {
        self.driver.set_remote_addresses(candidates);
    }

    pub(super) fn take_packet(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        contents: &[u8],
    ) -> bool {
        let (answer, mapped) = self.gatherer.handle_packet(now, local, remote, contents);
        if let Some(Mapped { base, outside, .. }) = mapped {
            self.news = true;
            if outside != base {
                let kind = CandidateKind::ServerReflexive;
                self.driver.add_local(Candidate { kind, addr: outside }, base);
            }
        }
        let taken = answer || self.driver.handle_packet(now, local, remote, contents);
        if self.eager {
            self.move_on(now);
        }
        taken
    }

    pub(super) fn wake(&mut self, now: Instant) {
        if self.driver.poll_timeout().is_some_and(|at| at <= now) {
            self.wakes += 1;
        }
        self.move_on(now);
    }

    fn move_on(&mut self, now: Instant) {
        self.gatherer.handle_timeout(now);
        self.driver.handle_timeout(now);
    }

    /// Takes out what there is to send and to say, and holds it against what this host has seen.
    pub(super) fn flush(&mut self, now: Instant) -> Vec<Transmit> {
        let mut transmits: Vec<_> = std::iter::from_fn(|| self.gatherer.poll_transmit()).collect();
        // Their order depends on a hash's randomness.
        transmits.sort_by_key(|transmit| (transmit.local, transmit.remote));
        let before = transmits.len();
        transmits.extend(std::iter::from_fn(|| self.driver.poll_transmit()));
        self.sent += (transmits.len() - before) as u64;
        while let Some(event) = self.driver.poll_event() {
            // Each answer says it again.
            let again = matches!(&event, Event::Trusted(addr) if self.trusted.contains(addr));
            self.check(now, &event);
            if !again {
                self.events.push((now, event));
            }
        }
        let driver = self.driver.poll_timeout();
        let gatherer = self.gatherer.poll_timeout();
        self.next = [driver, gatherer].into_iter().flatten().min();
        transmits
    }

    fn check(&mut self, now: Instant, event: &Event) {
        self.state = match *event {
            Event::Selected(path) => {
                let answer = self.answers.get(&(path.local, path.remote));
                let answer = answer.unwrap_or_else(|| panic!("nothing was answered on {path:?}"));
                let age = now.duration_since(*answer);
                assert!(age < LATELY, "{path:?} was last answered on {age:?} ago");
                assert!(self.site_of(path.local).is_some(), "{path:?} has no socket");
                State::Up
            }
            Event::Stalled => {
                assert_eq!(self.state, State::Up, "before it stalled");
                State::Stalled
            }
            Event::Gone => {
                assert_eq!(self.state, State::Stalled, "before it was gone");
                State::Gone
            }
            Event::Trusted(addr) => {
                assert!(self.genuine.contains(&addr), "{addr} never sent anything");
                self.trusted.insert(addr);
                self.state
            }
        };
    }

    pub(super) fn path(&self) -> Option<Path> {
        self.driver.path().filter(|_| self.state == State::Up)
    }

    /// How often the path has changed since then.
    pub(super) fn selections(&self, since: Instant) -> usize {
        let selected =
            |(at, event): &&(Instant, Event)| *at >= since && matches!(event, Event::Selected(_));
        self.events.iter().filter(selected).count()
    }
}
