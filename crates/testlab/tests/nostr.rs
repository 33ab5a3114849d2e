//! The Nostr relays of the lab do what they are said to do.
//!
//! Needs root and what `.ci/install` installs, and fails without.

#![cfg(target_os = "linux")]
#![expect(clippy::expect_used, reason = "a relay that cannot be talked to has failed")]

use std::{
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use nostr_relay_builder::prelude::{Event, EventBuilder, JsonUtil, Keys, Kind};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Error as WebSocketError, Message, WebSocket};
use tunnel_testlab::{
    Error, Result,
    enter::connect_tcp,
    netns::Namespace,
    nostr::{Manner, NostrRelay, Observer, PythonRelay, Seen, publish},
};

/// For a relay to answer, and for its process to end.
const LIMIT: Duration = Duration::from_secs(10);

/// How long a relay that says nothing is listened to.
const WHILE: Duration = Duration::from_secs(1);

const SIGKILL: i32 = 9;

/// A genuine event of the kind that carries signaling.
fn event(text: &str) -> Seen {
    let builder = EventBuilder::new(Kind::Custom(24242), text);
    let event = builder.sign_with_keys(&Keys::generate()).expect("an event");
    Seen::new(serde_json::from_str(&event.as_json()).expect("JSON"))
}

/// Waits until everything that was published has been seen.
fn wait(observer: &Observer, events: &[Seen]) -> Result<()> {
    let all = |seen: &[Seen]| seen.iter().map(|seen| &seen.id).eq(events.iter().map(|e| &e.id));
    observer.wait(|seen| all(seen).then_some(()), LIMIT)
}

/// What a relay says to somebody who subscribes to what `author` tells `reader`: so many messages, or what there is within
/// `WHILE`.
fn listen(
    namespace: &Namespace,
    relay: &NostrRelay,
    [author, reader]: [&str; 2],
    enough: Option<usize>,
) -> Vec<Message> {
    let stream = connect_tcp(namespace, relay.local(), LIMIT).expect("a connection");
    stream.set_read_timeout(Some(WHILE / 10)).expect("a limit");
    let opened = tungstenite::client(relay.url.as_str(), stream);
    let (mut socket, _): (WebSocket<TcpStream>, _) = opened.expect("a WebSocket");
    let filter = json!({"kinds": [24242], "authors": [author], "#p": [reader]});
    socket.send(Message::text(json!(["REQ", "x", filter]).to_string())).expect("a subscription");
    let mut messages = Vec::new();
    let until = Instant::now() + if enough.is_some() { LIMIT } else { WHILE };
    while Instant::now() < until && enough.is_none_or(|enough| messages.len() < enough) {
        match socket.read() {
            Ok(message) => messages.push(message),
            Err(WebSocketError::Io(_)) => {}
            Err(error) => panic!("the connection ended: {error}"),
        }
    }
    messages
}

fn text(message: &Message) -> &str {
    message.to_text().unwrap_or_default()
}

#[test]
fn a_good_relay_passes_events_on_and_comes_back_on_its_port() -> Result<()> {
    let namespace = Namespace::new("nostr")?;
    let mut relay = NostrRelay::start(&namespace, "127.0.0.1", Manner::Good)?;
    for _ in 0..2 {
        let observer = Observer::start(&namespace, relay.local())?;
        let events = ["one", "two", "three"].map(event);
        publish(&namespace, relay.local(), &events)?;
        wait(&observer, &events)?;
        assert_eq!(observer.authors().len(), 3);
        relay.process.signal(SIGKILL)?;
        relay.process.wait_exit(LIMIT)?;
        relay.restart(&namespace)?;
    }
    Ok(())
}

#[test]
fn a_mortal_relay_dies_in_time() -> Result<()> {
    let namespace = Namespace::new("nostr")?;
    let relay = NostrRelay::start(&namespace, "127.0.0.1", Manner::Mortal(2))?;
    let observer = Observer::start(&namespace, relay.local())?;
    let events = ["one", "two", "three"].map(event);
    publish(&namespace, relay.local(), &events[..2])?;
    wait(&observer, &events[..2])?;
    let third = publish(&namespace, relay.local(), &events[2..]);
    assert!(matches!(third, Err(Error::Io { .. })), "{third:?}");
    assert!(relay.process.wait_exit(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_silent_relay_says_nothing() -> Result<()> {
    let namespace = Namespace::new("nostr")?;
    let relay = NostrRelay::start(&namespace, "127.0.0.1", Manner::Silent)?;
    assert_eq!(listen(&namespace, &relay, ["", ""], None), []);
    Ok(())
}

#[test]
fn a_relay_that_talks_garbage_says_nothing_that_can_be_understood() -> Result<()> {
    let namespace = Namespace::new("nostr")?;
    let relay = NostrRelay::start(&namespace, "127.0.0.1", Manner::Garbage)?;
    let messages = listen(&namespace, &relay, ["", ""], Some(101));
    assert_eq!(messages.len(), 101);
    for message in messages {
        let json: Value = serde_json::from_str(text(&message)).unwrap_or_default();
        assert!(!matches!(json[0].as_str(), Some("EVENT")) || json[2]["id"].is_null(), "{json}");
    }
    Ok(())
}

#[test]
fn a_flood_is_of_false_events_of_authors_and_of_strangers() -> Result<()> {
    let namespace = Namespace::new("nostr")?;
    let relay = NostrRelay::start(&namespace, "127.0.0.1", Manner::Flood(1_000))?;
    let [author, reader] = [Keys::generate(), Keys::generate()].map(|key| key.public_key());
    let messages = listen(&namespace, &relay, [&author.to_hex(), &reader.to_hex()], Some(600));
    let mut events = Vec::new();
    for message in &messages {
        let json: Value = serde_json::from_str(text(message)).expect("JSON");
        match json[0].as_str() {
            Some("EVENT") if json[1] == "x" => {
                events.push(Event::from_json(json[2].to_string()).expect("an event"));
            }
            Some("EOSE") => {}
            _ => panic!("{json} is unexpected"),
        }
    }
    assert!(events.len() >= 599, "{} events", events.len());
    let forged = events.iter().filter(|event| event.pubkey == author).count();
    assert!((events.len() * 4 / 10..events.len() * 6 / 10).contains(&forged), "{forged}");
    for event in events {
        assert!(event.verify_id() && !event.verify_signature(), "{event:?}");
        assert_eq!(event.tags.public_keys().collect::<Vec<_>>(), [&reader]);
    }
    Ok(())
}

#[test]
fn the_relay_of_others_passes_events_on() -> Result<()> {
    let namespace = Namespace::new("nostr")?;
    let relay = PythonRelay::start(&namespace, Ipv4Addr::LOCALHOST)?;
    let address = relay.url.trim_start_matches("ws://").parse().expect("an address");
    let observer = Observer::start(&namespace, address)?;
    let events = ["one", "two", "three"].map(event);
    publish(&namespace, address, &events)?;
    wait(&observer, &events)
}
