//! Packets whose IP headers are written here, and not by the kernel.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
};

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

use crate::{Error, Result, enter::enter, netns::Namespace};

mod sweep;

pub use sweep::{Sweep, sweep};

/// IANA protocol number of UDP.
const UDP: u8 = 17;

/// Of fragments of IPv6 (RFC 8200 section 4.5).
const FRAGMENT: u8 = 44;

/// "Don't fragment" and "more fragments" (RFC 791 section 3.1).
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// Sends packets from a namespace as they are.
#[derive(Debug)]
pub struct RawSender {
    v4: UdpSocket,
    v6: UdpSocket,
}

impl RawSender {
    /// Opens its sockets. What an `IPPROTO_RAW` socket sends has its header already (raw(7), and the same over IPv6).
    pub fn new(namespace: &Namespace) -> Result<Self> {
        let open = |family| raw_socket(namespace, family, SockProtocol::Raw);
        Ok(Self { v4: open(AddressFamily::Inet)?, v6: open(AddressFamily::Inet6)? })
    }

    /// Sends a packet on the way that the kernel has to its destination.
    pub fn send(&self, packet: &[u8], to: IpAddr) -> Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let sent = socket.send_to(packet, SocketAddr::new(to, 0)).map(drop);
        sent.map_err(Error::io(format!("send a packet of {} bytes to {to}", packet.len())))
    }
}

/// A raw socket in a namespace. std has no type for these; only what all sockets can do is done with it.
fn raw_socket(
    namespace: &Namespace,
    family: AddressFamily,
    protocol: SockProtocol,
) -> Result<UdpSocket> {
    let open = || socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
    let opened: nix::Result<OwnedFd> = enter(namespace, open)?;
    let failed = Error::io(format!("open a raw socket in {}", namespace.name()));
    opened.map(UdpSocket::from).map_err(std::io::Error::from).map_err(failed)
}

/// An IPv4 packet; the kernel sums its header. `place` is the word with the flags and the fragment's offset.
fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, place: u16, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + rest.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 7]);
    packet.extend(place.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(rest);
    packet
}

fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(rest);
    packet
}

/// A UDP packet to a port, with these addresses, whole and as a first and a later fragment. Nothing where the addresses
/// are of two families.
pub fn udp_whole_and_in_fragments(source: IpAddr, destination: IpAddr, port: u16) -> Vec<Vec<u8>> {
    let data = [0x5a; 16];
    let length = u16::try_from(8 + data.len()).unwrap_or(u16::MAX);
    // No sum: over IPv6 that is for tunnels only (RFC 6935), and a capture sees it all the same.
    let header = [port, port, length, 0].map(u16::to_be_bytes).concat();
    let rest = [&header[..], &data].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => [DONT_FRAGMENT, MORE_FRAGMENTS, 3]
            .map(|place| ipv4(source, destination, UDP, place, &rest))
            .to_vec(),
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            // The offset counts units of 8 bytes from bit 3 on; bit 0 says that more follow.
            let part = |place: u8| [&[UDP, 0, 0, place, 0, 0, 0, 7], &rest[..]].concat();
            let mut packets = vec![ipv6(source, destination, UDP, &rest)];
            packets.extend([1, 24].map(|place| ipv6(source, destination, FRAGMENT, &part(place))));
            packets
        }
        _ => Vec::new(),
    }
}
