//! What every client does, whatever carries its session.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_model::{CloseCode, Forward, Source};
use tunnel_session::Listener;
use tunnel_session::client::{AuthenticationError, Dialer, Link, LinkError, Notice};
use tunnel_session::transport::Lost;

use crate::health::Health;
use crate::output::print;
use crate::{Failure, Outcome};

/// How long farewells may take; the peers are a few round trips away.
pub const FAREWELL: Duration = Duration::from_secs(3);

/// What the forwards ask for, each source once.
pub fn sources(forwards: &[Forward]) -> Vec<Source> {
    let mut sources: Vec<Source> = Vec::new();
    for forward in forwards {
        if !sources.contains(&forward.source) {
            sources.push(forward.source.clone());
        }
    }
    sources
}

/// Prints where each listener listens.
///
/// # Errors
///
/// Where that cannot be written.
pub fn announce(listeners: &[Listener]) -> Outcome {
    for listener in listeners {
        let source = listener.source();
        print(&format!("Forwarding {}://{} to {source}", source.protocol, listener.address()))?;
    }
    Ok(())
}

/// Writes what a link tells to the log.
pub fn notice(notice: Notice) {
    match notice {
        Notice::Retrying { why, after } => {
            tracing::warn!("no session: {why}; next attempt in {:.1} s", after.as_secs_f64());
        }
        Notice::Lost { why, kept: false } => {
            tracing::warn!("session lost: {why}; connecting again");
        }
        // What waits is told by the session itself.
        Notice::Lost { why, kept: true } => {
            tracing::warn!("connection lost: {why}; connecting again");
        }
        Notice::Silent => tracing::warn!("the server is silent; dialling beside"),
        Notice::StillSilent(why) => tracing::warn!("dialling beside has failed: {why}"),
        Notice::SourceRefused(source, refusal) => {
            tracing::warn!("the server refuses {source}: {refusal}");
        }
    }
}

/// Has `health` tell how a client is whose listeners stand: ready while there is a session, with a connection or waiting
/// for one.
pub fn follow<D: Dialer>(health: &Health, link: &Arc<Link<D>>, shutdown: &CancellationToken) {
    follow_use(health, link, shutdown, || None);
}

/// The same of a client that may be of no use with a session either: `useless` says why.
pub fn follow_use<D: Dialer>(
    health: &Health,
    link: &Arc<Link<D>>,
    shutdown: &CancellationToken,
    useless: impl Fn() -> Option<String> + Send + 'static,
) {
    let (of, shutdown) = (Arc::clone(link), shutdown.clone());
    let unready = move || match of.has_session() {
        _ if shutdown.is_cancelled() => Some("ending".to_owned()),
        true => useless(),
        false => Some("no session with the server".to_owned()),
    };
    let of = Arc::clone(link);
    health.follow(unready, move || of.traffic());
}

/// Serves the listeners over the link until that ends or `shutdown` does, and tells the server; `farewell` sends what
/// has been queued.
///
/// # Errors
///
/// Why the link ended.
pub async fn run<D: Dialer>(
    listeners: Vec<Listener>,
    link: Arc<Link<D>>,
    shutdown: &CancellationToken,
    farewell: impl Future<Output = ()>,
) -> Result<(), LinkError> {
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(listener.run(Arc::clone(&link)));
    }
    let outcome = tokio::select! {
        error = link.run() => Err(error),
        () = shutdown.cancelled() => Ok(()),
    };
    link.close();
    let _ = timeout(FAREWELL, farewell).await;
    // With the flows and the link goes the last sender of events, and the log ends when it has written all of them.
    serving.shutdown().await;
    outcome
}

/// What the end of a link is to the user.
pub fn failure(error: &LinkError) -> Failure {
    let refused = |lost: &Lost| match lost {
        Lost::Closed {
            code: CloseCode::BadToken | CloseCode::Revoked | CloseCode::UnknownPeer,
            ..
        } => Failure::Refused(format!("the server refused this client: {lost}")),
        other => Failure::Failed(other.to_string()),
    };
    match error {
        LinkError::Authentication(AuthenticationError::Refused(lost)) | LinkError::Ended(lost) => {
            refused(lost)
        }
        LinkError::Authentication(error @ AuthenticationError::ServerNotProven) => {
            Failure::Refused(error.to_string())
        }
        LinkError::AllRefused => Failure::SourceRefused(error.to_string()),
        LinkError::Authentication(_) | LinkError::Dial(_) => Failure::Failed(error.to_string()),
    }
}
