//! tunnel-rs-ice: TCP and UDP between machines that cannot reach each other, with no infrastructure at all.

mod cli;
mod config;

use std::process::ExitCode;

use tunnel_cli::Failure;

/// Unlike the usual C library's, this one gives memory back soon after many flows have ended (`docs/PERFORMANCE.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    tunnel_cli::logging::init();
    tunnel_ice::crypto::install();
    // A flow takes a file; the usual soft limit of 1,024 is for programs that use select(2). What the hard limit
    // allows is the administrator's word, and no reason to fail.
    let _ = rlimit::increase_nofile_limit(u64::MAX);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if std::env::var_os("TOKIO_WORKER_THREADS").is_none() {
        runtime.worker_threads(cli.worker_threads());
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A task, and so one that may go on in any thread: nothing that it waits with can hold a lock.
    let ended = runtime.block_on(runtime.spawn(cli::run(cli)));
    let outcome = ended.unwrap_or_else(|error| Err(Failure::failed(error)));
    // Look-ups of names, and whoever reads standard input, hold threads that nobody waits for any more.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.code()
        }
    }
}
