//! The streams of a session's flows. They go on when the session's connection is replaced by another one: each side
//! keeps what it has sent until the other one has acknowledged it, and sends it again where it did not arrive.
//!
//! Connections of a session are told apart by their epoch, a number that each side counts for itself. A stream belongs
//! to the epoch that it was last attached in; what still comes on an earlier one is thrown away, as it will come again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tunnel_model::resume::{OutOfRange, SeenFlows};
use tunnel_model::{Protocol, ResetCode, Source};

use crate::limits::{MAX_FLOWS, MAX_HELD_SERVER, MAX_HELD_SESSION};
use crate::transport::{Connection, Lost, RecvStream, SendStream};

mod acks;
mod halves;
mod stream;

use acks::Acks;
pub(crate) use halves::{Receiver, Sender};
pub(crate) use stream::{AttachError, Stream};

/// What is kept to be sent again, in bytes.
struct Held {
    session: Mutex<SessionHeld>,
    /// Of all sessions of the process that have a connection.
    all: Arc<AtomicUsize>,
}

#[derive(Default)]
struct SessionHeld {
    bytes: usize,
    /// Whether the session is without a connection: what those keep is bounded by itself, and must not hold the others
    /// back.
    away: bool,
}

impl Held {
    fn session(&self) -> MutexGuard<'_, SessionHeld> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, from: usize, to: usize) {
        let mut session = self.session();
        session.bytes = session.bytes + to - from;
        if !session.away {
            // Wraps for less, which comes to the same sum.
            self.all.fetch_add(to.wrapping_sub(from), Ordering::Relaxed);
        }
    }

    fn set_away(&self, away: bool) {
        let mut session = self.session();
        if std::mem::replace(&mut session.away, away) != away {
            let bytes = if away { session.bytes.wrapping_neg() } else { session.bytes };
            self.all.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn is_much(&self) -> bool {
        self.session().bytes >= MAX_HELD_SESSION
            || self.all.load(Ordering::Relaxed) >= MAX_HELD_SERVER
    }
}

/// What a flow is opened for, so that its opening can be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// A source.
    Source(Source),
    /// The VPN.
    Vpn,
}

/// What a session runs over.
#[derive(Clone)]
pub(crate) enum Present<C> {
    /// This connection, of this epoch.
    Up(u64, C),
    /// Nothing at the moment, since this happened to its connection.
    Away(Lost),
}

impl<C> Present<C> {
    /// Whether it is the connection of `epoch`.
    pub(crate) fn is(&self, epoch: u64) -> bool {
        matches!(self, Self::Up(present, _) if *present == epoch)
    }
}

/// The streams of one session's flows.
pub(crate) struct Streams<C: Connection> {
    table: Mutex<Table<C>>,
    over: watch::Sender<Option<Lost>>,
    acks: Acks<C>,
    held: Held,
    /// Holds a place for each stream that is not over.
    open: TaskTracker,
    resumable: bool,
}

struct Table<C: Connection> {
    /// Of the latest connection.
    epoch: u64,
    streams: HashMap<u64, Arc<Stream<C>>>,
    /// Those that this side has left and whose last bytes are not acknowledged, oldest first; some are long done.
    lingering: VecDeque<u64>,
    seen: SeenFlows,
}

/// Why a flow gets no streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotBegun {
    /// Too many flows.
    Full,
    /// The number was used before.
    Used,
    /// Its connection has been replaced meanwhile, or the session is over.
    Outdated,
}

impl<C: Connection> Streams<C> {
    /// Streams of a session that begins. Where it is not `resumable` they end with their connection and nothing is kept.
    /// `all` counts the bytes kept by all sessions, `open` their streams: those whose last bytes are not acknowledged among
    /// them, where it is resumable.
    pub(crate) fn new(resumable: bool, all: Arc<AtomicUsize>, open: TaskTracker) -> Arc<Self> {
        let table = Table {
            epoch: 0,
            streams: HashMap::new(),
            lingering: VecDeque::new(),
            seen: SeenFlows::default(),
        };
        Arc::new(Self {
            table: Mutex::new(table),
            over: watch::Sender::new(None),
            acks: Acks::default(),
            held: Held { session: Mutex::default(), all },
            open,
            resumable,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table<C>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins the epoch of a new connection, and tells its number.
    pub(crate) fn next_epoch(&self) -> u64 {
        // Whoever is told of on the new connection is told by what attaches its flow.
        drop(self.acks.take());
        let mut table = self.table();
        table.epoch += 1;
        table.epoch
    }

    /// The epoch of the latest connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.table().epoch
    }

    /// Both halves of a flow's stream. They begin with `streams`, of the connection of `epoch`; without, they wait for
    /// the flow to be attached.
    ///
    /// # Errors
    ///
    /// [`NotBegun`]; the streams are reset.
    pub(crate) fn begin(
        self: &Arc<Self>,
        flow: u64,
        service: Service,
        epoch: u64,
        streams: Option<(C::Send, C::Recv)>,
    ) -> Result<(Sender<C>, Receiver<C>), NotBegun> {
        let (stream, send, recv) = Stream::new(self.clone(), flow, service, epoch, streams);
        if self.resumable
            && let Err(why) = self.enter(&stream, epoch)
        {
            for mut send in send.into_iter().map(|(_, send)| send) {
                send.reset(ResetCode::UnknownFlow);
            }
            for mut recv in recv.into_iter().map(|(_, recv)| recv) {
                recv.stop(ResetCode::UnknownFlow);
            }
            return Err(why);
        }
        Ok((Sender::new(stream.clone(), send), Receiver::new(stream, recv)))
    }

    fn enter(&self, stream: &Arc<Stream<C>>, epoch: u64) -> Result<(), NotBegun> {
        let mut table = self.table();
        if epoch != table.epoch || self.is_over() {
            return Err(NotBegun::Outdated);
        }
        // As many flows as there can be at once, and as many that linger.
        if table.streams.len() >= 2 * MAX_FLOWS as usize {
            return Err(NotBegun::Full);
        }
        if !table.seen.insert(stream.id()) {
            return Err(NotBegun::Used);
        }
        table.streams.insert(stream.id(), stream.clone());
        Ok(())
    }

    /// The stream of a flow that is not over.
    pub(crate) fn get(&self, flow: u64) -> Option<Arc<Stream<C>>> {
        self.table().streams.get(&flow).cloned()
    }

    /// All streams that are not over, and the epoch.
    pub(crate) fn all(&self) -> (u64, Vec<Arc<Stream<C>>>) {
        let table = self.table();
        (table.epoch, table.streams.values().cloned().collect())
    }

    /// Whether there is anything that could go on over another connection.
    pub(crate) fn is_empty(&self) -> bool {
        self.table().streams.is_empty()
    }

    /// Whether there is a flow that can go on over another connection and whose bytes wait for those before them. Packets
    /// do not.
    pub(crate) fn carry_bytes(&self) -> bool {
        let is_tcp = |service: &Service| matches!(service, Service::Source(source) if source.protocol == Protocol::Tcp);
        self.table().streams.values().any(|stream| is_tcp(stream.service()))
    }

    /// Notes whether the session is without a connection. Nothing of the one that is lost stays in memory then.
    pub(crate) fn set_away(&self, away: bool) {
        self.held.set_away(away);
        if away {
            let (_, streams) = self.all();
            for stream in streams {
                stream.release();
            }
        }
    }

    /// Bytes kept to be sent again.
    pub(crate) fn held(&self) -> usize {
        self.held.session().bytes
    }

    /// Takes in how far the peer has taken flows.
    ///
    /// # Errors
    ///
    /// [`OutOfRange`] where the peer says that it has what was never sent.
    pub(crate) fn acknowledge(&self, flows: &[(u64, u64)]) -> Result<(), OutOfRange> {
        for (flow, position) in flows {
            // Of a flow that is over nothing is kept any more.
            if let Some(stream) = self.get(*flow) {
                stream.acknowledge(*position)?;
            }
        }
        Ok(())
    }

    /// Cuts all flows from before `epoch` that are not `kept`: the peer has them no more.
    pub(crate) fn keep_only(&self, kept: &HashSet<u64>, epoch: u64) {
        let gone: Vec<_> = self
            .table()
            .streams
            .values()
            .filter(|stream| !kept.contains(&stream.id()) && stream.epoch() < epoch)
            .cloned()
            .collect();
        for stream in gone {
            stream.cut(ResetCode::ConnectionReset);
        }
    }

    /// Ends all streams: the session is over. Tells whether it was not before; the first reason counts.
    pub(crate) fn end(&self, lost: Lost) -> bool {
        let first = self.over.send_if_modified(|over| {
            let first = over.is_none();
            over.get_or_insert(lost);
            first
        });
        // Whoever uses a stream still holds it; what lingers is given up here.
        let streams = std::mem::take(&mut self.table().streams);
        self.acks.clear();
        drop(streams);
        first
    }

    /// Resolves when the session is over, with the reason.
    pub(crate) async fn over(&self) -> Lost {
        let mut over = self.over.subscribe();
        // The sender is this value's own, so it cannot be gone.
        over.wait_for(Option::is_some)
            .await
            .ok()
            .and_then(|lost| lost.clone())
            .unwrap_or(Lost::Local)
    }

    /// Whether the session is over.
    pub(crate) fn is_over(&self) -> bool {
        self.over.borrow().is_some()
    }

    fn remove(&self, flow: u64) {
        let removed = self.table().streams.remove(&flow);
        drop(removed);
    }

    /// Keeps a flow that this side has left until its last bytes are acknowledged.
    fn linger(&self, flow: u64) {
        let mut table = self.table();
        table.lingering.push_back(flow);
        let mut given_up = None;
        if table.lingering.len() > MAX_FLOWS as usize {
            let Table { lingering, streams, .. } = &mut *table;
            lingering.retain(|flow| streams.contains_key(flow));
        }
        if table.lingering.len() > MAX_FLOWS as usize
            && let Some(oldest) = table.lingering.pop_front()
            && table.streams.get(&oldest).is_some_and(|stream| stream.is_left())
        {
            given_up = table.streams.remove(&oldest);
        }
        drop(table);
        drop(given_up);
    }
}
