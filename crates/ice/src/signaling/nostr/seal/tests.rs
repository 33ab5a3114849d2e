use nostr_sdk::{EventId, JsonUtil};
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::signaling::nostr::samples::{self, key, messages};

const NOW: u64 = 1_700_000_000;

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

fn sealed(from: &NostrKey, to: &NostrKey) -> Event {
    seal(from, to.npub(), &samples::request(), at(NOW)).unwrap()
}

/// A builder of an event as [`seal`] makes it, with other content and tags, signed by `from`.
fn forged(from: &NostrKey, kind: u16, content: &str, tags: Vec<Tag>) -> Event {
    EventBuilder::new(Kind::Custom(kind), content)
        .tags(tags)
        .allow_self_tagging()
        .custom_created_at(at(NOW))
        .sign_with_keys(from.keys())
        .unwrap()
}

#[test]
fn the_peer_reads_it() {
    let (client, server) = (key(), key());
    let event = sealed(&client, &server);
    assert_eq!(event.kind, Kind::Custom(24242));
    assert!(event.kind.is_ephemeral());
    assert!(event.as_json().len() < MAX_EVENT);
    let tags: Vec<&[String]> = event.tags.iter().map(Tag::as_slice).collect();
    let transfer = transfer_id(client.npub(), server.npub()).to_string();
    let own = server.npub().public_key().to_hex();
    assert_eq!(tags, [["p", &own], ["x", &transfer]]);
    let opened = open(&server, &[client.npub()], &event, at(NOW));
    assert_eq!(opened, Ok((client.npub(), samples::request())));
    assert_ne!(sealed(&client, &server).id, event.id);
}

#[test]
fn nobody_else_reads_it() {
    let (client, server, third) = (key(), key(), key());
    let event = sealed(&client, &server);
    let open = |key: &NostrKey, peer: &NostrKey| open(key, &[peer.npub()], &event, at(NOW));
    assert_eq!(open(&third, &client), Err(Rejected::NotForUs));
    assert_eq!(open(&server, &third), Err(Rejected::Stranger));
    assert_eq!(open(&client, &client), Err(Rejected::Own));
}

#[test]
fn old_events_and_those_of_the_future_are_rejected() {
    let (client, server) = (key(), key());
    let event = sealed(&client, &server);
    let open = |now| open(&server, &[client.npub()], &event, at(now)).map(|_| ());
    assert_eq!(open(NOW + MAX_AGE), Ok(()));
    assert_eq!(open(NOW + MAX_AGE + 1), Err(Rejected::Stale(61)));
    assert_eq!(open(u64::MAX), Err(Rejected::Stale(u64::MAX - NOW)));
    assert_eq!(open(NOW - MAX_AHEAD), Ok(()));
    assert_eq!(open(NOW - MAX_AHEAD - 1), Err(Rejected::Future(61)));
    assert_eq!(open(0), Err(Rejected::Future(NOW)));
}

#[test]
fn what_is_altered_is_forged() {
    let (client, server) = (key(), key());
    let good = sealed(&client, &server);
    let opened = |event: &Event| open(&server, &[client.npub()], event, at(NOW)).unwrap_err();
    let mut event = good.clone();
    event.id = EventId::from_byte_array([1; 32]);
    assert_eq!(opened(&event), Rejected::Forged);
    let mut event = good.clone();
    event.sig = sealed(&client, &server).sig;
    assert_eq!(opened(&event), Rejected::Forged);
    let mut event = good.clone();
    event.created_at = at(NOW + 1);
    assert_eq!(opened(&event), Rejected::Forged);
    let mut event = good.clone();
    event.content = sealed(&client, &server).content;
    assert_eq!(opened(&event), Rejected::Forged);
    // Signed by another key in the name of the client.
    let mut event = sealed(&key(), &server);
    event.pubkey = good.pubkey;
    event.tags = good.tags.clone();
    assert_eq!(opened(&event), Rejected::Forged);
    event.id =
        EventId::new(&event.pubkey, &event.created_at, &event.kind, &event.tags, &event.content);
    assert_eq!(opened(&event), Rejected::Forged);
}

#[test]
fn events_for_something_else_are_rejected() {
    let (client, server, third) = (key(), key(), key());
    let good = sealed(&client, &server);
    let [p, x] = [&good.tags.as_slice()[0], &good.tags.as_slice()[1]].map(Tag::clone);
    let other = sealed(&client, &third).tags.to_vec();
    let opened = |kind: u16, tags: &[&Tag]| {
        let tags = tags.iter().map(|tag| (*tag).clone()).collect();
        let event = forged(&client, kind, &good.content, tags);
        open(&server, &[client.npub()], &event, at(NOW)).map(|_| ())
    };
    assert_eq!(opened(KIND, &[&p, &x]), Ok(()));
    assert_eq!(opened(KIND, &[&x, &p]), Ok(()));
    assert_eq!(opened(1, &[&p, &x]), Err(Rejected::Kind(1)));
    assert_eq!(opened(KIND, &[&x]), Err(Rejected::NotForUs));
    assert_eq!(opened(KIND, &[&p, &other[0], &x]), Err(Rejected::NotForUs));
    assert_eq!(opened(KIND, &[&other[0], &x]), Err(Rejected::NotForUs));
    assert_eq!(opened(KIND, &[&p]), Err(Rejected::Transfer));
    assert_eq!(opened(KIND, &[&p, &other[1]]), Err(Rejected::Transfer));
    assert_eq!(opened(KIND, &[&p, &x, &x]), Err(Rejected::Transfer));
}

#[test]
fn content_that_is_no_message_is_told_apart() {
    let (client, server) = (key(), key());
    let good = sealed(&client, &server);
    let tags = good.tags.clone().to_vec();
    let opened = |content: &str| {
        let event = forged(&client, KIND, content, tags.clone());
        open(&server, &[client.npub()], &event, at(NOW)).map(|_| ())
    };
    let encrypted = |payload: &[u8]| {
        let (secret, public) = (client.keys().secret_key(), server.npub());
        nip44::encrypt(secret, public.public_key(), payload, nip44::Version::V2).unwrap()
    };
    let payload = payload::encode(&samples::request());
    assert_eq!(opened(&encrypted(&payload)), Ok(()));
    let damaged = Err(Rejected::Payload(PayloadError::Damaged));
    assert_eq!(opened(&encrypted(&payload[..payload.len() - 1])), damaged);
    let version = Err(Rejected::Payload(PayloadError::Version(9)));
    assert_eq!(opened(&encrypted(&[9, 9])), version);
    for content in ["", "x", &good.content[1..], &good.content[..good.content.len() - 4]] {
        assert_eq!(opened(content), Err(Rejected::Undecryptable), "{content}");
    }
    assert_eq!(opened(&"x".repeat(MAX_EVENT)), Err(Rejected::TooLarge));
    // Encrypted for somebody else.
    let other = sealed(&client, &key()).content;
    assert_eq!(opened(&other), Err(Rejected::Undecryptable));
}

#[test]
fn a_peer_whose_key_is_no_point_is_a_stranger() {
    let (client, server) = (key(), key());
    let mut event = sealed(&client, &server);
    event.pubkey = nostr_sdk::PublicKey::from_byte_array([0xff; 32]);
    assert_eq!(open(&server, &[client.npub()], &event, at(NOW)), Err(Rejected::Stranger));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_arrive_whole(message in messages()) {
        let (client, server) = (key(), key());
        let event = seal(&client, server.npub(), &message, at(NOW)).unwrap();
        prop_assert!(event.as_json().len() <= MAX_EVENT);
        let opened = open(&server, &[client.npub()], &event, at(NOW));
        prop_assert_eq!(opened, Ok((client.npub(), message)));
    }

    #[test]
    fn an_event_altered_anywhere_is_not_taken(place in any::<Index>(), value in 0x20..0x7f_u8) {
        let (client, server) = (key(), key());
        let event = sealed(&client, &server);
        let mut json = event.as_json().into_bytes();
        let place = place.index(json.len());
        json[place] = value;
        if let Ok(altered) = Event::from_json(json)
            && altered != event
        {
            prop_assert!(open(&server, &[client.npub()], &altered, at(NOW)).is_err());
        }
    }
}
