//! On macOS, by the system's own programs.
//!
//! Its routing table knows neither ports nor rules, so a client's routes stand among all others, and what goes around the VPN is
//! led in two ways: the transport's UDP sockets are bound to an interface (`IP_BOUND_IF`, ip(4)), and servers that are reached
//! by TCP get routes of their own by the gateway that leads to them anyhow. All that the system does not take back by itself
//! when the process ends is noted in a file first, with the command that undoes it.
//!
//! Written by the manual pages; no Mac has run it yet. What decides is tested on every system, by a stand-in for the programs.
#![cfg_attr(
    not(target_os = "macos"),
    expect(
        dead_code,
        unreachable_pub,
        reason = "elsewhere only what decides is there, for the tests"
    )
)]

use super::overlap::{Overlap, find};
use super::{ClientPlan, NetworkError, ServerPlan};

mod bypass;
mod client;
mod masquerade;
mod overlap;
mod server;
mod system;
mod table;
#[cfg(test)]
mod tests;
mod undo;

#[cfg(target_os = "macos")]
pub use {
    bypass::{Bypass, BypassedUdp},
    client::ClientNetwork,
    overlap::overlap,
    server::{ServerNetwork, clean_up},
};
