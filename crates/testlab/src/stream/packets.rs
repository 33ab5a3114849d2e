use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{
    Direction, Mark, Pauses, Totals,
    meter::{End, Meter},
    pattern,
};
use crate::{Error, Result, enter::bind_udp, netns::Namespace};

/// Between two packets, as telephony has it (RFC 3551 section 4.2).
const PACE: Duration = Duration::from_millis(20);

/// Of a packet, as telephony has it too: 20 ms of 64 kbit/s. The first 8 bytes are its number.
const SIZE: usize = 160;

/// How often the receivers look whether they are to end.
const LOOK: Duration = Duration::from_millis(100);

/// Packets that one local socket sends through a forward at a steady pace, and that the other end returns.
///
/// Some may be lost; none may be altered. Dropping it ends it.
#[derive(Debug)]
pub struct Packets {
    meter: Arc<Meter>,
    threads: Vec<JoinHandle<()>>,
}

impl Packets {
    /// Binds a socket in the namespace that sends to `entrance`, and returns what arrives at the socket `exit`.
    pub fn start(namespace: &Namespace, entrance: SocketAddr, exit: UdpSocket) -> Result<Self> {
        let failed = || Error::io(format!("send packets to {entrance}"));
        let near = bind_udp(namespace, SocketAddr::from(([127, 0, 0, 1], 0)))?;
        near.connect(entrance).map_err(failed())?;
        for socket in [&near, &exit] {
            socket.set_read_timeout(Some(LOOK)).map_err(failed())?;
        }
        let meter = Arc::new(Meter::new());
        let mut packets = Self { meter: Arc::clone(&meter), threads: Vec::new() };
        let receiver = near.try_clone().map_err(failed())?;
        let (send, answer, receive) = (Arc::clone(&meter), Arc::clone(&meter), meter);
        for run in [
            Box::new(move || send_all(&near, &send)) as Box<dyn FnOnce() + Send>,
            Box::new(move || return_all(&exit, &answer)),
            Box::new(move || receive_all(&receiver, &receive)),
        ] {
            packets.threads.push(thread::Builder::new().spawn(run).map_err(failed())?);
        }
        Ok(packets)
    }

    /// Now, and what has been sent so far.
    pub fn mark(&self) -> Mark {
        self.meter.mark()
    }

    /// Waits until a packet has come to each end that is so many behind the last one sent at the mark.
    pub fn wait_beyond(&self, mark: Mark, packets: u64, limit: Duration) -> Result<()> {
        self.meter.wait_beyond(mark, packets, limit)
    }

    /// The longest pause of each direction that ended after the moment or has not ended yet.
    ///
    /// What does not arrive at the far end is not returned, so the near end pauses at least as long.
    pub fn pauses(&self, since: Instant) -> Pauses {
        self.meter.pauses(since)
    }

    /// Whether every packet that arrived so far was as it was sent; an error names one that was not.
    pub fn unaltered(&self) -> Result<()> {
        self.meter.unbroken()
    }

    /// How many packets the near end has sent, and how many of them have come back.
    pub fn totals(&self) -> Totals {
        Totals { up: self.meter.totals().up, down: self.meter.arrivals(Direction::Down) }
    }
}

impl Drop for Packets {
    fn drop(&mut self) {
        self.meter.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn send_all(socket: &UdpSocket, meter: &Meter) {
    let mut number = 0;
    while !meter.stopped_within(PACE) {
        // What cannot be sent is lost like a packet on the way: the pauses show it.
        let _ = socket.send(&packet(number));
        number += 1;
        meter.sent(Direction::Up, number);
    }
}

fn return_all(socket: &UdpSocket, meter: &Meter) {
    while !meter.stopped_within(Duration::ZERO) {
        let mut bytes = [0; 2 * SIZE];
        let Ok((size, from)) = socket.recv_from(&mut bytes) else { continue };
        if arrived(meter, End::Far, Direction::Up, &bytes[..size]) {
            let _ = socket.send_to(&bytes[..size], from);
            meter.sent(Direction::Down, number(&bytes) + 1);
        }
    }
}

fn receive_all(socket: &UdpSocket, meter: &Meter) {
    while !meter.stopped_within(Duration::ZERO) {
        let mut bytes = [0; 2 * SIZE];
        let Ok(size) = socket.recv(&mut bytes) else { continue };
        arrived(meter, End::Near, Direction::Down, &bytes[..size]);
    }
}

/// Whether the packet is one of ours, unaltered.
fn arrived(meter: &Meter, end: End, direction: Direction, bytes: &[u8]) -> bool {
    let number = number(bytes);
    let whole = bytes == packet(number);
    if whole {
        meter.received(direction, number + 1);
    } else {
        let error = io::Error::other("the packet is not as it was sent");
        meter.broke(end, direction, number, error);
    }
    whole
}

fn packet(number: u64) -> [u8; SIZE] {
    let mut packet = [0; SIZE];
    pattern::fill(number, &mut packet);
    packet[..8].copy_from_slice(&number.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u64 {
    packet.first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}
