//! What Windows' service control manager is asked, and what it answers.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use super::ServiceError;

#[cfg(windows)]
mod this;

/// After what time a service that has crashed is started again.
#[cfg_attr(not(windows), expect(dead_code, reason = "only Windows is told"))]
pub(super) const RESTART: Duration = Duration::from_secs(5);

/// `ERROR_SERVICE_NEVER_STARTED`: the exit code of a service that has not run since the system has.
pub(super) const NEVER_STARTED: u32 = 1077;

/// A service that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Registered {
    /// What is run.
    pub(super) command: String,
    pub(super) account: String,
    pub(super) start: Start,
}

/// When a service starts.
#[cfg_attr(
    not(any(windows, test)),
    expect(dead_code, reason = "only Windows tells of all of them")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With the system.
    Automatic,
    OnDemand,
    Disabled,
}

/// A service that is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Its name among people.
    pub(super) display: String,
    pub(super) description: String,
    pub(super) exe: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) account: String,
    pub(super) start: Start,
}

#[cfg_attr(not(windows), expect(dead_code, reason = "only Windows tells of all of them"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Stopped,
    Starting,
    Running,
    Stopping,
    /// Paused, or on the way there or back; none of ours ever is.
    Paused,
}

/// What a service has ended with.
#[cfg_attr(not(any(windows, test)), expect(dead_code, reason = "only Windows tells of them"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    /// The system's word.
    System(u32),
    /// The program's own.
    Own(u32),
}

/// How a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) phase: Phase,
    pub(super) process: Option<u32>,
    pub(super) code: Code,
    /// Grows while it starts or ends and says that it goes on.
    pub(super) step: u32,
}

/// A service control manager. Services are named as the manager names them.
pub(super) trait Scm {
    /// Fails where this process may not change services.
    fn require_rights(&self) -> Result<(), ServiceError>;
    fn find(&self, id: &str) -> Result<Option<Registered>, ServiceError>;
    /// Makes a service, which starts again after [`RESTART`] when it has crashed.
    fn create(&self, id: &str, wanted: &Wanted) -> Result<(), ServiceError>;
    /// Makes such a one of one that is there.
    fn change(&self, id: &str, wanted: &Wanted) -> Result<(), ServiceError>;
    fn delete(&self, id: &str) -> Result<(), ServiceError>;
    /// Begins to start it.
    fn start(&self, id: &str) -> Result<(), ServiceError>;
    /// Begins to stop it, if it runs.
    fn stop(&self, id: &str) -> Result<(), ServiceError>;
    fn condition(&self, id: &str) -> Result<Condition, ServiceError>;
}

/// The manager of this system.
#[cfg(windows)]
pub(super) fn this() -> Box<dyn Scm> {
    Box::new(this::This)
}

/// The manager of this system, which has none of the kind.
#[cfg(not(windows))]
pub(super) fn this() -> Box<dyn Scm> {
    Box::new(NoScm)
}

#[cfg(not(windows))]
struct NoScm;

#[cfg(not(windows))]
const NONE: ServiceError = ServiceError::NoManager("this is not Windows");

#[cfg(not(windows))]
impl Scm for NoScm {
    fn require_rights(&self) -> Result<(), ServiceError> {
        Err(NONE)
    }

    fn find(&self, _: &str) -> Result<Option<Registered>, ServiceError> {
        Err(NONE)
    }

    fn create(&self, _: &str, _: &Wanted) -> Result<(), ServiceError> {
        Err(NONE)
    }

    fn change(&self, _: &str, _: &Wanted) -> Result<(), ServiceError> {
        Err(NONE)
    }

    fn delete(&self, _: &str) -> Result<(), ServiceError> {
        Err(NONE)
    }

    fn start(&self, _: &str) -> Result<(), ServiceError> {
        Err(NONE)
    }

    fn stop(&self, _: &str) -> Result<(), ServiceError> {
        Err(NONE)
    }

    fn condition(&self, _: &str) -> Result<Condition, ServiceError> {
        Err(NONE)
    }
}
