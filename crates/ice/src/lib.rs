//! The transport of tunnel-rs over ICE (RFC 8445): two sides that have told each other their addresses find a path, and
//! QUIC runs over it.

mod agent;
mod candidate;
mod congestion;
mod connection;
pub mod crypto;
mod description;
mod diagnosis;
mod dial;
pub mod driver;
mod endpoint;
mod gather;
mod interfaces;
pub mod signaling;
mod sockets;
mod updates;

pub use agent::{PathState, StunServer};
pub use candidate::{Candidate, CandidateKind};
pub use connection::{IceConnection, IceRecv, IceSend};
pub use description::{Credentials, Description, Fingerprint, Mapping, NoRandomness};
pub use dial::IceDialer;
pub use driver::{Path, Side};
pub use endpoint::{AcceptError, Accepting, Endpoint, EndpointError};
pub use interfaces::NetworkWatch;
