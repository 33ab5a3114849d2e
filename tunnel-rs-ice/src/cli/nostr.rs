//! Nostr mode: offers and answers that travel through Nostr relays.

mod client;
mod dialer;
mod line;
mod server;
mod sessions;

pub(super) use client::connect;
pub(super) use server::serve;
