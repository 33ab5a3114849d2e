//! What the tests have in common.

use std::{
    ffi::OsStr,
    fmt,
    net::SocketAddr,
    path::Path,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tempfile::TempDir;
use tunnel_testlab::{Result, files, netns::Namespace};

/// The program under test.
pub(crate) const TUNNEL_RS: &str = env!("CARGO_BIN_EXE_tunnel-rs");

/// For a session to open: a handshake, in an unoptimised build.
pub(crate) const SESSION_LIMIT: Duration = Duration::from_secs(30);

/// For a program that asks one question.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// For a program that carries up to a gibibyte, in an unoptimised build.
pub(crate) const TRANSFER_LIMIT: Duration = Duration::from_secs(600);

/// A mebibyte.
pub(crate) const MIB: u64 = 1 << 20;

/// What a test returns; the harness shows a failure as it is worded, on as many lines as it has.
pub(crate) type TestResult = std::result::Result<(), Failure>;

/// Any error, worded.
pub(crate) struct Failure(String);

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

/// One lab at a time: rates, losses and the time that a path takes are measured in them.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static LAB: Mutex<()> = Mutex::new(());
    LAB.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A folder with one file of pseudo-random bytes in it, to be transferred.
pub(crate) struct Payload {
    /// The folder; copies of the file go there too.
    pub(crate) folder: TempDir,
    /// The file's SHA-256.
    pub(crate) hash: String,
}

impl Payload {
    /// The file's name in its folder.
    pub(crate) const NAME: &str = "payload";

    pub(crate) fn new(size: u64) -> std::result::Result<Self, Failure> {
        let folder = TempDir::new()?;
        let path = folder.path().join(Self::NAME);
        files::write_pseudo_random(&path, size, size)?;
        let hash = files::sha256(&path)?;
        Ok(Self { folder, hash })
    }

    /// Panics unless the copy of that name is the same to the last byte.
    pub(crate) fn assert_copied(&self, name: &str) -> Result<()> {
        let copy = files::sha256(&self.folder.path().join(name))?;
        assert_eq!(copy, self.hash, "{name} is not what was sent");
        Ok(())
    }
}

/// curl, in a namespace, that gets the payload through a forward into a file.
pub(crate) fn curl(namespace: &Namespace, target: SocketAddr, copy: &Path) -> Command {
    let mut command = namespace.command("curl");
    command.args(["-q", "--globoff", "--fail", "--silent", "--show-error", "--noproxy", "*"]);
    command.args([OsStr::new("--output"), copy.as_os_str()]);
    command.arg(format!("http://{target}/{}", Payload::NAME));
    command
}
