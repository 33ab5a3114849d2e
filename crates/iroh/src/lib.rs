//! The transport of tunnel-rs over [iroh]: endpoint, discovery, tickets, path reports.

mod congestion;
mod connection;
pub mod crypto;
mod dial;
mod endpoint;
mod key;
mod mdns;
mod relay_ca;
mod relays;
mod revive;
mod ticket;
pub mod tor;

pub use congestion::Congestion;
pub use connection::{IrohConnection, IrohRecv, IrohSend};
pub use dial::IrohDialer;
pub use endpoint::{
    AcceptError, Accepting, Discovery, Endpoint, EndpointConfig, EndpointError, OnBound,
    RelayRefusal, RelayServer, Relays, ServerHost, Standing,
};
pub use iroh::{EndpointId, RelayUrl};
pub use key::{KeyError, SecretKey};
pub use relay_ca::{Pin, RelayCa, RelayCaError};
pub use ticket::{Ticket, TicketError};
