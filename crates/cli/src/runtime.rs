//! What a program runs in.

use std::future::Future;

use crate::{Failure, Outcome, memory};

/// Runs a program's main future in a runtime with so many worker threads, unless `TOKIO_WORKER_THREADS` gives another
/// number.
///
/// # Errors
///
/// What the future ends with, or that the system gave no threads or files for the runtime.
pub fn run(workers: usize, main: impl Future<Output = Outcome>) -> Outcome {
    // A flow takes a file; the usual soft limit of 1,024 is for programs that use select(2). What the hard limit
    // allows is the administrator's word, and no reason to fail.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(workers);
    }
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
