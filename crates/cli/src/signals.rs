//! Signals: the first to end ends in order, the second at once.

use tokio_util::sync::CancellationToken;

/// The code that shells report for a process ended by SIGINT: 128 and the signal's number.
const INTERRUPTED: i32 = 130;

/// Cancels the token on the first SIGINT or SIGTERM (Ctrl-C on Windows); the second ends the process.
///
/// # Errors
///
/// Where the system lets no handler be set.
pub fn shutdown() -> std::io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut ends = Ends::new()?;
    let cancel = token.clone();
    tokio::spawn(async move {
        ends.next().await;
        tracing::info!("ending; a second signal ends at once");
        cancel.cancel();
        ends.next().await;
        std::process::exit(INTERRUPTED);
    });
    Ok(token)
}

#[cfg(unix)]
struct Ends {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Ends {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Ends(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Ends {
    fn new() -> std::io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) {
        self.0.recv().await;
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
