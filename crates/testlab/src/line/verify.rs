use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::{Condition, link_bytes};
use crate::{Error, Result, enter::bind_udp, netns::Namespace};

mod burst;
mod judge;
mod probes;

/// A host at one end of a path.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// The host.
    pub namespace: &'a Namespace,
    /// An address of it that the other end reaches; both of one family.
    pub address: IpAddr,
}

/// A receiver that is not scheduled for a while must not look like a loss.
const RECEIVE_BUFFER: usize = 8 << 20;

/// How often a receiver looks whether it can still expect something.
const POLL: Duration = Duration::from_millis(20);

/// How late a packet of a burst may come, beside what the path asks for.
const GRACE: Duration = Duration::from_millis(100);

/// A sender that is not scheduled for a while leaves the link idle, which looks like a lower rate.
const BURSTS: usize = 10;

/// A sender that catches up after such a while fills the path's buffer, which looks like a loss.
const ROUNDS: usize = 3;

/// Proves by UDP packets between two hosts that the path between them is as asked for: `forth` from `near`
/// to `far`, `back` the other way. It is an error (`NotImpaired`) where it is not.
///
/// * Delay: the shortest round trip of at least some hundred packets is what was asked for, up to 2 ms or 10 %
///   longer.
/// * Loss: in each direction, by up to 15,000 numbered packets, within five standard deviations. So a loss
///   from 0.2 % up is told from none; where none is asked for, none may be lost.
/// * Rate, where one is asked for: what arrives of half a second at 1.5 times the rate is within 5 % of it. The
///   loss must be below a third, or the link is not full.
///
/// Packets of other programs on the path disturb it, and so does a machine that stands still: either half is tried again
/// before it counts. Takes less than 3 s, plus three round trips and the time in which the buffers drain, where all is as asked
/// for and nothing is lost; a second more where something is.
pub fn verify(near: End<'_>, far: End<'_>, forth: Condition, back: Condition) -> Result<()> {
    let both = [(near, far, forth), (far, near, back)];
    let name = |what: &str, from: End<'_>, to: End<'_>| {
        format!("{what} from {} to {}", from.namespace.name(), to.namespace.name())
    };

    let plan = probes::Plan::new(forth, back, near.packet(probes::PAYLOAD));
    let round = || {
        // What is late of an earlier round goes to other sockets.
        let (near_socket, far_socket) = (near.bind()?, far.bind()?);
        let seen = plan.run(&near_socket, &far_socket).map_err(Error::io("exchange UDP probes"))?;
        judge::round_trip(&name("round trip", near, far), plan.round_trip, seen.round_trip)?;
        let counts = [(plan.count, seen.there), (seen.there, seen.back)];
        for ((from, to, condition), (sent, received)) in both.into_iter().zip(counts) {
            judge::loss(&name("loss", from, to), condition.loss, sent, received)?;
        }
        Ok(())
    };
    let mut verdict = round();
    for _ in 1..ROUNDS {
        if !matches!(verdict, Err(Error::NotImpaired { .. })) {
            break;
        }
        verdict = round();
    }
    verdict?;

    let (near_socket, far_socket) = (near.bind()?, far.bind()?);
    let sockets = [(&near_socket, &far_socket), (&far_socket, &near_socket)];
    for ((from, to, condition), (sender, receiver)) in both.into_iter().zip(sockets) {
        let Some(rate) = condition.rate else { continue };
        let burst = burst::Burst::new(condition, rate, from.packet(burst::PAYLOAD));
        let mut verdict = Ok(());
        for _ in 0..BURSTS {
            let measured = burst.run(sender, receiver).map_err(Error::io("send a UDP burst"))?;
            verdict = judge::rate(&name("rate", from, to), rate, measured);
            if verdict.is_ok() {
                break;
            }
        }
        verdict?;
    }
    Ok(())
}

impl End<'_> {
    fn bind(self) -> Result<UdpSocket> {
        let socket = bind_udp(self.namespace, SocketAddr::new(self.address, 0))?;
        let error = || Error::io(format!("prepare a UDP socket on {}", self.address));
        let larger = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER).map_err(io::Error::from);
        larger.map_err(error())?;
        socket.set_read_timeout(Some(POLL)).map_err(error())?;
        Ok(socket)
    }

    /// The length of the IP packet of a UDP payload.
    fn packet(self, payload: usize) -> usize {
        const UDP_HEADER: usize = 8;
        let ip_header = if self.address.is_ipv4() { 20 } else { 40 };
        ip_header + UDP_HEADER + payload
    }
}

/// Sends `count` times, `interval` apart; a sleep that was too long is caught up with.
fn paced(
    count: u32,
    interval: Duration,
    mut send: impl FnMut(u32) -> io::Result<()>,
) -> io::Result<()> {
    let start = Instant::now();
    for number in 0..count {
        let left = (start + interval * number).saturating_duration_since(Instant::now());
        if !left.is_zero() {
            thread::sleep(left);
        }
        send(number)?;
    }
    Ok(())
}

/// Receives one packet, or nothing within `POLL`.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddr)>> {
    match socket.recv_from(buffer) {
        Ok(received) => Ok(Some(received)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// How long a packet of this IP length takes to get onto a link.
fn transmission(condition: Condition, packet: usize) -> Duration {
    let rate = condition.rate.filter(|rate| *rate > 0);
    rate.map_or(Duration::ZERO, |rate| super::queue::transmission(link_bytes(packet), rate))
}
