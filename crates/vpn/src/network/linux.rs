//! On Linux, by netlink.
//!
//! Nothing that stands in the tables of others is changed: a client's routes are in a table of their own, which the rules of
//! [`ClientNetwork`] lead to and [`Bypass`] leads around.

use super::overlap::{Overlap, find};
use super::{ClientPlan, NetworkError, ServerPlan};

mod bypass;
mod client;
mod forwarding;
mod journal;
mod masquerade;
mod netlink;
mod overlap;
mod rule;
mod server;
mod sysctl;
#[cfg(test)]
pub(crate) mod tests;

pub use bypass::{Bypass, BypassedUdp};
pub use client::ClientNetwork;
pub use overlap::overlap;
pub use server::{ServerNetwork, clean_up};
