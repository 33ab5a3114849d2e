//! Signals: the first to end ends in order, the second at once.

#[cfg(windows)]
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

#[cfg(windows)]
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// The code that shells report for a process ended by SIGINT: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

/// How a process is told to end.
#[derive(Clone, Debug)]
pub struct Ending {
    /// To take nothing new, and to end when nothing is left. Cancelled before `end`, or not at all.
    pub drain: CancellationToken,
    /// To end in order.
    pub end: CancellationToken,
}

impl Ending {
    /// Why the process is of no use any more, if it ends.
    pub fn why_unready(&self) -> Option<String> {
        if self.end.is_cancelled() {
            return Some("ending".to_owned());
        }
        self.drain.is_cancelled().then(|| "draining".to_owned())
    }
}

/// Cancels the token on the first SIGINT or SIGTERM, the second ends the process. On Windows: on Ctrl-C, Ctrl-Break, and the
/// end of the console, of the user's session or of the system.
///
/// # Errors
///
/// Where the system lets no handler be set.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    ending(Duration::ZERO).map(|ending| ending.end)
}

/// The same for a process that reads nothing again on SIGHUP: the first one, the end of its terminal, ends it in order too,
/// and more of them change nothing, as the shell and the kernel may both send one. Not where SIGHUP was ignored from the start
/// (nohup(1)); there and where this cannot be told, on other systems than Linux, it is left as it is.
///
/// # Errors
///
/// Where the system lets no handler be set.
pub fn shutdown_with_terminal() -> std::io::Result<CancellationToken> {
    Ok(watch(Ends::new(true)?, Duration::ZERO).end)
}

/// The same, but that SIGTERM lets the process drain for up to `time`, unless that is zero; then the second signal ends it
/// in order and the third at once. SIGINT is from people, who do not want to wait. On Windows being stopped as a service is
/// such a signal, and the system's end is like SIGINT.
///
/// # Errors
///
/// Where the system lets no handler be set.
pub fn ending(time: Duration) -> std::io::Result<Ending> {
    Ok(watch(Ends::new(false)?, time))
}

fn watch(mut ends: Ends, time: Duration) -> Ending {
    let ending = Ending { drain: CancellationToken::new(), end: CancellationToken::new() };
    let Ending { drain, end } = ending.clone();
    tokio::spawn(async move {
        if ends.next().await != End::Interrupt && !time.is_zero() {
            drain.cancel();
            tracing::info!(
                "draining for up to {} s: nothing new is taken; a second signal ends it",
                time.as_secs()
            );
            tokio::select! {
                _ = ends.next() => {}
                () = end.cancelled() => {}
                () = tokio::time::sleep(time) => tracing::info!("the time to drain is over"),
            }
        }
        tracing::info!("ending; a second signal ends at once");
        end.cancel();
        while ends.next().await == End::Hangup {}
        std::process::exit(INTERRUPTED);
    });
    ending
}

/// What ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// A person, or a system that does not wait.
    Interrupt,
    /// Whoever has started it.
    Terminate,
    /// The end of its terminal.
    Hangup,
}

/// Where a service of Windows learns that it is to end.
#[cfg(windows)]
static MANAGER: Mutex<Option<UnboundedReceiver<End>>> = Mutex::new(None);

/// Has this process end on what is sent here, and not on what becomes of consoles and sessions: a service is told of the end
/// of anybody's session (Microsoft's `HandlerRoutine`, `CTRL_LOGOFF_EVENT`), which is none of its business.
#[cfg(windows)]
pub(crate) fn by_manager() -> UnboundedSender<End> {
    let (sender, receiver) = unbounded_channel();
    *MANAGER.lock().unwrap_or_else(PoisonError::into_inner) = Some(receiver);
    sender
}

#[cfg(unix)]
struct Ends {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: Option<tokio::signal::unix::Signal>,
}

/// Whether SIGHUP would end this process, as far as the system tells (proc(5), `SigIgn`).
#[cfg(unix)]
fn hangup_ends() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return false };
    ignored(&status).is_some_and(|signals| signals & 1 == 0)
}

/// The signals that a process ignores, the first one as the lowest bit.
#[cfg(unix)]
fn ignored(status: &str) -> Option<u64> {
    let signals = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(signals.trim(), 16).ok()
}

#[cfg(unix)]
impl Ends {
    fn new(with_terminal: bool) -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hangup = with_terminal && hangup_ends();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: hangup.then(|| signal(SignalKind::hangup())).transpose()?,
        })
    }

    async fn next(&mut self) -> End {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => End::Interrupt,
            _ = self.terminate.recv() => End::Terminate,
            () = hangup => End::Hangup,
        }
    }
}

/// The latter three are no wish but an announcement: the system ends the process 5 s later (Microsoft's `HandlerRoutine`,
/// "Timeouts"), so that nothing can drain.
#[cfg(windows)]
struct Console {
    ctrl_c: tokio::signal::windows::CtrlC,
    ctrl_break: tokio::signal::windows::CtrlBreak,
    close: tokio::signal::windows::CtrlClose,
    logoff: tokio::signal::windows::CtrlLogoff,
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(windows)]
enum Ends {
    Console(Console),
    Manager(UnboundedReceiver<End>),
}

#[cfg(windows)]
impl Ends {
    /// A console tells of its end in any case.
    fn new(_with_terminal: bool) -> std::io::Result<Self> {
        let manager = MANAGER.lock().unwrap_or_else(PoisonError::into_inner).take();
        manager
            .map_or_else(|| Console::new().map(Self::Console), |manager| Ok(Self::Manager(manager)))
    }

    async fn next(&mut self) -> End {
        match self {
            Self::Console(console) => console.next().await,
            Self::Manager(manager) => match manager.recv().await {
                Some(end) => end,
                None => std::future::pending().await,
            },
        }
    }
}

#[cfg(windows)]
impl Console {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::windows;
        Ok(Self {
            ctrl_c: windows::ctrl_c()?,
            ctrl_break: windows::ctrl_break()?,
            close: windows::ctrl_close()?,
            logoff: windows::ctrl_logoff()?,
            shutdown: windows::ctrl_shutdown()?,
        })
    }

    async fn next(&mut self) -> End {
        tokio::select! {
            _ = self.ctrl_c.recv() => {}
            _ = self.ctrl_break.recv() => {}
            _ = self.close.recv() => {}
            _ = self.logoff.recv() => {}
            _ = self.shutdown.recv() => {}
        }
        End::Interrupt
    }
}

/// Asks for rules and settings to be read again.
pub struct Reload {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl Reload {
    /// Takes SIGHUP over, where there is one.
    ///
    /// # Errors
    ///
    /// Where the system lets no handler be set.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hangup: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    /// Resolves on the next SIGHUP; never where there is none.
    pub async fn requested(&mut self) {
        #[cfg(unix)]
        if self.hangup.recv().await.is_some() {
            return;
        }
        std::future::pending::<()>().await;
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::ignored;

    #[test]
    fn the_signals_that_are_ignored_are_read() {
        let status = "Name:\tx\nSigBlk:\t00000000000000ff\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert_eq!(ignored(status), Some(0x1001));
        assert_eq!(ignored("SigBlk:\t1\n"), None);
        assert_eq!(ignored("SigIgn:\tnothing\n"), None);
    }
}
