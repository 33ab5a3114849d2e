use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, UdpSocket},
    ops::RangeInclusive,
    process,
    time::{Duration, Instant},
};

use nix::sys::socket::{AddressFamily, SockProtocol};

use super::{DONT_FRAGMENT, RawSender, ipv4, raw_socket};
use crate::{Error, Result, netns::Namespace};

/// IANA protocol number of ICMP.
const ICMP: u8 = 1;

/// Of IPv4 and of an ICMP echo, in bytes (RFC 791, RFC 792).
const HEADERS: usize = 20 + 8;

/// How many packets are sent before answers are waited for: few enough for every queue on the way.
const BATCH: usize = 24;

/// For the answers of a batch, of which some may be lost.
const BATCH_LIMIT: Duration = Duration::from_millis(250);

/// What came of packets of every size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sweep {
    /// The sizes of which the first packet was not answered in time: any network may lose one.
    pub first_lost: BTreeSet<u16>,
    /// Those of which none was answered within the limit.
    pub never: BTreeSet<u16>,
    /// How long it took.
    pub took: Duration,
}

/// Sends an ICMP echo request of every size from the host's address `from` to `to`, each an IP packet of so many bytes
/// that must not be fragmented, until each has been answered with the same bytes, for `limit` at the most. The least
/// size is 28 bytes.
pub fn sweep(
    host: &Namespace,
    from: Ipv4Addr,
    to: Ipv4Addr,
    sizes: RangeInclusive<u16>,
    limit: Duration,
) -> Result<Sweep> {
    let sender = RawSender::new(host)?;
    let answers = raw_socket(host, AddressFamily::Inet, SockProtocol::Icmp)?;
    let began = Instant::now();
    let mut sweep = Sweep { never: sizes.collect(), ..Sweep::default() };
    let mut round = 0;
    while !sweep.never.is_empty() && began.elapsed() < limit {
        let sizes: Vec<_> = sweep.never.iter().copied().collect();
        for batch in sizes.chunks(BATCH) {
            for size in batch {
                sender.send(&request(from, to, *size), to.into())?;
            }
            let mut open: BTreeSet<_> = batch.iter().copied().collect();
            let deadline = Instant::now() + BATCH_LIMIT;
            while !open.is_empty() {
                match answered(&answers, to, deadline)? {
                    Some(size) => {
                        open.remove(&size);
                        sweep.never.remove(&size);
                    }
                    // What has come while this machine stood still is read first.
                    None if Instant::now() >= deadline => break,
                    None => {}
                }
            }
        }
        if round == 0 {
            sweep.first_lost = sweep.never.clone();
        }
        round += 1;
    }
    sweep.took = began.elapsed();
    Ok(sweep)
}

/// An echo request of this size; its number is the size, and its bytes differ from those of every other size.
fn request(from: Ipv4Addr, to: Ipv4Addr, size: u16) -> Vec<u8> {
    ipv4(from, to, ICMP, DONT_FRAGMENT, &echo(8, size))
}

fn echo(kind: u8, size: u16) -> Vec<u8> {
    let id = process::id() as u16;
    let mut echo = vec![kind, 0, 0, 0];
    echo.extend(id.to_be_bytes());
    echo.extend(size.to_be_bytes());
    let data = usize::from(size).saturating_sub(HEADERS);
    echo.extend((0..data).map(|place| (place * 31 + usize::from(size)) as u8));
    let sum = checksum(&echo);
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    echo
}

/// Of the internet's protocols (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The size of the next whole answer from there, if one comes in time.
fn answered(answers: &UdpSocket, from: Ipv4Addr, deadline: Instant) -> Result<Option<u16>> {
    let failed = || Error::io("receive answers to echo requests");
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    answers.set_read_timeout(Some(left)).map_err(failed())?;
    let mut buffer = [0; 2048];
    let length = match answers.recv(&mut buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        Err(error) => return Err(failed()(error)),
    };
    let packet = &buffer[..length];
    let size = u16::try_from(length).unwrap_or(u16::MAX);
    let whole =
        packet.get(12..16) == Some(&from.octets()) && packet.get(20..) == Some(&echo(0, size));
    Ok(whole.then_some(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::PairLab;

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn a_cable_carries_every_size() -> Result<()> {
        let lab = PairLab::new()?;
        let swept = sweep(&lab.a, PairLab::A4, PairLab::B4, 28..=1500, LIMIT)?;
        assert!(swept.never.is_empty(), "{swept:?}");
        Ok(())
    }

    #[test]
    fn sizes_that_nobody_answers_are_named() -> Result<()> {
        let lab = PairLab::new()?;
        lab.b.nft(
            "table inet t { chain c { type filter hook input priority 0; meta length 1000-1009 drop; }; }",
        )?;
        let limit = Duration::from_secs(1);
        let swept = sweep(&lab.a, PairLab::A4, PairLab::B4, 990..=1020, limit)?;
        assert_eq!(swept.never, (1000..=1009).collect(), "{swept:?}");
        assert_eq!(swept.first_lost, swept.never);
        Ok(())
    }
}
