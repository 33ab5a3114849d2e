//! What this side looks like from outside, without I/O: STUN servers are asked from each socket (RFC 8489), and asked
//! again so that the mappings last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stun_types::attribute::XorMappedAddress;
use stun_types::message::{
    BINDING, Message, MessageClass, MessageWrite, MessageWriteExt, MessageWriteVec, TransactionId,
};

use crate::Mapping;
use crate::driver::Transmit;

/// Between the first question and its repetition; doubles each time. RFC 8489 section 6.2.1 asks for 500 ms where nothing
/// is known of the network; but several servers are asked at once, and gathering is not to wait for a lost packet.
const REPEAT: Duration = Duration::from_millis(200);

/// Questions until a server counts as silent: the last one leaves after 3 s.
const QUESTIONS: u32 = 5;

/// Between questions once a server has answered, or has proved silent. NATs keep a mapping for 30 s and more (RFC 4787
/// section 4.3 asks for 2 minutes, and lists shorter ones).
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How a server sees a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    /// The socket.
    pub(crate) base: SocketAddr,
    /// Its address on the outside.
    pub(crate) outside: SocketAddr,
    /// The one that the same server saw before.
    pub(crate) before: Option<SocketAddr>,
}

#[derive(Debug)]
struct Question {
    id: TransactionId,
    asked: u32,
    next: Instant,
    outside: Option<SocketAddr>,
    /// Whether it was ever answered, or asked often enough to be called silent.
    settled: bool,
}

impl Question {
    fn rests(&self, resting: bool) -> bool {
        resting && self.settled && self.asked == 0
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Gatherer {
    servers: Vec<SocketAddr>,
    bases: Vec<SocketAddr>,
    /// By socket and server.
    questions: HashMap<(SocketAddr, SocketAddr), Question>,
    /// Whether settled questions rest: a path is in use, whose own checks keep its mapping.
    resting: bool,
    transmits: Vec<Transmit>,
}

impl Gatherer {
    /// Asks from this socket, too.
    pub(crate) fn add_base(&mut self, base: SocketAddr, now: Instant) {
        self.bases.push(base);
        for server in self.servers.clone() {
            self.begin(base, server, now);
        }
    }

    /// Forgets a socket.
    pub(crate) fn remove_base(&mut self, base: SocketAddr) {
        self.bases.retain(|known| *known != base);
        self.questions.retain(|(known, _), _| *known != base);
    }

    /// Asks this server, too.
    pub(crate) fn add_server(&mut self, server: SocketAddr, now: Instant) {
        if self.servers.contains(&server) {
            return;
        }
        self.servers.push(server);
        for base in self.bases.clone() {
            self.begin(base, server, now);
        }
    }

    /// Lets questions rest that have been settled, or asks them all again at once.
    pub(crate) fn set_resting(&mut self, resting: bool, now: Instant) {
        if self.resting && !resting {
            for question in self.questions.values_mut() {
                question.next = question.next.min(now);
            }
        }
        self.resting = resting;
    }

    fn begin(&mut self, base: SocketAddr, server: SocketAddr, now: Instant) {
        // From loopback nothing outside can be asked.
        if base.is_ipv4() == server.is_ipv4()
            && base.ip().is_loopback() == server.ip().is_loopback()
        {
            let id = TransactionId::generate();
            let question = Question { id, asked: 0, next: now, outside: None, settled: false };
            self.questions.insert((base, server), question);
        }
    }

    /// Whether every server has answered every socket or will not.
    pub(crate) fn is_settled(&self) -> bool {
        self.questions.values().all(|question| question.settled)
    }

    /// Takes a message that came to the socket at `base`; tells whether it answers a question, and what there is to learn.
    pub(crate) fn handle_packet(
        &mut self,
        now: Instant,
        base: SocketAddr,
        server: SocketAddr,
        packet: &[u8],
    ) -> (bool, Option<Mapped>) {
        let Some(question) = self.questions.get_mut(&(base, server)) else { return (false, None) };
        let Ok(message) = Message::from_bytes(packet) else { return (false, None) };
        if message.transaction_id() != question.id || !message.is_response() {
            return (false, None);
        }
        question.settled = true;
        question.asked = 0;
        question.next = now + KEEP_ALIVE;
        question.id = TransactionId::generate();
        if !message.has_class(MessageClass::Success) || !message.has_method(BINDING) {
            return (true, None);
        }
        let Ok(attribute) = message.attribute::<XorMappedAddress>() else { return (true, None) };
        let outside = attribute.addr(message.transaction_id());
        if outside.is_ipv4() != base.is_ipv4() || outside.port() == 0 {
            return (true, None);
        }
        let before = question.outside.replace(outside);
        (true, (before != Some(outside)).then_some(Mapped { base, outside, before }))
    }

    /// Moves time on.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for ((base, server), question) in &mut self.questions {
            if question.rests(self.resting) || now < question.next {
                continue;
            }
            if question.asked >= QUESTIONS {
                question.settled = true;
                question.asked = 0;
                question.id = TransactionId::generate();
                question.next = now + KEEP_ALIVE;
                continue;
            }
            question.next = now + REPEAT * (1 << question.asked);
            question.asked += 1;
            let contents = request(question.id);
            self.transmits.push(Transmit { local: *base, remote: *server, contents });
        }
    }

    /// When [`Gatherer::handle_timeout`] wants to be called.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let awake = self.questions.values().filter(|question| !question.rests(self.resting));
        awake.map(|question| question.next).min()
    }

    /// The next packet to send.
    pub(crate) fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop()
    }

    /// The addresses that servers see at the moment, with the sockets behind them.
    pub(crate) fn outside(&self) -> impl Iterator<Item = (SocketAddr, SocketAddr)> {
        self.questions.iter().filter_map(|((base, _), question)| Some((*base, question.outside?)))
    }

    /// What the answers say of the way out over IPv4 (`true`) or IPv6.
    pub(crate) fn mapping(&self, v4: bool) -> Mapping {
        let asked: Vec<_> =
            self.questions.iter().filter(|((base, _), _)| base.is_ipv4() == v4).collect();
        if asked.is_empty() {
            return Mapping::NotAsked;
        }
        let seen = |base: SocketAddr| {
            let of_base = asked.iter().filter(move |((other, _), _)| *other == base);
            of_base.filter_map(|(_, question)| question.outside).collect::<Vec<_>>()
        };
        let judge = |base: &SocketAddr| match &seen(*base)[..] {
            [] => Mapping::NoAnswer,
            all if all.iter().all(|outside| outside == base) => Mapping::NoNat,
            [_] => Mapping::Unknown,
            [first, rest @ ..] if rest.iter().all(|outside| outside == first) => {
                Mapping::Independent
            }
            _ => Mapping::Dependent,
        };
        let bases = self.bases.iter().filter(|base| base.is_ipv4() == v4);
        // The way out that lets most through is the one that will be used.
        let favour = |mapping: &Mapping| match mapping {
            Mapping::NoNat => 5,
            Mapping::Independent => 4,
            Mapping::Unknown => 3,
            Mapping::Dependent => 2,
            Mapping::NoAnswer => 1,
            Mapping::NotAsked => 0,
        };
        bases.map(judge).max_by_key(favour).unwrap_or(Mapping::NotAsked)
    }
}

fn request(id: TransactionId) -> Vec<u8> {
    let mut message = Message::builder(
        stun_types::message::MessageType::from_class_method(MessageClass::Request, BINDING),
        id,
        MessageWriteVec::new(),
    );
    // Shows a server behind a demultiplexer that it is STUN (RFC 8489 section 14.7).
    let _ = message.add_fingerprint();
    message.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use stun_types::attribute::Fingerprint;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    const BASE: &str = "192.168.1.2:5000";
    const OUTSIDE: &str = "203.0.113.7:6000";
    const FIRST: &str = "198.51.100.1:3478";
    const SECOND: &str = "198.51.100.2:3478";

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn gatherer(bases: &[&str], servers: &[&str], now: Instant) -> Gatherer {
        let mut gatherer = Gatherer::default();
        bases.iter().for_each(|base| gatherer.add_base(addr(base), now));
        servers.iter().for_each(|server| gatherer.add_server(addr(server), now));
        gatherer
    }

    /// What is asked at this moment.
    fn asked(gatherer: &mut Gatherer, now: Instant) -> Vec<Transmit> {
        gatherer.handle_timeout(now);
        assert!(gatherer.poll_timeout().is_none_or(|next| next > now), "it wants to be called on");
        std::iter::from_fn(|| gatherer.poll_transmit()).collect()
    }

    /// What a server answers to whom it sees as `outside`.
    fn answer(question: &Transmit, outside: SocketAddr) -> Vec<u8> {
        let question = Message::from_bytes(&question.contents).unwrap();
        assert!(question.has_class(MessageClass::Request) && question.has_method(BINDING));
        assert!(question.attribute::<Fingerprint>().is_ok());
        let mut answer = Message::builder_success(&question, MessageWriteVec::new());
        let mapped = XorMappedAddress::new(outside, question.transaction_id());
        answer.add_attribute(&mapped).unwrap();
        answer.finish()
    }

    fn take(
        gatherer: &mut Gatherer,
        now: Instant,
        to: &Transmit,
        packet: &[u8],
    ) -> (bool, Option<Mapped>) {
        gatherer.handle_packet(now, to.local, to.remote, packet)
    }

    /// Every question of this moment is answered with what `see` says of it.
    fn serve(
        gatherer: &mut Gatherer,
        now: Instant,
        see: impl Fn(&Transmit) -> Option<SocketAddr>,
    ) -> Vec<Mapped> {
        let questions = asked(gatherer, now);
        let answered = questions.iter().filter_map(|question| {
            let packet = answer(question, see(question)?);
            let (answers, mapped) = take(gatherer, now + 20 * MS, question, &packet);
            assert!(answers);
            mapped
        });
        answered.collect()
    }

    #[test]
    fn server_tells_the_outer_address() {
        let now = Instant::now();
        let mut gatherer = gatherer(&[BASE], &[FIRST], now);
        assert!(!gatherer.is_settled());
        let mapped = serve(&mut gatherer, now, |_| Some(addr(OUTSIDE)));
        let expected = Mapped { base: addr(BASE), outside: addr(OUTSIDE), before: None };
        assert_eq!(mapped, [expected]);
        assert!(gatherer.is_settled());
        assert_eq!(gatherer.outside().collect::<Vec<_>>(), [(addr(BASE), addr(OUTSIDE))]);
    }

    #[test]
    fn silent_server_is_asked_five_times() {
        let start = Instant::now();
        let mut gatherer = gatherer(&[BASE], &[FIRST], start);
        let mut times = Vec::new();
        let mut now = start;
        while !gatherer.is_settled() {
            let questions = asked(&mut gatherer, now);
            times.extend(questions.iter().map(|_| now.duration_since(start).as_millis()));
            now = gatherer.poll_timeout().unwrap();
        }
        assert_eq!(times, [0, 200, 600, 1_400, 3_000]);
        // It is not forgotten.
        assert_eq!(asked(&mut gatherer, now - MS), []);
        assert_eq!(asked(&mut gatherer, now).len(), 1);
        let mapped = serve(&mut gatherer, now + 200 * MS, |_| Some(addr(OUTSIDE)));
        assert_eq!(mapped.len(), 1);
    }

    #[test]
    fn mapping_is_kept_open_and_followed() {
        let start = Instant::now();
        let mut gatherer = gatherer(&[BASE], &[FIRST], start);
        serve(&mut gatherer, start, |_| Some(addr(OUTSIDE)));
        let next = gatherer.poll_timeout().unwrap();
        assert_eq!(next, start + 20 * MS + KEEP_ALIVE);
        assert_eq!(serve(&mut gatherer, next, |_| Some(addr(OUTSIDE))), [], "nothing is new");
        let next = gatherer.poll_timeout().unwrap();
        let moved = addr("203.0.113.7:6001");
        let expected = Mapped { base: addr(BASE), outside: moved, before: Some(addr(OUTSIDE)) };
        assert_eq!(serve(&mut gatherer, next, |_| Some(moved)), [expected]);
        assert_eq!(gatherer.outside().collect::<Vec<_>>(), [(addr(BASE), moved)]);
        // A question that is lost is repeated at once, and does not unsettle what is known.
        let next = gatherer.poll_timeout().unwrap();
        assert_eq!(asked(&mut gatherer, next).len(), 1);
        assert_eq!(gatherer.poll_timeout(), Some(next + REPEAT));
        assert!(gatherer.is_settled());
    }

    #[test]
    fn answers_of_others_are_none() {
        let now = Instant::now();
        let mut gatherer = gatherer(&[BASE], &[FIRST], now);
        let questions = asked(&mut gatherer, now);
        let [question] = &questions[..] else { panic!("{questions:?}") };
        let good = answer(question, addr(OUTSIDE));
        let from = |local, remote| Transmit { local, remote, contents: Vec::new() };
        for (place, packet) in [
            (from(addr(BASE), addr(SECOND)), good.clone()),
            (from(addr("192.168.1.3:5000"), addr(FIRST)), good.clone()),
            (from(addr(BASE), addr(FIRST)), {
                let other =
                    Transmit { contents: request(TransactionId::generate()), ..question.clone() };
                answer(&other, addr(OUTSIDE))
            }),
            // The question itself, as a reflector sends it back.
            (from(addr(BASE), addr(FIRST)), question.contents.clone()),
            (from(addr(BASE), addr(FIRST)), good[..good.len() - 1].to_vec()),
            (from(addr(BASE), addr(FIRST)), Vec::new()),
        ] {
            assert_eq!(take(&mut gatherer, now, &place, &packet), (false, None));
        }
        assert!(!gatherer.is_settled());
        assert!(take(&mut gatherer, now, question, &good).1.is_some());
        assert_eq!(take(&mut gatherer, now, question, &good), (false, None), "a second time");
    }

    #[test]
    fn answers_without_an_address_are_of_no_use() {
        let now = Instant::now();
        let refusal = |question: &Transmit| {
            let question = Message::from_bytes(&question.contents).unwrap();
            let mut refusal = Message::builder_error(&question, MessageWriteVec::new());
            let mapped = XorMappedAddress::new(addr(OUTSIDE), question.transaction_id());
            refusal.add_attribute(&mapped).unwrap();
            refusal.finish()
        };
        let empty = |question: &Transmit| {
            let question = Message::from_bytes(&question.contents).unwrap();
            Message::builder_success(&question, MessageWriteVec::new()).finish()
        };
        let v6 = |question: &Transmit| answer(question, addr("[2001:db8::1]:6000"));
        let no_port = |question: &Transmit| answer(question, addr("203.0.113.7:0"));
        type Packet<'a> = &'a dyn Fn(&Transmit) -> Vec<u8>;
        let packets: [Packet<'_>; 4] = [&refusal, &empty, &v6, &no_port];
        for packet in packets {
            let mut gatherer = gatherer(&[BASE], &[FIRST], now);
            let questions = asked(&mut gatherer, now);
            let packet = packet(&questions[0]);
            assert_eq!(take(&mut gatherer, now, &questions[0], &packet), (true, None));
            assert!(gatherer.is_settled());
            assert_eq!(gatherer.outside().count(), 0);
            assert_eq!(gatherer.mapping(true), Mapping::NoAnswer);
        }
    }

    #[test]
    fn answers_show_how_a_nat_maps() {
        let (first, second) = (addr(FIRST), addr(SECOND));
        let (one, other) = (addr(OUTSIDE), addr("203.0.113.7:6001"));
        let cases: [(Option<SocketAddr>, Option<SocketAddr>, Mapping); 7] = [
            (None, None, Mapping::NoAnswer),
            (Some(one), None, Mapping::Unknown),
            (None, Some(one), Mapping::Unknown),
            (Some(one), Some(one), Mapping::Independent),
            (Some(one), Some(other), Mapping::Dependent),
            (Some(addr(BASE)), None, Mapping::NoNat),
            (Some(addr(BASE)), Some(addr(BASE)), Mapping::NoNat),
        ];
        for (seen_by_first, seen_by_second, expected) in cases {
            let now = Instant::now();
            let mut gatherer = gatherer(&[BASE], &[FIRST, SECOND], now);
            serve(&mut gatherer, now, |question| match question.remote {
                server if server == first => seen_by_first,
                server if server == second => seen_by_second,
                server => panic!("{server} is asked"),
            });
            assert_eq!(gatherer.mapping(true), expected);
            assert_eq!(gatherer.mapping(false), Mapping::NotAsked);
        }
        assert_eq!(Gatherer::default().mapping(true), Mapping::NotAsked);
    }

    #[test]
    fn way_out_that_lets_most_through_counts() {
        let now = Instant::now();
        let mut gatherer = gatherer(&[BASE, "10.0.0.2:5000"], &[FIRST, SECOND], now);
        serve(&mut gatherer, now, |question| {
            let port = if question.remote == addr(FIRST) { 6_000 } else { 6_001 };
            let symmetric = question.local == addr(BASE);
            Some(SocketAddr::new([203, 0, 113, 7].into(), if symmetric { port } else { 7_000 }))
        });
        assert_eq!(gatherer.mapping(true), Mapping::Independent);
        gatherer.remove_base(addr("10.0.0.2:5000"));
        assert_eq!(gatherer.mapping(true), Mapping::Dependent);
    }

    #[test]
    fn sockets_ask_servers_that_they_can_reach() {
        let now = Instant::now();
        let bases = [BASE, "[2001:db8::2]:5000", "127.0.0.1:5000"];
        let servers = [FIRST, FIRST, "[2001:db8::1]:3478", "127.0.0.1:3478"];
        let mut gatherer = gatherer(&bases, &servers, now);
        gatherer.add_base(addr("192.168.1.3:5000"), now);
        let questions = asked(&mut gatherer, now);
        let ways = questions.iter().map(|question| (question.local, question.remote));
        let expected = [
            (BASE, FIRST),
            ("192.168.1.3:5000", FIRST),
            ("[2001:db8::2]:5000", "[2001:db8::1]:3478"),
            ("127.0.0.1:5000", "127.0.0.1:3478"),
        ];
        let expected = expected.map(|(base, server)| (addr(base), addr(server)));
        assert_eq!(ways.collect::<BTreeSet<_>>(), BTreeSet::from(expected));
        assert_eq!(questions.len(), expected.len(), "something is asked twice");
    }

    #[test]
    fn closed_socket_asks_nothing() {
        let now = Instant::now();
        let mut gatherer = gatherer(&[BASE], &[FIRST], now);
        serve(&mut gatherer, now, |_| Some(addr(OUTSIDE)));
        gatherer.remove_base(addr(BASE));
        assert_eq!((gatherer.poll_timeout(), gatherer.outside().count()), (None, 0));
        assert!(gatherer.is_settled(), "there is nothing to wait for");
        assert_eq!(asked(&mut gatherer, now + KEEP_ALIVE * 2), []);
        gatherer.add_server(addr(SECOND), now);
        assert_eq!(asked(&mut gatherer, now), []);
    }

    proptest! {
        #[test]
        fn nothing_panics(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let now = Instant::now();
            let mut gatherer = gatherer(&[BASE], &[FIRST], now);
            let questions = asked(&mut gatherer, now);
            take(&mut gatherer, now, &questions[0], &bytes);
            let mut packet = answer(&questions[0], addr(OUTSIDE));
            for (place, value) in changes {
                *place.get_mut(&mut packet) = value;
            }
            if let (true, Some(mapped)) = take(&mut gatherer, now, &questions[0], &packet) {
                prop_assert!(mapped.outside.is_ipv4() && mapped.outside.port() != 0);
            }
        }
    }
}
