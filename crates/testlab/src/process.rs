//! Programs whose output and exit a test can wait for.

use std::{
    io::{BufRead, BufReader, Read},
    mem,
    os::unix::process::ExitStatusExt,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result};

/// How long output may come after the exit: what remains in the pipes, unless a grandchild holds them.
const LAST_OUTPUT: Duration = Duration::from_secs(10);

/// How often something is looked for that is not printed.
const POLL: Duration = Duration::from_millis(5);

/// How long a killed program may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

const SIGKILL: i32 = 9;

/// Which of its two outputs a program used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One line that a program printed.
#[derive(Clone, Debug)]
pub struct Line {
    /// Where it printed it.
    pub stream: Stream,
    /// The line without its end; bytes that are no UTF-8 are replaced.
    pub text: String,
    /// When it was read, which is when it was printed unless this machine is overloaded.
    pub at: Instant,
}

/// A running program; its output is collected line by line. Dropping it kills the program.
#[derive(Debug)]
pub struct Proc {
    pid: u32,
    shared: Arc<Shared>,
}

/// Runs a program to its end and returns what it wrote to standard output.
///
/// Any exit status but success is an error, as is one that does not come within `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Result<String> {
    Proc::spawn(command)?.finish(limit)
}

impl Proc {
    /// Starts the program with an empty standard input.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        let line = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Spawn { command: line.clone(), source })?;
        let pid = child.id();
        let shared =
            Arc::new(Shared { command: line, state: Mutex::default(), changed: Condvar::new() });
        if let Some(stdout) = child.stdout.take() {
            shared.collect(stdout, Stream::Stdout);
        }
        if let Some(stderr) = child.stderr.take() {
            shared.collect(stderr, Stream::Stderr);
        }
        let waiter = Arc::clone(&shared);
        thread::spawn(move || {
            // wait(2) can only fail for a child that somebody else has waited for.
            let unknown = ExitStatus::from_raw(0xff00);
            let status = child.wait().unwrap_or(unknown);
            waiter.change(|state| state.status = Some(status));
        });
        Ok(Self { pid, shared })
    }

    /// The process id; `ip netns exec` keeps it, so that it is the program's own in a namespace too.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The first line, of all printed since the start, that the predicate accepts; waits for it if need be.
    pub fn wait_line(&self, accept: impl Fn(&str) -> bool, limit: Duration) -> Result<String> {
        self.wait_line_at(accept, limit).map(|line| line.text)
    }

    /// As `wait_line`, with the time of the line and where it was printed.
    pub fn wait_line_at(&self, accept: impl Fn(&str) -> bool, limit: Duration) -> Result<Line> {
        self.wait_lines(|lines| lines.iter().find(|line| accept(&line.text)).cloned(), limit)
    }

    /// What follows `key` in the first line of standard output that begins with it.
    pub fn wait_value(&self, key: &str, limit: Duration) -> Result<String> {
        self.wait_lines(
            |lines| {
                let mut lines = lines.iter().filter(|line| line.stream == Stream::Stdout);
                lines.find_map(|line| line.text.strip_prefix(key)).map(str::to_owned)
            },
            limit,
        )
    }

    /// Waits until `find` finds what it looks for among all lines printed since the start.
    pub fn wait_lines<T>(&self, find: impl Fn(&[Line]) -> Option<T>, limit: Duration) -> Result<T> {
        let found = self.shared.wait(limit, |state| match find(&state.lines) {
            Some(found) => Some(Ok(found)),
            None if state.open_streams == 0 => state.status.map(Err),
            None => None,
        });
        match found {
            Some(Ok(found)) => Ok(found),
            Some(Err(status)) => Err(self.ended(status)),
            None => Err(self.timed_out(limit)),
        }
    }

    /// Waits until `find` finds what the program does but does not print, such as a file. It is asked again and
    /// again, and once more after the program's end.
    pub fn wait_for<T>(&self, mut find: impl FnMut() -> Option<T>, limit: Duration) -> Result<T> {
        let deadline = Instant::now() + limit;
        let mut ended = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match (find(), ended) {
                (Some(found), _) => return Ok(found),
                (None, Some(status)) => return Err(self.ended(status)),
                (None, None) if left.is_zero() => return Err(self.timed_out(limit)),
                (None, None) => ended = self.wait_exit(left.min(POLL)).ok(),
            }
        }
    }

    /// All lines printed so far.
    pub fn lines(&self) -> Vec<Line> {
        self.shared.lock().lines.clone()
    }

    /// What was written to standard output so far.
    pub fn stdout(&self) -> String {
        let state = self.shared.lock();
        let lines = state.lines.iter();
        text(lines.filter(|line| line.stream == Stream::Stdout))
    }

    /// Everything printed so far, both outputs in the order of their arrival.
    pub fn output(&self) -> String {
        text(&self.shared.lock().lines)
    }

    /// Sends a signal by its number; an error if the program has ended.
    pub fn signal(&self, number: i32) -> Result<()> {
        // A pid is free for others once its process has ended, so none is signalled that is known to have.
        let status = self.shared.lock().status;
        if let Some(status) = status {
            return Err(self.ended(status));
        }
        let mut command = Command::new("kill");
        command.arg(format!("-{number}")).arg(self.pid.to_string());
        let status = command
            .stderr(Stdio::null())
            .status()
            .map_err(|source| Error::Spawn { command: format!("{command:?}"), source })?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed { command: format!("{command:?}"), status, output: String::new() })
    }

    /// Waits for the program's end, and for the output that it left in its pipes.
    pub fn wait_exit(&self, limit: Duration) -> Result<ExitStatus> {
        let status = self.shared.wait(limit, |state| state.status);
        let status = status.ok_or_else(|| self.timed_out(limit))?;
        self.shared.wait(LAST_OUTPUT, |state| (state.open_streams == 0).then_some(()));
        Ok(status)
    }

    /// Waits for the program's end, which must be success, and returns what it wrote to standard output.
    pub fn finish(&self, limit: Duration) -> Result<String> {
        let status = self.wait_exit(limit)?;
        if status.success() {
            return Ok(self.stdout());
        }
        Err(Error::Failed { command: self.shared.command.clone(), status, output: self.output() })
    }

    fn ended(&self, status: ExitStatus) -> Error {
        Error::Ended { command: self.shared.command.clone(), status, output: self.output() }
    }

    fn timed_out(&self, limit: Duration) -> Error {
        Error::TimedOut { command: self.shared.command.clone(), limit, output: self.output() }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        // An error means that the program has ended by itself.
        if self.signal(SIGKILL).is_ok() {
            self.shared.wait(KILL_LIMIT, |state| state.status);
        }
    }
}

/// What the program, its readers and those who wait have in common.
#[derive(Debug)]
struct Shared {
    command: String,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<Line>,
    open_streams: usize,
    status: Option<ExitStatus>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait<T>(&self, limit: Duration, find: impl Fn(&State) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + limit;
        let mut state = self.lock();
        loop {
            if let Some(found) = find(&state) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn collect(self: &Arc<Self>, output: impl Read + Send + 'static, stream: Stream) {
        self.change(|state| state.open_streams += 1);
        let shared = Arc::clone(self);
        thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut bytes = Vec::new();
            while output.read_until(b'\n', &mut bytes).is_ok_and(|read| read > 0) {
                let (at, bytes) = (Instant::now(), mem::take(&mut bytes));
                let text = String::from_utf8_lossy(&bytes);
                let text = text.trim_end_matches(['\n', '\r']).to_owned();
                shared.change(|state| state.lines.push(Line { stream, text, at }));
            }
            shared.change(|state| state.open_streams -= 1);
        });
    }
}

fn text<'a>(lines: impl IntoIterator<Item = &'a Line>) -> String {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line.text);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests;
