//! The built `tunnel-rs-ice` as its users meet it in manual mode, each test in a network namespace of its own.
//!
//! Needs root, and `ip` of iproute2. Nothing leaves the namespaces.

#![cfg(target_os = "linux")]

mod altered;
mod bad_input;
mod blocks;
mod chat;
mod ending;
mod forwarding;
mod health;
mod intruder;
mod lost;
mod middle;
mod qr;
mod rules;
mod secrets;
mod services;
mod side;
mod support;
mod wrong_blocks;
