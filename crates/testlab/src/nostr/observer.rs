use std::{
    collections::BTreeSet,
    io,
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message, WebSocket};

use crate::{Error, Result, enter::connect_tcp, netns::Namespace};

/// For a relay in the same namespace to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// The kind of the events that carry signaling.
const KIND: u16 = 24242;

/// An event as a relay passed it on.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its id, in hex.
    pub id: String,
    /// Its author's public key, in hex.
    pub author: String,
    event: Value,
}

impl Seen {
    /// An event as it is published.
    pub fn new(event: Value) -> Self {
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        Self { id: text("id"), author: text("pubkey"), event }
    }
}

/// Somebody who reads all signaling that a relay passes on. It ends when it is dropped.
#[derive(Debug)]
pub struct Observer {
    shared: Arc<Shared>,
    stream: TcpStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    news: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer {
    /// Subscribes to everything, and returns once the relay has taken that.
    pub fn start(namespace: &Namespace, relay: SocketAddr) -> Result<Self> {
        let failed = || Error::io(format!("subscribe at the relay {relay}"));
        let mut socket = connect(namespace, relay)?;
        let subscription = "all";
        send(&mut socket, &json!(["REQ", subscription, {"kinds": [KIND]}])).map_err(failed())?;
        let shared = Arc::<Shared>::default();
        loop {
            let message = receive(&mut socket).map_err(failed())?;
            match message[0].as_str() {
                Some("EOSE") => break,
                _ => take(&shared, &message),
            }
        }
        let stream = socket.get_ref().try_clone().map_err(failed())?;
        stream.set_read_timeout(None).map_err(failed())?;
        let reads = Arc::clone(&shared);
        let read = move || {
            while let Ok(message) = receive(&mut socket) {
                take(&reads, &message);
            }
        };
        let thread = Some(thread::Builder::new().spawn(read).map_err(failed())?);
        Ok(Self { shared, stream, thread })
    }

    /// Everything that it has seen, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.lock().clone()
    }

    /// Who has written anything.
    pub fn authors(&self) -> BTreeSet<String> {
        self.shared.lock().iter().map(|seen| seen.author.clone()).collect()
    }

    /// Waits until `find` finds what it looks for among everything seen so far.
    pub fn wait<T>(&self, find: impl Fn(&[Seen]) -> Option<T>, limit: Duration) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut seen = self.shared.lock();
        loop {
            if let Some(found) = find(&seen) {
                return Ok(found);
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let command = "somebody who reads along at a relay".to_owned();
                let lines = seen.iter().map(|seen| format!("{} by {}\n", seen.id, seen.author));
                return Err(Error::TimedOut { command, limit, output: lines.collect() });
            };
            let waited = self.shared.news.wait_timeout(seen, left);
            (seen, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Publishes events as they were seen, one after the other; each must be taken by the relay.
pub fn publish(namespace: &Namespace, relay: SocketAddr, events: &[Seen]) -> Result<()> {
    let failed = || Error::io(format!("publish at the relay {relay}"));
    let mut socket = connect(namespace, relay)?;
    for event in events {
        send(&mut socket, &json!(["EVENT", event.event])).map_err(failed())?;
        let answer = receive(&mut socket).map_err(failed())?;
        if answer[0] != "OK" || answer[1] != event.id.as_str() || answer[2] != true {
            let what = "a relay's answer to an event that was published once more";
            return Err(Error::Malformed { what, text: answer.to_string() });
        }
    }
    Ok(())
}

fn connect(namespace: &Namespace, relay: SocketAddr) -> Result<WebSocket<TcpStream>> {
    let failed = || Error::io(format!("open a WebSocket at the relay {relay}"));
    let stream = connect_tcp(namespace, relay, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT)).map_err(failed())?;
    let opened = tungstenite::client(format!("ws://{relay}"), stream);
    let (socket, _) = opened.map_err(|error| failed()(io::Error::other(error.to_string())))?;
    Ok(socket)
}

fn send(socket: &mut WebSocket<TcpStream>, message: &Value) -> io::Result<()> {
    socket.send(Message::text(message.to_string())).map_err(io::Error::other)
}

/// The next message in JSON.
fn receive(socket: &mut WebSocket<TcpStream>) -> io::Result<Value> {
    loop {
        if let Message::Text(text) = socket.read().map_err(io::Error::other)? {
            return serde_json::from_str(&text).map_err(io::Error::other);
        }
    }
}

/// Keeps an event.
fn take(shared: &Shared, message: &Value) {
    let Some(event) = message.get(2).filter(|_| message[0] == "EVENT") else { return };
    shared.lock().push(Seen::new(event.clone()));
    shared.news.notify_all();
}
