//! What the checks have shown of each pair of addresses, and which pair is best.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::CandidateKind;

/// A check that is not answered within so many round trips, and within the time below, casts doubt on its pair, and more
/// are sent at once.
const DOUBT_ROUND_TRIPS: u32 = 3;
/// A machine may be busy for this long.
const DOUBT_LEAST: Duration = Duration::from_millis(300);

/// Another pair takes the place of one that has not answered for so long: by then the checks that the doubt has caused
/// should have been answered, so that it is not one packet that was lost.
const LEAVE_AFTER: u32 = 2;

/// A pair is dead when nothing has been answered for so many round trips and the time below; by then four checks or
/// more have been lost, which on a link that loses one packet in ten happens to one in a thousand.
const DEATH_ROUND_TRIPS: u32 = 6;
/// See above.
const DEATH_LEAST: Duration = Duration::from_millis(1_200);

/// How many times as long a pair may be silent over which data comes.
const HEARD_PATIENCE: u32 = 3;

/// A pair that has not answered for so long is not asked any more: each one is, every few seconds.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Answers in a row before a pair takes the place of one that works.
const PROVEN: u32 = 3;

/// A pair of the same kind takes the place of another one if it is faster by a quarter and by this.
const FASTER_LEAST: Duration = Duration::from_millis(2);

/// Pairs whose round trips differ by less than a tenth and this are equally fast.
const AS_FAST: Duration = Duration::from_micros(500);

/// Pairs that are remembered; the agent tries a hundred at once, and others as addresses come and go.
const MAX_REMEMBERED: usize = 400;

/// Two addresses between which packets may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PairKey {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

#[derive(Debug)]
struct Pair {
    /// The first check that came after the last answer.
    unanswered: Option<Instant>,
    answer: Option<Answer>,
}

#[derive(Debug)]
struct Answer {
    at: Instant,
    /// Since the last doubt.
    in_a_row: u32,
    /// Smoothed as TCP does (RFC 6298 section 2).
    rtt: Duration,
    /// What the peer sees this side as.
    mapped: SocketAddr,
}

impl Pair {
    fn silent_for(&self, now: Instant) -> Duration {
        self.unanswered.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    fn doubt_after(answer: &Answer) -> Duration {
        (answer.rtt * DOUBT_ROUND_TRIPS).max(DOUBT_LEAST)
    }

    fn death_after(answer: &Answer) -> Duration {
        (answer.rtt * DEATH_ROUND_TRIPS).max(DEATH_LEAST)
    }

    fn is_suspect(&self, now: Instant) -> bool {
        self.answer.as_ref().is_none_or(|answer| self.silent_for(now) >= Self::doubt_after(answer))
    }

    /// `heard` tells when data last came over it: for as long as it does, lost checks alone are not taken for its death,
    /// which may stand behind the data in a queue.
    fn is_dead(&self, heard: Option<Instant>, now: Instant) -> bool {
        let Some(answer) = &self.answer else { return true };
        let hears = heard.is_some_and(|at| now.saturating_duration_since(at) < DEATH_LEAST);
        let patience = if hears { HEARD_PATIENCE } else { 1 };
        self.silent_for(now) >= Self::death_after(answer) * patience
            || now.saturating_duration_since(answer.at) >= FORGOTTEN
    }
}

/// All pairs that have been tried.
#[derive(Debug, Default)]
pub(super) struct Pairs {
    pairs: BTreeMap<PairKey, Pair>,
    last_answer: Option<Instant>,
}

impl Pairs {
    /// A check went out.
    pub(super) fn asked(&mut self, key: PairKey, now: Instant) {
        if self.pairs.len() >= MAX_REMEMBERED && !self.pairs.contains_key(&key) {
            // What never worked is no loss.
            self.pairs.retain(|_, pair| pair.answer.is_some());
        }
        let pair = self.pairs.entry(key).or_insert(Pair { unanswered: None, answer: None });
        pair.unanswered.get_or_insert(now);
    }

    /// The check that went out at `sent` was answered, and the peer saw it come from `mapped`.
    pub(super) fn answered(
        &mut self,
        key: PairKey,
        sent: Instant,
        now: Instant,
        mapped: SocketAddr,
    ) {
        let Some(pair) = self.pairs.get_mut(&key) else { return };
        let sample = now.saturating_duration_since(sent);
        let doubtful = pair.is_suspect(now);
        let (rtt, in_a_row) = match &pair.answer {
            Some(last) if !doubtful => {
                ((last.rtt * 7 + sample) / 8, last.in_a_row.saturating_add(1))
            }
            _ => (sample, 1),
        };
        pair.answer = Some(Answer { at: now, in_a_row, rtt, mapped });
        pair.unanswered = None;
        self.last_answer = Some(now);
    }

    /// Forgets the others.
    pub(super) fn retain(&mut self, keep: impl Fn(&PairKey) -> bool) {
        self.pairs.retain(|key, _| keep(key));
    }

    /// When the peer last answered on any pair.
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.last_answer
    }

    /// Whether a check of the pair has been left unanswered for longer than answers take.
    pub(super) fn is_suspect(&self, key: PairKey, now: Instant) -> bool {
        self.pairs.get(&key).is_none_or(|pair| pair.is_suspect(now))
    }

    /// Whether a check of the pair is on its way.
    pub(super) fn is_asked(&self, key: PairKey) -> bool {
        self.pairs.get(&key).is_some_and(|pair| pair.unanswered.is_some())
    }

    /// The peer's addresses from which an answer has come since then.
    pub(super) fn answering_since(
        &self,
        since: Option<Instant>,
    ) -> impl Iterator<Item = SocketAddr> {
        let recent = move |pair: &Pair| {
            let answer = pair.answer.as_ref();
            answer.is_some_and(|answer| since.is_none_or(|since| answer.at >= since))
        };
        self.pairs.iter().filter(move |(_, pair)| recent(pair)).map(|(key, _)| key.remote)
    }

    /// When the pair becomes doubtful or dead if nothing is answered until then.
    pub(super) fn next_news(&self, key: PairKey, now: Instant) -> Option<Instant> {
        let pair = self.pairs.get(&key)?;
        let (since, answer) = (pair.unanswered?, pair.answer.as_ref()?);
        let doubts = [1, LEAVE_AFTER].map(|times| since + Pair::doubt_after(answer) * times);
        let death = Pair::death_after(answer);
        let deaths = [1, HEARD_PATIENCE].map(|patience| since + death * patience);
        let all = [answer.at + FORGOTTEN].into_iter().chain(doubts).chain(deaths);
        all.filter(|at| *at > now).min()
    }

    /// The pair that data should take: `current` unless another one is better. None where no pair is known to work. Data
    /// last came over `current` when it was `heard`.
    pub(super) fn choose(
        &self,
        current: Option<PairKey>,
        heard: Option<Instant>,
        now: Instant,
        kind: impl Fn(PairKey, SocketAddr) -> CandidateKind,
    ) -> Option<Choice> {
        let silent_since = current.and_then(|key| self.pairs.get(&key)?.unanswered);
        let choice = |key: PairKey| {
            let heard = heard.filter(|_| current == Some(key));
            let pair = self.pairs.get(&key).filter(|pair| !pair.is_dead(heard, now))?;
            let answer = pair.answer.as_ref()?;
            let patience = if current == Some(key) { LEAVE_AFTER } else { 1 };
            Some(Choice {
                key,
                kind: kind(key, answer.mapped),
                rtt: answer.rtt,
                mapped: answer.mapped,
                answered: answer.at,
                suspect: pair.silent_for(now) >= Pair::doubt_after(answer) * patience,
                proven: answer.in_a_row >= PROVEN,
            })
        };
        let works = current.and_then(choice).filter(|choice| !choice.suspect);
        // What has not answered since the pair in use fell silent may be as dead as that.
        let fresh = |other: &Choice| {
            !other.suspect
                && (works.is_some() || silent_since.is_none_or(|since| other.answered > since))
        };
        let others = self.pairs.keys().filter_map(|key| choice(*key)).filter(fresh);
        let mut others: Vec<_> = others.collect();
        others.sort_by_key(Choice::order);
        let settled = works.is_some();
        let better = |best: Option<Choice>, other: Choice| match best {
            Some(best) if !other.is_better_than(&best) || (settled && !other.proven) => Some(best),
            _ => Some(other),
        };
        others.into_iter().fold(works, better).or_else(|| current.and_then(choice))
    }
}

/// A pair that works.
pub(super) struct Choice {
    pub(super) key: PairKey,
    pub(super) kind: CandidateKind,
    pub(super) rtt: Duration,
    mapped: SocketAddr,
    answered: Instant,
    suspect: bool,
    proven: bool,
}

impl Choice {
    /// Whether anything on the way translates addresses.
    fn is_translated(&self) -> bool {
        self.kind != CandidateKind::Host
    }

    /// Which of two equal ones is taken: that over IPv6, where no mapping can expire; otherwise it does not matter, but
    /// both sides come to the same one, since each knows both addresses as the other side sees them.
    fn order(&self) -> (bool, SocketAddr, SocketAddr) {
        let (own, peers) = (self.mapped, self.key.remote);
        (own.is_ipv4(), own.min(peers), own.max(peers))
    }

    fn is_better_than(&self, other: &Self) -> bool {
        if self.is_translated() != other.is_translated() {
            return other.is_translated();
        }
        let as_fast = self.rtt <= other.rtt * 11 / 10 + AS_FAST;
        other.rtt > self.rtt * 5 / 4 + FASTER_LEAST || (as_fast && self.order() < other.order())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn key(last: u16) -> PairKey {
        let addr = |ip: [u8; 4], port| SocketAddr::new(ip.into(), port);
        PairKey { local: addr([192, 0, 2, 1], 1), remote: addr([192, 0, 2, 2], last) }
    }

    fn mapped() -> SocketAddr {
        SocketAddr::new([203, 0, 113, 1].into(), 1)
    }

    /// A check at `at` that takes `rtt`.
    fn check(pairs: &mut Pairs, key: PairKey, at: Instant, rtt: Duration) {
        pairs.asked(key, at);
        pairs.answered(key, at, at + rtt, mapped());
    }

    /// Enough of them for a pair to be proven.
    fn prove(pairs: &mut Pairs, key: PairKey, at: Instant, rtt: Duration) {
        (0..PROVEN).for_each(|_| check(pairs, key, at, rtt));
    }

    fn host(_: PairKey, _: SocketAddr) -> CandidateKind {
        CandidateKind::Host
    }

    /// Only the pairs in `direct` are not translated.
    fn direct(direct: &[PairKey]) -> impl Fn(PairKey, SocketAddr) -> CandidateKind {
        move |key, _| match direct.contains(&key) {
            true => CandidateKind::Host,
            false => CandidateKind::ServerReflexive,
        }
    }

    fn chosen(pairs: &Pairs, current: Option<PairKey>, now: Instant) -> Option<PairKey> {
        pairs.choose(current, None, now, host).map(|choice| choice.key)
    }

    #[test]
    fn pair_that_never_answered_is_not_chosen() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        pairs.asked(key(1), now);
        assert_eq!(chosen(&pairs, None, now), None);
        assert_eq!(pairs.last_answer(), None);
        assert!(pairs.is_suspect(key(1), now) && pairs.is_suspect(key(2), now));
        // Nobody asked there.
        pairs.answered(key(2), now, now, mapped());
        assert_eq!(chosen(&pairs, None, now), None);
        check(&mut pairs, key(1), now, 20 * MS);
        assert_eq!(chosen(&pairs, None, now + 20 * MS), Some(key(1)));
        assert_eq!(pairs.last_answer(), Some(now + 20 * MS));
    }

    #[test]
    fn silence_casts_doubt_and_then_ends_a_pair() {
        for (rtt, doubt, death) in [(20, 300, 1_200), (150, 450, 1_200), (400, 1_200, 2_400)] {
            let (mut pairs, start) = (Pairs::default(), Instant::now());
            check(&mut pairs, key(1), start, rtt * MS);
            // While nothing was asked silence says nothing.
            let asked = start + 5_000 * MS;
            assert_eq!(pairs.next_news(key(1), asked), None);
            pairs.asked(key(1), asked);
            pairs.asked(key(1), asked + 100 * MS);
            let (doubt, death) = (asked + doubt * MS, asked + death * MS);
            assert_eq!(pairs.next_news(key(1), asked), Some(doubt));
            assert!(!pairs.is_suspect(key(1), doubt - MS));
            assert!(pairs.is_suspect(key(1), doubt), "who wakes at this moment sees nothing");
            let leave = (asked + (doubt - asked) * LEAVE_AFTER).min(death);
            assert_eq!(pairs.next_news(key(1), doubt), Some(leave));
            assert_eq!(chosen(&pairs, Some(key(1)), death - MS), Some(key(1)));
            assert_eq!(chosen(&pairs, Some(key(1)), death), None);
            assert!(pairs.next_news(key(1), death).is_none_or(|at| at > death));
            pairs.answered(key(1), asked, asked + 9_000 * MS, mapped());
            assert_eq!(chosen(&pairs, Some(key(1)), asked + 9_000 * MS), Some(key(1)));
        }
    }

    #[test]
    fn better_pair_is_to_prove_itself() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        prove(&mut pairs, key(1), now, 100 * MS);
        for count in 1..=PROVEN {
            check(&mut pairs, key(2), now, 20 * MS);
            let expected = if count == PROVEN { key(2) } else { key(1) };
            assert_eq!(chosen(&pairs, Some(key(1)), now + 100 * MS), Some(expected));
        }
        // A doubt in between counts against it.
        pairs.asked(key(2), now);
        pairs.answered(key(2), now, now + 301 * MS, mapped());
        assert_eq!(chosen(&pairs, Some(key(1)), now + 301 * MS), Some(key(1)));
        // Where nothing else works, once is enough.
        assert_eq!(chosen(&pairs, None, now + 301 * MS), Some(key(1)));
        pairs.retain(|known| *known != key(1));
        assert_eq!(chosen(&pairs, Some(key(1)), now + 301 * MS), Some(key(2)));
    }

    #[test]
    fn pair_is_left_for_one_that_is_faster_by_a_quarter() {
        for (current, other, leaves) in
            [(100, 78, true), (100, 79, false), (8, 4, true), (6, 4, false)]
        {
            let (mut pairs, now) = (Pairs::default(), Instant::now());
            prove(&mut pairs, key(1), now, current * MS);
            prove(&mut pairs, key(2), now, other * MS);
            let expected = if leaves { key(2) } else { key(1) };
            assert_eq!(chosen(&pairs, Some(key(1)), now + 100 * MS), Some(expected));
            assert_eq!(chosen(&pairs, Some(key(2)), now + 100 * MS), Some(key(2)));
        }
    }

    /// The band in between keeps round trips that vary from moving the data to and fro.
    #[test]
    fn first_of_two_equal_pairs_is_taken() {
        for (first, taken, left) in [
            (100, true, false),
            (110, true, false),
            (112, false, false),
            (127, false, false),
            (128, false, true),
        ] {
            let (mut pairs, now) = (Pairs::default(), Instant::now());
            prove(&mut pairs, key(1), now, first * MS);
            prove(&mut pairs, key(2), now, 100 * MS);
            let now = now + 200 * MS;
            let expected = if taken { key(1) } else { key(2) };
            assert_eq!(chosen(&pairs, Some(key(2)), now), Some(expected), "{first} ms");
            let expected = if left { key(2) } else { key(1) };
            assert_eq!(chosen(&pairs, Some(key(1)), now), Some(expected), "{first} ms");
        }
    }

    /// Each side sees the other one's address as the remote one, and hears of its own from it.
    #[test]
    fn both_sides_take_the_same_of_equal_pairs() {
        let now = Instant::now();
        let ways: [[SocketAddr; 2]; 3] = [
            ["192.0.2.1:9", "192.0.2.2:1"],
            ["192.0.2.1:3", "192.0.2.2:7"],
            ["192.0.2.3:5", "192.0.2.2:4"],
        ]
        .map(|way| way.map(|addr| addr.parse().unwrap()));
        for current in 0..ways.len() {
            let taken = [0, 1].map(|own| {
                let mut pairs = Pairs::default();
                let keys = ways.map(|way| {
                    // The socket is behind a NAT.
                    let local = SocketAddr::new([10, 0, 0, 1].into(), way[own].port());
                    PairKey { local, remote: way[1 - own] }
                });
                for (key, way) in keys.iter().zip(ways) {
                    for _ in 0..PROVEN {
                        pairs.asked(*key, now);
                        pairs.answered(*key, now, now + 10 * MS, way[own]);
                    }
                }
                let key = chosen(&pairs, Some(keys[current]), now + 10 * MS).unwrap();
                keys.iter().position(|known| *known == key)
            });
            assert_eq!(taken[0], taken[1]);
        }
    }

    #[test]
    fn direct_pair_comes_before_a_faster_one() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        prove(&mut pairs, key(1), now, 10 * MS);
        prove(&mut pairs, key(2), now, 100 * MS);
        let now = now + 100 * MS;
        for current in [None, Some(key(1)), Some(key(2))] {
            let choice = pairs.choose(current, None, now, direct(&[key(2)])).unwrap();
            assert_eq!((choice.key, choice.kind), (key(2), CandidateKind::Host));
        }
    }

    #[test]
    fn ipv6_comes_first_of_equal_pairs() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        let v6 = PairKey {
            local: "[2001:db8::1]:1".parse().unwrap(),
            remote: "[2001:db8::2]:1".parse().unwrap(),
        };
        for key in [key(1), v6, key(2)] {
            for _ in 0..PROVEN {
                pairs.asked(key, now);
                pairs.answered(key, now, now + 10 * MS, key.local);
            }
        }
        assert_eq!(chosen(&pairs, None, now + 10 * MS), Some(v6));
        assert_eq!(chosen(&pairs, Some(key(2)), now + 10 * MS), Some(v6));
    }

    #[test]
    fn only_what_answers_takes_over_from_a_silent_pair() {
        let (mut pairs, start) = (Pairs::default(), Instant::now());
        prove(&mut pairs, key(1), start, 20 * MS);
        check(&mut pairs, key(2), start, 20 * MS);
        pairs.asked(key(1), start + 1_000 * MS);
        let now = start + 1_700 * MS;
        assert!(pairs.is_suspect(key(1), now));
        assert_eq!(chosen(&pairs, Some(key(1)), now), Some(key(1)), "the other may be as silent");
        check(&mut pairs, key(2), start + 1_360 * MS, 40 * MS);
        assert_eq!(
            chosen(&pairs, Some(key(1)), start + 1_400 * MS),
            Some(key(1)),
            "one lost packet"
        );
        assert_eq!(chosen(&pairs, Some(key(1)), now), Some(key(2)));
    }

    #[test]
    fn round_trips_are_smoothed() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        check(&mut pairs, key(1), now, 80 * MS);
        check(&mut pairs, key(1), now + 100 * MS, 160 * MS);
        let rtt = |pairs: &Pairs, now| pairs.choose(None, None, now, host).unwrap().rtt;
        assert_eq!(rtt(&pairs, now + 260 * MS), 90 * MS);
        // What was learnt before a doubt is no longer true.
        check(&mut pairs, key(1), now + 1_000 * MS, 800 * MS);
        assert_eq!(rtt(&pairs, now + 1_800 * MS), 800 * MS);
    }

    #[test]
    fn pairs_that_never_worked_are_forgotten_first() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        check(&mut pairs, key(0), now, 10 * MS);
        (1..=u16::MAX).for_each(|port| pairs.asked(key(port), now));
        assert!(pairs.pairs.len() <= MAX_REMEMBERED, "{} pairs", pairs.pairs.len());
        assert_eq!(chosen(&pairs, None, now + 10 * MS), Some(key(0)));
    }

    /// The agent may have given up checking it, without a word.
    #[test]
    fn pair_that_is_no_longer_asked_does_not_work_for_ever() {
        let (mut pairs, start) = (Pairs::default(), Instant::now());
        prove(&mut pairs, key(1), start, 10 * MS);
        let now = start + 60_000 * MS;
        prove(&mut pairs, key(2), now, 50 * MS);
        let now = now + 50 * MS;
        assert_eq!(chosen(&pairs, Some(key(2)), now), Some(key(2)), "a minute-old answer counts");
        assert_eq!(chosen(&pairs, None, now), Some(key(2)), "a minute-old answer counts");
    }

    #[test]
    fn unproven_pair_does_not_hide_a_proven_one() {
        let (mut pairs, now) = (Pairs::default(), Instant::now());
        prove(&mut pairs, key(1), now, 200 * MS);
        prove(&mut pairs, key(2), now, 50 * MS);
        check(&mut pairs, key(3), now, 10 * MS);
        assert_eq!(chosen(&pairs, Some(key(1)), now + 200 * MS), Some(key(2)));
    }
}
