//! The device that packets of this machine come from and go to.

use std::future::Future;
use std::io;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(any(test, feature = "test-utils"))]
pub mod memory;

#[cfg(target_os = "linux")]
pub use linux::{TunDevice, TunReader, TunWriter};
#[cfg(target_os = "macos")]
pub use macos::{TunDevice, TunReader, TunWriter};

/// Bytes in front of each packet that [`Writer::send`] gets: room for a virtio header (virtio 1.2 section 5.1.6), in which
/// the kernel is told of merged packets.
pub const HEADROOM: usize = 10;

/// The smallest MTU of a device, in bytes: what every IPv4 host takes (RFC 791 section 3.1).
pub const MIN_MTU: u16 = 576;

/// What creating a device takes.
const ROOT: &str = if cfg!(target_os = "macos") {
    "root: run it with sudo"
} else {
    "root (CAP_NET_ADMIN): run it with sudo; in a container, with --cap-add NET_ADMIN --device /dev/net/tun"
};

/// A device of layer 3: whole IP packets, nothing in front of them.
pub trait Device: Send + Sync + 'static {
    /// What takes packets from it.
    type Reader: Reader;
    /// What gives packets to it.
    type Writer: Writer;

    /// Its name on this machine.
    fn name(&self) -> &str;

    /// The largest packet that it carries, in bytes.
    fn mtu(&self) -> u16;

    /// Sets the largest packet that it carries, at least [`MIN_MTU`]. Those that wait in it may be larger.
    fn set_mtu(&self, mtu: u16) -> Result<(), DeviceError>;

    /// Both directions, for a task each. With several readers each packet goes to one of them.
    fn split(&self) -> (Self::Reader, Self::Writer);
}

/// Takes packets that this machine sends into the device.
pub trait Reader: Send {
    /// Waits for packets and takes a batch of them, in their order; their number, at least 1.
    ///
    /// May be dropped while it waits: nothing is lost. An error means that the device is gone or of no use any more.
    fn recv(&mut self) -> impl Future<Output = io::Result<usize>> + Send;

    /// Those of the last batch.
    fn packets(&self) -> impl Iterator<Item = &[u8]> + Send;
}

/// Gives packets to this machine through the device.
pub trait Writer: Send {
    /// Gives packets, in their order, each with [`HEADROOM`] bytes in front of it that are overwritten.
    ///
    /// Packets of one flow are merged in place where the system takes merged ones, so the contents are used up. What the
    /// system does not take is lost, as on any link. An error means that the device is gone or of no use any more.
    fn send(&mut self, packets: &mut [Vec<u8>]) -> impl Future<Output = io::Result<()>> + Send;
}

/// Why there is no device.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Creating a network device takes a capability, or root.
    #[error("a VPN needs a network device, and creating one needs {ROOT}")]
    Permission,
    /// There is no such file, or nothing behind it.
    #[error(
        "there is no /dev/net/tun, which makes network devices: load the kernel's module with `modprobe tun`; in a \
         container, give it --device /dev/net/tun"
    )]
    NoTun,
    /// The file is there, and the container may not open it.
    #[error(
        "/dev/net/tun, which makes network devices, cannot be opened: run it as root; in a container, give it --device \
         /dev/net/tun"
    )]
    Forbidden,
    /// An MTU outside of what a device takes.
    #[error("the MTU of a device is {MIN_MTU} to 65535 bytes, not {0}")]
    Mtu(u16),
    /// Anything else.
    #[error("cannot {action} the network device: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
