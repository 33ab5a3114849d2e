use tokio::time::timeout;
use tunnel_cli::client::{FAREWELL, announce, failure, follow, notice, run, sources};
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::{Failure, Outcome, signals};
use tunnel_ice::signaling::manual::MAX_SOURCES;
use tunnel_session::client::{Link, LinkError, Notice};

use super::dialer::NostrDialer;
use super::line::Line;
use crate::config::nostr::NostrClientConfig;

pub(crate) async fn connect(config: NostrClientConfig) -> Outcome {
    let NostrClientConfig { key, peer, relays, stun, forwards, grace, health } = config;
    let sources = sources(&forwards);
    if sources.len() > MAX_SOURCES {
        let text = format!("{} sources: a request holds {MAX_SOURCES} at most", sources.len());
        return Err(Failure::Usage(text));
    }
    let shutdown = signals::shutdown_with_terminal().map_err(Failure::failed)?;
    // Before anything is asked: a forward that cannot listen would leave the others half a service.
    let listeners = tunnel_session::bind(&forwards).await.map_err(Failure::failed)?;
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    announce(&listeners)?;
    tracing::info!("this client is {}; looking for {peer}", key.npub());
    let line = Line::start(key, vec![peer], relays).await.map_err(Failure::usage)?;
    let events = health.events();
    let log = tokio::spawn(log_events(events.subscribe()));
    let dialer = NostrDialer::new(line.clone(), peer, stun, sources.clone());
    let told = |told: Notice| match told {
        // The path has more to say of that.
        Notice::Silent => {}
        other => notice(other),
    };
    let told = health.counting(told);
    let link = Link::new(dialer.clone(), None, sources, grace, events, told);
    let link = link.map_err(Failure::failed)?;
    follow(&health, &link, &shutdown);
    let follower = {
        let (line, dialer) = (line.clone(), dialer.clone());
        tokio::spawn(async move { line.follow_network(|| dialer.network_has_changed()).await })
    };
    let outcome = run(listeners, link.clone(), &shutdown, dialer.close()).await;
    follower.abort();
    drop((link, health));
    let _ = timeout(FAREWELL, line.close()).await;
    let _ = timeout(FAREWELL, log).await;
    outcome.map_err(|error| match error {
        LinkError::Dial(error) if dialer.all_refused() => Failure::SourceRefused(error.to_string()),
        LinkError::Dial(error) => Failure::Refused(error.to_string()),
        other => failure(&other),
    })
}
