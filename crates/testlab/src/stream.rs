//! Bytes and packets that are under way for as long as a test wants: each one is checked, and the pauses
//! between them are kept.
//!
//! Both ends are sockets of the test itself, in namespaces of the lab (see `enter`), so that all times are of
//! one clock. The near end is the one that connects through a tunnel.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::{
    socket::{setsockopt, sockopt::ReceiveTimeout},
    time::TimeVal,
};

use crate::{Error, Result, enter::connect_tcp, netns::Namespace};

mod disturbed;
mod meter;
mod packets;
pub(crate) mod pattern;

pub use disturbed::{ENOUGH, FLOW_LIMIT, goes_on, settled};
pub use packets::Packets;

use meter::{End, Meter};

/// How many bytes are written at once.
const CHUNK: usize = 16 * 1024;

/// Between two chunks of a direction: with `CHUNK` 13 Mbit/s, which leaves the machine time to be on time.
const PACE: Duration = Duration::from_millis(10);

/// What is read at once at the most.
const BUFFER: usize = 256 * 1024;

/// How long a test may be without a byte of a direction before that is the stream's end: longer than any
/// limit that a test has for its own wait.
const SILENCE: Duration = Duration::from_secs(660);

/// One of the two directions of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the near end to the far end.
    Up,
    /// From the far end to the near end.
    Down,
}

/// How long nothing arrived, at the longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pauses {
    /// At the far end.
    pub up: Duration,
    /// At the near end.
    pub down: Duration,
}

/// A moment, and what each end had sent by then.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// The moment.
    pub at: Instant,
    up: u64,
    down: u64,
}

/// How much went each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// What the near end sent: bytes, or packets.
    pub up: u64,
    /// What the far end sent: bytes, or those of the packets that it returned and that came back.
    pub down: u64,
}

/// One TCP connection on which both ends send a known sequence of bytes at a steady pace, and read and check
/// the other one's.
///
/// Dropping it closes the connection.
#[derive(Debug)]
pub struct Stream {
    meter: Arc<Meter>,
    ends: [Arc<TcpStream>; 2],
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Connects from the namespace to `entrance`, takes the connection that arrives at the listener within
    /// `limit`, and starts to send.
    pub fn open(
        namespace: &Namespace,
        entrance: SocketAddr,
        exit: &TcpListener,
        limit: Duration,
    ) -> Result<Self> {
        let near = connect_tcp(namespace, entrance, limit)?;
        let far = accept(exit, limit)?;
        Self::start(near, far)
    }

    /// Starts to send on both ends of a connection.
    pub fn start(near: TcpStream, far: TcpStream) -> Result<Self> {
        let failed = || Error::io("start a checked stream");
        let ends = [Arc::new(near), Arc::new(far)];
        for end in &ends {
            end.set_nodelay(true).map_err(failed())?;
            end.set_read_timeout(Some(SILENCE)).map_err(failed())?;
            end.set_write_timeout(Some(SILENCE)).map_err(failed())?;
        }
        let mut stream = Self { meter: Arc::new(Meter::new()), ends, threads: Vec::new() };
        let [near, far] = stream.ends.clone();
        for (direction, from, to) in [
            (Direction::Up, (End::Near, Arc::clone(&near)), (End::Far, Arc::clone(&far))),
            (Direction::Down, (End::Far, far), (End::Near, near)),
        ] {
            let meter = Arc::clone(&stream.meter);
            let write = move || {
                if let Err((position, error)) = write(&from.1, &meter, direction) {
                    meter.broke(from.0, direction, position, error);
                }
            };
            stream.threads.push(thread::Builder::new().spawn(write).map_err(failed())?);
            let meter = Arc::clone(&stream.meter);
            let read = move || {
                if let Err((position, error)) = read(&to.1, &meter, direction) {
                    meter.broke(to.0, direction, position, error);
                }
            };
            stream.threads.push(thread::Builder::new().spawn(read).map_err(failed())?);
        }
        Ok(stream)
    }

    /// Now, and what has been sent so far.
    pub fn mark(&self) -> Mark {
        self.meter.mark()
    }

    /// Waits until both directions have carried so many bytes beyond what had been sent at the mark.
    ///
    /// An error if the connection breaks or `limit` passes before that.
    pub fn wait_beyond(&self, mark: Mark, bytes: u64, limit: Duration) -> Result<()> {
        self.meter.wait_beyond(mark, bytes, limit)
    }

    /// As `wait_beyond`, of one direction.
    pub fn wait_way(&self, way: Direction, mark: Mark, bytes: u64, limit: Duration) -> Result<()> {
        self.meter.wait_way(way, mark, bytes, limit)
    }

    /// Waits until the near end is told that the connection was reset, and says when it was.
    pub fn wait_reset(&self, limit: Duration) -> Result<Instant> {
        self.meter.wait_reset(limit)
    }

    /// The longest pause of each direction that ended after the moment or has not ended yet.
    pub fn pauses(&self, since: Instant) -> Pauses {
        self.meter.pauses(since)
    }

    /// How much each end has sent so far, in bytes.
    pub fn totals(&self) -> Totals {
        self.meter.totals()
    }

    /// Stops sending, and waits until everything that was sent has arrived at the other end and was checked.
    pub fn finish(self, limit: Duration) -> Result<Totals> {
        self.meter.stop();
        self.meter.wait_complete(limit)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.meter.stop();
        for end in &self.ends {
            // An error means that the connection has ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Mark {
    /// From where every byte and every packet lies beyond.
    pub fn of_nothing(at: Instant) -> Self {
        Self { at, up: 0, down: 0 }
    }
}

impl Pauses {
    /// The longer one.
    pub fn longest(&self) -> Duration {
        self.up.max(self.down)
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::Up => "to the far end",
            Self::Down => "to the near end",
        })
    }
}

/// How far a thread came, and why not further.
type Ended = std::result::Result<(), (u64, io::Error)>;

/// Writes until the meter says to stop, and then the end of the stream.
fn write(mut stream: &TcpStream, meter: &Meter, direction: Direction) -> Ended {
    let mut chunk = vec![0; CHUNK];
    let mut position = 0;
    while !meter.stopped_within(PACE) {
        pattern::fill(position, &mut chunk);
        stream.write_all(&chunk).map_err(|error| (position, error))?;
        position += CHUNK as u64;
        meter.sent(direction, position);
    }
    stream.shutdown(Shutdown::Write).map_err(|error| (position, error))
}

/// Reads and checks until the end of the stream, which is an error unless everything has come.
fn read(mut stream: &TcpStream, meter: &Meter, direction: Direction) -> Ended {
    let mut buffer = vec![0; BUFFER];
    let mut position = 0;
    loop {
        let size = match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(size) => size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err((position, error)),
        };
        if let Some(wrong) = pattern::first_difference(position, &buffer[..size]) {
            return Err((wrong, io::Error::other("the byte there is not the one that was sent")));
        }
        position += size as u64;
        meter.received(direction, position);
    }
    if meter.complete(direction) {
        return Ok(());
    }
    let short = "it ended there and not where its sender stopped";
    Err((position, io::Error::new(io::ErrorKind::UnexpectedEof, short)))
}

/// The next connection of a listener. Linux limits accept(2) by the time for receiving (socket(7)).
fn accept(listener: &TcpListener, limit: Duration) -> Result<TcpStream> {
    let seconds = limit.as_secs().max(1).try_into().unwrap_or(i64::MAX);
    setsockopt(listener, ReceiveTimeout, &TimeVal::new(seconds, 0))
        .map_err(io::Error::from)
        .and_then(|()| listener.accept())
        .map(|(stream, _)| stream)
        .map_err(|source| Error::NotArrived { limit, source })
}

#[cfg(test)]
mod tests;
