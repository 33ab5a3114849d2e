//! Relays that do not do what they should.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::{SinkExt, StreamExt};
use nostr_sdk::filter::MatchEventOptions;
use nostr_sdk::{ClientMessage, Event, Filter, JsonUtil, RelayMessage, RelayUrl, SubscriptionId};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

/// What a relay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// What it should.
    Relay,
    /// Accepts connections, and nothing more.
    Deaf,
    /// Accepts WebSockets, and says nothing.
    Mute,
    /// Says what is no message of Nostr.
    Garbage,
    /// Sends so many events that nobody asked for with each subscription, and a tenth of it before each event.
    Flood(usize),
    /// Refuses subscriptions.
    Closed,
    /// Refuses events.
    Reject,
    /// Sends each event altered, whole, again, and everything of before once more.
    Forge,
}

/// A relay on loopback; it ends with this.
pub(super) struct Fake {
    pub(super) url: RelayUrl,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    manner: Manner,
    accepted: AtomicUsize,
    open: AtomicUsize,
    events: broadcast::Sender<Event>,
    drop: broadcast::Sender<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
        self.drop_connections();
    }
}

impl Fake {
    pub(super) async fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = RelayUrl::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap();
        let state = Arc::new(State {
            manner,
            accepted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            events: broadcast::Sender::new(1024),
            drop: broadcast::Sender::new(1),
        });
        let shared = state.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.accepted.fetch_add(1, Ordering::SeqCst);
                let shared = shared.clone();
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Ordering::SeqCst);
                    let mut dropped = shared.drop.subscribe();
                    tokio::select! {
                        _ = serve(&shared, stream) => {}
                        _ = dropped.recv() => {}
                    }
                    shared.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { url, state, task }
    }

    /// How many connections there have been.
    pub(super) fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// How many connections there are.
    pub(super) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    pub(super) fn drop_connections(&self) {
        let _ = self.state.drop.send(());
    }
}

type Socket = WebSocketStream<TcpStream>;
type Outcome = Result<(), tokio_tungstenite::tungstenite::Error>;

async fn say(socket: &mut Socket, message: RelayMessage<'_>) -> Outcome {
    socket.send(Message::text(message.as_json())).await
}

async fn serve(state: &State, stream: TcpStream) -> Outcome {
    if state.manner == Manner::Deaf {
        return std::future::pending().await;
    }
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    let mut events = state.events.subscribe();
    let mut subscriptions: HashMap<SubscriptionId, Filter> = HashMap::new();
    let mut past: Vec<Event> = Vec::new();
    loop {
        tokio::select! {
            message = socket.next() => {
                let Some(message) = message else { return Ok(()) };
                let Message::Text(text) = message? else { continue };
                match ClientMessage::from_json(text.as_str()).unwrap() {
                    ClientMessage::Req { subscription_id, filters } => {
                        let id = subscription_id.into_owned();
                        subscribe(state.manner, &mut socket, &id).await?;
                        // Whatever its age is.
                        let filter = Filter { since: None, ..filters[0].clone().into_owned() };
                        subscriptions.insert(id, filter);
                    }
                    ClientMessage::Event(event) => {
                        let event = event.into_owned();
                        publish(state, &mut socket, event).await?;
                    }
                    _ => {}
                }
            }
            event = events.recv() => {
                let Ok(event) = event else { continue };
                let options = MatchEventOptions::new();
                for (id, filter) in &subscriptions {
                    if filter.match_event(&event, options) {
                        deliver(state.manner, &mut socket, id, &event, &mut past).await?;
                    }
                }
            }
        }
    }
}

async fn subscribe(manner: Manner, socket: &mut Socket, id: &SubscriptionId) -> Outcome {
    match manner {
        Manner::Mute | Manner::Deaf => return Ok(()),
        Manner::Garbage => return rubbish(socket).await,
        Manner::Closed => {
            return say(socket, RelayMessage::closed(id.clone(), "blocked: no")).await;
        }
        Manner::Flood(many) => flood(socket, id, many).await?,
        Manner::Relay | Manner::Reject | Manner::Forge => {}
    }
    say(socket, RelayMessage::eose(id.clone())).await
}

async fn publish(state: &State, socket: &mut Socket, event: Event) -> Outcome {
    match state.manner {
        Manner::Mute | Manner::Deaf => Ok(()),
        Manner::Garbage => rubbish(socket).await,
        Manner::Reject | Manner::Closed => {
            say(socket, RelayMessage::ok(event.id, false, "blocked: not you")).await
        }
        Manner::Relay | Manner::Flood(_) | Manner::Forge => {
            say(socket, RelayMessage::ok(event.id, true, "")).await?;
            let _ = state.events.send(event);
            Ok(())
        }
    }
}

async fn deliver(
    manner: Manner,
    socket: &mut Socket,
    id: &SubscriptionId,
    event: &Event,
    past: &mut Vec<Event>,
) -> Outcome {
    let whole = |event: &Event| RelayMessage::event(id.clone(), event.clone());
    match manner {
        Manner::Forge => {
            for alter in [
                |event: &mut Event| event.content.push('A'),
                |event: &mut Event| event.created_at = event.created_at + 1,
            ] {
                let mut altered = event.clone();
                alter(&mut altered);
                say(socket, whole(&altered)).await?;
            }
            past.push(event.clone());
            say(socket, whole(event)).await?;
            for event in past.iter() {
                say(socket, whole(event)).await?;
            }
            Ok(())
        }
        Manner::Flood(many) => {
            flood(socket, id, many / 10).await?;
            say(socket, whole(event)).await
        }
        _ => say(socket, whole(event)).await,
    }
}

/// Events of strangers, made up.
async fn flood(socket: &mut Socket, id: &SubscriptionId, many: usize) -> Outcome {
    for number in 0..many {
        let event = format!(
            r#"["EVENT","{id}",{{"id":"{number:064x}","pubkey":"{number:064x}","created_at":1,"kind":1,"tags":[],"content":"{:0300}","sig":"{number:0128x}"}}]"#,
            0
        );
        socket.feed(Message::text(event)).await?;
    }
    socket.flush().await
}

async fn rubbish(socket: &mut Socket) -> Outcome {
    for text in ["", "{", "[]", "[1,2]", r#"["EVENT"]"#, r#"["EVENT","x",{}]"#, r#"["OK",1]"#] {
        socket.send(Message::text(text)).await?;
    }
    socket.send(Message::text("[".repeat(200_000))).await?;
    socket.send(Message::binary(vec![0; 1000])).await
}
