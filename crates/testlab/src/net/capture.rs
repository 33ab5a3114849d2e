//! Which packets the interfaces of a host see.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    time::Duration,
};

use tempfile::TempDir;

use crate::{Error, Result, netns::Namespace, process::Proc};

/// For tcpdump to begin, and to end.
const LIMIT: Duration = Duration::from_secs(30);

/// How much of a packet is kept: every header that is read here.
const SNAPLEN: u32 = 128;

/// The link type of packets that were captured on all interfaces (pcap-linktype(7)).
const LINUX_SLL2: u32 = 276;

/// Of a file, of each packet in it (pcap-savefile(5)), and of the link header (LINKTYPE_LINUX_SLL2).
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
const LINK_HEADER: usize = 20;

/// The start of a file with times in microseconds, in the order of bytes of this machine (pcap-savefile(5)).
const MAGIC: u32 = 0xa1b2_c3d4;

/// What can follow a link header (IEEE 802 numbers).
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

/// What can follow an IP header (IANA protocol numbers).
const HOP_BY_HOP: u8 = 0;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

const SIGINT: i32 = 2;

/// A packet of IPv4 or IPv6 that left or reached an interface; one that did both is there twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes to.
    pub destination: IpAddr,
    /// What is in it (IANA protocol numbers): 17 for UDP.
    pub protocol: u8,
    /// The port that it goes to, of TCP and UDP.
    pub port: Option<u16>,
}

/// A running capture of everything that the interfaces of a namespace see, loopback among them.
#[derive(Debug)]
pub struct Capture {
    process: Proc,
    file: PathBuf,
    _folder: TempDir,
}

impl Packet {
    /// Whether it is of UDP.
    pub fn is_udp(&self) -> bool {
        self.protocol == UDP
    }
}

impl Capture {
    /// Starts tcpdump, and returns once it captures. The filter is one of pcap-filter(7); an empty one takes all.
    pub fn start(namespace: &Namespace, filter: &str) -> Result<Self> {
        let folder = TempDir::new().map_err(Error::io("create a folder for a capture"))?;
        let file = folder.path().join("packets");
        let mut command = namespace.command("tcpdump");
        // As root to the end: another user cannot write into the folder.
        command.args(["-i", "any", "-y", "LINUX_SLL2", "-n", "-Z", "root"]);
        command.args(["--immediate-mode", "-U", "-s", &SNAPLEN.to_string()]);
        // In KiB: for some seconds in which this machine does something else.
        command.args(["-B", "16384", "-w"]);
        command.arg(&file).arg(filter);
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line.contains("listening on"), LIMIT)?;
        Ok(Self { process, file, _folder: folder })
    }

    /// Waits until a packet has been captured that the predicate accepts.
    pub fn wait(&self, accept: impl Fn(&Packet) -> bool, limit: Duration) -> Result<()> {
        let seen = || match self.packets() {
            Ok(packets) => packets.iter().any(&accept).then_some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        self.process.wait_for(seen, limit)?
    }

    /// Ends it, and returns what was captured: every packet but ARP and what the kernels of neighbours say to each
    /// other by ICMPv6 (neighbour discovery, RFC 4861; listener discovery, RFC 2710 and RFC 3810).
    ///
    /// An error if the kernel had to leave packets out.
    pub fn finish(self) -> Result<Vec<Packet>> {
        self.process.signal(SIGINT)?;
        self.process.finish(LIMIT)?;
        let output = self.process.output();
        if !output.lines().any(|line| line == "0 packets dropped by kernel") {
            return Err(Error::Malformed { what: "a capture that is not complete", text: output });
        }
        self.packets()
    }

    /// What has been captured so far.
    fn packets(&self) -> Result<Vec<Packet>> {
        let failed = Error::io(format!("read {}", self.file.display()));
        let bytes = fs::read(&self.file).map_err(failed)?;
        parse(&bytes).ok_or_else(|| Error::Malformed {
            what: "the header of a capture by tcpdump",
            text: format!("{:?}", bytes.get(..FILE_HEADER)),
        })
    }
}

/// The packets in a file that may still be written. Nothing if it is not a capture of all interfaces.
fn parse(file: &[u8]) -> Option<Vec<Packet>> {
    let Some((header, mut rest)) = file.split_at_checked(FILE_HEADER) else {
        return Some(Vec::new());
    };
    if (native_u32(header, 0)?, native_u32(header, 20)?) != (MAGIC, LINUX_SLL2) {
        return None;
    }
    let mut packets = Vec::new();
    while let Some((header, bytes)) = rest.split_at_checked(PACKET_HEADER) {
        let length = usize::try_from(native_u32(header, 8)?).ok()?;
        let Some((frame, next)) = bytes.split_at_checked(length) else { break };
        packets.extend(packet(frame));
        rest = next;
    }
    Some(packets)
}

/// What a frame holds, unless that is left out.
fn packet(frame: &[u8]) -> Option<Packet> {
    let (link, bytes) = frame.split_at_checked(LINK_HEADER)?;
    let (source, destination, protocol, payload): (IpAddr, IpAddr, _, _) =
        match network_u16(link, 0)? {
            ETHERTYPE_IPV4 => {
                let address = |at| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
                // The low half of the first byte counts words of 4 bytes (RFC 791 section 3.1).
                let payload = bytes.get(usize::from(bytes.first()? & 0xf) * 4..)?;
                (address(12)?.into(), address(16)?.into(), *bytes.get(9)?, payload)
            }
            ETHERTYPE_IPV6 => {
                let address = |at| Some(Ipv6Addr::from(*bytes.get(at..)?.first_chunk::<16>()?));
                let (protocol, payload) = upper_layer(*bytes.get(6)?, bytes.get(40..)?)?;
                (address(8)?.into(), address(24)?.into(), protocol, payload)
            }
            _ => return None,
        };
    // Types of ICMPv6 (IANA): 130 to 132 and 143 for listeners, 133 to 137 for neighbours.
    if protocol == ICMPV6 && matches!(payload.first()?, 130..=137 | 143) {
        return None;
    }
    let port = match protocol {
        TCP | UDP => network_u16(payload, 2),
        _ => None,
    };
    Some(Packet { source, destination, protocol, port })
}

/// Skips the one header that a kernel puts before what it says to its neighbours (RFC 8200 section 4.3).
fn upper_layer(next: u8, bytes: &[u8]) -> Option<(u8, &[u8])> {
    if next != HOP_BY_HOP {
        return Some((next, bytes));
    }
    let size = (usize::from(*bytes.get(1)?) + 1) * 8;
    Some((*bytes.first()?, bytes.get(size..)?))
}

fn native_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|number| u32::from_ne_bytes(*number))
}

fn network_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|number| u16::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        enter::bind_udp,
        net::{Cable, PairLab},
    };

    #[test]
    fn it_sees_what_a_host_sends_and_to_whom() -> Result<()> {
        let lab = PairLab::new()?;
        lab.add_default_routes()?;
        let capture = Capture::start(&lab.a, "")?;
        let elsewhere = [IpAddr::from([192, 0, 2, 11]), [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into()];
        let destinations = [&Cable::First.b()[..], &elsewhere].concat();
        for destination in &destinations {
            let any = match destination {
                IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = bind_udp(&lab.a, (any, 0).into())?;
            socket.send_to(b"hello", (*destination, 7000)).map_err(Error::io("send a packet"))?;
            capture.wait(|packet| packet.destination == *destination, LIMIT)?;
        }
        let packets = capture.finish()?;
        for destination in destinations {
            let mut packets = packets.iter().filter(|packet| packet.is_udp());
            let seen = packets.find(|packet| packet.destination == destination);
            let own = seen.map(|packet| (packet.port, Cable::First.a().contains(&packet.source)));
            assert_eq!(own, Some((Some(7000), true)), "{destination} in {packets:?}");
        }
        // The kernels have looked for their neighbours, which is left out.
        assert!(packets.iter().all(|packet| matches!(packet.protocol, 1 | UDP | ICMPV6)));
        let multicast = packets.iter().find(|packet| packet.destination.is_multicast());
        assert_eq!(multicast, None);
        Ok(())
    }

    #[test]
    fn a_packet_that_does_not_come_is_an_error() -> Result<()> {
        let lab = PairLab::new()?;
        let capture = Capture::start(&lab.a, "udp")?;
        let waited = capture.wait(Packet::is_udp, Duration::from_millis(100));
        assert!(matches!(waited, Err(Error::TimedOut { .. })), "{waited:?}");
        Ok(())
    }

    /// A file with one packet.
    fn file(packet: &[u8]) -> Vec<u8> {
        let mut file = [&MAGIC.to_ne_bytes()[..], &[0; 16], &LINUX_SLL2.to_ne_bytes()].concat();
        let length = u32::try_from(packet.len()).expect("a short packet").to_ne_bytes();
        file.extend([&[0; 8][..], &length, &length, packet].concat());
        file
    }

    #[test]
    fn a_file_that_is_still_written_ends_at_its_last_packet() {
        let mut packet = [0; LINK_HEADER + 28];
        packet[..2].copy_from_slice(&ETHERTYPE_IPV4.to_be_bytes());
        packet[LINK_HEADER] = 0x45;
        packet[LINK_HEADER + 9] = UDP;
        packet[LINK_HEADER + 23] = 53;
        let whole = file(&packet);
        let packets = parse(&whole).unwrap_or_default();
        assert!(matches!(packets[..], [Packet { protocol: UDP, port: Some(53), .. }]));
        for size in 0..whole.len() {
            assert_eq!(parse(&whole[..size]), Some(Vec::new()), "{size}");
        }
        assert_eq!(parse(&[0; FILE_HEADER]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), six: bool) {
            let kind = if six { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }.to_be_bytes();
            parse(&file(&[&kind[..], &[0; LINK_HEADER - 2], &bytes].concat()));
            parse(&bytes);
        }
    }
}
