//! Packets as a device gives them.

use std::net::IpAddr;

use crate::packet::{TCP, UDP, parse};

pub(super) fn ip(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let length = (20 + payload.len()) as u16;
            let mut packet = vec![0x45, 0];
            packet.extend(length.to_be_bytes());
            packet.extend([0, 7, 0, 0, 64, protocol, 0, 0]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(payload);
            packet
        }
        _ => panic!("addresses of two families"),
    }
}

pub(super) fn udp(
    source: &str,
    destination: &str,
    from_port: u16,
    to_port: u16,
    data: &[u8],
) -> Vec<u8> {
    let mut payload = Vec::new();
    for word in [from_port, to_port, 8 + data.len() as u16, 0] {
        payload.extend(word.to_be_bytes());
    }
    payload.extend(data);
    ip(source, destination, UDP, &payload)
}

/// A SYN with nothing but an MSS, and a checksum that is right.
pub(super) fn syn(
    source: &str,
    destination: &str,
    from_port: u16,
    to_port: u16,
    mss: u16,
) -> Vec<u8> {
    syn_numbered([source, destination], [from_port, to_port], 1, mss)
}

/// The same with a sequence number.
pub(super) fn syn_numbered(hosts: [&str; 2], ports: [u16; 2], number: u32, mss: u16) -> Vec<u8> {
    let mut segment = Vec::new();
    ports.iter().for_each(|port| segment.extend(port.to_be_bytes()));
    segment.extend(number.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x60, 2, 0xff, 0xff, 0, 0, 0, 0, 2, 4]);
    segment.extend(mss.to_be_bytes());
    let mut packet = ip(hosts[0], hosts[1], TCP, &segment);
    let checksum = !tcp_sum(&packet);
    let at = parse(&packet).unwrap().payload + 16;
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The sum over the pseudo-header and the segment, which is 0xffff where the segment's checksum is right.
fn tcp_sum(packet: &[u8]) -> u16 {
    let header = parse(packet).unwrap();
    let segment = &packet[header.payload..header.length];
    let addresses = if header.source.is_ipv4() { &packet[12..20] } else { &packet[8..40] };
    let summed = [addresses, &[0, TCP], &(segment.len() as u16).to_be_bytes(), segment].concat();
    let words = summed.chunks(2).map(|pair| match pair {
        [high, low] => u64::from(*high) << 8 | u64::from(*low),
        odd => u64::from(odd[0]) << 8,
    });
    let mut sum: u64 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(super) fn tcp_checksum_is_right(packet: &[u8]) -> bool {
    tcp_sum(packet) == 0xffff
}

/// A first and a later fragment with the addresses of a packet.
pub(super) fn as_fragments(packet: &[u8]) -> Vec<Vec<u8>> {
    let header = parse(packet).unwrap();
    [0x2000u16, 3]
        .into_iter()
        .map(|place| match header.source {
            IpAddr::V4(_) => {
                let mut packet = packet.to_vec();
                packet[6..8].copy_from_slice(&place.to_be_bytes());
                packet
            }
            IpAddr::V6(_) => {
                let [high, low] = if place == 3 { [0, 24] } else { [0, 1] };
                let part = [&[UDP, 0, high, low, 0, 0, 0, 7], &packet[40..]].concat();
                let (source, to) = (header.source.to_string(), header.destination.to_string());
                ip(&source, &to, 44, &part)
            }
        })
        .collect()
}

/// An IPv4 packet with a loose source route.
pub(super) fn with_source_route(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.splice(20..20, [131, 7, 4, 192, 0, 2, 66, 0]);
    packet[0] = 0x47;
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}
