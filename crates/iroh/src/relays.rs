//! Leaves a relay that has gone for another one.
//!
//! iroh looks for another home relay at its next report on the network, half a minute later (iroh#4319). Taken out of
//! its relays, the one that has gone is replaced at once.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use iroh::endpoint::RelayStatus;
use iroh::{RelayConfig, RelayUrl, Watcher};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// For a relay that is restarted, or a connection that is made anew.
const GONE: Duration = Duration::from_secs(2);

/// How long a relay that had gone is not asked for again.
const REST: Duration = Duration::from_secs(30);

/// For a relay to take a TCP connection.
const ANSWER: Duration = Duration::from_secs(1);

/// Watches the home relay of `endpoint`, which has `count` relays, until the endpoint is closed.
pub(crate) async fn watch(endpoint: iroh::Endpoint, count: usize) {
    let mut resting = Vec::new();
    let closed = endpoint.closed();
    tokio::pin!(closed);
    loop {
        let back = resting.iter().map(|(_, _, back)| *back).min();
        tokio::select! {
            () = &mut closed => return,
            home = gone(&endpoint) => {
                if resting.len() + 1 < count
                    && let Some(config) = endpoint.remove_relay(&home).await
                {
                    tracing::warn!("relay {home} is gone: using another");
                    resting.push((home, config, Instant::now() + REST));
                } else {
                    // The last one, or one that is on its way out already.
                    sleep(GONE).await;
                }
            }
            () = until(back) => bring_back(&endpoint, &mut resting).await,
        }
    }
}

/// Whether, of these relays, others take connections and `relay` does not.
pub(crate) async fn only_this_is_gone(relay: &str, relays: &[RelayUrl]) -> bool {
    let asked: FuturesUnordered<_> =
        relays.iter().map(async |url| (url.as_str() == relay, answers(url).await)).collect();
    let answers: Vec<_> = asked.collect().await;
    answers.contains(&(true, false)) && answers.contains(&(false, true))
}

async fn answers(url: &RelayUrl) -> bool {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return false;
    };
    // An IPv6 address stands in brackets in a URL and in no other place.
    let host = host.trim_matches(['[', ']']);
    timeout(ANSWER, TcpStream::connect((host, port))).await.is_ok_and(|connected| connected.is_ok())
}

/// The home relay, once it has been out of reach for as long as that takes to be sure.
async fn gone(endpoint: &iroh::Endpoint) -> RelayUrl {
    let mut status = endpoint.home_relay_status();
    loop {
        let lost = |relays: Vec<RelayStatus>| {
            let connected = relays.iter().any(RelayStatus::is_connected);
            if connected { None } else { relays.first().map(|relay| relay.url().clone()) }
        };
        if let Some(home) = lost(status.get()) {
            sleep(GONE).await;
            if lost(status.get()).as_ref() == Some(&home) {
                return home;
            }
        } else if status.updated().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}

async fn bring_back(
    endpoint: &iroh::Endpoint,
    resting: &mut Vec<(RelayUrl, Arc<RelayConfig>, Instant)>,
) {
    let now = Instant::now();
    for (url, config, _) in resting.extract_if(.., |(_, _, back)| *back <= now) {
        endpoint.insert_relay(url, config).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::TcpListener;

    use super::*;

    fn url(port: u16) -> RelayUrl {
        format!("https://127.0.0.1:{port}").parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[tokio::test]
    async fn one_that_refuses_is_gone_where_another_answers() -> std::io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (alive, dead) = (url(listener.local_addr()?.port()), url(closed.local_addr()?.port()));
        drop(closed);
        let relays = [alive.clone(), dead.clone()];
        assert!(only_this_is_gone(dead.as_str(), &relays).await);
        assert!(!only_this_is_gone(alive.as_str(), &relays).await);
        assert!(!only_this_is_gone("https://192.0.2.1/", &relays).await, "it is none of them");
        drop(listener);
        assert!(
            !only_this_is_gone(dead.as_str(), &relays).await,
            "none answers: it is the network"
        );
        Ok(())
    }
}
