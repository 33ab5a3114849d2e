use tokio::time::{Instant, sleep_until, timeout};
use tunnel_cli::client::FAREWELL;
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::output::print;
use tunnel_cli::{Failure, Outcome, drain, signals};
use tunnel_session::server::Server;

use super::line::Line;
use super::sessions::Sessions;
use crate::cli::rules::Rules;
use crate::config::nostr::NostrServerConfig;

pub(crate) async fn serve(config: NostrServerConfig) -> Outcome {
    let NostrServerConfig { key, peers, relays, stun, limits, rules: source, drain: time, health } =
        config;
    let rules = Rules::follow(source)?;
    let ending = signals::ending(time).map_err(Failure::failed)?;
    let shutdown = ending.end.clone();
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    let events = health.events();
    let log = tokio::spawn(log_events(events.subscribe()));
    let server = Server::new(rules.watch(), limits, events).map_err(Failure::failed)?;
    print(&format!("Npub: {}", key.npub()))?;
    let line = Line::start(key, peers, relays).await.map_err(Failure::usage)?;
    let draining = drain::on_request(&ending, &server);
    {
        let (line, server) = (line.clone(), server.clone());
        let unready = move || {
            let unserved = || (!line.is_served()).then(|| line.standing());
            ending.why_unready().or_else(unserved)
        };
        health.follow(unready, move || server.traffic());
    }
    // Before anybody can know that this side listens.
    let mut messages = line.messages();
    let follower = {
        let line = line.clone();
        tokio::spawn(async move { line.follow_network(|| ()).await })
    };
    let mut sessions =
        Sessions::new(line.clone(), server.clone(), stun, limits.max_sessions, shutdown.clone());
    let mut announced = false;
    loop {
        sessions.settle(Instant::now());
        let due = sessions.poll_at();
        let due = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = line.connected(), if !announced => {
                announced = true;
                print("Waiting for clients to connect...")?;
            }
            (peer, message) = messages.next() => sessions.take(peer, message),
            () = sessions.progress() => {}
            () = due => {}
            () = shutdown.cancelled() => break,
        }
    }
    // Each tells its client and says so in the log.
    let _ = timeout(FAREWELL, async {
        sessions.close().await;
        server.close().await;
    })
    .await;
    follower.abort();
    drop((sessions, server, health, draining));
    let _ = timeout(FAREWELL, line.close()).await;
    let _ = timeout(FAREWELL, log).await;
    Ok(())
}
