//! Relays that do not do what they should.

use std::{
    io,
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_tungstenite::tungstenite::{self, Error, Message, WebSocket};

use super::Manner;

/// Between two things that a relay says unasked.
const BEAT: Duration = Duration::from_millis(20);

/// The kind of the events that carry signaling.
const KIND: u16 = 24242;

/// What a false event is as long as: about a request of a client that has some addresses.
const CONTENT: usize = 600;

type Socket = WebSocket<TcpStream>;

/// Serves connections badly for ever; returns why no more of them can be accepted.
pub fn misbehave(listener: &TcpListener, manner: Manner) -> io::Error {
    loop {
        match listener.accept() {
            // How a connection ends is nobody's concern.
            Ok((stream, _)) => drop(thread::spawn(move || serve(stream, manner))),
            Err(error) => return error,
        }
    }
}

/// A subscription, as far as somebody who wants to annoy its holder has to know it.
#[derive(Debug, PartialEq, Eq)]
struct Subscription {
    id: Value,
    authors: Vec<String>,
    /// Whom the events are to be for.
    reader: String,
}

fn serve(stream: TcpStream, manner: Manner) -> io::Result<()> {
    let Ok(mut socket) = tungstenite::accept(stream) else { return Ok(()) };
    socket.get_ref().set_read_timeout(Some(BEAT))?;
    let mut subscription = None;
    let mut next = Instant::now();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => hear(&mut socket, manner, &text, &mut subscription)?,
            Ok(_) => {}
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(io::Error::other(error)),
        }
        while Instant::now() >= next {
            next += BEAT;
            match (manner, &subscription) {
                (Manner::Garbage, _) => rubbish(&mut socket)?,
                (Manner::Flood(rate), Some(subscription)) => {
                    let beats = Duration::from_secs(1).as_millis() / BEAT.as_millis();
                    let events = rate / usize::try_from(beats).unwrap_or(1);
                    flood(&mut socket, subscription, events)?;
                }
                _ => {}
            }
        }
    }
}

/// Takes a client's message.
fn hear(
    socket: &mut Socket,
    manner: Manner,
    text: &str,
    subscription: &mut Option<Subscription>,
) -> io::Result<()> {
    let (Manner::Flood(_), Ok(message)) = (manner, serde_json::from_str::<Value>(text)) else {
        return Ok(());
    };
    match message[0].as_str() {
        Some("REQ") => {
            *subscription = subscribe(&message);
            say(socket, &json!(["EOSE", message[1]]))
        }
        Some("EVENT") => say(socket, &json!(["OK", message[1]["id"], true, ""])),
        _ => Ok(()),
    }
}

/// Reads a subscription to what somebody writes to somebody.
fn subscribe(message: &Value) -> Option<Subscription> {
    let filter = message.get(2)?;
    let authors = filter["authors"].as_array()?.iter().filter_map(Value::as_str);
    Some(Subscription {
        id: message.get(1)?.clone(),
        authors: authors.map(str::to_owned).collect(),
        reader: filter["#p"].get(0)?.as_str()?.to_owned(),
    })
}

fn say(socket: &mut Socket, message: &Value) -> io::Result<()> {
    write(socket, Message::text(message.to_string()))?;
    socket.flush().map_err(io::Error::other)
}

fn write(socket: &mut Socket, message: Message) -> io::Result<()> {
    socket.write(message).map_err(io::Error::other)
}

/// Sends so many events; every second one looks as if it came from a peer.
fn flood(socket: &mut Socket, subscription: &Subscription, events: usize) -> io::Result<()> {
    for number in 0..events {
        let peer = fastrand::choice(&subscription.authors).filter(|_| number % 2 == 0);
        let author = peer.cloned().unwrap_or_else(|| random_hex(32));
        let event = forged(&author, &subscription.reader);
        write(socket, Message::text(json!(["EVENT", subscription.id, event]).to_string()))?;
    }
    socket.flush().map_err(io::Error::other)
}

/// An event in which everything is right but the signature and the content: it is the one that costs its reader most.
fn forged(author: &str, reader: &str) -> Value {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let tags = json!([["p", reader], ["x", transfer(author, reader)]]);
    let content = random_hex(CONTENT / 2);
    // The id is the hash of this (NIP-01).
    let signed = json!([0, author, now, KIND, tags, content]).to_string();
    let id = HEXLOWER.encode(&Sha256::digest(signed));
    json!({
        "id": id,
        "pubkey": author,
        "created_at": now,
        "kind": KIND,
        "tags": tags,
        "content": content,
        "sig": random_hex(64),
    })
}

/// The id of what two sides tell each other: the hash of both keys, sorted.
fn transfer(a: &str, b: &str) -> String {
    let mut keys = [a, b].map(|key| HEXLOWER.decode(key.as_bytes()).unwrap_or_default());
    keys.sort();
    HEXLOWER.encode(&Sha256::digest(keys.concat()))
}

fn random_hex(bytes: usize) -> String {
    let bytes: Vec<u8> = (0..bytes).map(|_| fastrand::u8(..)).collect();
    HEXLOWER.encode(&bytes)
}

fn rubbish(socket: &mut Socket) -> io::Result<()> {
    for text in ["", "{", "[]", "[1,2]", r#"["EVENT"]"#, r#"["EVENT","x",{}]"#, r#"["OK",1]"#] {
        write(socket, Message::text(text))?;
    }
    write(socket, Message::text("[".repeat(20_000)))?;
    write(socket, Message::binary(vec![0; 1_000]))?;
    socket.flush().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscription_is_understood() {
        let filter = json!({"kinds": [KIND], "authors": ["aa", "bb"], "#p": ["cc"], "since": 1});
        let expected = Subscription {
            id: json!("tunnel"),
            authors: vec!["aa".to_owned(), "bb".to_owned()],
            reader: "cc".to_owned(),
        };
        assert_eq!(subscribe(&json!(["REQ", "tunnel", filter])), Some(expected));
        for other in [json!(["REQ", "x"]), json!(["REQ", "x", {}]), json!(["REQ"])] {
            assert_eq!(subscribe(&other), None, "{other}");
        }
    }

    #[test]
    fn a_false_event_has_the_right_form() {
        let (author, reader) = (random_hex(32), random_hex(32));
        let event = forged(&author, &reader);
        let hashed = json!([
            0,
            event["pubkey"],
            event["created_at"],
            event["kind"],
            event["tags"],
            event["content"]
        ]);
        let hash = HEXLOWER.encode(&Sha256::digest(hashed.to_string()));
        assert_eq!(event["id"], json!(hash));
        assert_eq!(event["tags"][1][1], json!(transfer(&reader, &author)));
        assert_eq!(event["sig"].as_str().map(str::len), Some(128));
    }
}
