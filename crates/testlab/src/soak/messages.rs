//! Messages of known bytes that come back: on connections of one message each, which are opened all the time, and on
//! connections that last.
//!
//! A message is its size, its place in the known sequence of bytes, and the bytes from there on. Both ends check them.

use std::{
    collections::BTreeMap,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    libc::linger,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use crate::{
    Error, Result,
    enter::{enter, listen_tcp},
    netns::Namespace,
    stream::pattern,
};

/// For a message to come back: longer than the longest fault and what a recovery from it may take together.
const LIMIT: Duration = Duration::from_secs(180);

/// Between two connections of one message.
const PACE: Duration = Duration::from_millis(250);

/// Between two messages of a quiet connection, as of somebody who types.
const QUIET_PACE: Duration = Duration::from_secs(1);

/// What a quiet connection carries at once.
const QUIET_SIZE: u64 = 64;

/// The largest message, in bytes: what sockets hold, so that a message can be sent before its echo is read.
const LARGEST: u64 = 64 * 1024;

/// The smallest message of a connection that carries one, in bytes.
const SMALLEST: u64 = 1024;

/// How often threads look whether they are to end.
const LOOK: Duration = Duration::from_millis(100);

/// The size and the place of a message, 8 bytes each.
const HEADER: usize = 16;

/// Why a message did not come back.
#[derive(Debug)]
pub(super) enum Fate {
    /// The connection failed, and both ends can see that it did.
    Failed(String),
    /// What came is not what was sent, or less of it with an end as if it were all.
    Wrong(String),
}

/// What has become of all messages so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    /// Connections of one message that went well.
    pub(super) complete: u64,
    /// Those that failed as a whole, by reason.
    pub(super) failed: BTreeMap<String, u64>,
    /// Bytes that came back on them.
    pub(super) bytes: u64,
    /// Everything that was wrong, on either end.
    pub(super) wrong: Vec<String>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    tally: Mutex<Tally>,
}

/// A service that checks messages and returns them.
///
/// Dropping it ends it once nobody is connected any more.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// Connections of one message each, opened one after the other, however long each takes.
#[derive(Debug)]
pub(super) struct Short {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// A connection that carries a message now and then.
#[derive(Debug)]
pub(super) struct Quiet {
    shared: Arc<Shared>,
    carried: Arc<AtomicU64>,
    thread: Option<JoinHandle<std::result::Result<(), Fate>>>,
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn tally(&self) -> Tally {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Ends a thread that looks at `ended`.
    fn join<T>(&self, thread: &mut Option<JoinHandle<T>>) -> Option<T> {
        self.ended.store(true, Ordering::Relaxed);
        thread.take()?.join().ok()
    }
}

impl Service {
    /// Listens on a free port of the namespace's loopback.
    pub(super) fn start(namespace: &Namespace) -> Result<Self> {
        let failed = || Error::io("start the service for messages");
        let listener = listen_tcp(namespace, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr().map_err(failed())?;
        // Linux limits accept(2) by the time for receiving (socket(7)).
        let look = TimeVal::new(0, LOOK.as_micros().try_into().unwrap_or(0));
        let limited = setsockopt(&listener, sockopt::ReceiveTimeout, &look);
        limited.map_err(io::Error::from).map_err(failed())?;
        let shared = Arc::<Shared>::default();
        let serving = Arc::clone(&shared);
        let thread = thread::Builder::new().spawn(move || serve(&listener, &serving));
        Ok(Self { address, shared, thread: Some(thread.map_err(failed())?) })
    }

    /// What was wrong with messages that arrived.
    pub(super) fn wrong(&self) -> Vec<String> {
        self.shared.tally().wrong
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shared.join(&mut self.thread);
    }
}

impl Short {
    /// Connects from the namespace to `entrance` from now on; the seed gives the sizes.
    pub(super) fn start(namespace: &Namespace, entrance: SocketAddr, seed: u64) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let opening = Arc::clone(&shared);
        let open = move || open_all(entrance, seed, &opening);
        let thread = enter(namespace, || thread::Builder::new().spawn(open))?;
        let thread = thread.map_err(Error::io("start short connections"))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// How it goes so far.
    pub(super) fn tally(&self) -> Tally {
        self.shared.tally()
    }

    /// Opens no more, waits for those that are open, and says what has become of all.
    pub(super) fn finish(mut self) -> Tally {
        self.shared.join(&mut self.thread);
        self.tally()
    }
}

impl Drop for Short {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Quiet {
    /// Sends messages on a connection from now on.
    pub(super) fn start(connection: TcpStream) -> Result<Self> {
        let shared = Arc::<Shared>::default();
        let carried = Arc::<AtomicU64>::default();
        let (sending, counted) = (Arc::clone(&shared), Arc::clone(&carried));
        let send = move || {
            while !sending.ended() {
                let number = counted.load(Ordering::Relaxed);
                exchange(&connection, number * QUIET_SIZE, QUIET_SIZE)?;
                counted.store(number + 1, Ordering::Relaxed);
                thread::sleep(QUIET_PACE);
            }
            Ok(())
        };
        let thread = thread::Builder::new().spawn(send);
        let thread = thread.map_err(Error::io("start a quiet connection"))?;
        Ok(Self { shared, carried, thread: Some(thread) })
    }

    /// How many messages have come back.
    pub(super) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Whether it cannot go on.
    pub(super) fn is_broken(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for the message that is under way.
    pub(super) fn finish(mut self) -> std::result::Result<(), Fate> {
        let ended = self.shared.join(&mut self.thread);
        ended.unwrap_or_else(|| Err(Fate::Failed("its thread panicked".to_owned())))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

impl Fate {
    /// What happened.
    pub(super) fn why(&self) -> &str {
        match self {
            Self::Failed(why) | Self::Wrong(why) => why,
        }
    }
}

impl From<io::Error> for Fate {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Connects from the namespace, for one message or several.
pub(super) fn connect(namespace: &Namespace, entrance: SocketAddr) -> Result<TcpStream> {
    enter(namespace, || open(entrance))?
        .map_err(Error::io(format!("connect from {} to {entrance}", namespace.name())))
}

/// Connects from the namespace that the thread is in.
fn open(entrance: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&entrance, LIMIT)?;
    limit(&stream)?;
    Ok(stream)
}

/// Sends one message, and reads its echo.
pub(super) fn exchange(
    mut stream: &TcpStream,
    place: u64,
    size: u64,
) -> std::result::Result<(), Fate> {
    send(stream, place, size)?;
    let mut buffer = [0; 16 * 1024];
    let mut read = 0;
    while read < size {
        let most = buffer.len().min(usize::try_from(size - read).unwrap_or(usize::MAX));
        let got = stream.read(&mut buffer[..most])?;
        if got == 0 && read == 0 {
            return Err(Fate::Failed("it ended before anything came back".to_owned()));
        }
        if got == 0 {
            let why = format!("it ended as if complete after {read} of {size} bytes");
            return Err(Fate::Wrong(why));
        }
        check(place + read, &buffer[..got]).map_err(Fate::Wrong)?;
        read += got as u64;
    }
    Ok(())
}

fn send(mut stream: &TcpStream, place: u64, size: u64) -> io::Result<()> {
    let mut message = vec![0; HEADER + usize::try_from(size).unwrap_or_default()];
    message[..8].copy_from_slice(&size.to_be_bytes());
    message[8..HEADER].copy_from_slice(&place.to_be_bytes());
    pattern::fill(place, &mut message[HEADER..]);
    stream.write_all(&message)
}

fn check(place: u64, bytes: &[u8]) -> std::result::Result<(), String> {
    match pattern::first_difference(place, bytes) {
        None => Ok(()),
        Some(wrong) => Err(format!("byte {} of a message is not the one sent", wrong - place)),
    }
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))
}

/// Opens connections until the end, and waits for the last ones.
fn open_all(entrance: SocketAddr, seed: u64, shared: &Arc<Shared>) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut opened: Vec<JoinHandle<()>> = Vec::new();
    for number in 0_u64.. {
        if shared.ended() {
            break;
        }
        let size = random.u64(SMALLEST..=LARGEST);
        let counting = Arc::clone(shared);
        let one = move || {
            let came = carry_one(entrance, number * LARGEST, size);
            counting.change(|tally| match came {
                Ok(()) => {
                    tally.complete += 1;
                    tally.bytes += size;
                }
                Err(Fate::Failed(why)) => *tally.failed.entry(why).or_default() += 1,
                Err(Fate::Wrong(why)) => tally.wrong.push(format!("short connection: {why}")),
            });
        };
        match thread::Builder::new().spawn(one) {
            Ok(thread) => opened.push(thread),
            Err(error) => {
                let why = error.to_string();
                shared.change(|tally| *tally.failed.entry(why).or_default() += 1);
            }
        }
        opened.retain(|thread| !thread.is_finished());
        thread::sleep(PACE);
    }
    for thread in opened {
        let _ = thread.join();
    }
}

/// One connection with one message: it is whole when its end has come too.
fn carry_one(entrance: SocketAddr, place: u64, size: u64) -> std::result::Result<(), Fate> {
    let stream = open(entrance)?;
    exchange(&stream, place, size)?;
    stream.shutdown(Shutdown::Write)?;
    match (&stream).read(&mut [0])? {
        0 => Ok(()),
        _ => Err(Fate::Wrong("more came back than was sent".to_owned())),
    }
}

/// Accepts until the end, and waits for the last connections.
fn serve(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut open: Vec<JoinHandle<()>> = Vec::new();
    while !shared.ended() {
        let Ok((stream, _)) = listener.accept() else { continue };
        let noting = Arc::clone(shared);
        let answer = move || match answer(&stream) {
            Ok(()) => {}
            Err(Fate::Failed(_)) => reset(&stream),
            Err(Fate::Wrong(why)) => {
                noting.change(|tally| tally.wrong.push(format!("at the service: {why}")));
                reset(&stream);
            }
        };
        if let Ok(thread) = thread::Builder::new().spawn(answer) {
            open.push(thread);
        }
        open.retain(|thread| !thread.is_finished());
    }
    for thread in open {
        let _ = thread.join();
    }
}

/// Lets the other end see that this is no end in order: with no time to linger, closing resets (socket(7)).
fn reset(stream: &TcpStream) {
    let _ = setsockopt(stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 });
}

/// Returns messages until the other end has no more.
fn answer(mut stream: &TcpStream) -> std::result::Result<(), Fate> {
    limit(stream)?;
    // The other end may be silent until the end of the run.
    stream.set_read_timeout(None)?;
    let short = || Fate::Wrong("a connection ended in order within a message".to_owned());
    let mut buffer = [0; 16 * 1024];
    loop {
        let mut header = [0; HEADER];
        match fill(stream, &mut header)? {
            0 => return Ok(()),
            HEADER => {}
            _ => return Err(short()),
        }
        let (size, place) = header.split_at(8);
        let number = |bytes: &[u8]| bytes.first_chunk().map_or(0, |it| u64::from_be_bytes(*it));
        let (mut left, mut place) = (number(size), number(place));
        if left > LARGEST {
            return Err(Fate::Wrong(format!("a message calls itself {left} bytes long")));
        }
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let got = stream.read(&mut buffer[..most])?;
            if got == 0 {
                return Err(short());
            }
            check(place, &buffer[..got]).map_err(Fate::Wrong)?;
            stream.write_all(&buffer[..got])?;
            left -= got as u64;
            place += got as u64;
        }
    }
}

/// Fills the buffer as far as there is something before the end.
fn fill(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match stream.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What comes of a message to a peer that reads it and answers with these bytes and an end.
    fn answered(answer: Vec<u8>) -> Result<std::result::Result<(), Fate>> {
        let failed = || Error::io("talk over loopback");
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let peer = thread::spawn(move || {
            let (mut stream, _) = listener.accept()?;
            stream.read_exact(&mut [0; HEADER + 100])?;
            stream.write_all(&answer)
        });
        let came = open(address).map_err(Fate::from);
        let came = came.and_then(|stream| exchange(&stream, 7, 100));
        peer.join().unwrap_or(Ok(())).map_err(failed())?;
        Ok(came)
    }

    #[test]
    fn an_answer_is_whole_or_wrong_or_none() -> Result<()> {
        let mut whole = vec![0; 100];
        pattern::fill(7, &mut whole);
        assert!(answered(whole.clone())?.is_ok());
        assert!(matches!(answered(Vec::new())?, Err(Fate::Failed(_))));
        assert!(matches!(answered(whole[..99].to_vec())?, Err(Fate::Wrong(_))));
        whole[50] ^= 1;
        assert!(matches!(answered(whole)?, Err(Fate::Wrong(_))));
        Ok(())
    }

    #[test]
    fn messages_come_back_from_the_service() -> Result<()> {
        let host = Namespace::new("messages")?;
        let service = Service::start(&host)?;
        let short = Short::start(&host, service.address, 1)?;
        let quiet = Quiet::start(connect(&host, service.address)?)?;
        let deadline = std::time::Instant::now() + LIMIT;
        while quiet.carried() < 1 || short.tally().complete < 2 {
            assert!(std::time::Instant::now() < deadline, "{:?}", short.tally());
            thread::sleep(LOOK);
        }
        assert!(quiet.finish().is_ok());
        let tally = short.finish();
        assert!(tally.failed.is_empty() && tally.wrong.is_empty(), "{tally:?}");
        Ok(())
    }

    #[test]
    fn the_service_tells_an_early_end_from_a_reset() -> Result<()> {
        let host = Namespace::new("messages")?;
        let service = Service::start(&host)?;
        for (abruptly, wrong) in [(true, 0), (false, 1)] {
            let mut stream = connect(&host, service.address)?;
            if abruptly {
                reset(&stream);
            }
            stream.write_all(&[0; HEADER - 1]).map_err(Error::io("write half a header"))?;
            drop(stream);
            // What does not come can only be waited for so long.
            let limit = Duration::from_secs(if wrong == 0 { 2 } else { 30 });
            let deadline = std::time::Instant::now() + limit;
            while service.wrong().is_empty() && std::time::Instant::now() < deadline {
                thread::sleep(LOOK);
            }
            assert_eq!(service.wrong().len(), wrong);
        }
        Ok(())
    }
}
