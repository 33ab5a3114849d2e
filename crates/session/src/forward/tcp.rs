//! Bytes between a TCP socket and a stream, with half-closes and resets passed on in both directions.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::take;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::FutureExt;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tunnel_model::ResetCode;

use crate::control::{Brake, Gate};
use crate::events::FlowEnd;
use crate::forward::{Counters, Waiting};
use crate::transport::{ReadError, RecvStream, SendStream, WriteError};

/// Reads begin this small, so that a keystroke does not cost a large buffer,
const FIRST_READ: usize = 4 * 1024;
/// and double to this while they come back full: past it the system call is no longer what costs.
const LARGEST_READ: usize = 128 * 1024;
/// Chunks of one packet each that are written together; 64 × 1,400 bytes is one large write.
const CHUNKS: usize = 64;
/// With this much from the transport it is worth asking once more before it is written: the packets of several busy flows
/// come in turns, and a write for each turn costs more system calls than bytes. Less is what an application waits for, more
/// is a large write already.
const GATHER: Range<usize> = 8 * 1024..64 * 1024;
/// Chunks below this are copied together while they wait: the packet they came in is larger.
const SMALL: usize = 512;
/// Bytes that wait for a slow socket before the peer is asked to pause. Leaving them in the transport instead would be
/// simpler, but noq ends a connection that holds 2,048 unread chunks of one stream (noq-proto 1.4, `assembler.rs`;
/// quinn#2809), so that one stalled reader would end the session.
const BACKLOG_FULL: usize = 1024 * 1024;
/// What is on its way when the peer is asked to pause is still taken, as far as the transport's window of one stream
/// (2 MiB) lets it come.
const BACKLOG_LIMIT: usize = 4 * 1024 * 1024;
/// The same for a flow of a session that holds too much already.
const BACKLOG_LEAST: usize = 64 * 1024;
/// Bytes that wait in the buffers that they were received in: 16 MiB of those at worst, where each packet is alone in one.
const BORROWED: usize = 256 * 1024;
/// Bytes left waiting when the peer is asked to go on: what the socket takes at 40 Mbit/s in a round trip of 100 ms; the
/// transport's own window holds four times as much besides.
const BACKLOG_LOW: usize = 512 * 1024;

/// The first probe of an idle connection, and those that follow (RFC 9293 section 3.8.4); the defaults of two hours are
/// for networks without address translation.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(15));

/// How long what came before a socket's reset may take to arrive: an application that reads is told within a second or two.
const RESET_AFTER: Duration = Duration::from_secs(10);

/// How often a socket is asked whether it has failed, where that has to be asked: a connection of which one half is over is
/// reset so much later at the other end of the tunnel.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
const ASK: Duration = Duration::from_secs(1);

/// A TCP socket that resets its connection when dropped before its time, so that the application at its other end
/// never takes a lost session for an orderly end.
pub(crate) struct Socket {
    tcp: TcpStream,
    reset: bool,
}

impl Socket {
    /// Takes a connected socket over.
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, reset: true }
    }

    /// Lets the drop be an orderly close.
    fn close_in_order(&mut self) {
        self.reset = false;
        // A target's socket resets by default. Where this fails the socket is dead already.
        let _ = SockRef::from(&self.tcp).set_linger(None);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset {
            // Closing with a linger time of zero sends RST (tcp(7), SO_LINGER in socket(7)).
            let _ = SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
        }
    }
}

/// How one direction stopped before its end.
enum Broken {
    /// The socket failed.
    Socket,
    /// The peer gave the stream up or stopped it.
    Peer(ResetCode),
    /// The connection below is gone.
    Lost,
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Socket
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Reset(code) => Self::Peer(code),
            ReadError::Lost(_) => Self::Lost,
        }
    }
}

impl From<WriteError> for Broken {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Stopped(code) => Self::Peer(code),
            WriteError::Lost(_) => Self::Lost,
        }
    }
}

/// Carries bytes both ways until both directions have ended.
///
/// `opened` runs on the receiving half before anything is taken from it; where it fails the flow is over and the socket
/// is reset. So it is when `cut` resolves, whose code the peer is told.
pub(crate) async fn pump<S, R, B, E>(
    mut socket: Socket,
    (mut send, mut gate): (S, Gate),
    (mut recv, brake): (R, Brake<B>),
    waiting: &Waiting,
    counters: &Counters,
    opened: impl AsyncFnOnce(&mut R) -> Result<(), E>,
    cut: impl Future<Output = ResetCode>,
) -> Result<FlowEnd, E>
where
    S: SendStream,
    R: RecvStream,
    B: SendStream,
{
    let mut refused = None;
    let ends = async {
        let tcp = &socket.tcp;
        // A failed write takes the socket's error with it, and the next read would see an orderly end.
        let failed_write = AtomicBool::new(false);
        let mut upload = std::pin::pin!(upload(tcp, &mut send, &mut gate, counters, &failed_write));
        let mut download = std::pin::pin!(async {
            if let Err(error) = opened(&mut recv).await {
                refused = Some(error);
                return Err(Broken::Lost);
            }
            let down = download(tcp, &mut recv, &brake, waiting, counters).await;
            failed_write.store(matches!(down, Err(Broken::Socket)), Ordering::Relaxed);
            down
        });
        // A direction that broke ends the flow, except where the other may still deliver: a peer that wants no more
        // bytes may have some to send, and a socket that takes no more may have said its last.
        tokio::select! {
            biased;
            up = &mut upload => match up {
                Ok(()) => (Ok(()), tokio::select! {
                    down = &mut download => down,
                    () = failed(tcp) => Err(Broken::Socket),
                }),
                Err(Broken::Peer(code)) => (Err(Broken::Peer(code)), tokio::select! {
                    down = &mut download => down,
                    () = failed(tcp) => Err(Broken::Socket),
                }),
                Err(broken) => (Err(broken), Ok(())),
            },
            down = &mut download => match down {
                Ok(()) => (upload.await, Ok(())),
                Err(Broken::Socket) => (upload.await, Err(Broken::Socket)),
                Err(broken) => (Ok(()), Err(broken)),
            },
        }
    };
    let mut cut = std::pin::pin!(cut);
    let ended = tokio::select! {
        ended = ends => Ok(ended),
        code = &mut cut => Err(code),
    };
    let (up, down) = match ended {
        Ok(ended) => ended,
        Err(code) => (Err(Broken::Peer(code)), Err(Broken::Peer(code))),
    };
    if let Some(error) = refused {
        send.reset(ResetCode::Refused);
        return Err(error);
    }
    match (up, down) {
        (Ok(()), Ok(())) => {
            socket.close_in_order();
            Ok(FlowEnd::Finished)
        }
        // The peer has sent all it had and wants no more: unread bytes make the close a reset by themselves.
        (Err(Broken::Peer(ResetCode::ConnectionReset)), Ok(())) => {
            socket.close_in_order();
            send.reset(ResetCode::ConnectionReset);
            Ok(FlowEnd::Reset)
        }
        (Err(Broken::Lost), _) | (_, Err(Broken::Lost)) => Ok(FlowEnd::SessionLost),
        (Err(Broken::Peer(code)), _) | (_, Err(Broken::Peer(code))) => {
            send.reset(code);
            recv.stop(code);
            Ok(match code {
                ResetCode::Revoked => FlowEnd::Revoked,
                ResetCode::Ended => FlowEnd::SessionLost,
                _ => FlowEnd::Reset,
            })
        }
        // All that the socket said is on its way, its end too: to take that back would take back what was said.
        (Ok(()), Err(Broken::Socket)) => {
            recv.stop(ResetCode::ConnectionReset);
            Ok(FlowEnd::Reset)
        }
        (Err(Broken::Socket), _) => {
            recv.stop(ResetCode::ConnectionReset);
            // What a socket said before it was reset can be read at its other end (Linux), as an answer that comes with the
            // reset of what was not read for it; here the reset would overtake it.
            let code = tokio::select! {
                code = &mut cut => code,
                () = send.taken() => ResetCode::ConnectionReset,
                () = sleep(RESET_AFTER) => ResetCode::ConnectionReset,
            };
            send.reset(code);
            Ok(FlowEnd::Reset)
        }
    }
}

/// Waits until the socket has failed; for the time in which nothing reads from it.
async fn failed(tcp: &TcpStream) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    {
        let _ = tcp.ready(tokio::io::Interest::ERROR).await;
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    asked_until_failed(tcp).await;
}

/// The same where the system tells nobody who neither reads nor writes.
#[cfg(any(test, not(any(target_os = "linux", target_os = "android"))))]
async fn asked_until_failed(tcp: &TcpStream) {
    loop {
        tokio::time::sleep(ASK).await;
        // Some systems keep the error for whoever asks for it; others give it to whoever reads, unless the other end has said
        // all, or to whoever writes, be it nothing. After an end of one's own writing fails in another way.
        let socket = SockRef::from(tcp);
        let is_reset = |error: io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
            )
        };
        if !matches!(socket.take_error(), Ok(None))
            || socket.peek(&mut [std::mem::MaybeUninit::uninit()]).is_err_and(is_reset)
            || tcp.try_write(&[]).is_err_and(is_reset)
        {
            return;
        }
    }
}

async fn upload<S: SendStream>(
    tcp: &TcpStream,
    send: &mut S,
    gate: &mut Gate,
    counters: &Counters,
    failed_write: &AtomicBool,
) -> Result<(), Broken> {
    let mut size = FIRST_READ;
    let mut stopped = std::pin::pin!(send.stopped());
    loop {
        let readable = async {
            if gate.is_closed() {
                tokio::select! {
                    () = gate.open() => {}
                    () = failed(tcp) => return Err(io::ErrorKind::ConnectionReset.into()),
                }
            }
            tcp.readable().await
        };
        tokio::select! {
            biased;
            ready = readable => ready?,
            stopped = &mut stopped => {
                stopped?;
                return Err(Broken::Lost);
            }
        }
        // The buffer lives only while there is something to read: an idle flow holds none.
        let mut buffer = BytesMut::with_capacity(size);
        while !gate.is_closed() {
            // Until there is nothing more: at urgent data a read ends early, and nobody would say that there is more.
            match tcp.try_read_buf(&mut buffer) {
                Ok(0) if failed_write.load(Ordering::Relaxed) => return Err(Broken::Socket),
                Ok(0) => {
                    send.finish();
                    return Ok(());
                }
                Ok(n) => {
                    counters.add_sent(n);
                    let full = buffer.len() == buffer.capacity();
                    // What is sent may be kept for a while, and keeps its whole buffer in memory: too much for little.
                    let chunk = if n < FIRST_READ / 2 {
                        let copied = Bytes::copy_from_slice(&buffer);
                        buffer.clear();
                        copied
                    } else {
                        buffer.split().freeze()
                    };
                    let mut chunks = [chunk];
                    tokio::select! {
                        biased;
                        written = send.write_chunks(&mut chunks) => written?,
                        // Looked at here as well: a write may wait for another connection, and this would keep the one that is
                        // lost, and its sockets.
                        stopped = &mut stopped => {
                            stopped?;
                            return Err(Broken::Lost);
                        }
                    }
                    if full {
                        size = (size * 2).min(LARGEST_READ);
                    } else if n < size / 4 {
                        size = (size / 2).max(FIRST_READ);
                    }
                    // What is left of the buffer is worth reading into only if it is not tiny.
                    if buffer.capacity() < FIRST_READ {
                        buffer = BytesMut::with_capacity(size);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// What has come for a socket that takes it more slowly.
struct Backlog<'a> {
    chunks: VecDeque<Bytes>,
    bytes: usize,
    /// Of these, those of the last chunks that have not been copied.
    borrowed: usize,
    waiting: &'a Waiting,
}

impl Drop for Backlog<'_> {
    fn drop(&mut self) {
        self.waiting.remove(self.bytes);
    }
}

impl Backlog<'_> {
    /// Whether the peer should pause.
    fn is_full(&self) -> bool {
        self.bytes >= if self.waiting.is_much() { BACKLOG_LEAST } else { BACKLOG_FULL }
    }

    /// Whether more can be taken from the transport, the peer having been asked to pause or not.
    fn has_room(&self) -> bool {
        self.bytes < if self.waiting.is_much() { BACKLOG_LEAST } else { BACKLOG_LIMIT }
    }

    /// Takes over what a read returned; whether that was the end.
    fn take(&mut self, chunks: &mut [Bytes], read: Option<usize>) -> bool {
        let Some(count) = read else { return true };
        chunks[..count].iter_mut().for_each(|chunk| self.push(take(chunk)));
        false
    }

    /// Copies what has been waiting, where it is much: each chunk keeps the buffer alive that it was received in, and others'
    /// packets with it (noq 1.4, `endpoint.rs`: one of 64 KiB or more for all that arrive).
    fn settle(&mut self) {
        let limit = if self.waiting.is_much() { 0 } else { BORROWED };
        if self.borrowed <= limit {
            return;
        }
        let mut own = BytesMut::with_capacity(self.borrowed);
        let mut rest = self.borrowed;
        let mut first = self.chunks.len();
        while rest > 0 && first > 0 {
            first -= 1;
            rest = rest.saturating_sub(self.chunks[first].len());
        }
        for chunk in self.chunks.drain(first..) {
            own.extend_from_slice(&chunk);
        }
        self.chunks.push_back(own.freeze());
        self.borrowed = 0;
    }

    fn push(&mut self, chunk: Bytes) {
        self.bytes += chunk.len();
        self.borrowed += chunk.len();
        self.waiting.add(chunk.len());
        // A chunk keeps the whole packet that it came in alive; small ones are worth copying together.
        match self.chunks.back_mut() {
            Some(last) if last.len() < SMALL && chunk.len() < SMALL => {
                let mut joined = BytesMut::with_capacity(2 * SMALL);
                joined.extend_from_slice(last);
                joined.extend_from_slice(&chunk);
                *last = joined.freeze();
            }
            _ => self.chunks.push_back(chunk),
        }
    }

    /// Writes what the socket takes at the moment.
    fn write(&mut self, tcp: &TcpStream) -> io::Result<usize> {
        let mut written = 0;
        while !self.chunks.is_empty() {
            let mut slices = [IoSlice::new(&[]); CHUNKS];
            let mut count = 0;
            for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
                *slice = IoSlice::new(chunk);
                count += 1;
            }
            match tcp.try_write_vectored(&slices[..count]) {
                Ok(n) => {
                    self.advance(n);
                    written += n;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// What comes of a flow whose stream failed. What came before a reset of the peer's socket is still the application's;
    /// what the rules or the end of a session have cut is not.
    async fn last(&mut self, tcp: &TcpStream, counters: &Counters, error: ReadError) -> Broken {
        let all = async {
            while self.bytes > 0 {
                tcp.writable().await?;
                counters.add_received(self.write(tcp)?);
            }
            Ok::<(), io::Error>(())
        };
        if matches!(error, ReadError::Reset(ResetCode::ConnectionReset)) {
            // It is reset in any case.
            let _ = timeout(RESET_AFTER, all).await;
        }
        error.into()
    }

    fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.borrowed = self.borrowed.min(self.bytes);
        self.waiting.remove(written);
        while let Some(front) = self.chunks.front_mut() {
            let n = written.min(front.len());
            front.advance(n);
            written -= n;
            if !front.is_empty() {
                break;
            }
            self.chunks.pop_front();
        }
    }
}

async fn download<R: RecvStream, B: SendStream>(
    tcp: &TcpStream,
    recv: &mut R,
    brake: &Brake<B>,
    waiting: &Waiting,
    counters: &Counters,
) -> Result<(), Broken> {
    // Here, where the request for the flow has left. It fails only on a socket that is already dead, which the other direction
    // sees. The application's own probes end at this socket, so that only this end can notice a host that has vanished.
    let _ = tcp.set_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE.0).with_interval(KEEP_ALIVE.1);
    let _ = SockRef::from(tcp).set_tcp_keepalive(&keep_alive);
    let mut backlog = Backlog { chunks: VecDeque::new(), bytes: 0, borrowed: 0, waiting };
    let mut ended = false;
    // The flow may have been held back while its target was slow to answer.
    brake.set(false);
    while !ended || backlog.bytes > 0 {
        // Made anew each time, so that an idle flow does not hold the last chunks' memory.
        let mut chunks = [const { Bytes::new() }; CHUNKS];
        let may_read = !ended && backlog.has_room();
        tokio::select! {
            read = recv.read_chunks(&mut chunks), if may_read => {
                ended = match read {
                    Ok(read) => backlog.take(&mut chunks, read),
                    Err(error) => return Err(backlog.last(tcp, counters, error).await),
                };
                if !ended && GATHER.contains(&backlog.bytes) && backlog.has_room() {
                    yield_now().await;
                    match recv.read_chunks(&mut chunks).now_or_never() {
                        Some(Ok(read)) => ended = backlog.take(&mut chunks, read),
                        Some(Err(error)) => return Err(backlog.last(tcp, counters, error).await),
                        None => {}
                    }
                }
            }
            ready = tcp.writable(), if backlog.bytes > 0 => ready?,
        }
        counters.add_received(backlog.write(tcp)?);
        backlog.settle();
        if backlog.is_full() && !brake.is_on() {
            brake.set(true);
        } else if !backlog.is_full() && backlog.bytes <= BACKLOG_LOW && brake.is_on() {
            brake.set(false);
        }
    }
    // Fails only where the socket is gone already, which the other direction sees.
    let _ = SockRef::from(tcp).shutdown(std::net::Shutdown::Write);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::{Arc, Mutex};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::control::Control;
    use crate::transport::memory::MemorySend;

    /// What a stream's reads bring, one after the other, and how many bytes the socket had at each.
    struct Scripted {
        reads: VecDeque<Result<Option<Bytes>, ReadError>>,
        counters: Arc<Counters>,
        written: Vec<u64>,
    }

    impl RecvStream for Scripted {
        async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
            self.written.push(self.counters.received());
            match self.reads.pop_front().unwrap()? {
                Some(chunk) => chunks[0] = chunk,
                None => return Ok(None),
            }
            Ok(Some(1))
        }

        async fn read_exact(&mut self, _: &mut [u8]) -> Result<bool, ReadError> {
            unreachable!("a flow's bytes are read in chunks")
        }

        fn stop(&mut self, _: ResetCode) {}
    }

    /// What arrives at the socket of a flow with these reads, how much of it had been written at each, and how the
    /// direction ended.
    async fn downloaded(
        reads: impl IntoIterator<Item = Result<Option<Bytes>, ReadError>>,
    ) -> (Vec<u8>, Vec<u64>, Result<(), Broken>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, tcp) = (connected.0.unwrap(), connected.1.unwrap().0);
        let brake = Brake::new(&Control::<MemorySend>::new(), 0, &Arc::default());
        let (waiting, counters) = (Waiting::default(), Arc::<Counters>::default());
        let reads = reads.into_iter().collect();
        let mut recv = Scripted { reads, counters: counters.clone(), written: Vec::new() };
        let mut arrived = Vec::new();
        let ended = async {
            let ended = download(&tcp, &mut recv, &brake, &waiting, &counters).await;
            drop(tcp);
            ended
        };
        let both = async { tokio::join!(ended, peer.read_to_end(&mut arrived)) };
        let (ended, read) = timeout(SOON, both).await.unwrap();
        read.unwrap();
        assert_eq!(counters.received(), arrived.len() as u64);
        assert_eq!(waiting.bytes(), 0);
        (arrived, recv.written, ended)
    }

    #[tokio::test]
    async fn what_is_gathered_is_written_at_once_in_order_and_before_a_reset() {
        let chunk = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
        let (few, enough) = (GATHER.start - 1, GATHER.start);
        for (sizes, expected) in [
            ([few, enough, 1], [0, few, few]),
            ([enough, few, enough], [0, 0, enough + few]),
            ([enough, 1, GATHER.end], [0, 0, enough + 1]),
        ] {
            let chunks: Vec<_> = (0..).zip(sizes).map(|(byte, len)| chunk(byte, len)).collect();
            let reads = chunks.iter().cloned().map(|chunk| Ok(Some(chunk)));
            let (arrived, written, ended) = downloaded(reads.clone().chain([Ok(None)])).await;
            assert!(ended.is_ok());
            assert_eq!(arrived, chunks.concat());
            assert_eq!(written[..3], expected.map(|bytes| bytes as u64));
            let reset = Err(ReadError::Reset(ResetCode::ConnectionReset));
            let (arrived, _, ended) = downloaded(reads.chain([reset])).await;
            assert!(matches!(ended, Err(Broken::Peer(ResetCode::ConnectionReset))));
            assert_eq!(arrived, chunks.concat());
        }
    }

    #[tokio::test]
    async fn what_came_before_a_reset_is_written_to_a_slow_socket() {
        const LENGTH: usize = 1024 * 1024;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, tcp) = (connected.0.unwrap(), connected.1.unwrap().0);
        SockRef::from(&tcp).set_send_buffer_size(FIRST_READ).unwrap();
        let brake = Brake::new(&Control::<MemorySend>::new(), 0, &Arc::default());
        let (waiting, counters) = (Waiting::default(), Counters::default());
        for (code, whole) in [(ResetCode::Revoked, false), (ResetCode::ConnectionReset, true)] {
            let mut recv = Scripted {
                reads: [Ok(Some(vec![7; LENGTH].into())), Err(ReadError::Reset(code))].into(),
                counters: Arc::default(),
                written: Vec::new(),
            };
            let mut down = Box::pin(download(&tcp, &mut recv, &brake, &waiting, &counters));
            let early = timeout(Duration::from_millis(100), &mut down).await;
            assert_eq!(early.is_err(), whole, "{code:?}");
            if !whole {
                drop(down);
                let mut sent = vec![0; usize::try_from(counters.received()).unwrap()];
                peer.read_exact(&mut sent).await.unwrap();
                continue;
            }
            let mut arrived = vec![0; LENGTH];
            let both = async { tokio::join!(down, peer.read_exact(&mut arrived)) };
            let (ended, read) = timeout(SOON, both).await.unwrap();
            read.unwrap();
            assert!(matches!(ended, Err(Broken::Peer(ended)) if ended == code));
        }
        assert!(tcp.nodelay().unwrap() && SockRef::from(&tcp).keepalive().unwrap());
    }

    /// A stream that always has something, and what is done with one.
    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<Vec<&'static str>>>);

    impl Noted {
        fn note(&self, what: &'static str) {
            self.0.lock().unwrap().push(what);
        }
    }

    impl SendStream for Noted {
        async fn write_chunks(&mut self, _: &mut [Bytes]) -> Result<(), WriteError> {
            Ok(())
        }

        fn finish(&mut self) {
            self.note("finish");
        }

        fn reset(&mut self, _: ResetCode) {
            self.note("reset");
        }

        fn stopped(&self) -> impl Future<Output = Result<(), WriteError>> + Send + 'static {
            std::future::pending()
        }

        fn set_priority(&mut self, _: i32) {}
    }

    impl RecvStream for Noted {
        async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
            yield_now().await;
            chunks[0] = Bytes::from_static(b"more");
            Ok(Some(1))
        }

        async fn read_exact(&mut self, _: &mut [u8]) -> Result<bool, ReadError> {
            unreachable!("a flow's bytes are read in chunks")
        }

        fn stop(&mut self, _: ResetCode) {
            self.note("stop");
        }
    }

    #[tokio::test]
    async fn an_end_that_was_passed_on_is_not_taken_back_where_more_is_sent_there() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, tcp) = (connected.0.unwrap(), connected.1.unwrap().0);
        peer.write_all(b"all").await.unwrap();
        drop(peer);
        let (noted, control) = (Noted::default(), Control::<MemorySend>::new());
        let (gate, _place) = control.gate(0);
        let brake = Brake::new(&control, 0, &Arc::default());
        let (waiting, counters) = (Waiting::default(), Counters::default());
        let opened = async |_: &mut Noted| Ok::<(), Broken>(());
        let halves = ((noted.clone(), gate), (noted.clone(), brake));
        let never = std::future::pending();
        let pump = pump(Socket::new(tcp), halves.0, halves.1, &waiting, &counters, opened, never);
        let ended = timeout(SOON, pump).await.unwrap();
        assert!(matches!(ended, Ok(FlowEnd::Reset)));
        assert_eq!(*noted.0.lock().unwrap(), ["finish", "stop"]);
        assert_eq!(counters.sent(), 3);
    }

    #[test]
    fn what_waits_is_copied_and_stays_as_it_was() {
        const PACKET: usize = 1200;
        let waiting = Waiting::default();
        let mut backlog =
            Backlog { chunks: VecDeque::new(), bytes: 0, borrowed: 0, waiting: &waiting };
        let mut sent = Vec::new();
        let mut fill = |backlog: &mut Backlog<'_>, packets: usize| {
            for _ in 0..packets {
                let packet = vec![(sent.len() / PACKET) as u8; PACKET];
                sent.extend_from_slice(&packet);
                backlog.push(packet.into());
            }
        };
        let packets = BORROWED / PACKET;
        fill(&mut backlog, packets);
        backlog.settle();
        assert_eq!(backlog.chunks.len(), packets, "not yet worth copying");
        fill(&mut backlog, 1);
        backlog.advance(PACKET);
        backlog.settle();
        assert_eq!(backlog.chunks.len(), packets, "some of it has left");
        fill(&mut backlog, 1);
        backlog.settle();
        assert_eq!(backlog.chunks.len(), 1);
        fill(&mut backlog, packets + 1);
        backlog.advance(BORROWED);
        backlog.settle();
        assert_eq!(backlog.bytes, waiting.bytes());
        let arrived: Vec<u8> = backlog.chunks.iter().flatten().copied().collect();
        assert_eq!(arrived.len(), backlog.bytes);
        assert!(sent.ends_with(&arrived));
    }

    /// For a second that is waited for.
    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_reset_is_noticed_where_it_has_to_be_asked_for_and_nothing_else_is_taken_for_one() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connected = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut peer, mut tcp) = (connected.0.unwrap(), connected.1.unwrap().0);
        let quiet = async |tcp: &TcpStream| {
            timeout(2 * ASK + ASK / 2, asked_until_failed(tcp)).await.unwrap_err();
        };
        quiet(&tcp).await;
        peer.write_all(b"unread").await.unwrap();
        quiet(&tcp).await;
        peer.shutdown().await.unwrap();
        quiet(&tcp).await;
        // Nothing of it was taken.
        let mut read = String::new();
        tcp.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "unread");
        quiet(&tcp).await;
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        timeout(SOON, asked_until_failed(&tcp)).await.unwrap();
    }
}
