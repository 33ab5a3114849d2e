//! The pure core of tunnel-rs: what is asked for, who asks, what is allowed, and how it is written on the wire.
//!
//! Nothing in this crate does I/O, reads a clock or knows an async runtime. Time is an argument wherever
//! it matters, so that every rule can be tested as a function.

mod address;
mod allowlist;
mod auth;
mod codes;
pub mod datagram;
mod forward;
mod policy;
pub mod protocol;
pub mod resume;
mod token;
mod vpn;

pub use address::{AddressError, Host, Protocol, Source, Target};
pub use allowlist::{Allowlist, Cidr, CidrError};
pub use auth::{Proof, ROLE_CLIENT, ROLE_SERVER, Transcript};
pub use codes::{CloseCode, ResetCode};
pub use forward::{Forward, ForwardError};
pub use policy::{Denied, Identity, Permit, Policy, Request};
pub use token::{Token, TokenEntry, TokenError, TokenId, TokenList, TokenListError};
pub use vpn::VpnSecret;
