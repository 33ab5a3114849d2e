use std::sync::Arc;

use tunnel_cli::client::{FAREWELL, announce, failure, follow, notice, run as serve, sources};
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::{Failure, Outcome, signals};
use tunnel_iroh::{Endpoint, IrohDialer};
use tunnel_session::client::Link;
use tunnel_session::transport::Role;

use super::refusal;
use crate::config::client::{ClientArgs, ClientConfig, PeerConfig};

pub(super) async fn run(args: ClientArgs) -> Outcome {
    let ClientConfig { peer, forwards } = args.resolve()?;
    let PeerConfig { endpoint: config, server, ticket, token, grace, health } = peer;
    let shutdown = signals::shutdown_with_terminal().map_err(Failure::failed)?;
    // Before anything is dialled: a forward that cannot listen would leave the others half a service.
    let listeners = tunnel_session::bind(&forwards).await.map_err(Failure::failed)?;
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    let endpoint = Endpoint::bind(config, Role::Client).await.map_err(Failure::failed)?;
    announce(&listeners)?;
    tracing::info!("connecting to {server}");
    let events = health.events();
    let log = tokio::spawn(log_events(events.subscribe()));
    let dialer = IrohDialer::new(endpoint.clone(), server, ticket);
    let told = health.counting(notice);
    let link = Link::new(dialer, Some(token), sources(&forwards), grace, events, told)
        .map_err(Failure::failed)?;
    follow(&health, &link, &shutdown);
    let outcome = tokio::select! {
        outcome = serve(listeners, Arc::clone(&link), &shutdown, endpoint.close()) => {
            outcome.map_err(|error| failure(&error))
        }
        refused = refusal::hopeless(&endpoint, Arc::clone(&link)) => Err(refused),
    };
    drop((link, health));
    let _ = tokio::time::timeout(FAREWELL, log).await;
    outcome
}
