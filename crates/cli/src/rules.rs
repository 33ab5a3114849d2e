//! The server's rules, read from flags and files, and read again when the files change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tunnel_model::{Policy, TokenEntry, TokenList};

use crate::file::Stamp;
use crate::secret::{self, SecretText};
use crate::signals::Reload;
use crate::{Failure, Outcome};

/// How often files are looked at: twice in a row unchanged, and read, in well under the second within which a token that
/// was taken back must be cut. Watching by the system's notices would miss network file systems and the way Kubernetes
/// swaps a mounted secret.
const LOOK: Duration = Duration::from_millis(250);

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

/// Files as they were when they were read, or not there.
#[derive(PartialEq, Eq, Clone, Debug)]
pub struct Look(Vec<(PathBuf, Option<Stamp>)>);

impl Look {
    /// Looks at files; to be called before they are read, so that a change in between is not missed.
    pub fn at(files: &[PathBuf]) -> Self {
        let look = |path: &PathBuf| (path.clone(), Stamp::of(path).ok());
        Self(files.iter().map(look).collect())
    }
}

/// Reads the rules again whenever a file that they come from has changed and stands still, and on SIGHUP. Where that
/// fails the rules stay as they were, and the log says why. `files` tells where the rules come from, `read` is how those
/// files looked before the rules were first read.
pub async fn keep_fresh(
    rules: watch::Sender<Arc<Policy>>,
    mut reload: Reload,
    mut read: Look,
    files: impl Fn() -> Vec<PathBuf>,
    load: impl Fn() -> Outcome<Policy>,
) {
    let mut last = read.clone();
    let mut clock = tokio::time::interval(LOOK);
    loop {
        let asked = tokio::select! {
            _ = clock.tick() => false,
            () = reload.requested() => true,
        };
        let now = Look::at(&files());
        // An editor empties a file before it fills it: only what has stood still for one look is read.
        let settled = now == last && now != read;
        last = now.clone();
        if !asked && !settled {
            continue;
        }
        read = now;
        match load() {
            Ok(policy) => {
                let (tokens, networks) = (policy.token_count(), policy.allowed());
                let (tcp, udp) = (networks.tcp.len(), networks.udp.len());
                rules.send_replace(Arc::new(policy));
                tracing::info!(
                    "rules read again: {tokens} tokens, {tcp} TCP and {udp} UDP networks"
                );
            }
            Err(error) => tracing::warn!("the rules stay as they are: {error}"),
        }
    }
}
