//! What a program runs in.

use std::ffi::OsStr;
use std::future::Future;
use std::num::NonZeroUsize;

use crate::{Failure, Outcome, memory};

/// The variable by which programs that use tokio are told how many threads to use (tokio, `runtime::Builder`).
const WORKERS: &str = "TOKIO_WORKER_THREADS";

/// What the variable says. Tokio itself panics where that is no number.
fn threads(given: &OsStr) -> Outcome<usize> {
    let number = given.to_str().and_then(|text| text.parse::<NonZeroUsize>().ok());
    number.map(NonZeroUsize::get).ok_or_else(|| {
        let given = given.to_string_lossy();
        Failure::Usage(format!(
            "{WORKERS}: '{given}' is not a number of threads, which is 1 or more"
        ))
    })
}

/// Runs a program's main future in a runtime with so many worker threads, unless `TOKIO_WORKER_THREADS` gives another
/// number.
///
/// # Errors
///
/// What the future ends with, that the variable holds no number of threads, or that the system gave no threads or files for
/// the runtime.
pub fn run(workers: usize, main: impl Future<Output = Outcome>) -> Outcome {
    // A flow takes a file; the usual soft limit of 1,024 is for programs that use select(2). What the hard limit
    // allows is the administrator's word, and no reason to fail.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(match std::env::var_os(WORKERS) {
        None => workers,
        Some(given) => threads(&given)?,
    });
    memory::watch(&mut runtime);
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = main => outcome,
            never = memory::give_back(memory::INTERVAL) => match never {},
        }
    });
    // Look-ups of names, and whoever reads standard input, hold threads that nobody waits for any more.
    runtime.shutdown_background();
    outcome
}
