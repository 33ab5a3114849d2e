//! Two ends of a connection within one process, for tests of what runs above a transport.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use tokio::sync::{Notify, mpsc, watch};
use tunnel_model::{CloseCode, ResetCode};

use super::{
    Connection, Identities, Lost, PathKind, PathReport, ReadError, RecvStream, Role, SendStream,
    WriteError,
};

/// Small, so that tests meet back pressure.
const WINDOW: usize = 64 * 1024;

#[derive(Default)]
struct Pipe {
    state: Mutex<PipeState>,
    changed: Notify,
}

#[derive(Default)]
struct PipeState {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    finished: bool,
    reset: Option<ResetCode>,
    stopped: Option<ResetCode>,
    all_read: bool,
}

/// What reaches one end of a connection.
#[derive(Default)]
struct Hearing {
    /// Nothing does any more, for good.
    deaf: AtomicBool,
    received: AtomicU64,
    /// How often somebody began to wait for the loss of a path, and who waits.
    path_watches: AtomicU64,
    path_lost: Notify,
    /// What the peer closed the connection with, heard or not.
    closed_with: Mutex<Option<CloseCode>>,
}

impl Hearing {
    fn is_deaf(&self) -> bool {
        self.deaf.load(Ordering::SeqCst)
    }
}

pub(crate) struct MemorySend {
    pipe: Arc<Pipe>,
    hearing: Arc<Hearing>,
    lost: watch::Receiver<Option<Lost>>,
    ended: bool,
}

pub(crate) struct MemoryRecv {
    pipe: Arc<Pipe>,
    hearing: Arc<Hearing>,
    lost: watch::Receiver<Option<Lost>>,
    ended: bool,
}

async fn gone(mut lost: watch::Receiver<Option<Lost>>) -> Lost {
    match lost.wait_for(Option::is_some).await {
        Ok(lost) => lost.clone().unwrap(),
        Err(_) => Lost::TimedOut,
    }
}

impl Pipe {
    /// Waits until `look` finds something.
    async fn until<T>(&self, mut look: impl FnMut(&mut PipeState) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state.lock().unwrap()) {
                self.changed.notify_waiters();
                return found;
            }
            changed.await;
        }
    }

    fn change(&self, change: impl FnOnce(&mut PipeState)) {
        change(&mut self.state.lock().unwrap());
        self.changed.notify_waiters();
    }
}

impl SendStream for MemorySend {
    async fn write_chunks(&mut self, chunks: &mut [Bytes]) -> Result<(), WriteError> {
        for chunk in chunks {
            let mut chunk = Some(std::mem::take(chunk));
            let deaf = || self.hearing.is_deaf();
            let write = self.pipe.until(|state| match state.stopped.filter(|_| !deaf()) {
                Some(code) => Some(Err(WriteError::Stopped(code))),
                None if state.bytes >= WINDOW => None,
                None => {
                    let chunk = chunk.take().unwrap_or_default();
                    state.bytes += chunk.len();
                    state.chunks.push_back(chunk);
                    Some(Ok(()))
                }
            });
            tokio::select! {
                biased;
                lost = gone(self.lost.clone()) => return Err(lost.into()),
                written = write => written?,
            }
        }
        Ok(())
    }

    fn finish(&mut self) {
        self.ended = true;
        if self.lost.borrow().is_none() {
            self.pipe.change(|state| state.finished = true);
        }
    }

    fn reset(&mut self, code: ResetCode) {
        self.ended = true;
        // Nothing leaves over a connection that is gone.
        if self.lost.borrow().is_some() {
            return;
        }
        self.pipe.change(|state| {
            if !state.all_read {
                state.reset = Some(code);
                state.chunks.clear();
            }
        });
    }

    fn stopped(&self) -> impl Future<Output = Result<(), WriteError>> + Send + 'static {
        let (pipe, hearing, lost) = (self.pipe.clone(), self.hearing.clone(), self.lost.clone());
        async move {
            let stopped = pipe.until(|state| match state.stopped {
                _ if hearing.is_deaf() => None,
                Some(code) => Some(Err(WriteError::Stopped(code))),
                None => state.all_read.then_some(Ok(())),
            });
            tokio::select! {
                stopped = stopped => stopped,
                lost = gone(lost) => Err(lost.into()),
            }
        }
    }

    fn set_priority(&mut self, _: i32) {}
}

impl Drop for MemorySend {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(ResetCode::Ended);
        }
    }
}

impl RecvStream for MemoryRecv {
    async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        let read = self.pipe.until(|state| {
            if self.hearing.is_deaf() {
                return None;
            }
            if let Some(code) = state.reset {
                return Some(Err(ReadError::Reset(code)));
            }
            if state.chunks.is_empty() {
                state.all_read |= state.finished;
                return state.finished.then_some(Ok(None));
            }
            self.hearing.received.fetch_add(1, Ordering::Relaxed);
            let mut count = 0;
            while count < chunks.len()
                && let Some(chunk) = state.chunks.pop_front()
            {
                state.bytes -= chunk.len();
                chunks[count] = chunk;
                count += 1;
            }
            Some(Ok(Some(count)))
        });
        tokio::select! {
            biased;
            read = read => read,
            lost = gone(self.lost.clone()) => Err(lost.into()),
        }
    }

    async fn read_exact(&mut self, buffer: &mut [u8]) -> Result<bool, ReadError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let mut chunk = [Bytes::new()];
            if self.read_chunks(&mut chunk).await?.is_none() {
                self.ended = true;
                return Ok(false);
            }
            let [mut chunk] = chunk;
            let n = chunk.len().min(buffer.len() - filled);
            chunk.copy_to_slice(&mut buffer[filled..filled + n]);
            filled += n;
            if !chunk.is_empty() {
                self.pipe.change(|state| {
                    state.bytes += chunk.len();
                    state.chunks.push_front(chunk);
                });
            }
        }
        Ok(true)
    }

    fn stop(&mut self, code: ResetCode) {
        self.ended = true;
        if self.lost.borrow().is_none() {
            self.pipe.change(|state| state.stopped = state.stopped.or(Some(code)));
        }
    }
}

impl Drop for MemoryRecv {
    fn drop(&mut self) {
        if !self.ended {
            self.stop(ResetCode::Ended);
        }
    }
}

type Pair = (MemorySend, MemoryRecv);

struct End {
    id: u8,
    peer: u8,
    secret: u64,
    lost: watch::Sender<Option<Lost>>,
    peer_lost: watch::Sender<Option<Lost>>,
    open_bi: mpsc::UnboundedSender<Pair>,
    accept_bi: tokio::sync::Mutex<mpsc::UnboundedReceiver<Pair>>,
    open_uni: mpsc::UnboundedSender<MemoryRecv>,
    accept_uni: tokio::sync::Mutex<mpsc::UnboundedReceiver<MemoryRecv>>,
    send_datagrams: mpsc::UnboundedSender<Bytes>,
    read_datagrams: tokio::sync::Mutex<mpsc::UnboundedReceiver<Bytes>>,
    peer_lost_view: watch::Receiver<Option<Lost>>,
    hearing: Arc<Hearing>,
    peer_hearing: Arc<Hearing>,
}

/// One end of a connection in memory.
#[derive(Clone)]
pub(crate) struct MemoryConnection(Arc<End>);

/// Both ends of a fresh connection: the client's and the server's.
pub(crate) fn pair() -> (MemoryConnection, MemoryConnection) {
    pair_of(1)
}

/// The same with a client of this identity.
pub(crate) fn pair_of(client: u8) -> (MemoryConnection, MemoryConnection) {
    static SECRET: AtomicU64 = AtomicU64::new(1);
    let secret = SECRET.fetch_add(1, Ordering::Relaxed);
    let (hearing_a, hearing_b) = (Arc::<Hearing>::default(), Arc::<Hearing>::default());
    let (lost_a, lost_b) = (watch::Sender::new(None), watch::Sender::new(None));
    let (bi_a, bi_b) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let (uni_a, uni_b) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let (data_a, data_b) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    let a = End {
        id: client,
        peer: 2,
        secret,
        peer_lost_view: lost_b.subscribe(),
        lost: lost_a.clone(),
        peer_lost: lost_b.clone(),
        open_bi: bi_b.0,
        accept_bi: bi_a.1.into(),
        open_uni: uni_b.0,
        accept_uni: uni_a.1.into(),
        send_datagrams: data_b.0,
        read_datagrams: data_a.1.into(),
        hearing: hearing_a.clone(),
        peer_hearing: hearing_b.clone(),
    };
    let b = End {
        id: 2,
        peer: client,
        secret,
        peer_lost_view: lost_a.subscribe(),
        lost: lost_b,
        peer_lost: lost_a,
        open_bi: bi_a.0,
        accept_bi: bi_b.1.into(),
        open_uni: uni_a.0,
        accept_uni: uni_b.1.into(),
        send_datagrams: data_a.0,
        read_datagrams: data_b.1.into(),
        hearing: hearing_b,
        peer_hearing: hearing_a,
    };
    (MemoryConnection(Arc::new(a)), MemoryConnection(Arc::new(b)))
}

impl End {
    fn pipe(&self) -> (MemorySend, MemoryRecv) {
        let pipe = Arc::new(Pipe::default());
        let send = MemorySend {
            pipe: pipe.clone(),
            hearing: self.hearing.clone(),
            lost: self.lost.subscribe(),
            ended: false,
        };
        let recv = MemoryRecv {
            pipe,
            hearing: self.peer_hearing.clone(),
            lost: self.peer_lost_view.clone(),
            ended: false,
        };
        (send, recv)
    }

    fn lost(&self) -> Option<Lost> {
        self.lost.borrow().clone()
    }

    /// The next of `inbox`; none, and then nothing that this end notices, once it is deaf.
    async fn heard<T>(&self, inbox: &mut mpsc::UnboundedReceiver<T>) -> Option<T> {
        std::future::poll_fn(|context| {
            if self.hearing.is_deaf() { Poll::Pending } else { inbox.poll_recv(context) }
        })
        .await
    }
}

/// The first reason counts.
fn lose(end: &watch::Sender<Option<Lost>>, lost: Lost) {
    end.send_if_modified(|present| {
        let fresh = present.is_none();
        present.get_or_insert(lost);
        fresh
    });
}

impl MemoryConnection {
    /// Both ends lose the connection, and all that is on its way.
    pub(crate) fn cut(&self) {
        self.stall();
        self.lose();
    }

    /// Both ends lose the connection; what has come can still be read.
    pub(crate) fn lose(&self) {
        lose(&self.0.lost, Lost::TimedOut);
        lose(&self.0.peer_lost, Lost::TimedOut);
    }

    /// This end loses the connection, and the other one notices nothing.
    pub(crate) fn lose_here(&self) {
        self.stall();
        lose(&self.0.lost, Lost::TimedOut);
    }

    /// The other end loses the connection, and this one notices nothing.
    pub(crate) fn lose_there(&self) {
        self.stall();
        lose(&self.0.peer_lost, Lost::TimedOut);
    }

    /// Nothing passes any more, and neither end notices.
    pub(crate) fn stall(&self) {
        self.deafen();
        self.0.peer_hearing.deaf.store(true, Ordering::SeqCst);
    }

    /// Another path takes the place of one that is lost; nothing else changes.
    pub(crate) fn lose_path(&self) {
        self.0.hearing.path_lost.notify_waiters();
    }

    /// How often this end began to wait for the loss of a path.
    pub(crate) fn path_watches(&self) -> u64 {
        self.0.hearing.path_watches.load(Ordering::SeqCst)
    }

    /// Nothing reaches this end any more, and neither end notices.
    pub(crate) fn deafen(&self) {
        self.0.hearing.deaf.store(true, Ordering::SeqCst);
    }

    /// What there is of both ends: connections and streams.
    pub(crate) fn users(&self) -> usize {
        self.0.lost.receiver_count() + self.0.peer_lost.receiver_count()
    }

    /// What the other end has closed the connection with, whether this one has heard it or not.
    pub(crate) fn closed_with(&self) -> Option<CloseCode> {
        *self.0.hearing.closed_with.lock().unwrap()
    }
}

impl Connection for MemoryConnection {
    type Send = MemorySend;
    type Recv = MemoryRecv;

    async fn open_bi(&self) -> Result<Pair, Lost> {
        if let Some(lost) = self.0.lost() {
            return Err(lost);
        }
        let (my_send, their_recv) = self.0.pipe();
        let (mut their_send, mut my_recv) = self.0.pipe();
        their_send.lost = self.0.peer_lost_view.clone();
        their_send.hearing = self.0.peer_hearing.clone();
        my_recv.lost = self.0.lost.subscribe();
        my_recv.hearing = self.0.hearing.clone();
        let _ = self.0.open_bi.send((their_send, their_recv));
        Ok((my_send, my_recv))
    }

    async fn accept_bi(&self) -> Result<Pair, Lost> {
        let mut inbox = self.0.accept_bi.lock().await;
        tokio::select! {
            biased;
            Some(pair) = self.0.heard(&mut inbox) => Ok(pair),
            lost = gone(self.0.lost.subscribe()) => Err(lost),
        }
    }

    async fn open_uni(&self) -> Result<MemorySend, Lost> {
        if let Some(lost) = self.0.lost() {
            return Err(lost);
        }
        let (send, recv) = self.0.pipe();
        let _ = self.0.open_uni.send(recv);
        Ok(send)
    }

    async fn accept_uni(&self) -> Result<MemoryRecv, Lost> {
        let mut inbox = self.0.accept_uni.lock().await;
        tokio::select! {
            biased;
            Some(recv) = self.0.heard(&mut inbox) => Ok(recv),
            lost = gone(self.0.lost.subscribe()) => Err(lost),
        }
    }

    fn send_datagrams(&self, datagrams: &[Bytes]) {
        for datagram in datagrams {
            assert!(datagram.len() <= self.max_datagram_size());
            let _ = self.0.send_datagrams.send(datagram.clone());
        }
    }

    async fn read_datagrams(&self, datagrams: &mut [Bytes]) -> Result<usize, Lost> {
        let mut inbox = self.0.read_datagrams.lock().await;
        tokio::select! {
            biased;
            Some(datagram) = self.0.heard(&mut inbox) => {
                self.0.hearing.received.fetch_add(1, Ordering::Relaxed);
                datagrams[0] = datagram;
                Ok(1)
            }
            lost = gone(self.0.lost.subscribe()) => Err(lost),
        }
    }

    fn max_datagram_size(&self) -> usize {
        1200
    }

    fn close(&self, code: CloseCode, reason: &str) {
        lose(&self.0.lost, Lost::Local);
        self.0.peer_hearing.closed_with.lock().unwrap().get_or_insert(code);
        if !self.0.peer_hearing.is_deaf() {
            lose(&self.0.peer_lost, Lost::Closed { code, reason: reason.to_owned() });
        }
    }

    async fn closed(&self) -> Lost {
        gone(self.0.lost.subscribe()).await
    }

    fn identities(&self) -> Identities {
        let End { id, peer, .. } = &*self.0;
        Identities {
            local: vec![*id],
            remote: vec![*peer],
            shown: format!("memory{peer}"),
            pinned: false,
        }
    }

    fn keying_material(&self, label: &[u8]) -> Option<[u8; 32]> {
        let mut material = [0; 32];
        for (index, part) in material.chunks_mut(8).enumerate() {
            let mut hasher = DefaultHasher::new();
            (self.0.secret, label, index).hash(&mut hasher);
            part.copy_from_slice(&hasher.finish().to_be_bytes());
        }
        Some(material)
    }

    fn authenticated(&self, _: Role) {}

    fn packets_received(&self) -> u64 {
        self.0.hearing.received.load(Ordering::Relaxed)
    }

    fn paths(&self) -> impl Stream<Item = PathReport> + Send + 'static {
        use futures_util::StreamExt;
        futures_util::stream::iter(self.path()).chain(futures_util::stream::pending())
    }

    fn path(&self) -> Option<PathReport> {
        Some(PathReport { kind: PathKind::Other("memory".into()), rtt: Duration::ZERO })
    }

    async fn path_lost(&self) {
        let mut lost = std::pin::pin!(self.0.hearing.path_lost.notified());
        lost.as_mut().enable();
        self.0.hearing.path_watches.fetch_add(1, Ordering::SeqCst);
        lost.await;
    }
}
