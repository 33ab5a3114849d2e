//! What the command lines of tunnel-rs share: exit codes, the runtime, logging, signals, files, and how settings are
//! layered.

pub mod client;
pub mod drain;
mod exit;
pub mod file;
pub mod health;
pub mod log_file;
pub mod logging;
mod memory;
pub mod metrics;
pub mod output;
pub mod rules;
pub mod runtime;
pub mod secret;
pub mod service;
pub mod settings;
pub mod shell;
pub mod signals;

pub use exit::{Failure, Outcome};
pub use secret::SecretText;
