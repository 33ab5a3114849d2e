//! A device in memory, for tests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::sync::{Mutex, mpsc};

use super::{Device, DeviceError, HEADROOM, MIN_MTU, Reader, Writer};

/// Packets that wait in one direction.
const QUEUE: usize = 1024;

/// Packets in one batch.
const BATCH: usize = 64;

/// A device that is no device: its other end is a [`MemoryWire`].
#[derive(Clone, Debug)]
pub struct MemoryDevice {
    name: Arc<str>,
    mtu: Arc<AtomicU16>,
    incoming: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
    outgoing: mpsc::Sender<Vec<u8>>,
}

/// What the machine would be at a real device.
#[derive(Debug)]
pub struct MemoryWire {
    to_device: mpsc::Sender<Vec<u8>>,
    from_device: mpsc::Receiver<Vec<u8>>,
}

impl MemoryDevice {
    /// A device and the machine behind it.
    pub fn pair(name: &str, mtu: u16) -> (Self, MemoryWire) {
        let (to_device, incoming) = mpsc::channel(QUEUE);
        let (outgoing, from_device) = mpsc::channel(QUEUE);
        let device = Self {
            name: name.into(),
            mtu: Arc::new(AtomicU16::new(mtu)),
            incoming: Arc::new(Mutex::new(incoming)),
            outgoing,
        };
        (device, MemoryWire { to_device, from_device })
    }
}

impl MemoryWire {
    /// The machine sends a packet into the device; `false` where that is gone.
    pub async fn send(&self, packet: &[u8]) -> bool {
        self.to_device.send(packet.to_vec()).await.is_ok()
    }

    /// The next packet that the machine gets; none where the device is gone.
    pub async fn recv(&mut self) -> Option<Vec<u8>> {
        self.from_device.recv().await
    }
}

impl Device for MemoryDevice {
    type Reader = MemoryReader;
    type Writer = MemoryWriter;

    fn name(&self) -> &str {
        &self.name
    }

    fn mtu(&self) -> u16 {
        self.mtu.load(Ordering::Relaxed)
    }

    fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError> {
        if mtu < MIN_MTU {
            return Err(DeviceError::Mtu(mtu));
        }
        self.mtu.store(mtu, Ordering::Relaxed);
        Ok(())
    }

    fn split(&self) -> (MemoryReader, MemoryWriter) {
        let reader = MemoryReader { incoming: Arc::clone(&self.incoming), batch: Vec::new() };
        (reader, MemoryWriter { outgoing: self.outgoing.clone() })
    }
}

/// See [`Reader`].
#[derive(Debug)]
pub struct MemoryReader {
    incoming: Arc<Mutex<mpsc::Receiver<Vec<u8>>>>,
    batch: Vec<Vec<u8>>,
}

impl Reader for MemoryReader {
    async fn recv(&mut self) -> io::Result<usize> {
        self.batch.clear();
        match self.incoming.lock().await.recv_many(&mut self.batch, BATCH).await {
            0 => Err(io::ErrorKind::BrokenPipe.into()),
            taken => Ok(taken),
        }
    }

    fn packets(&self) -> impl Iterator<Item = &[u8]> + Send {
        self.batch.iter().map(Vec::as_slice)
    }
}

/// See [`Writer`].
#[derive(Debug)]
pub struct MemoryWriter {
    outgoing: mpsc::Sender<Vec<u8>>,
}

impl Writer for MemoryWriter {
    async fn send(&mut self, packets: &mut [Vec<u8>]) -> io::Result<()> {
        for packet in packets {
            let inner = packet.get(HEADROOM..).unwrap_or_default().to_vec();
            if self.outgoing.send(inner).await.is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn packets_pass_in_both_directions_and_in_order() {
        let (device, mut wire) = MemoryDevice::pair("memory0", 1420);
        let (mut reader, mut writer) = device.split();
        assert!(wire.send(b"one").await && wire.send(b"two").await);
        assert_eq!(reader.recv().await.unwrap(), 2);
        assert_eq!(reader.packets().collect::<Vec<_>>(), [b"one", b"two"]);
        let mut packet = vec![0; HEADROOM];
        packet.extend(b"three");
        writer.send(&mut [packet]).await.unwrap();
        assert_eq!(wire.recv().await.unwrap(), b"three");
        drop(wire);
        assert!(reader.recv().await.is_err());
    }
}
