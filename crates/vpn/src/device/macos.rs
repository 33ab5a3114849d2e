//! A device of macOS's own kind, `utun`. It takes and gives packets one by one.
//!
//! No Mac has run it yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use nix::errno::Errno;
use tun_rs::{AsyncDevice, DeviceBuilder};

use super::{Device, DeviceError, HEADROOM, MIN_MTU, Reader, Writer};

/// Packets of one batch at most: what arrives while one is worked off is soon enough in the next one.
const SLOTS: usize = 128;

/// A network device. It is gone with the last clone and half of it, and with the process, however that ends.
#[derive(Clone)]
pub struct TunDevice {
    shared: Arc<Shared>,
}

struct Shared {
    device: AsyncDevice,
    name: String,
    mtu: AtomicU16,
}

impl std::fmt::Debug for TunDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunDevice").field("name", &self.shared.name).finish_non_exhaustive()
    }
}

impl TunDevice {
    /// Makes `utun0`, or the one with the next free number, without an address, and takes it up.
    ///
    /// To be called within a tokio runtime. `mtu` is in bytes and at least [`MIN_MTU`].
    pub fn create(mtu: u16) -> Result<Self, DeviceError> {
        if mtu < MIN_MTU {
            return Err(DeviceError::Mtu(mtu));
        }
        // Routes are not the library's.
        let builder = DeviceBuilder::new().mtu(mtu).associate_route(false).enable(false);
        let device = builder.build_async().map_err(|error| match error.raw_os_error() {
            Some(errno) if [Errno::EPERM, Errno::EACCES].contains(&Errno::from_raw(errno)) => {
                DeviceError::Permission
            }
            _ => DeviceError::Io { action: "create", source: error },
        })?;
        let io = |action| move |source| DeviceError::Io { action, source };
        let name = device.name().map_err(io("name"))?;
        device.enabled(true).map_err(io("take up"))?;
        let shared = Shared { device, name, mtu: AtomicU16::new(mtu) };
        Ok(Self { shared: Arc::new(shared) })
    }
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
        let reader = TunReader { shared: Arc::clone(&self.shared), packets: Vec::new(), taken: 0 };
        (reader, TunWriter { shared: Arc::clone(&self.shared) })
    }
}

/// See [`Reader`].
pub struct TunReader {
    shared: Arc<Shared>,
    /// Buffers, each with the length of what is in it.
    packets: Vec<(Box<[u8]>, usize)>,
    /// Buffers that hold a packet.
    taken: usize,
}

impl TunReader {
    /// Makes buffers that hold the largest packet, whatever the MTU becomes.
    fn prepare(&mut self) {
        if self.packets.is_empty() {
            let buffer = vec![0; usize::from(u16::MAX)].into_boxed_slice();
            self.packets = vec![(buffer, 0); SLOTS];
        }
    }
}

impl Reader for TunReader {
    async fn recv(&mut self) -> io::Result<usize> {
        self.prepare();
        self.taken = 0;
        while self.taken == 0 {
            self.shared.device.readable().await?;
            for (buffer, length) in &mut self.packets {
                match self.shared.device.try_recv(buffer) {
                    // What a device that is gone gives.
                    Ok(0) if self.taken == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(0) => break,
                    Ok(count) => {
                        *length = count;
                        self.taken += 1;
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(_) if self.taken > 0 => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(self.taken)
    }

    fn packets(&self) -> impl Iterator<Item = &[u8]> + Send {
        let taken = self.packets.iter().take(self.taken);
        taken.map(|(buffer, length)| buffer.get(..*length).unwrap_or_default())
    }
}

/// See [`Writer`].
pub struct TunWriter {
    shared: Arc<Shared>,
}

impl Writer for TunWriter {
    async fn send(&mut self, packets: &mut [Vec<u8>]) -> io::Result<()> {
        for packet in packets {
            let packet = packet.get(HEADROOM..).filter(|packet| !packet.is_empty());
            let Some(packet) = packet else {
                let kind = io::ErrorKind::InvalidInput;
                return Err(io::Error::new(kind, "a packet without headroom"));
            };
            match self.shared.device.send(packet).await {
                Err(error) if error.raw_os_error() == Some(Errno::ENXIO as i32) => {
                    return Err(error);
                }
                // A queue that is full, a packet that is none, an interface that is down: a link loses packets.
                Err(error) => tracing::debug!(%error, "the kernel did not take a packet"),
                Ok(_) => {}
            }
        }
        Ok(())
    }
}
