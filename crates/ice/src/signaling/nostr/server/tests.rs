use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::signaling::nostr::samples::{
    CLIENT, SERVER, SESSION, description, key, moved, request, request_body,
};

const SECOND: Duration = Duration::from_secs(1);

fn session(number: u8) -> SessionId {
    SessionId([number; 16])
}

fn request_of(number: u8) -> Message {
    Message::Request(Request { session: session(number), ..request_body() })
}

fn answer(echo: Nonce) -> Message {
    Message::Answer(Answer { session: SESSION, echo })
}

fn candidates(revision: u32, description: Description) -> Message {
    Message::Candidates(Candidates { session: SESSION, revision, description })
}

fn withdrawal(session: SessionId) -> Message {
    Message::Refused(Refused { session, reason: Reason::Withdrawn, words: String::new() })
}

fn is_ignored(effect: &Effect) -> bool {
    matches!(effect, Effect::Ignored(_))
}

/// With one request, and the offer to it.
fn offered(peer: Npub, now: Instant) -> (Negotiations, Message) {
    let mut negotiations = Negotiations::default();
    let started = negotiations.handle(peer, request(), now);
    assert_eq!(started, Effect::Start { peer, request: request_body() });
    let offer = negotiations.offer(peer, SESSION, SERVER, description()).unwrap();
    (negotiations, offer)
}

#[test]
fn a_request_is_offered_to_and_confirmed_by_its_answer() {
    let (peer, now) = (key().npub(), Instant::now());
    let (mut negotiations, offer) = offered(peer, now);
    let body = Offer { session: SESSION, nonce: SERVER, echo: CLIENT, description: description() };
    assert_eq!(offer, Message::Offer(body));
    let confirmed = negotiations.handle(peer, answer(SERVER), now);
    assert_eq!(confirmed, Effect::Confirmed { peer, session: SESSION });
    assert_eq!(negotiations.poll(now + NEGOTIATION), None, "what is confirmed does not end");
}

#[test]
fn a_repeated_request_gets_the_same_offer_again() {
    let (peer, now) = (key().npub(), Instant::now());
    let mut negotiations = Negotiations::default();
    negotiations.handle(peer, request(), now);
    assert!(is_ignored(&negotiations.handle(peer, request(), now)), "the offer is being made");
    let offer = negotiations.offer(peer, SESSION, SERVER, description()).unwrap();
    assert_eq!(negotiations.offer(peer, SESSION, CLIENT, description()), None);
    for _ in 0..3 {
        let again = negotiations.handle(peer, request(), now);
        assert_eq!(again, Effect::Send { peer, message: offer.clone() });
    }
    let update = negotiations.update(peer, SESSION, moved(1)).unwrap();
    assert_eq!(update, candidates(1, moved(1)));
    let again = negotiations.handle(peer, request(), now);
    assert_eq!(again, Effect::Send { peer, message: offer });
    assert_eq!(negotiations.poll(now), Some(Effect::Send { peer, message: update }));
    assert_eq!(negotiations.update(peer, SESSION, moved(2)), Some(candidates(2, moved(2))));
    assert_eq!(negotiations.poll(now), None);
}

#[test]
fn answers_that_echo_something_else_confirm_nothing() {
    let (peer, now) = (key().npub(), Instant::now());
    let mut negotiations = Negotiations::default();
    assert!(is_ignored(&negotiations.handle(peer, answer(SERVER), now)));
    negotiations.handle(peer, request(), now);
    assert!(is_ignored(&negotiations.handle(peer, answer(SERVER), now)), "before the offer");
    negotiations.offer(peer, SESSION, SERVER, description()).unwrap();
    assert!(is_ignored(&negotiations.handle(peer, answer(CLIENT), now)));
    assert!(is_ignored(&negotiations.handle(key().npub(), answer(SERVER), now)));
    let confirmed = Effect::Confirmed { peer, session: SESSION };
    assert_eq!(negotiations.handle(peer, answer(SERVER), now), confirmed);
    assert!(is_ignored(&negotiations.handle(peer, answer(SERVER), now)), "once");
}

#[test]
fn a_negotiation_without_an_answer_ends_and_its_replays_are_ignored() {
    let (peer, now) = (key().npub(), Instant::now());
    let (mut negotiations, _) = offered(peer, now);
    assert_eq!(negotiations.poll_at(), Some(now + NEGOTIATION));
    let end = now + NEGOTIATION;
    assert_eq!(negotiations.poll(end - Duration::from_millis(1)), None);
    let ended = Effect::Ended { peer, session: SESSION, withdrawn: false };
    assert_eq!(negotiations.poll(end), Some(ended));
    assert_eq!(negotiations.poll(end), None);
    // For as long as an event of then is taken.
    let last = end + Duration::from_secs(MAX_AGE + MAX_AHEAD);
    for now in [end, last] {
        assert_eq!(negotiations.poll(now), None);
        assert!(is_ignored(&negotiations.handle(peer, request(), now)));
        assert!(is_ignored(&negotiations.handle(peer, answer(SERVER), now)));
        assert_eq!(negotiations.offer(peer, SESSION, SERVER, description()), None);
    }
    assert_eq!(negotiations.poll(end + MEMORY), None);
    assert!(negotiations.peers.is_empty(), "nothing is remembered for ever");
    assert_eq!(negotiations.poll_at(), None);
}

#[test]
fn a_confirmed_session_and_a_withdrawn_one_are_not_replayed() {
    let (peer, now) = (key().npub(), Instant::now());
    let (mut negotiations, _) = offered(peer, now);
    negotiations.handle(peer, answer(SERVER), now);
    assert!(is_ignored(&negotiations.handle(peer, request(), now)));
    assert!(is_ignored(&negotiations.handle(peer, withdrawal(SESSION), now)), "it stands");

    let (mut negotiations, _) = offered(peer, now);
    let ended = Effect::Ended { peer, session: SESSION, withdrawn: true };
    assert_eq!(negotiations.handle(peer, withdrawal(SESSION), now), ended);
    assert!(is_ignored(&negotiations.handle(peer, withdrawal(SESSION), now)));
    assert!(is_ignored(&negotiations.handle(peer, request(), now)));

    let (mut negotiations, _) = offered(peer, now);
    negotiations.confirm(peer, SESSION, now);
    assert!(is_ignored(&negotiations.handle(peer, answer(SERVER), now)));
    assert_eq!(negotiations.poll(now + NEGOTIATION), None);
}

#[test]
fn one_key_has_four_at_once_and_others_have_theirs() {
    let (peer, other, now) = (key().npub(), key().npub(), Instant::now());
    let mut negotiations = Negotiations::default();
    let mut ask = |peer, number, now| negotiations.handle(peer, request_of(number), now);
    for number in 0..4 {
        assert!(matches!(ask(peer, number, now), Effect::Start { .. }));
    }
    let Effect::Send { message: Message::Refused(refused), .. } = ask(peer, 4, now) else {
        panic!("a fifth began");
    };
    assert_eq!((refused.session, refused.reason), (session(4), Reason::Busy));
    assert!(matches!(ask(other, 4, now), Effect::Start { .. }));
    // One that a client has answered for is no longer among them.
    negotiations.offer(peer, session(0), SERVER, description()).unwrap();
    let answer = Message::Answer(Answer { session: session(0), echo: SERVER });
    negotiations.handle(peer, answer, now);
    let fifth = negotiations.handle(peer, request_of(4), now);
    assert!(matches!(fifth, Effect::Start { .. }));
    let sixth = negotiations.handle(peer, request_of(5), now);
    assert!(matches!(sixth, Effect::Send { .. }));
    negotiations.handle(peer, withdrawal(session(1)), now);
    let sixth = negotiations.handle(peer, request_of(5), now);
    assert!(matches!(sixth, Effect::Start { .. }));
}

#[test]
fn a_refusal_is_repeated_and_costs_no_place() {
    let (peer, now) = (key().npub(), Instant::now());
    let mut negotiations = Negotiations::default();
    for number in 0..10 {
        let started = negotiations.handle(peer, request_of(number), now);
        assert!(matches!(started, Effect::Start { .. }));
        let session = session(number);
        let full = |negotiations: &mut Negotiations| {
            negotiations.refuse(peer, session, Reason::Full, "full".to_owned(), now)
        };
        let refusal = full(&mut negotiations).unwrap();
        let again = negotiations.handle(peer, request_of(number), now);
        assert_eq!(again, Effect::Send { peer, message: refusal });
        assert_eq!(full(&mut negotiations), None);
    }
}

#[test]
fn the_clients_updates_are_followed_in_their_order() {
    let (peer, now) = (key().npub(), Instant::now());
    let (mut negotiations, _) = offered(peer, now);
    let update = |description| Effect::Update { peer, session: SESSION, description };
    let mut tell = |revision, description: Description| {
        negotiations.handle(peer, candidates(revision, description), now)
    };
    assert_eq!(tell(2, moved(2)), update(moved(2)));
    assert!(is_ignored(&tell(1, moved(1))), "the older one came later");
    assert!(is_ignored(&tell(2, moved(2))));
    let fingerprint = Fingerprint([1; 32]);
    assert!(is_ignored(&tell(3, Description { fingerprint, ..moved(3) })));
    assert_eq!(tell(3, moved(3)), update(moved(3)));
    negotiations.handle(peer, answer(SERVER), now);
    let last = negotiations.handle(peer, candidates(4, moved(4)), now);
    assert_eq!(last, update(moved(4)));
    let unknown = Candidates { session: session(1), revision: 1, description: moved(1) };
    let unknown = negotiations.handle(peer, Message::Candidates(unknown), now);
    assert!(is_ignored(&unknown));
}

#[test]
fn another_request_cannot_take_over_a_session() {
    let (peer, now) = (key().npub(), Instant::now());
    let (mut negotiations, offer) = offered(peer, now);
    let other = Message::Request(Request { nonce: SERVER, ..request_body() });
    assert!(is_ignored(&negotiations.handle(peer, other, now)));
    assert!(is_ignored(&negotiations.handle(peer, offer, now)));
}

proptest! {
    /// However requests, answers and time follow each other.
    #[test]
    fn places_are_bounded_and_each_session_begins_once(
        steps in vec((0..3_usize, any::<u8>(), 0..4_u8, 0..40_u32), 0..600),
    ) {
        let peers = [key().npub(), key().npub(), key().npub()];
        let mut negotiations = Negotiations::default();
        let mut now = Instant::now();
        let (mut begun, mut open) = (HashSet::new(), HashSet::new());
        for (peer, number, step, pause) in steps {
            now += SECOND / 100 * pause;
            let peer = peers[peer];
            while let Some(effect) = negotiations.poll(now) {
                if let Effect::Ended { peer, session, .. } = effect {
                    prop_assert!(open.remove(&(peer, session)));
                }
            }
            let session = session(number);
            match step {
                0 => {
                    let nonce = Nonce([number; 16]);
                    let _ = negotiations.offer(peer, session, nonce, description());
                }
                1 => {
                    let echo = Nonce([number; 16]);
                    let answer = Message::Answer(Answer { session, echo });
                    if let Effect::Confirmed { .. } = negotiations.handle(peer, answer, now) {
                        prop_assert!(open.remove(&(peer, session)));
                    }
                }
                _ => {
                    let effect = negotiations.handle(peer, request_of(number), now);
                    if let Effect::Start { .. } = effect {
                        prop_assert!(begun.insert((peer, session)), "began twice");
                        open.insert((peer, session));
                    }
                }
            }
            for peer in peers {
                let of_peer = open.iter().filter(|(whose, _)| *whose == peer).count();
                prop_assert!(of_peer <= MAX_AT_ONCE);
            }
        }
        for sessions in negotiations.peers.values() {
            prop_assert!(sessions.len() <= MAX_REMEMBERED);
        }
    }
}
