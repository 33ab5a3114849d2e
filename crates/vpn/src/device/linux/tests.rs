//! In network namespaces of their own, as root.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::AtomicUsize;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::network::linux::tests::{SOON, in_other_network, ip, own_network, recv, wait_until};

/// What one end of a cable of packets has seen.
#[derive(Default)]
struct Seen {
    batches: AtomicUsize,
    packets: AtomicUsize,
    largest: AtomicUsize,
}

/// Carries packets from one device to the other, as an engine would.
async fn carry(mut from: TunReader, mut to: TunWriter, seen: Arc<Seen>) {
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    while let Ok(taken) = from.recv().await {
        seen.batches.fetch_add(1, Ordering::Relaxed);
        seen.packets.fetch_add(taken, Ordering::Relaxed);
        buffers.resize_with(buffers.len().max(taken), Vec::new);
        for (buffer, packet) in buffers.iter_mut().zip(from.packets()) {
            seen.largest.fetch_max(packet.len(), Ordering::Relaxed);
            buffer.clear();
            buffer.resize(HEADROOM, 0);
            buffer.extend(packet);
        }
        if to.send(&mut buffers[..taken]).await.is_err() {
            return;
        }
    }
}

/// A device in a network of its own, with an address, and what `make` makes there.
fn host<T: Send>(
    handle: &tokio::runtime::Handle,
    address: &str,
    make: impl FnOnce() -> T + Send,
) -> (TunDevice, T) {
    in_other_network(|| {
        let _entered = handle.enter();
        let device = TunDevice::create(1420).unwrap();
        let nodad = if address.contains(':') { "nodad" } else { "" };
        ip(&format!("address add {address} dev {} {nodad}", device.name()));
        (device, make())
    })
}

#[test]
fn what_is_merged_fits_the_length_of_an_ip_packet() {
    for capacity in [20, MERGE_BUFFER, 65_535, 65_536, 131_034] {
        for length in [20, 1430] {
            let mut packet = Vec::with_capacity(capacity);
            packet.resize(length, 0);
            make_room(&mut packet);
            let room = packet.capacity();
            assert!((MERGE_BUFFER..=65_535).contains(&room), "{capacity}, {length}: {room}");
        }
    }
}

#[test]
fn ipv4_passes_between_two_devices_whole_and_in_batches() {
    passes(["10.5.0.1".parse().unwrap(), "10.5.0.2".parse().unwrap()], 24);
}

#[test]
fn ipv6_passes_between_two_devices_whole_and_in_batches() {
    passes(["fd05::1".parse().unwrap(), "fd05::2".parse().unwrap()], 64);
}

/// TCP and UDP from the second address to the first.
fn passes(addresses: [IpAddr; 2], prefix: u8) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (server, client) = (SocketAddr::new(addresses[0], 80), SocketAddr::new(addresses[1], 0));
    let [one, other] = addresses.map(|address| format!("{address}/{prefix}"));
    let (one, (listener, udp)) = host(runtime.handle(), &one, || {
        (TcpListener::bind(server).unwrap(), UdpSocket::bind(server).unwrap())
    });
    let (other, (dial, sender)) = host(runtime.handle(), &other, || {
        let socket = Socket::new(Domain::for_address(server), Type::STREAM, None).unwrap();
        (socket, UdpSocket::bind(client).unwrap())
    });
    let seen = Arc::new(Seen::default());
    let ((from_one, to_one), (from_other, to_other)) = (one.split(), other.split());
    runtime.spawn(carry(from_one, to_other, Arc::default()));
    runtime.spawn(carry(from_other, to_one, Arc::clone(&seen)));

    let sent: Vec<u8> =
        (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    dial.connect_timeout(&server.into(), SOON).unwrap();
    let mut stream = TcpStream::from(dial);
    let (mut accepted, _) = listener.accept().unwrap();
    accepted.set_read_timeout(Some(SOON)).unwrap();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            stream.write_all(&sent).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        accepted.read_to_end(&mut received).unwrap();
        received
    });
    assert!(received == sent, "the bytes differ");
    let (batches, packets) =
        (seen.batches.load(Ordering::Relaxed), seen.packets.load(Ordering::Relaxed));
    assert_eq!(seen.largest.load(Ordering::Relaxed), 1420);
    assert!(packets > 3 * batches, "{packets} packets in {batches} batches");

    udp.set_read_timeout(Some(SOON)).unwrap();
    for size in [0, 1, 500, 1372, 1392, 4000] {
        sender.send_to(&sent[..size], server).unwrap();
        let mut buffer = [0; 5000];
        assert_eq!(recv(&udp, &mut buffer).0, size);
        assert_eq!(buffer[..size], sent[..size]);
    }
}

#[test]
fn a_device_takes_the_next_free_name_and_is_gone_with_its_last_half() {
    own_network();
    let runtime = crate::network::linux::tests::runtime();
    let _entered = runtime.enter();
    assert!(matches!(TunDevice::create(500), Err(DeviceError::Mtu(500))));
    let first = TunDevice::create(1280).unwrap();
    let second = TunDevice::create(1420).unwrap();
    assert_eq!((first.name(), second.name()), ("tun0", "tun1"));
    assert!(ip("link show tun0").contains("mtu 1280"));
    second.set_mtu(1300).unwrap();
    assert!(ip("link show tun1").contains("mtu 1300"));
    let halves = first.split();
    drop(first);
    assert!(ip("link").contains("tun0"));
    drop(halves);
    // A program that another test starts has it for a moment as well.
    wait_until("the device goes", || !ip("link").contains("tun0"));
}

#[test]
fn a_reader_learns_that_the_device_is_gone() {
    own_network();
    let runtime = crate::network::linux::tests::runtime();
    runtime.block_on(async {
        let device = TunDevice::create(1420).unwrap();
        let (mut reader, mut writer) = device.split();
        ip("link delete tun0");
        tokio::time::timeout(SOON, reader.recv()).await.unwrap().unwrap_err();
        let packet = [[0; HEADROOM].as_slice(), &[0x45; 40]].concat();
        writer.send(&mut [packet]).await.unwrap_err();
    });
}
