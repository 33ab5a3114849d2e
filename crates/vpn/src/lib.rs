//! The VPN: WireGuard between a device of this machine and whatever carries its packets to the peer.

pub mod device;
pub mod engine;
pub mod join;
pub mod lock;
pub mod network;
pub mod packet;
pub mod pool;
pub mod service;
pub mod wireguard;
