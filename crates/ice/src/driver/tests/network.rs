//! A simulated internet: networks behind NATs, the links between them, STUN servers, and two hosts. Time is virtual, and
//! all chance comes from a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{Message, MessageWrite, MessageWriteExt, MessageWriteVec};

use super::host::{Host, State};
use super::nat::{Nat, NatKind};
use crate::Candidate;
use crate::driver::{Side, Transmit};

/// Which of the two hosts: the offering or the answering one.
pub(super) type HostId = usize;
pub(super) const A: HostId = 0;
pub(super) const B: HostId = 1;

/// A network.
pub(super) type SiteId = usize;

/// The one that the STUN servers are in.
pub(super) const BACKBONE: SiteId = 0;

/// For so long the hosts wait for the STUN servers before they tell each other their addresses.
const GATHERING: Duration = Duration::from_secs(1);

/// What the hosts tell each other inside the session takes so long.
const UPDATE_DELAY: Duration = Duration::from_millis(50);

/// A host that wants to be called more often does not let time go by.
const MAX_WAKES: u64 = 2_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    Both,
}

impl Family {
    pub(super) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Both];

    pub(super) fn has_v4(self) -> bool {
        self != Self::V6
    }

    pub(super) fn has_v6(self) -> bool {
        self != Self::V4
    }
}

/// What happens to packets between two networks, in either direction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) delay: Duration,
    /// At most so much is added to the delay, so that packets overtake each other.
    pub(super) jitter: Duration,
    /// The share of packets that are lost.
    pub(super) loss: f64,
    /// The share that arrives twice.
    pub(super) duplication: f64,
    pub(super) up: bool,
}

impl Link {
    /// One whose packets take so long, and are otherwise left alone.
    pub(super) fn ms(delay: u64) -> Self {
        let delay = Duration::from_millis(delay);
        Self { delay, jitter: Duration::ZERO, loss: 0.0, duplication: 0.0, up: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Arrival {
    /// A packet at the edge of a network.
    Packet { site: SiteId, from: SocketAddr, to: SocketAddr, contents: Vec<u8> },
    /// A packet of a neighbour.
    Local { site: SiteId, from: SocketAddr, to: SocketAddr, contents: Vec<u8> },
    /// What a host tells the other one inside the session.
    Update { to: HostId, candidates: Vec<Candidate> },
}

pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) start: Instant,
    pub(super) rng: Rng,
    pub(super) hosts: [Host; 2],
    pub(super) sites: Vec<Nat>,
    links: HashMap<(SiteId, SiteId), Link>,
    default_link: Link,
    attached: HashMap<(SiteId, SocketAddr), HostId>,
    arrivals: BinaryHeap<Reverse<(Instant, u64, Arrival)>>,
    sequence: u64,
    /// Packets of the hosts as they were delivered lately, for those who listen.
    pub(super) heard: Vec<Heard>,
    /// How often the hosts have sent to each address.
    pub(super) sent_to: HashMap<SocketAddr, u64>,
    /// Where a copy of each answer comes from, ahead of it.
    pub(super) copy_answers_from: Option<SocketAddr>,
    /// Whether hosts are called some time after they want to be, or at that very moment.
    late_timers: bool,
    wakes: (Instant, u64),
    seed: u64,
    title: String,
}

/// A packet of one host that was delivered to the other.
#[derive(Clone, Debug)]
pub(super) struct Heard {
    pub(super) to: HostId,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) contents: Vec<u8>,
}

impl Drop for Network {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: seed {}, after {:?}", self.title, self.seed, self.elapsed());
            for (host, name) in self.hosts.iter().zip(["offering", "answering"]) {
                eprintln!("the {name} side is at {:?}", host.candidates());
                for (at, event) in host.events.iter().rev().take(12).rev() {
                    eprintln!("  {:?} {event:?}", at.duration_since(self.start));
                }
            }
        }
    }
}

impl Network {
    pub(super) fn new(title: impl Into<String>, seed: u64) -> Self {
        let now = Instant::now();
        let mut rng = Rng::with_seed(seed);
        let (eager, late_timers) = (rng.bool(), rng.bool());
        let host = |side| {
            let mut host = Host::new(side, eager, now);
            for server in stun_servers() {
                host.gatherer.add_server(server, now);
            }
            host
        };
        let mut network = Self {
            now,
            start: now,
            hosts: [host(Side::Offering), host(Side::Answering)],
            rng,
            sites: Vec::new(),
            links: HashMap::new(),
            default_link: Link::ms(20),
            attached: HashMap::new(),
            arrivals: BinaryHeap::new(),
            sequence: 0,
            heard: Vec::new(),
            sent_to: HashMap::new(),
            copy_answers_from: None,
            late_timers,
            wakes: (now, 0),
            seed,
            title: title.into(),
        };
        network.add_site(NatKind::None);
        network
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now.duration_since(self.start)
    }

    pub(super) fn add_site(&mut self, kind: NatKind) -> SiteId {
        let id = self.sites.len();
        self.sites.push(Nat::new(kind, IpAddr::V4(Ipv4Addr::new(203, 0, id as u8, 1))));
        id
    }

    /// Opens sockets on an interface of the host in this network.
    pub(super) fn attach(&mut self, host: HostId, site: SiteId, family: Family) {
        let interface = self.hosts[host].bases.iter().filter(|(_, known)| *known != site).count();
        let last = 10 + host as u8;
        if family.has_v4() {
            // Networks behind NATs all use the same addresses.
            let ip = match self.sites[site].kind {
                NatKind::None => Ipv4Addr::new(203, 0, site as u8, last),
                _ => Ipv4Addr::new(192, 168, 1 + interface as u8, 10),
            };
            self.attach_address(host, site, ip.into());
        }
        if family.has_v6() {
            let ip = Ipv6Addr::new(0x2001, 0xdb8, site as u16, 0, 0, 0, 0, last.into());
            self.attach_address(host, site, ip.into());
        }
    }

    pub(super) fn attach_address(&mut self, host: HostId, site: SiteId, ip: IpAddr) {
        let base = SocketAddr::new(ip, self.rng.u16(1024..));
        self.attached.insert((site, base), host);
        self.hosts[host].add_base(base, site, self.now);
        self.attend(host);
    }

    /// Closes the host's sockets in this network.
    pub(super) fn detach(&mut self, host: HostId, site: SiteId) {
        let bases = self.hosts[host].bases.clone();
        for (base, _) in bases.into_iter().filter(|(_, known)| *known == site) {
            self.attached.remove(&(site, base));
            self.hosts[host].remove_base(base);
        }
        self.attend(host);
    }

    pub(super) fn link(&mut self, a: SiteId, b: SiteId) -> &mut Link {
        self.links.entry((a.min(b), a.max(b))).or_insert(self.default_link)
    }

    /// Changes all links, of the present and of the future.
    pub(super) fn all_links(&mut self, mut change: impl FnMut(&mut Link)) {
        change(&mut self.default_link);
        self.links.values_mut().for_each(change);
    }

    pub(super) fn cut(&mut self, a: SiteId, b: SiteId) {
        self.link(a, b).up = false;
    }

    pub(super) fn restore(&mut self, a: SiteId, b: SiteId) {
        self.link(a, b).up = true;
    }

    /// Lets both hosts learn their addresses and tell each other; the answer arrives so long after it was made.
    pub(super) fn introduce(&mut self, answer_delay: Duration) {
        let limit = self.now + GATHERING;
        let settled = |network: &Self| network.hosts.iter().all(|host| host.gatherer.is_settled());
        self.run_while(limit, |network| !settled(network));
        self.tell(A, B);
        self.run(answer_delay);
        self.tell(B, A);
    }

    /// One host's description reaches the other.
    pub(super) fn tell(&mut self, from: HostId, to: HostId) {
        let (credentials, candidates) =
            (self.hosts[from].credentials.clone(), self.hosts[from].candidates());
        self.hosts[from].news = false;
        self.hosts[to].driver.set_remote(&credentials);
        for candidate in candidates {
            self.hosts[to].driver.add_remote(candidate);
        }
        if self.hosts[to].eager {
            self.hosts[to].wake(self.now);
        }
        self.attend(to);
    }

    pub(super) fn set_busy(&mut self, busy: bool) {
        for id in [A, B] {
            self.hosts[id].driver.set_busy(busy);
            self.attend(id);
        }
    }

    pub(super) fn both_are(&self, state: State) -> bool {
        self.hosts.iter().all(|host| host.state == state)
    }

    /// Lets so much time go by.
    pub(super) fn run(&mut self, time: Duration) {
        self.run_while(self.now + time, |_| true);
    }

    /// Lets time go by until this is so; tells how long it took, or none if it was not so within the limit.
    pub(super) fn run_until(
        &mut self,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Option<Duration> {
        let began = self.now;
        self.run_while(self.now + limit, |network| !done(network));
        done(self).then(|| self.now.duration_since(began))
    }

    fn run_while(&mut self, end: Instant, condition: impl Fn(&Self) -> bool) {
        while condition(self) && self.step(end) {}
    }

    /// Goes on to the next thing that happens before `end`, or to `end`.
    pub(super) fn step(&mut self, end: Instant) -> bool {
        let wake = |id: HostId| self.hosts[id].next.map(|at| (at, id));
        let wake = [A, B].into_iter().filter_map(wake).min();
        let arrival = self.arrivals.peek().map(|Reverse((at, ..))| *at);
        let next = [wake.map(|(at, _)| at), arrival].into_iter().flatten().min();
        let Some(next) = next.filter(|next| *next < end) else {
            self.now = self.now.max(end);
            return false;
        };
        self.now = self.now.max(next);
        match wake {
            Some((at, id)) if at == next => {
                if self.late_timers {
                    self.now += Duration::from_micros(self.rng.u64(0..2_000));
                }
                self.count_wake();
                self.hosts[id].wake(self.now);
                self.attend(id);
            }
            _ => {
                if let Some(Reverse((.., arrival))) = self.arrivals.pop() {
                    self.arrive(arrival);
                }
            }
        }
        true
    }

    fn count_wake(&mut self) {
        if self.now.duration_since(self.wakes.0) > Duration::from_secs(1) {
            self.wakes = (self.now, 0);
        }
        self.wakes.1 += 1;
        assert!(self.wakes.1 < MAX_WAKES, "the hosts go round and round");
    }

    /// Sends what a host has to send.
    pub(super) fn attend(&mut self, id: HostId) {
        for transmit in self.hosts[id].flush(self.now) {
            self.send(id, transmit);
        }
        let other = 1 - id;
        let up = self.both_are(State::Up);
        for (id, other) in [(id, other), (other, id)] {
            if up && self.hosts[id].news {
                self.hosts[id].news = false;
                let candidates = self.hosts[id].candidates();
                self.schedule(UPDATE_DELAY, Arrival::Update { to: other, candidates });
            }
        }
    }

    fn schedule(&mut self, delay: Duration, arrival: Arrival) {
        self.sequence += 1;
        self.arrivals.push(Reverse((self.now + delay, self.sequence, arrival)));
    }

    fn send(&mut self, id: HostId, Transmit { local, remote, contents }: Transmit) {
        assert_eq!(
            local.is_ipv4(),
            remote.is_ipv4(),
            "a socket of one family is asked for the other"
        );
        let site = self.hosts[id].site_of(local);
        let site = site.unwrap_or_else(|| panic!("{local} is closed and sends"));
        *self.sent_to.entry(remote).or_default() += 1;
        if self.attached.contains_key(&(site, remote)) {
            let arrival = Arrival::Local { site, from: local, to: remote, contents };
            return self.carry(site, site, arrival);
        }
        let from = self.sites[site].outbound(local, remote, self.now, &mut self.rng);
        let to_site = self.site_at(remote.ip());
        // No router sends back in what came from inside.
        if let (Some(from), Some(to_site)) = (from, to_site)
            && to_site != site
        {
            let arrival = Arrival::Packet { site: to_site, from, to: remote, contents };
            self.carry(site, to_site, arrival);
        }
    }

    /// The network that a public address belongs to.
    pub(super) fn site_at(&self, ip: IpAddr) -> Option<SiteId> {
        let site = match ip {
            IpAddr::V4(ip) => match ip.octets() {
                [203, 0, site, _] => site.into(),
                _ => return None,
            },
            IpAddr::V6(ip) => ip.segments()[2].into(),
        };
        (site < self.sites.len()).then_some(site)
    }

    fn carry(&mut self, a: SiteId, b: SiteId, arrival: Arrival) {
        let link = *self.link(a, b);
        if !link.up {
            return;
        }
        let copies = 1 + usize::from(self.rng.f64() < link.duplication);
        for _ in 0..copies {
            if self.rng.f64() >= link.loss {
                let delay = link.delay + link.jitter.mul_f64(self.rng.f64());
                self.schedule(delay, arrival.clone());
            }
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Packet { site: BACKBONE, from, to, contents } => {
                if stun_servers().contains(&to)
                    && let (Some(contents), Some(site)) =
                        (stun_answer(from, &contents), self.site_at(from.ip()))
                {
                    let answer = Arrival::Packet { site, from: to, to: from, contents };
                    self.carry(BACKBONE, site, answer);
                }
            }
            Arrival::Packet { site, from, to, contents } => {
                if let Some(inside) = self.sites[site].inbound(to, from, self.now) {
                    self.deliver(site, inside, from, contents);
                }
            }
            Arrival::Local { site, from, to, contents } => self.deliver(site, to, from, contents),
            Arrival::Update { to, candidates } => {
                if self.both_are(State::Up) {
                    self.hosts[to].set_candidates(&candidates);
                    if self.hosts[to].eager {
                        self.hosts[to].wake(self.now);
                    }
                    self.attend(to);
                } else {
                    self.hosts[1 - to].news = true;
                }
            }
        }
    }

    fn deliver(&mut self, site: SiteId, local: SocketAddr, remote: SocketAddr, contents: Vec<u8>) {
        let Some(&id) = self.attached.get(&(site, local)) else { return };
        let host = &mut self.hosts[id];
        if !stun_servers().contains(&remote) {
            host.genuine.insert(remote);
            if is_answer(&contents) {
                host.answers.insert((local, remote), self.now);
            }
            let heard = Heard { to: id, local, remote, contents: contents.clone() };
            self.heard.push(heard);
            if self.heard.len() > 64 {
                self.heard.remove(0);
            }
        }
        if let Some(elsewhere) = self.copy_answers_from
            && is_answer(&contents)
        {
            host.genuine.insert(elsewhere);
            host.take_packet(self.now, local, elsewhere, &contents);
        }
        host.take_packet(self.now, local, remote, &contents);
        self.attend(id);
    }

    /// A packet that neither host sent; tells whether it was taken for one of the peer's.
    pub(super) fn inject(&mut self, forged: &Heard) -> bool {
        let Heard { to, local, remote, contents } = forged;
        let taken = self.hosts[*to].take_packet(self.now, *local, *remote, contents);
        self.attend(*to);
        taken
    }
}

/// Two servers with two addresses each.
pub(super) fn stun_servers() -> [SocketAddr; 4] {
    let v4 = |last| SocketAddr::new(Ipv4Addr::new(203, 0, BACKBONE as u8, last).into(), 3478);
    let v6 = |last| {
        let ip = Ipv6Addr::new(0x2001, 0xdb8, BACKBONE as u16, 0, 0, 0, 0, last);
        SocketAddr::new(ip.into(), 3478)
    };
    [v4(11), v4(12), v6(11), v6(12)]
}

fn stun_answer(from: SocketAddr, question: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_bytes(question).ok()?;
    let mut answer = Message::builder_success(&question, MessageWriteVec::new());
    let mapped = XorMappedAddress::new(from, question.transaction_id());
    answer.add_attribute(&mapped).ok()?;
    answer.add_fingerprint().ok()?;
    Some(answer.finish())
}

/// Whether it is a binding success response (RFC 8489 section 5).
pub(super) fn is_answer(contents: &[u8]) -> bool {
    contents.starts_with(&[1, 1])
}
