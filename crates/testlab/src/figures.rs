//! Measured times: shown where a test fails, and collected where somebody wants them.

use std::{env, fs::OpenOptions, io::Write, time::Duration};

/// Names the file that lines like `name: 1.234 s` are appended to.
const COLLECT: &str = "LAB_FIGURES";

/// Shows a time, and appends it to the file that the environment names. Whether that works is nothing that a
/// test depends on.
#[expect(
    clippy::print_stderr,
    reason = "the harness keeps what is printed by this macro for failures"
)]
pub fn record(name: &str, time: Duration) {
    let line = format!("{name}: {:.3} s\n", time.as_secs_f64());
    eprint!("{line}");
    let Some(path) = env::var_os(COLLECT) else { return };
    let file = OpenOptions::new().create(true).append(true).open(path);
    if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
        eprintln!("cannot write to the file that {COLLECT} names: {error}");
    }
}

/// Shows what a program printed.
#[expect(
    clippy::print_stderr,
    reason = "the harness keeps what is printed by this macro for failures"
)]
pub fn show(program: &str, output: &str) {
    eprintln!("{program} printed:\n{output}");
}
