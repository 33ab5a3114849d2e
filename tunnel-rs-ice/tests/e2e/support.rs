//! What the tests have in common.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use tunnel_testlab::enter::enter;
use tunnel_testlab::netns::Namespace;
use tunnel_testlab::process::{Line, Proc, Stream, run};

pub(crate) use tunnel_testlab::testing::TestResult;

/// The program under test.
pub(crate) const TUNNEL_RS_ICE: &str = env!("CARGO_BIN_EXE_tunnel-rs-ice");

/// For whatever takes no network: longer only on a machine that is busy otherwise.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// What a server needs to allow the services of the tests.
pub(crate) const LOOPBACK: [&str; 4] =
    ["--allowed-tcp", "127.0.0.0/8", "--allowed-udp", "127.0.0.0/8"];

pub(crate) const SIGHUP: i32 = 1;
pub(crate) const SIGINT: i32 = 2;
pub(crate) const SIGKILL: i32 = 9;
pub(crate) const SIGTERM: i32 = 15;

/// Runs a test in a network that has nothing but loopback; it and the programs in it end with the test.
pub(crate) fn on_loopback(test: impl FnOnce() -> TestResult + Send) -> TestResult {
    let network = Namespace::new("ice")?;
    enter(&network, test)?
}

/// Runs a test in a network that also has an interface, with IPv4 and IPv6, on a network without anybody else.
pub(crate) fn on_a_lan(test: impl FnOnce() -> TestResult + Send) -> TestResult {
    let network = Namespace::new("ice-lan")?;
    // The kernel may lack interfaces of type dummy; the other end of this cable hears everything and says nothing.
    network.ip(&["link", "add", "name", "lan", "type", "veth", "peer", "name", "nobody"])?;
    network.add_address("lan", LAN_V4.into(), 24)?;
    network.add_address("lan", LAN_V6.into(), 64)?;
    network.ip(&["link", "set", "dev", "nobody", "up"])?;
    network.ip(&["link", "set", "dev", "lan", "up"])?;
    enter(&network, test)?
}

/// The addresses of [`on_a_lan`].
pub(crate) const LAN_V4: [u8; 4] = [10, 99, 0, 1];
/// See above.
pub(crate) const LAN_V6: [u16; 8] = [0xfd99, 0, 0, 0, 0, 0, 0, 1];

/// A folder that lasts as long as the test.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> TestResult<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// As a command line has it; temporary folders have names of ASCII.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Writes a file in one step.
    pub(crate) fn write(&self, name: &str, text: &str) -> TestResult<String> {
        let (path, beside) = (self.path(name), self.path(&format!("{name}.new")));
        std::fs::write(&beside, text)?;
        std::fs::rename(&beside, &path)?;
        Ok(self.text(name))
    }

    pub(crate) fn fifo(&self, name: &str) -> TestResult<String> {
        run(Command::new("mkfifo").arg(self.path(name)), SOON)?;
        Ok(self.text(name))
    }

    /// The names of all files.
    pub(crate) fn names(&self) -> TestResult<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.0.path())? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }
}

/// A command with nothing of the test's environment that could rule the program.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("RUST_LOG").env("NO_COLOR", "1");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TUNNEL_RS_") {
            command.env_remove(name);
        }
    }
    command
}

/// The program.
pub(crate) fn tunnel_rs_ice(arguments: &[&str]) -> Command {
    let mut command = command(TUNNEL_RS_ICE);
    command.args(arguments);
    command
}

/// Runs the program to its end; its exit code and everything it printed.
pub(crate) fn exit(arguments: &[&str]) -> TestResult<(i32, String)> {
    let process = Proc::spawn(&mut tunnel_rs_ice(arguments))?;
    Ok((exit_code(&process, SOON)?, process.output()))
}

/// The exit code of a program that ends within the limit by itself.
pub(crate) fn exit_code(process: &Proc, limit: Duration) -> TestResult<i32> {
    let status = process.wait_exit(limit)?;
    let Some(code) = status.code() else { panic!("ended by {status}: {}", process.output()) };
    Ok(code)
}

/// What a program has written to standard error.
pub(crate) fn log(process: &Proc) -> String {
    let lines = process.lines();
    let logged = lines.iter().filter(|line| line.stream == Stream::Stderr);
    logged.map(|line| line.text.clone() + "\n").collect()
}

/// Waits for a line of the log that holds all of these words.
pub(crate) fn wait_log(process: &Proc, words: &[&str], limit: Duration) -> TestResult<Line> {
    let holds = |line: &Line| {
        line.stream == Stream::Stderr && words.iter().all(|word| line.text.contains(word))
    };
    Ok(process.wait_lines(|lines| lines.iter().find(|line| holds(line)).cloned(), limit)?)
}

/// How many sessions a side has had.
pub(crate) fn sessions(process: &Proc) -> usize {
    log(process).lines().filter(|line| line.contains("session open")).count()
}

/// Waits until a file is there and returns its text.
pub(crate) fn wait_file(process: &Proc, path: &Path, limit: Duration) -> TestResult<String> {
    Ok(process.wait_for(|| std::fs::read_to_string(path).ok(), limit)?)
}
