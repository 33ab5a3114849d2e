//! What tests of the lab have in common, in whatever package they are.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What a test returns; the harness shows a failure as it is worded, on as many lines as it has.
pub type TestResult<T = ()> = std::result::Result<T, Failure>;

/// Any error, worded.
pub struct Failure(String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// One lab at a time, of those in one test program: rates, losses and the time that a path takes are measured in
/// them. A test that waits for a time alone lets others have it meanwhile.
pub fn alone() -> MutexGuard<'static, ()> {
    static LAB: Mutex<()> = Mutex::new(());
    LAB.lock().unwrap_or_else(PoisonError::into_inner)
}
