//! The one question that a STUN server is asked: which address does this come from? (RFC 8489)
//!
//! Written for the lab, so that what is tested is not tested by itself.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// What tells STUN from other packets (RFC 8489 section 5).
const MAGIC_COOKIE: [u8; 4] = 0x2112_a442_u32.to_be_bytes();

/// Binding, as a request and as a success response (RFC 8489 sections 5 and 18.2).
const REQUEST: u16 = 0x0001;
const SUCCESS: u16 = 0x0101;

/// XOR-MAPPED-ADDRESS, and the families in it (RFC 8489 section 14.2).
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const IPV4: u8 = 1;
const IPV6: u8 = 2;

/// The magic cookie and the number of a request, which is random: what an answer repeats.
type Transaction = [u8; 16];

/// Sends one binding request from the socket, and returns the address that the server saw it come from.
///
/// Nothing is sent again: an error if no answer comes within `limit`, which must not be zero. Other packets that
/// arrive meanwhile are dropped. It leaves the socket with a read timeout.
pub fn binding(socket: &UdpSocket, server: SocketAddr, limit: Duration) -> Result<SocketAddr> {
    let failed = || Error::io(format!("ask the STUN server {server}"));
    let deadline = Instant::now() + limit;
    let mut transaction: Transaction = fastrand::u128(..).to_be_bytes();
    transaction[..4].copy_from_slice(&MAGIC_COOKIE);
    socket.send_to(&request(transaction), server).map_err(failed())?;
    let mut bytes = [0; 1500];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(failed()(io::ErrorKind::TimedOut.into()));
        }
        socket.set_read_timeout(Some(left)).map_err(failed())?;
        let (size, _) = socket.recv_from(&mut bytes).map_err(failed())?;
        if let Some(mapped) = response(&bytes[..size], transaction) {
            return Ok(mapped);
        }
    }
}

fn request(transaction: Transaction) -> [u8; 20] {
    let mut message = [0; 20];
    message[..2].copy_from_slice(&REQUEST.to_be_bytes());
    message[4..].copy_from_slice(&transaction);
    message
}

/// The mapped address of a success response to this request; nothing for any other packet.
fn response(bytes: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    let (kind, rest) = split_u16(bytes)?;
    let (length, rest) = split_u16(rest)?;
    let mut attributes = rest.strip_prefix(&transaction)?;
    if kind != SUCCESS || usize::from(length) != attributes.len() {
        return None;
    }
    while !attributes.is_empty() {
        let (kind, rest) = split_u16(attributes)?;
        let (length, rest) = split_u16(rest)?;
        let (value, rest) = rest.split_at_checked(length.into())?;
        if kind == XOR_MAPPED_ADDRESS {
            return unmask(value, transaction);
        }
        // The next attribute begins at a multiple of four (RFC 8489 section 14).
        let padding = value.len().next_multiple_of(4) - value.len();
        attributes = rest.get(padding..)?;
    }
    None
}

/// The address in a XOR-MAPPED-ADDRESS. A cookie and a number of 16 bytes hide one of either family.
fn unmask(value: &[u8], transaction: Transaction) -> Option<SocketAddr> {
    let [_, family, masked @ ..] = value else { return None };
    let (port, address) = split_u16(masked)?;
    let port = port ^ u16::from_be_bytes([MAGIC_COOKIE[0], MAGIC_COOKIE[1]]);
    let address: Vec<_> = address.iter().zip(transaction).map(|(byte, mask)| byte ^ mask).collect();
    let ip = match *family {
        IPV4 => IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(address).ok()?)),
        IPV6 => Ipv6Addr::from(<[u8; 16]>::try_from(address).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn split_u16(bytes: &[u8]) -> Option<(u16, &[u8])> {
    bytes.split_first_chunk().map(|(number, rest)| (u16::from_be_bytes(*number), rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The number in the samples of RFC 5769.
    const TRANSACTION: Transaction = [
        0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf,
        0xae,
    ];

    /// A response with an attribute that needs padding, and then the address.
    fn answer(address: &[u8]) -> Vec<u8> {
        let software = [0x80, 0x22, 0, 3, b'l', b'a', b'b', 0];
        let length = u8::try_from(software.len() + 4 + address.len()).expect("a short message");
        let size = u8::try_from(address.len()).expect("a short address");
        [&[1, 1, 0, length], &TRANSACTION[..], &software, &[0, 0x20, 0, size], address].concat()
    }

    #[test]
    fn the_address_of_an_answer_is_found() {
        // Those of RFC 5769 sections 2.2 and 2.3.
        let v4 = [0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        let expected = SocketAddr::from(([192, 0, 2, 1], 32853));
        assert_eq!(response(&answer(&v4), TRANSACTION), Some(expected));
        let v6 = [
            0, 2, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4,
            0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().ok();
        assert_eq!(response(&answer(&v6), TRANSACTION), expected);
    }

    #[test]
    fn what_is_no_answer_to_the_request_is_nothing() {
        let good = answer(&[0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        let mut other = TRANSACTION;
        other[15] ^= 1;
        assert_eq!(response(&good, other), None);
        for size in 0..good.len() {
            assert_eq!(response(&good[..size], TRANSACTION), None, "{size}");
        }
        assert_eq!(response(&request(TRANSACTION), TRANSACTION), None);
        assert_eq!(response(&answer(&[0, 3, 0, 0, 0, 0, 0, 0]), TRANSACTION), None);
        assert_eq!(response(&answer(&[0, 1, 0, 0, 0, 0, 0]), TRANSACTION), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            response(&[&[1, 1], &bytes[..]].concat(), TRANSACTION);
            response(&answer(&bytes), TRANSACTION);
        }
    }
}
