//! The server's rules, read from flags and files, and read again when the files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Interval;
use tunnel_model::{Policy, TokenEntry, TokenList};

use crate::file::Stamp;
use crate::secret::{self, SecretText};
use crate::signals::Reload;
use crate::{Failure, Outcome};

/// How often files are looked at: often enough that one which has been [emptied](EMPTY) is read within the second within
/// which a token that was taken back must be cut. Watching by the system's notices would miss network file systems and
/// the way Kubernetes swaps a mounted secret.
const LOOK: Duration = Duration::from_millis(200);

/// How many looks a file has to stand still before it is read: an editor empties a file before it fills it.
const STILL: u32 = 1;

/// The same where a file has become empty, as a shell's `>` leaves it until its command has something to say.
const EMPTY: u32 = 3;

/// Parses a token given by hand; `origin` (a flag, a key) is what an error names.
///
/// # Errors
///
/// What is wrong with it, without the token.
pub fn parse_token(origin: &str, token: &SecretText) -> Outcome<TokenEntry> {
    let token =
        token.expose().trim().parse().map_err(|e| Failure::Usage(format!("{origin}: {e}")))?;
    Ok(TokenEntry { token, label: None })
}

/// Reads the tokens of a file.
///
/// # Errors
///
/// Where it cannot be read or a line holds no token: the file and the line.
pub fn read_tokens(path: &Path) -> Outcome<TokenList> {
    let text = secret::read(path).map_err(Failure::usage)?;
    text.parse().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// Files as they were when they were looked at. Those that are not there have no stamp, and what is no file has none
/// either: a pipe cannot be read again.
#[derive(PartialEq, Eq, Clone, Debug)]
pub struct Look(Vec<(PathBuf, Option<Stamp>)>);

impl Look {
    /// Looks at files; to be called before they are read, so that a change in between is not missed.
    pub fn at(files: &[PathBuf]) -> Self {
        let look = |path: &PathBuf| (path.clone(), Stamp::of_file(path).ok());
        Self(files.iter().map(look).collect())
    }

    /// Whether a file is empty that was not so at another look.
    fn has_emptied(&self, before: &Self) -> bool {
        let empty =
            |entry: &&(PathBuf, Option<Stamp>)| entry.1.is_some_and(|stamp| stamp.is_empty());
        self.0.iter().filter(empty).any(|entry| !before.0.contains(entry))
    }
}

/// When files are to be read again: once they have changed and stand still, and as long as that fails.
#[derive(Debug)]
pub struct Watch {
    read: Look,
    last: Look,
    still: u32,
    complaint: Option<String>,
}

impl Watch {
    /// `read` is how the files looked before they were first read.
    pub fn new(read: Look) -> Self {
        Self { last: read.clone(), read, still: 0, complaint: None }
    }

    /// What times the looks.
    pub fn clock() -> Interval {
        tokio::time::interval(LOOK)
    }

    /// Takes note of another look, and says whether the files are to be read now.
    pub fn is_due(&mut self, now: Look) -> bool {
        self.still = if now == self.last { self.still.saturating_add(1) } else { 0 };
        self.last = now;
        let needed = if self.last.has_emptied(&self.read) { EMPTY } else { STILL };
        self.last != self.read && self.still >= needed
    }

    /// The files have been read as they were at the last look.
    pub fn taken(&mut self) {
        self.read = self.last.clone();
        self.complaint = None;
    }

    /// They could not be read, or hold what is of no use. Says whether that is to be told: each look tries again, as
    /// what was wrong may have been their owner or mode, or the system short of something.
    pub fn failed(&mut self, error: &Failure) -> bool {
        let text = error.to_string();
        let told = self.complaint.as_ref() == Some(&text);
        self.complaint = Some(text);
        !told
    }
}

/// Runs what may wait for a file system, of which some wait for another machine, apart from what serves connections.
///
/// # Panics
///
/// Where the work does.
pub async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Reads the rules again whenever a file that they come from has changed and stands still, and on SIGHUP. Where that
/// fails the rules stay as they were until it succeeds, and the log says why. `files` tells where the rules come from,
/// `read` is how those files looked before the rules were first read.
pub async fn keep_fresh(
    rules: watch::Sender<Arc<Policy>>,
    mut reload: Reload,
    read: Look,
    files: impl Fn() -> Vec<PathBuf> + Send + Sync + 'static,
    load: impl Fn() -> Outcome<Policy> + Send + Sync + 'static,
) {
    let (files, load) = (Arc::new(files), Arc::new(load));
    let mut watch = Watch::new(read);
    let mut clock = Watch::clock();
    loop {
        let asked = tokio::select! {
            _ = clock.tick() => false,
            () = reload.requested() => true,
        };
        let files = files.clone();
        let due = watch.is_due(apart(move || Look::at(&files())).await);
        if !asked && !due {
            continue;
        }
        let load = load.clone();
        match apart(move || load()).await {
            Ok(policy) => {
                watch.taken();
                let (tokens, networks) = (policy.token_count(), policy.allowed());
                let (tcp, udp) = (networks.tcp.len(), networks.udp.len());
                rules.send_replace(Arc::new(policy));
                tracing::info!(
                    "rules read again: {tokens} tokens, {tcp} TCP and {udp} UDP networks"
                );
            }
            Err(error) => {
                if watch.failed(&error) || asked {
                    tracing::warn!("the rules stay as they are: {error}");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn due(watch: &mut Watch, path: &Path, looks: usize) -> Vec<bool> {
        (0..looks).map(|_| watch.is_due(Look::at(&[path.to_owned()]))).collect()
    }

    #[test]
    fn a_file_is_read_when_it_has_changed_and_stands_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let mut watch = Watch::new(Look::at(std::slice::from_ref(&path)));
        assert_eq!(due(&mut watch, &path, 3), [false; 3]);
        fs::write(&path, "a").unwrap();
        assert_eq!(due(&mut watch, &path, 2), [false, true], "first it may still be written");
        watch.taken();
        assert_eq!(due(&mut watch, &path, 3), [false; 3]);
        fs::remove_file(&path).unwrap();
        assert_eq!(due(&mut watch, &path, 2), [false, true]);
    }

    #[test]
    fn an_emptied_file_is_given_longer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        fs::write(&path, "a").unwrap();
        let mut watch = Watch::new(Look::at(std::slice::from_ref(&path)));
        fs::write(&path, "").unwrap();
        assert_eq!(due(&mut watch, &path, 4), [false, false, false, true]);
        watch.taken();
        assert_eq!(due(&mut watch, &path, 5), [false; 5]);
    }

    #[test]
    fn what_could_not_be_read_is_tried_again_and_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let mut watch = Watch::new(Look::at(std::slice::from_ref(&path)));
        fs::write(&path, "a").unwrap();
        let failure = |text: &str| Failure::Usage(text.to_owned());
        assert_eq!(due(&mut watch, &path, 2), [false, true]);
        assert!(watch.failed(&failure("no access")));
        assert_eq!(due(&mut watch, &path, 2), [true; 2]);
        assert!(!watch.failed(&failure("no access")) && watch.failed(&failure("line 1")));
        watch.taken();
        assert_eq!(due(&mut watch, &path, 1), [false]);
        assert!(watch.failed(&failure("line 1")), "another time");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_never_changes() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(Look::at(&[folder.path().to_owned()]));
        fs::write(folder.path().join("new"), "").unwrap();
        assert_eq!(due(&mut watch, folder.path(), 3), [false; 3]);
    }
}
