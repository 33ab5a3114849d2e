use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tunnel_cli::output::print;
use tunnel_ice::PathState;

/// A session waits for its path for so long, and then ends: a laptop that sleeps through lunch finds it again, and what
/// nobody comes back to does not stay for good.
const PATH_GRACE: Duration = Duration::from_secs(15 * 60);

/// Shows each path, and tells when one is gone and comes back. Ends when none has been there for [`PATH_GRACE`].
pub(super) async fn watch_path(mut path: watch::Receiver<PathState>) {
    let (mut shown, mut gone) = (None, false);
    loop {
        let state = *path.borrow_and_update();
        match state {
            PathState::Up(path) => {
                if std::mem::take(&mut gone) {
                    tracing::info!("path restored");
                }
                let way = (path.kind, path.local, path.remote);
                if shown.replace(way) != Some(way) {
                    let line = format!("Path: {}, {} to {}", path.kind, path.local, path.remote);
                    // The session goes on where nobody reads any more.
                    if let Err(error) = print(&line) {
                        tracing::warn!("{error}");
                    }
                }
            }
            PathState::Gone => {
                gone = true;
                tracing::warn!(
                    "the path is gone: nothing is heard from the peer, which may have ended; looking for another"
                );
            }
            PathState::Searching => {}
        }
        let changed = timeout(PATH_GRACE, path.changed());
        match changed.await {
            Err(_) if state == PathState::Gone => return,
            Err(_) | Ok(Ok(())) => {}
            Ok(Err(_)) => {
                tracing::error!("the search for paths has failed");
                return;
            }
        }
    }
}
