//! Signaling through Nostr relays: two sides that know each other's public keys exchange descriptions as encrypted,
//! signed events.
//!
//! The client publishes a [`Request`] again and again until the server's [`Offer`] echoes its nonce, and then an
//! [`Answer`] that echoes the server's. So both know that the other one is there now, and relays that record and replay
//! achieve nothing. [`Relays`] carries events; [`seal()`] and [`open`] make and check them; [`Negotiation`] and
//! [`Negotiations`] are the two sides' halves, and decide what follows from a message.

mod client;
mod key;
mod message;
mod payload;
mod relays;
mod replay;
#[cfg(test)]
mod samples;
mod seal;
mod server;

pub use client::{Action, Negotiation, PATIENCE, REPEAT};
pub use key::{KeyError, NostrKey, Npub, TransferId, transfer_id};
pub use message::{Answer, Candidates, Message, Nonce, Offer, Reason, Refused, Request, SessionId};
pub use nostr_sdk::{Event, RelayUrl, Timestamp};
pub use payload::{MAX_PAYLOAD, MAX_TEXT, PayloadError, VERSION, decode, encode};
pub use relays::{Events, Health, MAX_RELAYS, PublishError, Relays, RelaysError};
pub use replay::{Replay, ReplayGuard};
pub use seal::{KIND, MAX_AGE, MAX_AHEAD, MAX_EVENT, Rejected, SealError, open, seal};
pub use server::{Effect, MAX_AT_ONCE, NEGOTIATION, Negotiations};
