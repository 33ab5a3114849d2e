//! Standard output, which is for what scripts read.

use std::io::Write;

use crate::{Failure, Outcome};

/// Writes a line. A reader that has gone ends the program, as a broken pipe ends others.
///
/// # Errors
///
/// Where it cannot be written.
pub fn print(line: &str) -> Outcome {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")
        .and_then(|()| out.flush())
        .map_err(|error| Failure::Failed(format!("cannot write to standard output: {error}")))
}
