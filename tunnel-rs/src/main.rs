//! tunnel-rs: TCP and UDP between machines that cannot reach each other.

mod cli;
mod config;

use std::process::ExitCode;

/// Unlike the usual C library's, this one gives memory back soon after many flows have ended, as `tunnel_cli::runtime`
/// has it do (`docs/PERFORMANCE.md`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = cli::Cli::read();
    tunnel_cli::logging::init();
    tunnel_iroh::crypto::install();
    match tunnel_cli::runtime::run(cli.worker_threads(), cli::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            tracing::error!("{failure}");
            failure.code()
        }
    }
}
