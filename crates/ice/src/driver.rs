//! One side of ICE without I/O: packets and time go in, packets, deadlines and the path to use come out.
//!
//! The agent of the crate `is` makes the connectivity checks (RFC 8445): which pairs there are, when each is tried,
//! what authenticates it, and what is learnt from it. Which of the pairs that work carries the data is decided here,
//! from the same checks: QUIC takes packets from any address that a check has proved to be the peer's, so that each side
//! may choose for itself and at any time, and need not wait for a nomination. The agent alone would keep to a dead pair
//! for 15 s (`RECENT_BINDING_REQUEST`), and knows no round-trip times to choose by.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use is::stun::{StunMessage, StunPacket, TransId};
use is::{IceAgent, IceCreds, Protocol};

use crate::{Candidate, CandidateKind, Credentials};

mod pairs;
#[cfg(test)]
mod tests;

use pairs::{Choice, PairKey, Pairs};

/// Between two checks of one agent at least (RFC 8445 section 14.2 asks for 5 ms): a hundred pairs are tried in 1 s.
const PACING: Duration = Duration::from_millis(10);

/// Between the first checks of a pair; doubles with each until the interval of the moment.
const FIRST_INTERVAL: Duration = Duration::from_millis(100);

/// Between the checks of a pair while it is searched for a path, or the path in use has left one unanswered.
const URGENT_INTERVAL: Duration = Duration::from_millis(250);

/// While data flows.
const BUSY_INTERVAL: Duration = Duration::from_millis(500);

/// While nothing does. With what it takes to notice, [`GONE`] comes within 5 s.
const IDLE_INTERVAL: Duration = Duration::from_secs(2);

/// When a search has long been in vain. The peer may have to hear from this side before it can reach it, once it begins.
const WAITING_INTERVAL: Duration = Duration::from_secs(1);

/// For so long after a search has begun it is urgent; who has something to answer does it within a few round trips.
const URGENT_SEARCH: Duration = Duration::from_secs(15);

/// Without an answer from the peer on any pair for so long the path is gone. It is looked for on.
const GONE: Duration = Duration::from_secs(4);

/// All pairs are tried anew this often while a path is looked for urgently: the agent forgets those that fail.
const RETRY: Duration = Duration::from_secs(5);

/// And so often otherwise: what failed may have come to work, and may be better than what is in use. Until then the agent
/// keeps every pair, for [`CHECKS`] at [`WAITING_INTERVAL`].
const RETRY_LATER: Duration = Duration::from_secs(30);

/// A request that is not answered within this never will be.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Checks of a pair without an answer before the agent forgets it.
const CHECKS: usize = 36;

/// Pairs at most. RFC 8445 section 6.1.2.5 names 100 as the default; ten addresses of each side and what NATs make of
/// them are more, and the agent would drop those that lead out of a NAT first.
const MAX_PAIRS: usize = 320;

/// Addresses from which checks are taken although the peer has not told them, until all pairs are tried anew. A NAT that
/// gives every destination another port makes one for each of this side's addresses. Checks can be replayed from any
/// address by whoever has seen one, and cost the agent memory and an answer.
const MAX_UNTOLD: usize = 64;

/// An address that the peer has not told is tried anew if it has answered within this time.
const UNTOLD_LASTS: Duration = Duration::from_secs(60);

/// The type preferences of RFC 8445 section 5.1.2.2.
const HOST_PREFERENCE: u32 = 126;
const PEER_REFLEXIVE_PREFERENCE: u32 = 110;
const SERVER_REFLEXIVE_PREFERENCE: u32 = 100;

/// Which side made the offer. It is the controlling one (RFC 8445 section 6.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that made the offer.
    Offering,
    /// The one that answered it.
    Answering,
}

/// The pair of addresses in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// This side's socket.
    pub local: SocketAddr,
    /// Where packets go to.
    pub remote: SocketAddr,
    /// Through how much translation.
    pub kind: CandidateKind,
    /// How long a check and its answer took of late.
    pub rtt: Duration,
}

impl Path {
    fn key(self) -> PairKey {
        PairKey { local: self.local, remote: self.remote }
    }
}

/// A packet to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// From this socket.
    pub local: SocketAddr,
    /// To this address.
    pub remote: SocketAddr,
    /// A STUN message.
    pub contents: Vec<u8>,
}

/// What a driver has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Data goes this way from here on.
    Selected(Path),
    /// The way in use leads nowhere, and no other is known: what is sent now is lost.
    Stalled,
    /// For some time nothing has been heard from the peer.
    Gone,
    /// Packets from this address are the peer's: a check that was sent there came back, or while there is no path, one has
    /// come from there.
    Trusted(SocketAddr),
}

/// What an agent is made of.
#[derive(Debug)]
struct Known {
    side: Side,
    credentials: Credentials,
    /// The same for all agents of a session (RFC 8445 section 16.1).
    tie_breaker: u64,
    peer: Option<Credentials>,
    /// This side's addresses, each with its socket.
    local: Vec<(Candidate, SocketAddr)>,
    /// Those that the peer has told.
    remote: Vec<Candidate>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Driver {
    known: Known,
    agent: IceAgent,
    /// When the agent last had its turn.
    agent_turn: Option<Instant>,
    pairs: Pairs,
    /// Addresses that the peer has not told and that the present agent knows; sorted, as the agent tries them in order.
    untold: BTreeSet<SocketAddr>,
    /// Requests that are not answered yet.
    pending: HashMap<TransId, (PairKey, Instant)>,
    selected: Option<Path>,
    /// Whether [`Event::Stalled`] was said and no path has been selected since.
    stalled: bool,
    /// The same of [`Event::Gone`].
    gone: bool,
    events: Vec<Event>,
    now: Instant,
    /// Whether a search is to begin with the next turn: only then is the time known.
    begins: bool,
    searching_since: Instant,
    next_retry: Instant,
    interval: Duration,
    busy: bool,
    /// When data last came over the path in use.
    heard: Option<Instant>,
}

impl Known {
    /// An agent that knows all this, and `untold` besides, and has tried nothing.
    fn agent(&self, interval: Duration, untold: &BTreeSet<SocketAddr>) -> IceAgent {
        let mut agent = IceAgent::new(creds(&self.credentials));
        agent.set_controlling(self.side == Side::Offering);
        agent.set_control_tie_breaker(self.tie_breaker);
        agent.set_timing_advance(PACING);
        agent.set_initial_stun_rto(FIRST_INTERVAL);
        agent.set_max_stun_rto(interval);
        agent.set_max_stun_retransmits(CHECKS);
        agent.set_max_candidate_pairs(MAX_PAIRS);
        if let Some(peer) = &self.peer {
            agent.set_remote_credentials(creds(peer));
        }
        for (candidate, base) in &self.local {
            add_local(&mut agent, *candidate, *base);
        }
        let untold =
            untold.iter().map(|addr| Candidate { kind: CandidateKind::PeerReflexive, addr: *addr });
        for candidate in self.remote.iter().copied().chain(untold) {
            add_remote(&mut agent, candidate);
        }
        agent
    }

    fn is_told(&self, addr: SocketAddr) -> bool {
        self.remote.iter().any(|candidate| candidate.addr == addr)
    }

    /// By how much translation the two sides of a pair see each other.
    fn kind(&self, remote: SocketAddr, mapped: SocketAddr) -> CandidateKind {
        let kind = |mut all: Box<dyn Iterator<Item = &Candidate> + '_>, addr: SocketAddr| {
            let found = all.find(|candidate| candidate.addr == addr);
            found.map_or(CandidateKind::PeerReflexive, |candidate| candidate.kind)
        };
        let own = kind(Box::new(self.local.iter().map(|(candidate, _)| candidate)), mapped);
        own.max(kind(Box::new(self.remote.iter()), remote))
    }
}

impl Driver {
    /// A driver that knows no addresses yet.
    pub fn new(side: Side, credentials: &Credentials, now: Instant) -> Self {
        let known = Known {
            side,
            credentials: credentials.clone(),
            // Any number is as good: the roles never conflict.
            tie_breaker: u64::from(side == Side::Offering),
            peer: None,
            local: Vec::new(),
            remote: Vec::new(),
        };
        Self {
            agent: known.agent(URGENT_INTERVAL, &BTreeSet::new()),
            known,
            agent_turn: None,
            pairs: Pairs::default(),
            untold: BTreeSet::new(),
            pending: HashMap::new(),
            selected: None,
            stalled: false,
            gone: false,
            events: Vec::new(),
            now,
            begins: false,
            searching_since: now,
            next_retry: now + RETRY,
            interval: URGENT_INTERVAL,
            busy: false,
            heard: None,
        }
    }

    /// Adds an address of this side: that of a socket, or what a STUN server saw of the socket at `base`.
    pub fn add_local(&mut self, candidate: Candidate, base: SocketAddr) {
        if !self.known.local.contains(&(candidate, base)) {
            self.known.local.push((candidate, base));
            add_local(&mut self.agent, candidate, base);
            self.search();
        }
    }

    /// Forgets a socket that is no more, and everything known through it.
    pub fn remove_local(&mut self, base: SocketAddr) {
        self.known.local.retain(|(_, known)| *known != base);
        self.pairs.retain(|key| key.local != base);
        self.renew();
        self.evaluate();
    }

    /// Takes the peer's credentials. Checks begin with this.
    pub fn set_remote(&mut self, credentials: &Credentials) {
        self.agent.set_remote_credentials(creds(credentials));
        self.known.peer = Some(credentials.clone());
        self.search();
    }

    /// Adds an address that the peer has told.
    pub fn add_remote(&mut self, candidate: Candidate) {
        if !self.known.remote.contains(&candidate) {
            self.known.remote.push(candidate);
            add_remote(&mut self.agent, candidate);
            self.search();
        }
    }

    /// Takes the addresses that the peer has told, in place of those that it told before.
    pub fn set_remote_addresses(&mut self, candidates: &[Candidate]) {
        let fits = |known: &Candidate| candidates.contains(known);
        let taken_back: Vec<_> =
            self.known.remote.iter().filter(|known| !fits(known)).map(|known| known.addr).collect();
        self.known.remote.retain(fits);
        if !taken_back.is_empty() {
            self.pairs.retain(|key| !taken_back.contains(&key.remote));
            self.renew();
        }
        for candidate in candidates {
            self.add_remote(*candidate);
        }
        self.evaluate();
    }

    /// Whether data flows: then a dead path is to be noticed sooner.
    pub fn set_busy(&mut self, busy: bool) {
        self.busy = busy;
    }

    /// Data has come over the path in use.
    pub fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// The path in use.
    pub fn path(&self) -> Option<Path> {
        self.selected
    }

    /// Takes a packet that came to the socket at `local`; tells whether it was the peer's.
    pub fn handle_packet(
        &mut self,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        packet: &[u8],
    ) -> bool {
        self.now = self.now.max(now);
        let Ok(message) = StunMessage::parse(packet) else { return false };
        let untold = !self.known.is_told(remote) && !self.untold.contains(&remote);
        if untold && self.untold.len() >= MAX_UNTOLD {
            return false;
        }
        let answer = message
            .is_successful_binding_response()
            .then(|| (message.trans_id(), message.mapped_address()));
        let is_request = message.is_binding_request();
        let packet =
            StunPacket { proto: Protocol::Udp, source: remote, destination: local, message };
        if !self.agent.handle_packet(self.now, packet) {
            return false;
        }
        if untold {
            self.untold.insert(remote);
        }
        let key = PairKey { local, remote };
        if let Some((id, Some(mapped))) = answer
            // An answer from elsewhere says nothing of the pair (RFC 8445 section 7.2.5.2.1).
            && let Some((_, sent)) = self.pending.get(&id).copied().filter(|(asked, _)| *asked == key)
        {
            self.pending.remove(&id);
            self.pairs.answered(key, sent, self.now, mapped);
            self.events.push(Event::Trusted(remote));
        }
        if is_request && !self.is_connected() {
            // Its data may come before the answer to this side's check does. Who replays the check of another one gains
            // nothing that the handshake would not refuse.
            self.events.push(Event::Trusted(remote));
            if !self.is_urgent() {
                // The peer has begun to look, and a check of this side's lets its own through (RFC 8445 section 7.3.1.4).
                self.search();
            }
        }
        // What the agent has to say is said of pairs that are not chosen by.
        while self.agent.poll_event().is_some() {}
        self.evaluate();
        true
    }

    /// Moves time on. To be called at [`Driver::poll_timeout`], any other time does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = self.now.max(now);
        let limit = self.now.checked_sub(ANSWER_LIMIT);
        self.pending.retain(|_, (_, sent)| limit.is_none_or(|limit| *sent > limit));
        if std::mem::take(&mut self.begins) {
            self.searching_since = self.now;
            self.next_retry = self.next_retry.min(self.now + RETRY);
            self.pace();
        }
        if self.now >= self.retry_at() && self.known.peer.is_some() {
            self.renew();
        }
        if self.agent_turn.is_none_or(|turn| self.now >= turn + PACING) {
            self.agent_turn = Some(self.now);
            self.agent.handle_timeout(self.now);
        }
        while self.agent.poll_event().is_some() {}
        self.evaluate();
    }

    /// When everything is to be tried anew. Not while a check of the path in use is on its way, which would count as lost;
    /// where one always is, it has to be borne.
    fn retry_at(&self) -> Instant {
        let waits = |path: Path| self.is_connected() && self.pairs.is_asked(path.key());
        let patience = if self.selected.is_some_and(waits) { RETRY_LATER } else { Duration::ZERO };
        self.next_retry + patience
    }

    fn is_connected(&self) -> bool {
        self.selected.is_some() && !self.stalled
    }

    fn is_urgent(&self) -> bool {
        self.now.saturating_duration_since(self.searching_since) < URGENT_SEARCH
    }

    /// Tries everything anew, with an agent that remembers no more than is of use: the library's forgets no address.
    fn renew(&mut self) {
        let since = self.now.checked_sub(UNTOLD_LASTS);
        let known = &self.known;
        let lasting = self.pairs.answering_since(since).filter(|addr| !known.is_told(*addr));
        self.untold = lasting.take(MAX_UNTOLD / 2).collect();
        self.agent = known.agent(self.interval, &self.untold);
        self.pending.clear();
        let urgent = !self.is_connected() && self.is_urgent();
        self.next_retry = self.now + if urgent { RETRY } else { RETRY_LATER };
    }

    /// When [`Driver::handle_timeout`] wants to be called.
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        self.known.peer.as_ref()?;
        if self.begins {
            return Some(self.now);
        }
        let turn = self.agent_turn.map_or(self.now, |turn| turn + PACING);
        let agent = self.agent.poll_timeout().map_or(turn, |agent| agent.max(turn));
        let retry = self.retry_at().max(self.now + PACING);
        let silence = self.silence_ends();
        Some(silence.map_or(agent, |silence| agent.min(silence)).min(retry))
    }

    /// The next packet to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        let transmit = self.agent.poll_transmit()?;
        let (local, remote) = (transmit.source, transmit.destination);
        if let Ok(message) = StunMessage::parse(&transmit.contents)
            && message.is_binding_request()
        {
            let key = PairKey { local, remote };
            self.pending.insert(message.trans_id(), (key, self.now));
            self.pairs.asked(key, self.now);
        }
        Some(Transmit { local, remote, contents: transmit.contents.to_vec() })
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        (!self.events.is_empty()).then(|| self.events.remove(0))
    }

    /// There is something new to try. The agent looks at all pairs again when the pace changes, and only then.
    fn search(&mut self) {
        self.begins = true;
        self.evaluate();
    }

    /// When what has not been answered becomes news.
    fn silence_ends(&self) -> Option<Instant> {
        let path = self.selected.filter(|_| !self.gone)?;
        let news = self.pairs.next_news(path.key(), self.now);
        let gone = self.pairs.last_answer().map(|last| last + GONE).filter(|_| self.stalled);
        // The moment itself is already too late for the comparison that follows it.
        let later = |at: Instant| at.max(self.now + PACING);
        match (news, gone) {
            (Some(news), Some(gone)) => Some(later(news.min(gone))),
            (news, gone) => news.or(gone).map(later),
        }
    }

    /// Chooses the path and the pace of the checks.
    fn evaluate(&mut self) {
        let selected = self.selected.map(Path::key);
        let kind = |key: PairKey, mapped: SocketAddr| self.known.kind(key.remote, mapped);
        match self.pairs.choose(selected, self.heard, self.now, kind) {
            Some(Choice { key, kind, rtt, .. }) => {
                let path = Path { local: key.local, remote: key.remote, kind, rtt };
                let same = self.selected.is_some_and(|selected| {
                    (selected.local, selected.remote, selected.kind)
                        == (path.local, path.remote, kind)
                });
                if !same || self.stalled {
                    self.events.push(Event::Selected(path));
                    self.next_retry = self.now + RETRY_LATER;
                }
                self.selected = Some(path);
                (self.stalled, self.gone) = (false, false);
            }
            None => {
                if self.selected.is_some() && !self.stalled {
                    self.stalled = true;
                    self.searching_since = self.now;
                    self.next_retry = self.now;
                    self.events.push(Event::Stalled);
                }
                let silent = self.pairs.last_answer().is_none_or(|last| self.now >= last + GONE);
                if self.stalled && !self.gone && silent {
                    self.gone = true;
                    self.events.push(Event::Gone);
                }
            }
        }
        self.pace();
    }

    fn pace(&mut self) {
        let interval = if !self.is_connected() {
            if self.is_urgent() { URGENT_INTERVAL } else { WAITING_INTERVAL }
        } else if self.is_suspect() {
            URGENT_INTERVAL
        } else if self.busy {
            BUSY_INTERVAL
        } else {
            IDLE_INTERVAL
        };
        if interval != self.interval {
            self.interval = interval;
            self.agent.set_max_stun_rto(interval);
        }
    }

    fn is_suspect(&self) -> bool {
        self.selected.is_some_and(|path| self.pairs.is_suspect(path.key(), self.now))
    }
}

fn add_local(agent: &mut IceAgent, candidate: Candidate, base: SocketAddr) {
    let made = match candidate.kind {
        CandidateKind::Host => is::Candidate::host(candidate.addr, Protocol::Udp),
        CandidateKind::ServerReflexive | CandidateKind::PeerReflexive => {
            is::Candidate::server_reflexive(candidate.addr, base, Protocol::Udp)
        }
    };
    // An address that the library does not take cannot be used.
    if let Ok(made) = made {
        agent.add_local_candidate(made);
    }
}

fn add_remote(agent: &mut IceAgent, candidate: Candidate) {
    let (kind, preference) = match candidate.kind {
        CandidateKind::Host => (is::CandidateKind::Host, HOST_PREFERENCE),
        CandidateKind::ServerReflexive => {
            (is::CandidateKind::ServerReflexive, SERVER_REFLEXIVE_PREFERENCE)
        }
        CandidateKind::PeerReflexive => {
            (is::CandidateKind::PeerReflexive, PEER_REFLEXIVE_PREFERENCE)
        }
    };
    // The addresses of one kind need not be told apart by preference: round-trip times decide between them.
    let local_preference = u32::from(u16::MAX) - u32::from(candidate.addr.is_ipv4());
    let priority = (preference << 24) | (local_preference << 8) | 255;
    let foundation = format!("{preference}{}", u8::from(candidate.addr.is_ipv4()));
    agent.add_remote_candidate(is::Candidate::from_parts(
        foundation,
        1,
        Protocol::Udp,
        priority,
        candidate.addr,
        kind,
        None,
        None,
        None,
    ));
}

fn creds(credentials: &Credentials) -> IceCreds {
    IceCreds { ufrag: credentials.ufrag(), pass: credentials.password() }
}
