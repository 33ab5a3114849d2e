//! For tests only: hosts and NATs made of network namespaces, real services in them, and oracles that say
//! what must come of each.
//!
//! The lab runs on Linux, as root, with the Debian packages of `.ci/packages`. Traffic stays in the
//! namespaces: none of them has a way out of the machine. Whatever a value of this crate started or created
//! ends with that value; what a killed test run left behind, the next run removes.
//!
//! Waiting is for events (a line, an exit), each with a limit, and a limit that passes is an error that
//! holds everything the program had printed.

#![cfg(target_os = "linux")]
#![warn(missing_docs)]

pub mod bin;
pub mod enter;
mod error;
pub mod figures;
pub mod files;
pub mod ice;
pub mod line;
pub mod matrix;
pub mod nat;
pub mod net;
pub mod netns;
pub mod nostr;
pub mod process;
pub mod programs;
pub mod raw;
pub mod relay;
pub mod services;
pub mod soak;
pub mod stream;
pub mod testing;
pub mod tor;
pub mod tries;
pub mod tunnel;
pub mod wan;

pub use error::{Error, Result};
