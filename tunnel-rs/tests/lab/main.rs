//! The built `tunnel-rs` carries real programs between network namespaces, on a LAN and through NATs.
//!
//! These tests need root and the packages of `.ci/packages`, and fail without; those of `matrix`,
//! `network` and `vpn` need the program `lab-relay` too (`cargo build --package tunnel-testlab --bin lab-relay`).

#![cfg(target_os = "linux")]

mod matrix;
mod network;
mod programs;
#[cfg(feature = "relay")]
mod self_hosting;
mod support;
mod tor;
#[cfg(feature = "vpn")]
mod vpn;
