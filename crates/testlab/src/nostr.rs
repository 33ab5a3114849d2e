//! `tunnel-rs-ice` in nostr mode as its users run it, relays that carry its signaling well or badly, and somebody who
//! reads along at one of them.

mod bad;
mod config;
mod manner;
mod observer;
mod process;
mod python;
mod relay;
mod traffic;

pub use bad::misbehave;
pub use config::{ClientConfig, NostrConfig, NostrKey, ServerConfig};
pub use manner::Manner;
pub use observer::{Observer, Seen, publish};
pub use process::{Attempt, NostrClient, NostrServer, memory};
pub use python::PythonRelay;
pub use relay::NostrRelay;
pub use traffic::carried;
