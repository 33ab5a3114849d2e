//! tunnel-rs-ice: TCP and UDP between machines that cannot reach each other, with no infrastructure at all.

mod cli;
mod config;

use std::process::ExitCode;

use tunnel_cli::Failure;

/// Unlike the usual C library's, this one gives memory back soon after many flows have ended, as `tunnel_cli::runtime`
/// has it do (`docs/PERFORMANCE.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    tunnel_cli::logging::init();
    tunnel_ice::crypto::install();
    let outcome = tunnel_cli::runtime::run(cli.worker_threads(), async {
        // A task, and so one that may go on in any thread: nothing that it waits with can hold a lock.
        let ended = tokio::spawn(cli::run(cli)).await;
        ended.unwrap_or_else(|error| Err(Failure::failed(error)))
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.code()
        }
    }
}
