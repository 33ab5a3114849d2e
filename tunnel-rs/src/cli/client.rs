use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tunnel_cli::logging::log_events;
use tunnel_cli::{Failure, Outcome, signals};
use tunnel_iroh::{Endpoint, IrohDialer};
use tunnel_model::{CloseCode, Source};
use tunnel_session::client::{AuthenticationError, Link, LinkError, Notice};
use tunnel_session::events::Events;
use tunnel_session::transport::{Lost, Role};

use super::print;
use crate::config::client::{ClientArgs, ClientConfig};

/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) async fn run(args: ClientArgs) -> Outcome {
    let ClientConfig { endpoint: config, server, ticket, forwards, token } = args.resolve()?;
    let shutdown = signals::shutdown().map_err(Failure::failed)?;
    // Before anything is dialled: a forward that cannot listen would leave the others half a service.
    let listeners = tunnel_session::bind(&forwards).await.map_err(Failure::failed)?;
    let endpoint = Endpoint::bind(config, Role::Client).await.map_err(Failure::failed)?;
    for listener in &listeners {
        let source = listener.source();
        print(&format!("Forwarding {}://{} to {source}", source.protocol, listener.address()))?;
    }
    tracing::info!("connecting to {server}");
    let events = Events::default();
    let log = tokio::spawn(log_events(events.subscribe()));
    let mut sources: Vec<Source> = Vec::new();
    for forward in &forwards {
        if !sources.contains(&forward.source) {
            sources.push(forward.source.clone());
        }
    }
    let dialer = IrohDialer::new(endpoint.clone(), server, ticket);
    let link = Link::new(dialer, token, sources, events, notice).map_err(Failure::failed)?;
    let mut serving = JoinSet::new();
    for listener in listeners {
        serving.spawn(listener.run(Arc::clone(&link)));
    }
    let outcome = tokio::select! {
        error = link.run() => Err(failure(&error)),
        () = shutdown.cancelled() => Ok(()),
    };
    link.close();
    // The farewell has been queued; this sends it.
    let _ = tokio::time::timeout(FAREWELL, endpoint.close()).await;
    // With the flows and the link goes the last sender of events, and the log ends when it has written all of them.
    serving.shutdown().await;
    drop(link);
    let _ = tokio::time::timeout(FAREWELL, log).await;
    outcome
}

fn notice(notice: Notice) {
    match notice {
        Notice::Retrying { why, after } => {
            tracing::warn!("no session: {why}; next attempt in {:.1} s", after.as_secs_f64());
        }
        Notice::Lost(why) => tracing::warn!("session lost: {why}; connecting again"),
        Notice::Silent => tracing::warn!("the server is silent; dialling beside"),
        Notice::SourceRefused(source, refusal) => {
            tracing::warn!("the server refuses {source}: {refusal}");
        }
    }
}

fn failure(error: &LinkError) -> Failure {
    let refused = |lost: &Lost| match lost {
        Lost::Closed { code: CloseCode::BadToken | CloseCode::Revoked, .. } => {
            Failure::Refused(format!("the server refused this client: {lost}"))
        }
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
