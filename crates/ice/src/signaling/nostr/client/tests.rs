use super::*;
use crate::signaling::nostr::samples::{
    CLIENT, SERVER, SESSION, description, key, moved, request, request_body,
};

const MOMENT: Duration = Duration::from_millis(1);

fn negotiation(server: Npub, now: Instant) -> Negotiation {
    let sources = request_body().sources;
    Negotiation::new(server, SESSION, CLIENT, description(), sources, now)
}

fn offer() -> Offer {
    Offer { session: SESSION, nonce: SERVER, echo: CLIENT, description: moved(1) }
}

fn answer() -> Action {
    Action::Publish(Message::Answer(Answer { session: SESSION, echo: SERVER }))
}

fn candidates(revision: u32, description: Description) -> Message {
    Message::Candidates(Candidates { session: SESSION, revision, description })
}

fn all(negotiation: &mut Negotiation, now: Instant) -> Vec<Action> {
    std::iter::from_fn(|| negotiation.poll(now)).collect()
}

#[test]
fn it_asks_every_second_until_it_gives_up() {
    let (server, start) = (key().npub(), Instant::now());
    let mut negotiation = negotiation(server, start);
    for second in 0..15 {
        let now = start + REPEAT * second;
        assert_eq!(negotiation.poll(now - MOMENT), None);
        assert_eq!(negotiation.poll_at(), Some(now));
        assert_eq!(all(&mut negotiation, now), [Action::Publish(request())]);
    }
    assert_eq!(negotiation.poll_at(), Some(start + PATIENCE));
    assert_eq!(all(&mut negotiation, start + PATIENCE), [Action::GiveUp]);
    assert_eq!(negotiation.poll_at(), None);
    let late = negotiation.handle(server, Message::Offer(offer()), start + PATIENCE);
    assert!(late.is_err());
    assert_eq!(all(&mut negotiation, start + PATIENCE), []);
}

#[test]
fn an_offer_is_met_and_answered_and_again_when_it_is_repeated() {
    let (server, start) = (key().npub(), Instant::now());
    let mut negotiation = negotiation(server, start);
    all(&mut negotiation, start);
    let now = start + MOMENT;
    assert_eq!(negotiation.handle(server, Message::Offer(offer()), now), Ok(()));
    assert_eq!(all(&mut negotiation, now), [Action::Meet(moved(1)), answer()]);
    assert_eq!(negotiation.handle(server, Message::Offer(offer()), now), Ok(()));
    assert_eq!(all(&mut negotiation, now), [answer()]);
    assert_eq!(negotiation.poll_at(), Some(now + REPEAT));
    assert_eq!(all(&mut negotiation, now + REPEAT), [answer()]);
    assert_eq!(all(&mut negotiation, now + PATIENCE), [], "an offer has come: no giving up");
    assert_eq!(negotiation.poll_at(), None);
}

#[test]
fn offers_of_others_and_to_others_are_ignored() {
    let (server, now) = (key().npub(), Instant::now());
    let mut negotiation = negotiation(server, now);
    all(&mut negotiation, now);
    let mut tell = |from, offer| negotiation.handle(from, Message::Offer(offer), now);
    assert!(tell(key().npub(), offer()).is_err());
    assert!(tell(server, Offer { session: SessionId([1; 16]), ..offer() }).is_err());
    assert!(tell(server, Offer { echo: SERVER, ..offer() }).is_err());
    assert!(negotiation.handle(server, request(), now).is_err());
    assert_eq!(all(&mut negotiation, now), []);
    let mut tell = |from, offer| negotiation.handle(from, Message::Offer(offer), now);
    assert_eq!(tell(server, offer()), Ok(()));
    // Another server with the same key.
    assert!(tell(server, Offer { nonce: CLIENT, description: moved(2), ..offer() }).is_err());
    assert_eq!(all(&mut negotiation, now), [Action::Meet(moved(1)), answer()]);
}

#[test]
fn a_refusal_ends_it_unless_an_offer_has_come() {
    let (server, now) = (key().npub(), Instant::now());
    let refused = Refused { session: SESSION, reason: Reason::Full, words: "full".to_owned() };
    let message = Message::Refused(refused.clone());
    let mut negotiation = negotiation(server, now);
    assert!(negotiation.handle(key().npub(), message.clone(), now).is_err());
    assert_eq!(negotiation.handle(server, message.clone(), now), Ok(()));
    assert_eq!(all(&mut negotiation, now), [Action::Refused(refused)]);
    assert!(negotiation.handle(server, message.clone(), now).is_err());
    assert_eq!(negotiation.poll_at(), None);

    let mut negotiation = self::negotiation(server, now);
    negotiation.handle(server, Message::Offer(offer()), now).unwrap();
    assert!(negotiation.handle(server, message, now).is_err());
}

#[test]
fn the_servers_updates_are_followed_in_their_order() {
    let (server, now) = (key().npub(), Instant::now());
    let mut negotiation = negotiation(server, now);
    let mut tell = |message| negotiation.handle(server, message, now);
    assert!(tell(candidates(1, moved(2))).is_err(), "before the offer");
    tell(Message::Offer(offer())).unwrap();
    assert_eq!(tell(candidates(2, moved(3))), Ok(()));
    assert!(tell(candidates(1, moved(2))).is_err());
    let fingerprint = Fingerprint([1; 32]);
    assert!(tell(candidates(3, Description { fingerprint, ..moved(4) })).is_err());
    let actions = all(&mut negotiation, now);
    assert_eq!(actions, [Action::Meet(moved(1)), Action::Update(moved(3)), answer()]);
}

#[test]
fn its_own_news_is_told_at_once_and_with_each_repetition() {
    let (server, start) = (key().npub(), Instant::now());
    let mut negotiation = negotiation(server, start);
    all(&mut negotiation, start);
    negotiation.update(moved(7));
    let update = |revision, port| Action::Publish(candidates(revision, moved(port)));
    assert_eq!(all(&mut negotiation, start), [update(1, 7)]);
    negotiation.update(moved(8));
    let again = [update(2, 8), Action::Publish(request()), update(2, 8)];
    assert_eq!(all(&mut negotiation, start + REPEAT), again);
}

#[test]
fn what_is_withdrawn_is_over() {
    let (server, now) = (key().npub(), Instant::now());
    let mut negotiation = negotiation(server, now);
    let Message::Refused(refused) = negotiation.withdraw() else { panic!("no refusal") };
    assert_eq!((refused.session, refused.reason), (SESSION, Reason::Withdrawn));
    negotiation.update(moved(1));
    assert_eq!(all(&mut negotiation, now + PATIENCE), []);
    assert!(negotiation.handle(server, Message::Offer(offer()), now).is_err());
}
