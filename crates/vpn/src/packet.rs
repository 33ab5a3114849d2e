//! IP packets, as far as the engine has to know them: where they come from and go, what they carry, and TCP's MSS.
//!
//! Forms are those of RFC 791 (IPv4), RFC 8200 (IPv6), RFC 9293 (TCP) and RFC 768 (UDP).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// The protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;

/// The protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;

/// The smallest MSS that IPv4 hosts may count on, in bytes (RFC 9293 section 3.7.1).
pub const MIN_MSS_V4: u16 = 536;

/// The smallest MSS that IPv6 hosts may count on, in bytes (RFC 9293 section 3.7.1): 1,280 less both headers.
pub const MIN_MSS_V6: u16 = 1220;

/// How many extension headers are walked: RFC 8200 section 4.1 has six kinds and lets one of them come twice, and nothing
/// that is in use needs more.
pub const MAX_EXTENSIONS: usize = 8;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

/// Loose and strict source routes (RFC 791 section 3.1).
const OPTION_LSRR: u8 = 131;
const OPTION_SSRR: u8 = 137;

const TCP_SYN: u8 = 0x02;
const TCP_OPTION_MSS: u8 = 2;

/// Bytes that are no IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// Neither IPv4 nor IPv6.
    #[error("a packet of IP version {0}")]
    Version(u8),
    /// Shorter than it says, or than its headers.
    #[error("a packet that ends too early")]
    Truncated,
    /// An IPv4 header, or one of its options, that cannot be.
    #[error("an IPv4 header that cannot be")]
    BadHeader,
    /// More than [`MAX_EXTENSIONS`].
    #[error("a packet with too many IPv6 extension headers")]
    TooManyHeaders,
}

/// What part of a packet one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// The whole packet.
    Whole,
    /// The first of several: what stands behind the IP headers begins here.
    First,
    /// A later one.
    Later,
}

/// What the headers of an IP packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who sent it, by its own account.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Its length in bytes, at most that of the bytes it was read from.
    pub length: usize,
    /// What stands behind the IP headers and their extensions; of a later fragment, what the whole packet has there or
    /// another extension header.
    pub protocol: u8,
    /// Where that begins, in bytes; at most `length`.
    pub payload: usize,
    /// Which part it is.
    pub fragment: Fragment,
    /// It names hosts to pass by (an IPv4 source route, or an IPv6 routing header with segments left), so `destination` may
    /// not be the last. RFC 5095 and RFC 7126 sections 4.3 and 4.4 say that such packets be dropped.
    pub source_routed: bool,
}

impl Header {
    /// The source's and the destination's port of TCP and UDP, where this part of the packet has them.
    pub fn ports(&self, packet: &[u8]) -> Option<(u16, u16)> {
        if !matches!(self.protocol, TCP | UDP) || self.fragment == Fragment::Later {
            return None;
        }
        let ports: &[u8; 4] = packet.get(self.payload..self.length)?.first_chunk()?;
        Some((u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]])))
    }

    /// Whether the packet opens a TCP connection, and so says its sender's MSS.
    pub fn is_syn(&self, packet: &[u8]) -> bool {
        self.protocol == TCP
            && self.fragment != Fragment::Later
            && self.length - self.payload >= TCP_HEADER
            && packet.get(self.payload + 13).is_some_and(|flags| flags & TCP_SYN != 0)
    }
}

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// Reads the headers of a packet; bytes behind its end are left alone.
///
/// # Errors
///
/// Where the bytes are no packet, or one that no host would take.
pub fn parse(packet: &[u8]) -> Result<Header, PacketError> {
    match packet.first().map(|first| first >> 4) {
        Some(4) => parse_v4(packet),
        Some(6) => parse_v6(packet),
        Some(other) => Err(PacketError::Version(other)),
        None => Err(PacketError::Truncated),
    }
}

fn parse_v4(packet: &[u8]) -> Result<Header, PacketError> {
    let fixed: &[u8; IPV4_HEADER] = packet.first_chunk().ok_or(PacketError::Truncated)?;
    let (payload, length) = (usize::from(fixed[0] & 0xf) * 4, u16_at(fixed, 2));
    if payload < IPV4_HEADER || length < payload {
        return Err(PacketError::BadHeader);
    }
    if length > packet.len() {
        return Err(PacketError::Truncated);
    }
    let place = u16_at(fixed, 6);
    let fragment = match (place & 0x1fff, place & 0x2000) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(Header {
        source: Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]).into(),
        destination: Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]).into(),
        length,
        protocol: fixed[9],
        payload,
        fragment,
        source_routed: has_source_route(&packet[IPV4_HEADER..payload])?,
    })
}

fn has_source_route(mut options: &[u8]) -> Result<bool, PacketError> {
    while let Some(kind) = options.first() {
        let length = match kind {
            0 => break,
            1 => 1,
            &OPTION_LSRR | &OPTION_SSRR => return Ok(true),
            _ => usize::from(*options.get(1).ok_or(PacketError::BadHeader)?).max(2),
        };
        options = options.get(length..).ok_or(PacketError::BadHeader)?;
    }
    Ok(false)
}

fn parse_v6(packet: &[u8]) -> Result<Header, PacketError> {
    let fixed: &[u8; IPV6_HEADER] = packet.first_chunk().ok_or(PacketError::Truncated)?;
    let length = IPV6_HEADER + u16_at(fixed, 4);
    let packet = packet.get(..length).ok_or(PacketError::Truncated)?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&fixed[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(octets))
    };
    let mut header = Header {
        source: address(8),
        destination: address(24),
        length,
        protocol: fixed[6],
        payload: IPV6_HEADER,
        fragment: Fragment::Whole,
        source_routed: false,
    };
    for _ in 0..=MAX_EXTENSIONS {
        let rest = &packet[header.payload..];
        let size = match header.protocol {
            // Hop-by-hop options, routing, destination options (RFC 8200), mobility (RFC 6275), HIP (RFC 7401), Shim6
            // (RFC 5533).
            0 | 43 | 60 | 135 | 139 | 140 => {
                let start: &[u8; 8] = rest.first_chunk().ok_or(PacketError::Truncated)?;
                header.source_routed |= header.protocol == 43 && start[3] != 0;
                8 + usize::from(start[1]) * 8
            }
            // Authentication (RFC 4302 section 2.2), whose length counts otherwise.
            51 => 8 + usize::from(*rest.get(1).ok_or(PacketError::Truncated)?) * 4,
            44 => {
                let start: &[u8; 8] = rest.first_chunk().ok_or(PacketError::Truncated)?;
                let place = u16_at(start, 2);
                header.fragment = match (place & 0xfff8, place & 1, header.fragment) {
                    // An atomic fragment (RFC 6946) is a whole packet; one within another's first is none.
                    (0, 0, before) => before,
                    (0, _, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                8
            }
            _ => return Ok(header),
        };
        if size > rest.len() {
            return Err(PacketError::Truncated);
        }
        header.protocol = rest[0];
        header.payload += size;
        if header.fragment == Fragment::Later {
            return Ok(header);
        }
    }
    Err(PacketError::TooManyHeaders)
}

/// Lowers the MSS in a SYN such that packets of the connection are at most `max_packet` bytes long, IP header included,
/// though never below [`MIN_MSS_V4`] or [`MIN_MSS_V6`]. Says whether it changed anything.
///
/// `header` is what [`parse`] says of `packet`. The checksum is corrected by the difference (RFC 1624), so one that was
/// wrong stays wrong. Without the option the sender's MSS is the least there is (RFC 9293 section 3.7.1).
pub fn clamp_mss(packet: &mut [u8], header: &Header, max_packet: usize) -> bool {
    if !header.is_syn(packet) {
        return false;
    }
    let (ip, least) = match header.source {
        IpAddr::V4(_) => (IPV4_HEADER, MIN_MSS_V4),
        IpAddr::V6(_) => (IPV6_HEADER, MIN_MSS_V6),
    };
    let room = max_packet.saturating_sub(ip + TCP_HEADER);
    let mss = u16::try_from(room).unwrap_or(u16::MAX).max(least);
    let Some(segment) = packet.get_mut(header.payload..header.length) else { return false };
    let Some(at) = find_mss(segment) else { return false };
    let present = u16::from_be_bytes([segment[at], segment[at + 1]]);
    if present <= mss {
        return false;
    }
    segment[at..at + 2].copy_from_slice(&mss.to_be_bytes());
    // At an odd place its bytes are the halves of two of the words that the checksum adds, in the other order.
    let (from, to) = match at % 2 {
        0 => (present, mss),
        _ => (present.swap_bytes(), mss.swap_bytes()),
    };
    let checksum = updated_checksum(u16::from_be_bytes([segment[16], segment[17]]), from, to);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    true
}

/// Where the value of the MSS option stands in a TCP segment of at least [`TCP_HEADER`] bytes.
fn find_mss(segment: &[u8]) -> Option<usize> {
    let end = usize::from(segment[12] >> 4) * 4;
    let options = segment.get(..end)?;
    let mut at = TCP_HEADER;
    while at < end {
        at += match options[at] {
            0 => return None,
            1 => 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if kind == TCP_OPTION_MSS {
                    return (length == 4 && at + 4 <= end).then_some(at + 2);
                }
                length.max(2)
            }
        };
    }
    None
}

/// RFC 1624 section 3, equation 3: HC' = ~(~HC + ~m + m').
fn updated_checksum(checksum: u16, from: u16, to: u16) -> u16 {
    let mut sum = u32::from(!checksum) + u32::from(!from) + u32::from(to);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Whether `address` can be one host's in a network behind the tunnel: not the unspecified one, a loopback, link-local,
/// multicast or broadcast one, nor an IPv4 address in the form of an IPv6 one (RFC 6890; RFC 4291 section 2.5.5).
pub fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let refused = v4.octets()[0] == 0
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast();
            !refused
        }
        IpAddr::V6(v6) => {
            // ::/96 holds the unspecified address, the loopback and the "compatible" ones.
            let compatible = v6.segments()[..6] == [0; 6];
            let refused = compatible
                || v6.to_ipv4_mapped().is_some()
                || v6.is_unicast_link_local()
                || v6.is_multicast();
            !refused
        }
    }
}

#[cfg(test)]
mod tests;
