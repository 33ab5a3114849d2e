//! Events that must not arrive.

use nostr_sdk::{Keys, PublicKey};

use super::*;

/// Connects somebody who publishes what he likes; gives what he publishes with.
async fn publisher(url: &RelayUrl) -> nostr_sdk::Client {
    let client = nostr_sdk::Client::new(Keys::generate());
    client.add_relay(url.clone()).await.unwrap();
    client.connect().await;
    client.wait_for_connection(LIMIT).await;
    client
}

async fn publish(client: &nostr_sdk::Client, url: &RelayUrl, event: &Event) {
    client.send_msg_to([url.clone()], ClientMessage::event(event.clone())).await.unwrap();
}

/// A relay, a server that reads it, a key of its client, and somebody who publishes.
async fn scene(manner: Manner) -> (Fake, Side, NostrKey, nostr_sdk::Client) {
    let relay = Fake::start(manner).await;
    let (own, peer) = (key(), key());
    let server = Side::start(&own, &peer, std::slice::from_ref(&relay.url)).await;
    within(server.relays.connected()).await;
    let client = publisher(&relay.url).await;
    (relay, server, peer, client)
}

fn sealed(from: &NostrKey, to: &Side, at: u64) -> Event {
    let message = Message::Request(request_body());
    seal(from, to.key.npub(), &message, Timestamp::from_secs(at)).unwrap()
}

fn now() -> u64 {
    Timestamp::now().as_secs()
}

#[tokio::test]
async fn only_genuine_recent_events_of_peers_arrive_and_each_once() {
    let (relay, server, peer, client) = scene(Manner::Relay).await;
    let mut events = server.relays.events();
    let genuine = sealed(&peer, &server, now());
    let mut altered = genuine.clone();
    altered.content.push('A');
    let mut resigned = sealed(&key(), &server, now());
    resigned.pubkey = genuine.pubkey;
    resigned.tags = genuine.tags.clone();
    let mut elsewhere = genuine.clone();
    elsewhere.pubkey = PublicKey::from_byte_array([0xff; 32]);
    for event in [
        &altered,
        &resigned,
        &elsewhere,
        &sealed(&key(), &server, now()),
        &sealed(&peer, &server, now() - MAX_AGE - 5),
        &sealed(&peer, &server, now() + seal::MAX_AHEAD + 5),
        &genuine,
        &genuine,
        &altered,
    ] {
        publish(&client, &relay.url, event).await;
    }
    let last = sealed(&peer, &server, now());
    publish(&client, &relay.url, &last).await;
    assert_eq!(within(events.next()).await, Some(genuine));
    assert_eq!(within(events.next()).await, Some(last));
}

#[tokio::test]
async fn a_relay_that_alters_and_repeats_events_changes_nothing() {
    let (relay, server, peer, client) = scene(Manner::Forge).await;
    let mut events = server.relays.events();
    let sent: Vec<Event> = (0..20).map(|_| sealed(&peer, &server, now())).collect();
    for event in &sent {
        publish(&client, &relay.url, event).await;
    }
    for event in sent {
        assert_eq!(within(events.next()).await, Some(event));
    }
}

#[tokio::test]
async fn two_readers_get_everything_each() {
    let (relay, server, peer, client) = scene(Manner::Relay).await;
    let (mut one, mut other) = (server.relays.events(), server.relays.events());
    drop(server.relays.events());
    let event = sealed(&peer, &server, now());
    publish(&client, &relay.url, &event).await;
    assert_eq!(within(one.next()).await.as_ref(), Some(&event));
    assert_eq!(within(other.next()).await, Some(event.clone()));
    let next = sealed(&peer, &server, now());
    publish(&client, &relay.url, &next).await;
    assert_eq!(within(one.next()).await, Some(next));
    let readers = lock(&server.relays.inner.shared.inboxes).as_ref().map(Vec::len);
    assert_eq!(readers, Some(2));
}
