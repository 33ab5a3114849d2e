//! One connection to a relay: what goes through it in either direction, and what does not.

use std::sync::Arc;
use std::time::Duration;

use async_wsocket::Message;
use futures_util::{SinkExt, StreamExt};
use nostr_sdk::pool::transport::error::TransportError;
use nostr_sdk::{JsonUtil, RelayMessage};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_tungstenite::tungstenite;

use super::Shared;
use super::state::{Complaint, Relay, SLOW};
use super::transport::Socket;
use crate::signaling::nostr::seal::MAX_EVENT;

/// The largest message that is received, in bytes. What is larger than an event may be is thrown away; what is larger than
/// this ends the connection. The room between is for a peer that publishes events larger than it may: they must not
/// end the connections on which others are heard.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;

/// Around an event: its subscription and punctuation.
const ENVELOPE: usize = 1024;

/// How much is read of a relay: bytes a second, and at once. 1,000 events a second are below it; each costs what it
/// takes to read and check it.
const RATE: u64 = 4 * 1024 * 1024;
const BURST: u64 = 16 * 1024 * 1024;

/// What a message costs besides its bytes.
const MESSAGE: u64 = 512;

/// After so long without a sign of life a relay is asked for one (RFC 6455 section 5.5.2), and given up after
/// [`PONG`] without it.
const QUIET: Duration = Duration::from_secs(20);

/// See [`QUIET`].
const PONG: Duration = Duration::from_secs(10);

/// A relay has so long to take a message.
const SEND: Duration = Duration::from_secs(10);

/// Between looks at what is overdue.
const LOOK: Duration = Duration::from_millis(500);

/// How much may be read at the moment.
#[derive(Debug)]
struct Budget {
    /// Below zero where the last message took more than there was.
    left: i64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self { left: BURST as i64, at: now }
    }

    fn refill(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.at).as_millis();
        let more = i64::try_from(millis * u128::from(RATE) / 1000).unwrap_or(i64::MAX);
        if more > 0 {
            self.left = self.left.saturating_add(more).min(BURST as i64);
            self.at = now;
        }
    }

    /// Spends what a message of so many bytes costs.
    fn spend(&mut self, bytes: usize, now: Instant) {
        self.refill(now);
        self.left -= bytes as i64 + MESSAGE as i64;
    }

    /// When the next message may be read, where that is not now.
    fn wait(&self) -> Option<Instant> {
        let missing = u64::try_from(-self.left).ok().filter(|missing| *missing > 0)?;
        Some(self.at + Duration::from_millis(missing * 1000 / RATE + 1))
    }
}

/// Why a connection ends.
enum End {
    /// The relay, or the way to it.
    Lost(String),
    /// The relay refuses the subscription.
    Refused(String),
    /// The network has changed, so a new one is wanted.
    Renew,
    /// The library wants no more.
    Done,
}

/// A connection, and what it passes on.
pub(super) struct Pump {
    socket: Socket,
    from_library: mpsc::Receiver<Message>,
    to_library: mpsc::Sender<Result<Message, TransportError>>,
    relay: Arc<Relay>,
    shared: Arc<Shared>,
    budget: Budget,
    opened: Instant,
    heard: Instant,
    pinged: Option<Instant>,
    /// Whether the relay says that it has delivered what it had stored.
    live: bool,
    /// Whether the subscription may count as taken.
    served: bool,
    /// Whether the relay wants to know who this side is; it may ask once a connection.
    challenged: bool,
    /// Whether it has refused the subscription for want of that; it may once as well.
    wants_identity: bool,
}

impl Pump {
    pub(super) fn new(
        socket: Socket,
        from_library: mpsc::Receiver<Message>,
        to_library: mpsc::Sender<Result<Message, TransportError>>,
        relay: Arc<Relay>,
        shared: &Arc<Shared>,
    ) -> Self {
        let now = Instant::now();
        Self {
            socket,
            from_library,
            to_library,
            relay,
            shared: shared.clone(),
            budget: Budget::new(now),
            opened: now,
            heard: now,
            pinged: None,
            live: false,
            served: false,
            challenged: false,
            wants_identity: false,
        }
    }

    /// Runs until the connection ends.
    pub(super) async fn run(mut self) {
        self.relay.opened();
        let end = self.serve().await;
        let _ = timeout(Duration::from_secs(1), self.socket.close(None)).await;
        let why = match &end {
            End::Lost(why) => Some(why.as_str()),
            End::Refused(why) => {
                self.relay.refused(why);
                Some(why.as_str())
            }
            End::Renew | End::Done => None,
        };
        for id in self.relay.closed(Instant::now(), why) {
            self.shared.verdict(&id, Err("the connection was lost".to_owned()));
        }
        if matches!(end, End::Renew) {
            self.relay.forgive();
        }
        self.shared.count();
    }

    async fn serve(&mut self) -> End {
        let mut network = self.shared.network.subscribe();
        let mut look = interval(LOOK);
        loop {
            let wait = self.budget.wait();
            let step = tokio::select! {
                message = self.from_library.recv() => self.send(message).await,
                incoming = self.socket.next(), if wait.is_none() => self.receive(incoming).await,
                () = sleep_until(wait.unwrap_or(self.opened)), if wait.is_some() => {
                    self.relay.complain(Complaint::Flood, "");
                    self.budget.refill(Instant::now());
                    Ok(())
                }
                _ = look.tick() => self.look().await,
                // The sender lives as long as this.
                _ = network.changed() => Err(End::Renew),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn send(&mut self, message: Option<Message>) -> Result<(), End> {
        match message {
            Some(Message::Text(text)) => self.write(tungstenite::Message::text(text)).await,
            Some(Message::Close(_)) | None => Err(End::Done),
            // The library speaks in text.
            Some(_) => Ok(()),
        }
    }

    async fn write(&mut self, message: tungstenite::Message) -> Result<(), End> {
        match timeout(SEND, self.socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(End::Lost(error.to_string())),
            Err(_) => Err(End::Lost(format!("it takes nothing for {} s", SEND.as_secs()))),
        }
    }

    /// Notices what is overdue.
    async fn look(&mut self) -> Result<(), End> {
        let now = Instant::now();
        self.relay.look(now);
        if !self.served && now >= self.opened + SLOW {
            self.mark_served(now, false);
        }
        match self.pinged {
            Some(since) if now >= since + PONG => Err(End::Lost("it has fallen silent".to_owned())),
            None if now >= self.heard + QUIET => {
                self.pinged = Some(now);
                self.write(tungstenite::Message::Ping(tungstenite::Bytes::new())).await
            }
            Some(_) | None => Ok(()),
        }
    }

    fn mark_served(&mut self, now: Instant, in_time: bool) {
        self.served = true;
        self.relay.served(now, in_time);
        self.shared.count();
    }

    async fn receive(
        &mut self,
        incoming: Option<Result<tungstenite::Message, tungstenite::Error>>,
    ) -> Result<(), End> {
        let now = Instant::now();
        (self.heard, self.pinged) = (now, None);
        let message = match incoming {
            Some(Ok(message)) => message,
            Some(Err(error)) => return Err(End::Lost(error.to_string())),
            None => return Err(End::Lost("it closed the connection".to_owned())),
        };
        self.budget.spend(message.len(), now);
        match message {
            tungstenite::Message::Text(text) if text.len() <= MAX_EVENT + ENVELOPE => {
                if !self.take(&text, now)? {
                    return Ok(());
                }
                let message = Ok(Message::Text(text.to_string()));
                // Where the library wants no more, the other direction says so.
                let _ = self.to_library.send(message).await;
                Ok(())
            }
            tungstenite::Message::Text(_) => {
                self.relay.complain(Complaint::Unasked, "it is too large");
                Ok(())
            }
            tungstenite::Message::Binary(_) => {
                self.relay.complain(Complaint::Garbage, "");
                Ok(())
            }
            tungstenite::Message::Close(frame) => {
                let reason = frame.map(|frame| frame.reason.to_string()).unwrap_or_default();
                Err(End::Lost(format!("it closed the connection: {reason}")))
            }
            tungstenite::Message::Ping(_)
            | tungstenite::Message::Pong(_)
            | tungstenite::Message::Frame(_) => Ok(()),
        }
    }

    /// Whether the library is to have a message as well.
    fn take(&mut self, text: &str, now: Instant) -> Result<bool, End> {
        let Ok(message) = RelayMessage::from_json(text) else {
            self.relay.complain(Complaint::Garbage, "");
            return Ok(false);
        };
        match message {
            RelayMessage::Event { subscription_id, event }
                if *subscription_id == self.shared.subscription =>
            {
                self.shared.take(&self.relay, event.into_owned(), self.live);
                Ok(false)
            }
            RelayMessage::Event { .. } => {
                self.relay.complain(Complaint::Unasked, "it is of no subscription");
                Ok(false)
            }
            RelayMessage::Ok { event_id, status, message } => {
                // It has it, so others get it.
                let taken = status || message.starts_with("duplicate:");
                let refused = (!taken).then_some(&*message);
                if self.relay.answered(&event_id, now, refused) {
                    let verdict = refused.map_or(Ok(()), |words| Err(words.to_owned()));
                    self.shared.verdict(&event_id, verdict);
                    return Ok(false);
                }
                Ok(self.challenged)
            }
            RelayMessage::EndOfStoredEvents(id) if *id == self.shared.subscription => {
                self.live = true;
                self.mark_served(now, true);
                Ok(true)
            }
            RelayMessage::Closed { subscription_id, message }
                if *subscription_id == self.shared.subscription =>
            {
                let identity = message.starts_with("auth-required:") && self.challenged;
                if identity && !std::mem::replace(&mut self.wants_identity, true) {
                    return Ok(true);
                }
                Err(End::Refused(message.into_owned()))
            }
            RelayMessage::Auth { .. } => Ok(!std::mem::replace(&mut self.challenged, true)),
            RelayMessage::Notice(_)
            | RelayMessage::EndOfStoredEvents(_)
            | RelayMessage::Closed { .. }
            | RelayMessage::Count { .. }
            | RelayMessage::NegMsg { .. }
            | RelayMessage::NegErr { .. } => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_events_a_second_are_read_and_a_flood_is_slowed_down() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        for second in 0..60 {
            for _ in 0..1000 {
                budget.spend(2048, start + Duration::from_secs(second));
                assert_eq!(budget.wait(), None);
            }
        }
        let mut now = start + Duration::from_secs(60);
        let mut read = 0;
        while now < start + Duration::from_secs(70) {
            budget.spend(1024, now);
            read += 1024 + MESSAGE;
            if let Some(ready) = budget.wait() {
                assert!(ready > now);
                now = ready;
                budget.refill(now);
                assert_eq!(budget.wait(), None);
            }
        }
        assert!(read <= BURST + 11 * RATE, "{read}");
        assert!(read >= 9 * RATE, "{read}");
    }
}
