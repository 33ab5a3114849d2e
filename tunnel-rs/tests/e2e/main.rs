//! The built `tunnel-rs` as its users meet it, each test in a network namespace of its own.
//!
//! Needs root, `ip` of iproute2, `ping`, `nft`, and `tor`. Nothing leaves the namespaces.

#![cfg(target_os = "linux")]

mod bad_input;
mod discovery;
mod forwarding;
mod health;
mod keys;
mod memory;
mod reconnect;
#[cfg(feature = "relay")]
mod relay;
mod rules;
mod support;
mod tor;
mod variables;
#[cfg(feature = "vpn")]
mod vpn;
