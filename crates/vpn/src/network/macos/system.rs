//! What is asked of the system.

use std::io;
use std::net::SocketAddr;
use std::process::Child;

/// What is called by whoever watches; with whether something has changed.
pub(super) type Look = Box<dyn Fn(bool) + Send>;

/// The system, or a stand-in for it.
pub(super) trait System: Send + Sync + 'static {
    /// Runs a program to its end, with some text to read; all that it has printed. An error where it cannot be run or says
    /// itself that it has failed, which route(8) does not always do.
    fn run_with(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<String>;

    /// As [`run_with`](Self::run_with), with nothing to read.
    fn run(&self, program: &str, arguments: &[&str]) -> io::Result<String> {
        self.run_with(program, arguments, "")
    }

    /// Has this process's UDP sockets of this local port and family send by one device, or by any. Those that do are left alone.
    fn bind_udp(&self, port: SocketAddr, device: Option<&str>) -> io::Result<()>;

    /// Calls the closure, which takes a while; other tasks of the thread are not to wait for it.
    fn wait(&self, closure: &mut dyn FnMut()) {
        closure();
    }

    /// Calls the closure several times a second, in a thread, until what it returns is dropped; with whether routes or
    /// addresses have changed since the last call.
    fn watch(&self, look: Look) -> io::Result<Watch>;
}

/// The program that tells changes, if there is one; it ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Watch(Option<Child>);

impl Watch {
    /// Whether it goes on telling.
    pub(super) fn is_alive(&mut self) -> bool {
        self.0.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[cfg(target_os = "macos")]
pub(super) use mac::Mac;

#[cfg(target_os = "macos")]
mod mac {
    use std::io::{self, BufRead, BufReader, Write};
    use std::net::SocketAddr;
    use std::num::NonZeroU32;
    use std::os::fd::{BorrowedFd, RawFd};
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::thread;
    use std::time::Duration;

    use nix::net::if_::if_nametoindex;
    use socket2::{SockRef, Type};
    use tokio::runtime::{Handle, RuntimeFlavor};
    use tokio::task::block_in_place;

    use super::{Look, System, Watch};

    /// One change is many messages; they are waited for together.
    const SETTLE: Duration = Duration::from_millis(200);

    /// How often sockets are looked at: the transport replaces them without a word when the network changes.
    const LOOK: Duration = Duration::from_millis(250);

    /// What tells no change (route(8), `monitor`; net/route.h).
    const NO_CHANGE: [&str; 3] = ["RTM_MISS", "RTM_GET", "RTM_RESOLVE"];

    /// What begins the line of a message that does.
    const MESSAGE: &str = "RTM_";

    /// This machine.
    #[derive(Debug)]
    pub(in super::super) struct Mac;

    impl System for Mac {
        fn run_with(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
            aside(|| run(program, arguments, input))
        }

        fn wait(&self, closure: &mut dyn FnMut()) {
            aside(closure);
        }

        fn bind_udp(&self, port: SocketAddr, device: Option<&str>) -> io::Result<()> {
            let index = device.map(if_nametoindex).transpose()?.and_then(NonZeroU32::new);
            // The transport's sockets are another library's, which does not give them away: they are found by their port.
            let mut outcome = Ok(());
            for entry in std::fs::read_dir("/dev/fd")?.flatten() {
                let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
                if let Some(number) = number {
                    // One that is closed meanwhile says nothing of the others.
                    outcome = outcome.and(bind_one(number, port, index));
                }
            }
            outcome
        }

        fn watch(&self, look: Look) -> io::Result<Watch> {
            let mut command = Command::new("/sbin/route");
            command.args(["-n", "monitor"]);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            // Ctrl-C in a terminal is for this process.
            command.process_group(0);
            let mut watch = Watch(Some(command.spawn()?));
            let Some(out) = watch.0.as_mut().and_then(|child| child.stdout.take()) else {
                return Ok(watch);
            };
            let (send, events) = mpsc::channel();
            thread::Builder::new().name("routes".to_owned()).spawn(move || {
                for line in BufReader::new(out).lines() {
                    let Ok(line) = line else { break };
                    let is_change = line.starts_with(MESSAGE)
                        && !NO_CHANGE.iter().any(|other| line.starts_with(other));
                    if is_change && send.send(()).is_err() {
                        break;
                    }
                }
            })?;
            thread::Builder::new().name("route changes".to_owned()).spawn(move || {
                loop {
                    match events.recv_timeout(LOOK) {
                        Ok(()) => {
                            thread::sleep(SETTLE);
                            while events.try_recv().is_ok() {}
                            look(true);
                        }
                        Err(RecvTimeoutError::Timeout) => look(false),
                        Err(RecvTimeoutError::Disconnected) => break,
                    }
                }
            })?;
            Ok(watch)
        }
    }

    /// Runs something that takes a while. The thread may be the one that carries the packets.
    fn aside<T>(closure: impl FnOnce() -> T) -> T {
        match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
            Ok(RuntimeFlavor::MultiThread) => block_in_place(closure),
            _ => closure(),
        }
    }

    fn run(program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // The program says itself what it did not like.
            let _ = stdin.write_all(input.as_bytes());
        }
        let done = child.wait_with_output()?;
        let mut printed = String::from_utf8_lossy(&done.stdout).into_owned();
        printed += &String::from_utf8_lossy(&done.stderr);
        if done.status.success() {
            return Ok(printed);
        }
        let lines: Vec<_> =
            printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        Err(io::Error::other(match lines.as_slice() {
            [] => format!("{program}: {}", done.status),
            lines => lines.join("; "),
        }))
    }

    /// Binds a descriptor, if it is a UDP socket of that port.
    #[expect(
        unsafe_code,
        reason = "a descriptor that is another library's can only be borrowed by its number"
    )]
    fn bind_one(number: RawFd, port: SocketAddr, index: Option<NonZeroU32>) -> io::Result<()> {
        // SAFETY: it was open a moment ago, and nothing here closes it. Should its owner have closed it meanwhile, the calls
        // fail or find another socket; that is looked at before anything is changed.
        let socket = unsafe { BorrowedFd::borrow_raw(number) };
        let socket = SockRef::from(&socket);
        let Ok(local) = socket.local_addr() else { return Ok(()) };
        let Some(local) = local.as_socket() else { return Ok(()) };
        let is_it = local.port() == port.port() && local.is_ipv4() == port.is_ipv4();
        if !is_it || socket.r#type().ok() != Some(Type::DGRAM) {
            return Ok(());
        }
        match port {
            SocketAddr::V4(_) if socket.device_index_v4()? != index => {
                socket.bind_device_by_index_v4(index)
            }
            SocketAddr::V6(_) if socket.device_index_v6()? != index => {
                socket.bind_device_by_index_v6(index)
            }
            _ => Ok(()),
        }
    }
}
