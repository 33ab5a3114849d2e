use std::{
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic, thread,
    time::{Duration, Instant},
};

use super::messages::{Quiet, Service, Short, Tally, connect, exchange};
use crate::{
    Error, Result,
    enter::{bind_udp, listen_tcp},
    netns::Namespace,
    stream::{Direction, Mark, Packets, Stream, Totals},
};

/// For bytes that are sent after a fault to arrive.
pub(super) const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// How many streams there are.
pub(super) const STREAMS: usize = 2;

/// What may have been handed to a socket at a mark and is not counted as sent yet: one write of a stream.
const IN_HAND: u64 = 16 * 1024;

/// How large the message is that a silent connection carries at its end, in bytes.
const LAST_WORDS: u64 = 4096;

/// Where the traffic ends, on the server's host.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) streams: TcpListener,
    pub(super) messages: Service,
    pub(super) packets: UdpSocket,
}

/// Where the client listens for each of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrances {
    pub(super) streams: SocketAddr,
    pub(super) messages: SocketAddr,
    pub(super) packets: SocketAddr,
}

/// Everything that is under way: streams, a connection that carries a message now and then, one that is silent until
/// the end, connections of one message each, and packets.
#[derive(Debug)]
pub(super) struct Traffic {
    streams: Vec<Stream>,
    quiet: Quiet,
    silent: TcpStream,
    short: Short,
    packets: Packets,
}

/// How long after a fault bytes that were sent after it arrived, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// On all streams, to the server's side.
    pub up: Duration,
    /// On all streams, to the client's side.
    pub down: Duration,
    /// Of the packets; those that are lost do not count.
    pub udp: Duration,
}

/// What was carried.
#[derive(Clone, Debug)]
pub(super) struct Carried {
    /// By the streams together, in bytes that were sent.
    pub(super) streams: Totals,
    /// By the quiet connection, in messages.
    pub(super) quiet: u64,
    /// By connections of one message each.
    pub(super) short: Tally,
    /// In packets.
    pub(super) packets: Totals,
}

impl Services {
    /// On ports that are free.
    pub(super) fn start(host: &Namespace) -> Result<Self> {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Ok(Self {
            streams: listen_tcp(host, loopback)?,
            messages: Service::start(host)?,
            packets: bind_udp(host, loopback)?,
        })
    }

    /// What a client is to forward: `tcp://HOST:PORT` or `udp://HOST:PORT` of the streams, the messages, the packets.
    pub(super) fn sources(&self) -> Result<[String; 3]> {
        let failed = || Error::io("read a service's address");
        let streams = self.streams.local_addr().map_err(failed())?;
        let packets = self.packets.local_addr().map_err(failed())?;
        let messages = self.messages.address;
        Ok([format!("tcp://{streams}"), format!("tcp://{messages}"), format!("udp://{packets}")])
    }
}

impl Traffic {
    /// Opens everything from the namespace, and waits until the streams and the packets arrive.
    pub(super) fn start(
        host: &Namespace,
        entrances: Entrances,
        services: &Services,
        seed: u64,
    ) -> Result<Self> {
        let exit = services.packets.try_clone().map_err(Error::io("share the UDP service"))?;
        let open = || Stream::open(host, entrances.streams, &services.streams, RECOVERY_LIMIT);
        let traffic = Self {
            streams: (0..STREAMS).map(|_| open()).collect::<Result<_>>()?,
            quiet: Quiet::start(connect(host, entrances.messages)?)?,
            silent: connect(host, entrances.messages)?,
            short: Short::start(host, entrances.messages, seed)?,
            packets: Packets::start(host, entrances.packets, exit)?,
        };
        traffic.recovered()?;
        Ok(traffic)
    }

    /// Waits until bytes and packets that are sent from now on arrive, and says how long each took.
    ///
    /// An error if a connection that lasts is broken, if a byte or a packet is wrong, or after `RECOVERY_LIMIT`.
    pub(super) fn recovered(&self) -> Result<Recovery> {
        let start = Instant::now();
        let packets = self.packets.mark();
        let marks: Vec<Mark> = self.streams.iter().map(Stream::mark).collect();
        let arrived = |way| {
            let left = || RECOVERY_LIMIT.saturating_sub(start.elapsed());
            let mut streams = self.streams.iter().zip(&marks);
            let arrived =
                streams.try_for_each(|(it, mark)| it.wait_way(way, *mark, IN_HAND + 1, left()));
            arrived.map(|()| start.elapsed())
        };
        let came = thread::scope(|scope| {
            let ways = [
                scope.spawn(|| arrived(Direction::Up)),
                scope.spawn(|| arrived(Direction::Down)),
                scope.spawn(|| {
                    let arrived = self.packets.wait_beyond(packets, 1, RECOVERY_LIMIT);
                    arrived.map(|()| start.elapsed())
                }),
            ];
            ways.map(|way| way.join().unwrap_or_else(|panicked| panic::resume_unwind(panicked)))
        });
        let [up, down, udp] = came;
        let recovery = Recovery { up: up?, down: down?, udp: udp? };
        self.packets.unaltered()?;
        Ok(recovery)
    }

    /// What is wrong with connections that carry messages, by now.
    pub(super) fn wrong(&self) -> Vec<String> {
        let mut wrong = self.short.tally().wrong;
        if self.quiet.is_broken() {
            wrong.push("the quiet connection is broken".to_owned());
        }
        wrong
    }

    /// What was carried so far.
    pub(super) fn carried(&self) -> Carried {
        let totals: Vec<_> = self.streams.iter().map(Stream::totals).collect();
        Carried {
            streams: Totals {
                up: totals.iter().map(|total| total.up).sum(),
                down: totals.iter().map(|total| total.down).sum(),
            },
            quiet: self.quiet.carried(),
            short: self.short.tally(),
            packets: self.packets.totals(),
        }
    }

    /// Stops sending, and waits until everything that was sent has arrived. Returns what was carried, and what is wrong.
    pub(super) fn finish(self) -> (Carried, Vec<String>) {
        let mut carried = self.carried();
        let mut wrong = Vec::new();
        carried.quiet = self.quiet.carried();
        if let Err(fate) = self.quiet.finish() {
            wrong.push(format!("the quiet connection broke: {}", fate.why()));
        }
        if let Err(fate) = exchange(&self.silent, 0, LAST_WORDS) {
            wrong.push(format!("the silent connection broke: {}", fate.why()));
        }
        let mut streams = Totals { up: 0, down: 0 };
        for stream in self.streams {
            match stream.finish(RECOVERY_LIMIT) {
                Ok(totals) => {
                    streams.up += totals.up;
                    streams.down += totals.down;
                }
                Err(error) => wrong.push(error.to_string()),
            }
        }
        carried.streams = streams;
        carried.packets = self.packets.totals();
        if let Err(error) = self.packets.unaltered() {
            wrong.push(error.to_string());
        }
        drop(self.packets);
        carried.short = self.short.finish();
        wrong.extend(carried.short.wrong.iter().cloned());
        (carried, wrong)
    }
}

impl Recovery {
    /// On all streams, in both directions.
    pub fn tcp(&self) -> Duration {
        self.up.max(self.down)
    }

    /// The longer of two, of each.
    pub(super) fn longer(self, other: Self) -> Self {
        Self {
            up: self.up.max(other.up),
            down: self.down.max(other.down),
            udp: self.udp.max(other.udp),
        }
    }
}
