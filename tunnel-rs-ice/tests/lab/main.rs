//! The built `tunnel-rs-ice` in manual mode finds paths between network namespaces, on a LAN and through NATs, keeps
//! them, and carries real programs.
//!
//! These tests need root and the packages of `.ci/packages`, and fail without.

#![cfg(target_os = "linux")]

mod answers;
mod failures;
mod local;
mod matrix;
mod networks;
mod nostr;
mod paths;
mod programs;
mod scene;
mod stun;
mod support;
