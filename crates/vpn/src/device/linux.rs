//! A TUN device with offload: the kernel gives and takes packets merged into one of up to 64 KiB.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, VIRTIO_NET_HDR_LEN};

use super::{Device, DeviceError, HEADROOM, MIN_MTU, Reader, Writer};

const _: () = assert!(HEADROOM >= VIRTIO_NET_HDR_LEN);

/// What the kernel gives at once: the largest IP packet with its virtio header.
const MERGED: usize = VIRTIO_NET_HDR_LEN + u16::MAX as usize;

/// Packets of one read at most, to begin with. What is merged of UDP is at most 128 (UDP_MAX_SEGMENTS of linux/udp.h), so
/// there is room for another read after a first one.
const SLOTS: usize = 256;

/// What [`SLOTS`] grows to where TCP's segments are small: 64 KiB of the smallest that Linux sends, 48 bytes without options
/// (TCP_MIN_SND_MSS of net/tcp.h).
const MAX_SLOTS: usize = 2048;

/// A read with fewer free slots waits for the next batch.
const MIN_FREE: usize = 128;

/// What a buffer holds in which packets are merged, in bytes: some 16 packets of usual size, beyond which larger ones save
/// little.
const MERGE_BUFFER: usize = 24 * 1024;

/// The errno of a device that has been removed or taken down (EBADFD).
const EBADFD: i32 = nix::errno::Errno::EBADFD as i32;

/// A TUN device. It is gone with the last clone and half of it, and with the process, however that ends.
#[derive(Clone)]
pub struct TunDevice {
    shared: Arc<Shared>,
}

struct Shared {
    device: AsyncDevice,
    name: String,
    index: u32,
    mtu: AtomicU16,
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Makes `tun0`, or the one with the next free number, without an address, and takes it up.
    ///
    /// To be called within a tokio runtime. `mtu` is in bytes and at least [`MIN_MTU`].
    pub fn create(mtu: u16) -> Result<Self, DeviceError> {
        if mtu < MIN_MTU {
            return Err(DeviceError::Mtu(mtu));
        }
        let builder = DeviceBuilder::new().mtu(mtu).offload(true).enable(false);
        let device = builder.build_async().map_err(|error| match error.raw_os_error() {
            Some(errno) if errno == nix::errno::Errno::EPERM as i32 => DeviceError::Permission,
            Some(errno) if errno == nix::errno::Errno::EACCES as i32 => DeviceError::Forbidden,
            _ if is_missing(&error) => DeviceError::NoTun,
            _ => DeviceError::Io { action: "create", source: error },
        })?;
        let io = |action| move |source| DeviceError::Io { action, source };
        let name = device.name().map_err(io("name"))?;
        let index = device.if_index().map_err(io("find"))?;
        // Otherwise it gets a link-local address (RFC 4862 section 5.3), which nobody at the other end has assigned. Where
        // there is no IPv6 or no way to say so, nothing worse happens than that.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/addr_gen_mode"), "1");
        device.enabled(true).map_err(io("take up"))?;
        let shared = Shared { device, name, index, mtu: AtomicU16::new(mtu) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its number among this machine's interfaces.
    pub fn index(&self) -> u32 {
        self.shared.index
    }
}

/// Whether the device file is not there, or has no driver behind it.
fn is_missing(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    error.kind() == io::ErrorKind::NotFound
        || errno == Some(nix::errno::Errno::ENODEV as i32)
        || errno == Some(nix::errno::Errno::ENXIO as i32)
}

impl Device for TunDevice {
    type Reader = TunReader;
    type Writer = TunWriter;

    fn name(&self) -> &str {
        &self.shared.name
    }

    fn mtu(&self) -> u16 {
        self.shared.mtu.load(Ordering::Relaxed)
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        if mtu < MIN_MTU {
            return Err(DeviceError::Mtu(mtu));
        }
        let failed = |source| DeviceError::Io { action: "set the MTU of", source };
        self.shared.device.set_mtu(mtu).map_err(failed)?;
        self.shared.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    fn split(&self) -> (TunReader, TunWriter) {
        let reader = TunReader {
            shared: Arc::clone(&self.shared),
            merged: vec![0; MERGED],
            slots: Vec::new(),
            sizes: Vec::new(),
            taken: 0,
        };
        (reader, TunWriter { shared: Arc::clone(&self.shared), table: GROTable::default() })
    }
}

/// See [`Reader`].
pub struct TunReader {
    shared: Arc<Shared>,
    /// What the kernel gave, before it is split.
    merged: Vec<u8>,
    slots: Vec<Box<[u8]>>,
    sizes: Vec<usize>,
    /// Slots that hold a packet.
    taken: usize,
}

impl TunReader {
    /// Makes slots, and such as hold a packet of the present MTU.
    fn prepare(&mut self) {
        let size = usize::from(self.shared.mtu.load(Ordering::Relaxed)).max(1500);
        if self.slots.first().is_none_or(|slot| slot.len() < size) {
            let count = self.slots.len().max(SLOTS);
            self.slots = vec![vec![0; size].into_boxed_slice(); count];
            self.sizes = vec![0; count];
        }
    }

    /// One read without waiting, behind what has been taken.
    fn try_read(&mut self) -> io::Result<()> {
        let (slots, sizes) = (&mut self.slots[self.taken..], &mut self.sizes[self.taken..]);
        let read = self.shared.device.try_recv_multiple(&mut self.merged, slots, sizes, 0);
        match read {
            Ok(packets) => self.taken += packets,
            // What was read could not be split: it is lost, like a packet that a link damaged.
            Err(error) if error.raw_os_error().is_none() && !is_end(&error) => {
                tracing::debug!(%error, "a packet of the device was dropped");
                self.grow();
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The commonest reason why a packet cannot be split is that it has more segments than there are slots.
    fn grow(&mut self) {
        let count = (self.slots.len() * 2).min(MAX_SLOTS);
        let size = self.slots.first().map_or(0, |slot| slot.len());
        self.slots.resize_with(count, || vec![0; size].into_boxed_slice());
        self.sizes.resize(count, 0);
    }
}

/// Whether an error without an errno tells more than that one packet is bad.
fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe
    )
}

impl Reader for TunReader {
    async fn recv(&mut self) -> io::Result<usize> {
        self.prepare();
        self.taken = 0;
        while self.taken == 0 {
            self.shared.device.readable().await?;
            while self.slots.len() - self.taken >= MIN_FREE {
                match self.try_read() {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) if self.taken > 0 => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(self.taken)
    }

    fn packets(&self) -> impl Iterator<Item = &[u8]> + Send {
        let taken = self.slots.iter().zip(&self.sizes).take(self.taken);
        taken.map(|(slot, &size)| slot.get(..size).unwrap_or_default())
    }
}

/// Gives a packet's buffer the room in which packets of its flow are merged with it: they are for as long as there is room
/// (tun-rs 2.8, `offload.rs`), so that there must be less than the 65,535 bytes of an IP packet's length.
fn make_room(packet: &mut Vec<u8>) {
    if packet.capacity() > usize::from(u16::MAX) {
        packet.shrink_to(usize::from(u16::MAX));
    }
    if packet.capacity() < MERGE_BUFFER {
        packet.reserve_exact(MERGE_BUFFER - packet.len());
    }
}

/// See [`Writer`].
pub struct TunWriter {
    shared: Arc<Shared>,
    table: GROTable,
}

impl Writer for TunWriter {
    async fn send(&mut self, packets: &mut [Vec<u8>]) -> io::Result<()> {
        if packets.iter().any(|packet| packet.len() <= HEADROOM) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a packet without headroom"));
        }
        if packets.len() > 1 {
            for packet in packets.iter_mut() {
                make_room(packet);
            }
        }
        match self.shared.device.send_multiple(&mut self.table, packets, HEADROOM).await {
            Err(error) if error.raw_os_error() == Some(EBADFD) => Err(error),
            // A queue that is full, a packet that is none, an interface that is down: a link loses packets.
            Err(error) => {
                tracing::debug!(%error, "the kernel did not take a packet");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
