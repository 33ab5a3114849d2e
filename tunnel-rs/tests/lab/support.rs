//! What the tests have in common.

use std::time::Duration;

pub(crate) use tunnel_testlab::{
    programs::ANSWER_LIMIT,
    testing::{Failure, TestResult, alone},
};

/// The program under test.
pub(crate) const TUNNEL_RS: &str = env!("CARGO_BIN_EXE_tunnel-rs");

/// For a session to open: a handshake, in an unoptimised build.
pub(crate) const SESSION_LIMIT: Duration = Duration::from_secs(30);
