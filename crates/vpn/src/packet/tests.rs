use proptest::prelude::*;

use super::*;

/// An IPv4 packet, with options if `options` (multiples of four bytes) says so.
fn v4(protocol: u8, place: u16, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = (20 + options.len() + payload.len()) as u16;
    let mut packet = vec![0x45 + (options.len() / 4) as u8, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(place.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    [&packet, options, payload].concat()
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    [&packet, payload].concat()
}

fn tcp(flags: u8, options: &[u8], data: &[u8]) -> Vec<u8> {
    let words = ((20 + options.len()) / 4) as u8;
    let fixed =
        [0x30, 0x39, 0, 80, 1, 2, 3, 4, 5, 6, 7, 8, words << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
    [&fixed[..], options, data].concat()
}

fn ones_sum(chunks: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for bytes in chunks {
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The checksum over pseudo-header and segment, which is 0 where the segment's own is right (RFC 9293 section 3.1).
fn tcp_checksum(packet: &[u8]) -> u16 {
    let header = parse(packet).unwrap();
    let segment = &packet[header.payload..header.length];
    let addresses = match header.source {
        IpAddr::V4(_) => &packet[12..20],
        IpAddr::V6(_) => &packet[8..40],
    };
    !ones_sum(&[addresses, &[0, TCP], &(segment.len() as u16).to_be_bytes(), segment])
}

fn with_checksum(mut packet: Vec<u8>) -> Vec<u8> {
    let at = parse(&packet).unwrap().payload + 16;
    let checksum = tcp_checksum(&packet);
    packet[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
    assert_eq!(tcp_checksum(&packet), 0);
    packet
}

fn clamp(packet: &mut [u8], max: usize) -> bool {
    let header = parse(packet).unwrap();
    clamp_mss(packet, &header, max)
}

const MSS_1460: [u8; 4] = [2, 4, 0x05, 0xb4];

#[test]
fn headers_of_both_versions_are_read() {
    let mut packet = v4(UDP, 0, &[], &[0x13, 0x88, 0, 53, 0, 8, 0, 0]);
    packet.extend([0; 7]);
    let header = parse(&packet).unwrap();
    assert_eq!(header.source, Ipv4Addr::new(10, 0, 0, 1));
    assert_eq!(header.destination, Ipv4Addr::new(10, 0, 0, 2));
    assert_eq!((header.length, header.payload, header.protocol), (28, 20, UDP));
    assert_eq!(header.ports(&packet), Some((5000, 53)));

    let packet = v6(UDP, &[0x13, 0x88, 0, 53, 0, 8, 0, 0]);
    let header = parse(&packet).unwrap();
    assert_eq!(header.source, "fd00::1".parse::<IpAddr>().unwrap());
    assert_eq!(header.destination, "fd00::2".parse::<IpAddr>().unwrap());
    assert_eq!((header.length, header.ports(&packet)), (48, Some((5000, 53))));
}

#[test]
fn what_is_shorter_than_it_says_is_refused() {
    for packet in [v4(UDP, 0, &[1; 4], &[0; 8]), v6(60, &[UDP, 0, 1, 4, 0, 0, 0, 0, 0, 1])] {
        assert!(parse(&packet).is_ok());
        for end in 0..packet.len() {
            assert_eq!(parse(&packet[..end]), Err(PacketError::Truncated), "{end}");
        }
    }
    assert_eq!(parse(&[0x50; 60]), Err(PacketError::Version(5)));
    let mut packet = v4(UDP, 0, &[], &[0; 8]);
    packet[0] = 0x44;
    assert_eq!(parse(&packet), Err(PacketError::BadHeader));
    packet[0] = 0x48;
    assert_eq!(parse(&packet), Err(PacketError::BadHeader));
}

#[test]
fn later_fragments_have_no_ports() {
    let first = v4(UDP, 0x2000, &[], &[0, 1, 0, 2, 0, 8, 0, 0]);
    let header = parse(&first).unwrap();
    assert_eq!((header.fragment, header.ports(&first)), (Fragment::First, Some((1, 2))));
    let later = v4(UDP, 0x2003, &[], &[0, 1, 0, 2, 0, 8, 0, 0]);
    let header = parse(&later).unwrap();
    assert_eq!((header.fragment, header.ports(&later)), (Fragment::Later, None));

    let v6_part = |place: u16| {
        let [high, low] = place.to_be_bytes();
        v6(44, &[UDP, 0, high, low, 0, 0, 0, 9, 0, 1, 0, 2, 0, 8, 0, 0])
    };
    for (place, fragment, ports) in [
        (0, Fragment::Whole, Some((1, 2))),
        (1, Fragment::First, Some((1, 2))),
        (8, Fragment::Later, None),
        (9, Fragment::Later, None),
    ] {
        let packet = v6_part(place);
        let header = parse(&packet).unwrap();
        assert_eq!((header.fragment, header.ports(&packet)), (fragment, ports), "{place}");
        assert_eq!(header.protocol, UDP);
    }
}

#[test]
fn extension_headers_are_walked_as_far_as_anybody_needs() {
    let chain = |count: usize| {
        let mut payload = Vec::new();
        for left in (0..count).rev() {
            payload.extend([if left == 0 { TCP } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(tcp(0x10, &[], b"x"));
        v6(if count == 0 { TCP } else { 60 }, &payload)
    };
    for count in 0..=MAX_EXTENSIONS {
        let header = parse(&chain(count)).unwrap();
        assert_eq!((header.protocol, header.payload), (TCP, 40 + 8 * count));
    }
    assert_eq!(parse(&chain(MAX_EXTENSIONS + 1)), Err(PacketError::TooManyHeaders));
    // Authentication counts words of four bytes, less two.
    let mut payload = vec![UDP, 4];
    payload.extend([0; 22]);
    payload.extend([0, 1, 0, 2, 0, 8, 0, 0]);
    let packet = v6(51, &payload);
    assert_eq!(parse(&packet).unwrap().ports(&packet), Some((1, 2)));
}

#[test]
fn source_routes_are_seen() {
    for (options, expected) in [
        (&[1, 1, 1, 0][..], false),
        (&[7, 4, 4, 0], false),
        (&[131, 3, 4, 0], true),
        (&[1, 137, 3, 4], true),
        (&[7, 3, 4, 131, 3, 4, 0, 0], true),
        (&[0, 131, 3, 4], false),
    ] {
        assert_eq!(parse(&v4(UDP, 0, options, &[])).unwrap().source_routed, expected);
    }
    assert_eq!(parse(&v4(UDP, 0, &[7, 9, 4, 0], &[])), Err(PacketError::BadHeader));
    let routing = |left| v6(43, &[UDP, 0, 0, left, 0, 0, 0, 0]);
    assert!(!parse(&routing(0)).unwrap().source_routed);
    assert!(parse(&routing(1)).unwrap().source_routed);
}

#[test]
fn the_mss_of_a_syn_is_lowered_and_its_checksum_stays_right() {
    let options = [&MSS_1460[..], &[4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7]].concat();
    let mut packet = with_checksum(v4(TCP, 0x4000, &[], &tcp(0x02, &options, &[])));
    assert!(clamp(&mut packet, 1382));
    assert_eq!(packet[42..44], 1342u16.to_be_bytes());
    assert_eq!(tcp_checksum(&packet), 0);
    assert!(!clamp(&mut packet, 1382));

    // At an odd place, in the answer, over IPv6, behind an extension header.
    let options = [&[1][..], &MSS_1460, &[1, 1, 1]].concat();
    let payload = [&[TCP, 0, 1, 4, 0, 0, 0, 0][..], &tcp(0x12, &options, &[])].concat();
    let mut packet = with_checksum(v6(60, &payload));
    assert!(clamp(&mut packet, 1382));
    assert_eq!(packet[40 + 8 + 20 + 3..][..2], 1322u16.to_be_bytes());
    assert_eq!(tcp_checksum(&packet), 0);
}

#[test]
fn the_mss_is_never_lowered_below_what_hosts_may_count_on() {
    let mut packet = with_checksum(v4(TCP, 0, &[], &tcp(0x02, &MSS_1460, &[])));
    assert!(clamp(&mut packet, 0));
    assert_eq!(packet[42..44], MIN_MSS_V4.to_be_bytes());
    let mut packet = with_checksum(v6(TCP, &tcp(0x02, &MSS_1460, &[])));
    assert!(clamp(&mut packet, 100));
    assert_eq!(packet[62..64], MIN_MSS_V6.to_be_bytes());
}

#[test]
fn nothing_but_a_syn_is_changed() {
    let later = v4(TCP, 0x2001, &[], &tcp(0x02, &MSS_1460, &[]));
    let not_syn = v4(TCP, 0, &[], &tcp(0x10, &MSS_1460, &[]));
    let udp = v4(UDP, 0, &[], &tcp(0x02, &MSS_1460, &[]));
    let other_length = v4(TCP, 0, &[], &tcp(0x02, &[2, 5, 5, 0xb4, 0, 0, 0, 0], &[]));
    let behind_end = v4(TCP, 0, &[], &tcp(0x02, &[0, 2, 4, 5], &[0xb4]));
    let mut beyond_header = v4(TCP, 0, &[], &tcp(0x02, &MSS_1460, &[]));
    beyond_header[32] = 0x50;
    for mut packet in [later, not_syn, udp, other_length, behind_end, beyond_header] {
        let before = packet.clone();
        assert!(!clamp(&mut packet, 1000));
        assert_eq!(packet, before);
    }
}

#[test]
fn addresses_that_are_no_hosts_are_known() {
    for refused in [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.251",
        "239.1.1.1",
        "255.255.255.255",
        "::",
        "::1",
        "::10.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "febf::1",
        "ff02::1",
        "ff05::2",
    ] {
        assert!(!is_host(refused.parse().unwrap()), "{refused}");
    }
    for taken in
        ["10.0.0.1", "192.0.2.1", "100.64.0.1", "1.1.1.1", "fd00::1", "2001:db8::1", "fec0::1"]
    {
        assert!(is_host(taken.parse().unwrap()), "{taken}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), version in 0u8..3, max in 0usize..2000) {
        if let Some(first) = bytes.first_mut() {
            match version {
                0 => *first = 0x40 | (*first & 0xf),
                1 => *first = 0x60,
                _ => {}
            }
        }
        // Lengths that fit, in a part of the cases, so that more than the length is looked at.
        if bytes.len() > 40 && max % 2 == 0 {
            let length = (bytes.len() - if version == 1 { 40 } else { 0 }) as u16;
            let at = if version == 1 { 4 } else { 2 };
            bytes[at..at + 2].copy_from_slice(&length.to_be_bytes());
        }
        if let Ok(header) = parse(&bytes) {
            prop_assert!(header.payload <= header.length && header.length <= bytes.len());
            let _ = header.ports(&bytes);
            clamp_mss(&mut bytes, &header, max);
            prop_assert_eq!(parse(&bytes), Ok(header));
        }
    }

    #[test]
    fn a_checksum_that_is_right_stays_right(
        mss: u16,
        max in 0usize..70_000,
        before in 0usize..4,
        data in proptest::collection::vec(any::<u8>(), 0..20),
        six: bool,
    ) {
        let [high, low] = mss.to_be_bytes();
        let mut options = vec![1; before];
        options.extend([2, 4, high, low]);
        options.resize(options.len().next_multiple_of(4), 0);
        let segment = tcp(0x02, &options, &data);
        let mut packet = with_checksum(if six { v6(TCP, &segment) } else { v4(TCP, 0, &[], &segment) });
        let (headers, least) = if six { (60, MIN_MSS_V6) } else { (40, MIN_MSS_V4) };
        let changed = clamp(&mut packet, max);
        prop_assert_eq!(tcp_checksum(&packet), 0);
        let at = parse(&packet).unwrap().payload + 20 + before + 2;
        let now = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let bound = max.saturating_sub(headers).clamp(least.into(), 65_535) as u16;
        prop_assert_eq!((now, changed), (mss.min(bound), mss > bound));
    }
}
