//! Everything that happens to a session or a flow, as one typed stream.
//!
//! A decision (who came in, what was opened or refused) is recorded first, in order and without loss, with the
//! [`DecisionSink`]; only if that takes it does the decision take effect. Logs, metrics and status read copies, and may
//! lose some.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use thiserror::Error;
use tokio::sync::broadcast;
use tunnel_model::protocol::Refusal;
use tunnel_model::{CloseCode, Identity, Request, Source};

use crate::transport::{Lost, PathReport, Role};

/// Names a session in both sides' records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 32 bits tell the sessions of a log apart and stay readable.
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0[..4]))
    }
}

/// Why a flow ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowEnd {
    /// Both directions ended in order.
    Finished,
    /// One side's connection was reset.
    Reset,
    /// No packets for the idle time.
    Idle,
    /// The rules no longer allow it.
    Revoked,
    /// Another client with the same key has taken its place.
    Replaced,
    /// The session ended.
    SessionLost,
}

impl fmt::Display for FlowEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Finished => "finished",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Revoked => "no longer allowed",
            Self::Replaced => "another client with the same key has taken its place",
            Self::SessionLost => "session ended",
        })
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client was let in (server), or the server let this client in (client: no identity).
    SessionOpened {
        /// The session.
        session: SessionId,
        /// This side's part in it.
        role: Role,
        /// The peer, for people.
        peer: String,
        /// Who the client proved to be.
        identity: Option<Identity>,
        /// The path at that moment.
        path: Option<PathReport>,
    },
    /// A client was not let in.
    SessionRefused {
        /// The peer, for people.
        peer: String,
        /// Why.
        code: CloseCode,
        /// More about why.
        detail: String,
    },
    /// The session runs over another path.
    PathChanged {
        /// The session.
        session: SessionId,
        /// The path from here on.
        path: PathReport,
    },
    /// A session is without a connection; its flows wait for the next one.
    SessionSuspended {
        /// The session.
        session: SessionId,
        /// What happened to its connection.
        why: Lost,
        /// How many flows wait.
        flows: usize,
        /// How long they do at most.
        grace: Duration,
    },
    /// A session goes on over another connection, and its flows with it.
    SessionResumed {
        /// The session.
        session: SessionId,
        /// The path at that moment.
        path: Option<PathReport>,
        /// How many flows go on.
        flows: usize,
    },
    /// A session ended.
    SessionClosed {
        /// The session.
        session: SessionId,
        /// Why.
        why: Lost,
        /// How many flows it carried.
        flows: u64,
        /// Bytes of payload to the peer.
        sent: u64,
        /// Bytes of payload from the peer.
        received: u64,
    },
    /// A source that the client will ask for is refused as things stand.
    SourceRefused {
        /// The session.
        session: SessionId,
        /// What would be asked for.
        source: Source,
        /// Why not.
        refusal: Refusal,
    },
    /// A flow was opened.
    FlowOpened {
        /// Its session.
        session: SessionId,
        /// Its number in the session.
        flow: u64,
        /// What was asked for.
        source: Source,
        /// The address behind it; known to the server alone.
        request: Option<Request>,
    },
    /// A flow was refused.
    FlowRefused {
        /// Its session.
        session: SessionId,
        /// Its number in the session.
        flow: u64,
        /// What was asked for.
        source: Source,
        /// Why not.
        refusal: Refusal,
    },
    /// A flow ended.
    FlowClosed {
        /// Its session.
        session: SessionId,
        /// Its number in the session.
        flow: u64,
        /// What was asked for.
        source: Source,
        /// Why.
        why: FlowEnd,
        /// Bytes of payload to the peer.
        sent: u64,
        /// Bytes of payload from the peer.
        received: u64,
    },
    /// A client is in the VPN.
    VpnOpened {
        /// Its session.
        session: SessionId,
        /// Its flow's number in the session.
        flow: u64,
        /// The client's addresses.
        addresses: Vec<IpNet>,
        /// The networks beyond the VPN's own that it may reach.
        routes: Vec<IpNet>,
    },
    /// A client was refused the VPN.
    VpnRefused {
        /// Its session.
        session: SessionId,
        /// Its flow's number in the session.
        flow: u64,
        /// Why.
        refusal: Refusal,
    },
    /// A client has left the VPN.
    VpnClosed {
        /// Its session.
        session: SessionId,
        /// Its flow's number in the session.
        flow: u64,
        /// Why.
        why: FlowEnd,
        /// Bytes of WireGuard packets to the peer.
        sent: u64,
        /// Bytes of WireGuard packets from the peer.
        received: u64,
    },
}

/// An event with its place in the order.
#[derive(Clone, Debug)]
pub struct Record {
    /// From 0, without gaps among all events of a process.
    pub sequence: u64,
    /// When, by the system's clock.
    pub at: SystemTime,
    /// What.
    pub event: Event,
}

/// A decision could not be recorded, and so must not take effect.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the decision could not be recorded: {0}")]
pub struct NotRecorded(pub String);

/// Takes every decision, in order, before it takes effect.
pub trait DecisionSink: Send + Sync + 'static {
    /// Records one decision.
    ///
    /// # Errors
    ///
    /// [`NotRecorded`] keeps the decision from taking effect.
    fn record(&self, record: &Record) -> Result<(), NotRecorded>;
}

/// Sees every event at the moment it happens, none left out: for counting. It must not take long nor block, as whoever tells
/// the event waits for it. Events of different sessions may come at once.
pub trait Observer: Send + Sync + 'static {
    /// Takes in one event.
    fn see(&self, event: &Event);
}

/// Where events go; cheap to clone.
#[derive(Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

struct Inner {
    sequence: AtomicU64,
    sink: Option<Mutex<Box<dyn DecisionSink>>>,
    observer: Option<Arc<dyn Observer>>,
    /// Shared: the queue has room for [`COPIES`], and would take megabytes if the events lay in it.
    copies: broadcast::Sender<Arc<Record>>,
}

/// A burst of a thousand flows opened at once reaches a reader that is scheduled late.
const COPIES: usize = 4096;

impl Default for Events {
    fn default() -> Self {
        Self::new(None)
    }
}

impl Events {
    /// Events whose decisions go to `sink`.
    pub fn new(sink: Option<Box<dyn DecisionSink>>) -> Self {
        Self::with(sink, None)
    }

    /// Events that `observer` sees; of decisions, those that take effect.
    pub fn observed(observer: Arc<dyn Observer>) -> Self {
        Self::with(None, Some(observer))
    }

    fn with(sink: Option<Box<dyn DecisionSink>>, observer: Option<Arc<dyn Observer>>) -> Self {
        let (copies, _) = broadcast::channel(COPIES);
        let (sequence, sink) = (AtomicU64::new(0), sink.map(Mutex::new));
        Self { inner: Arc::new(Inner { sequence, sink, observer, copies }) }
    }

    /// Copies of all events from here on; a slow reader loses the oldest.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Record>> {
        self.inner.copies.subscribe()
    }

    /// Records a decision.
    ///
    /// # Errors
    ///
    /// [`NotRecorded`] where the sink did not take it: the decision must not take effect.
    pub fn decide(&self, event: Event) -> Result<(), NotRecorded> {
        let record = match &self.inner.sink {
            None => self.number(event),
            Some(sink) => {
                // Numbered under the lock, so that the sink sees the order of the numbers.
                let sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
                let record = self.number(event);
                sink.record(&record)?;
                record
            }
        };
        self.tell(record);
        Ok(())
    }

    /// Tells what has happened.
    pub fn notice(&self, event: Event) {
        self.tell(self.number(event));
    }

    fn tell(&self, record: Record) {
        if let Some(observer) = &self.inner.observer {
            observer.see(&record.event);
        }
        let _ = self.inner.copies.send(Arc::new(record));
    }

    fn number(&self, event: Event) -> Record {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::Relaxed);
        Record { sequence, at: SystemTime::now(), event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl DecisionSink for Full {
        fn record(&self, _: &Record) -> Result<(), NotRecorded> {
            Err(NotRecorded("disk full".into()))
        }
    }

    fn refused() -> Event {
        let (peer, detail) = (String::new(), String::new());
        Event::SessionRefused { peer, code: CloseCode::Full, detail }
    }

    #[test]
    fn a_sink_that_refuses_keeps_the_decision_from_everyone() {
        let events = Events::new(Some(Box::new(Full)));
        let mut copies = events.subscribe();
        assert!(events.decide(refused()).is_err());
        assert!(copies.try_recv().is_err());
        events.notice(refused());
        assert!(copies.try_recv().is_ok());
    }
}
