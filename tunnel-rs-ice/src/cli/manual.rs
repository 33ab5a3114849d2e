//! Manual mode: an offer and an answer that people carry.

mod blocks;
mod client;
mod qr;
mod server;

pub(super) use client::connect;
pub(super) use server::serve;
