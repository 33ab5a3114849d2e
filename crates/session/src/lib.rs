//! Authenticated sessions over any transport, and what they carry: TCP connections, UDP packets and the
//! packets of a VPN.
//!
//! A transport is what [`transport::Connection`] asks for; nothing here knows which one carries a session. The server's
//! half is [`server::Server`], the client's is [`client::Link`] with its listeners.

pub mod client;
mod control;
pub mod events;
mod first;
mod forward;
mod frame;
pub mod limits;
mod resume;
pub mod server;
pub mod transport;
pub mod vpn;

#[cfg(test)]
mod tests;

pub use forward::Traffic;
pub use forward::listen::{BindError, Listener, bind};
