//! Leaves a relay that has gone for another one.
//!
//! iroh looks for another home relay at its next report on the network, half a minute later (iroh#4319). Taken out of
//! its relays, the one that has gone is replaced at once. And it sends to a peer by the path that its connections have,
//! however dead, so a connection by a relay that has gone keeps new ones from being made until it has timed out, for
//! 30 s: such a connection is given up.
//!
//! A relay has gone where it takes no TCP connection and another one does: otherwise it is the network's fault.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use iroh::endpoint::RelayStatus;
use iroh::{RelayConfig, RelayUrl, Watcher};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long the home relay must be out of reach before it is looked after: it may be restarted, or the connection to it
/// be made anew.
const GONE: Duration = Duration::from_secs(2);

/// Between two looks whether relays that had gone are back.
const BACK: Duration = Duration::from_secs(5);

/// For the other relays to take one as well, once one has: one lost packet is sent again after 1 s.
const SLOWER: Duration = Duration::from_millis(1_200);

/// For a relay to take a TCP connection; one lost packet is sent again after 1 s (RFC 6298 section 2.1).
const ANSWER: Duration = Duration::from_millis(1_500);

/// When nothing has come for so long, although a path is asked for a sign of life twice in this time, a connection's
/// relay is looked after.
const SILENCE: Duration = Duration::from_secs(2);

/// Between two looks; it doubles up to the second value while the relay answers.
const LOOKS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));

/// Relays that had gone, and are not used before they answer again. One that asks for a token and that a peer's address
/// names meanwhile is asked without it, as the endpoint's settings have it no more.
#[derive(Debug, Default)]
pub(crate) struct Resting(Mutex<Vec<Arc<RelayConfig>>>);

impl Resting {
    fn all(&self) -> MutexGuard<'_, Vec<Arc<RelayConfig>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These and no others, from now on.
    pub(crate) fn replace(&self, relays: impl Iterator<Item = Arc<RelayConfig>>) {
        *self.all() = relays.collect();
    }

    pub(crate) fn contains(&self, url: &RelayUrl) -> bool {
        self.all().iter().any(|config| config.url == *url)
    }

    /// Gives relays back to `endpoint` as they answer.
    async fn bring_back(&self, endpoint: &iroh::Endpoint) -> Infallible {
        loop {
            sleep(BACK).await;
            let resting = self.all().clone();
            for config in resting {
                if answers(&config.url).await {
                    endpoint.insert_relay(config.url.clone(), config.clone()).await;
                    self.all().retain(|other| other.url != config.url);
                }
            }
        }
    }
}

/// Watches the home relay of `endpoint`, which has these relays but those that are `resting`, and removes it where it has
/// gone. Resolves with one that has gone where `may_replace` says that the endpoint had better begin anew: that takes less
/// time, as a report of iroh's that is under way waits 3 s for the relay (iroh 1.4, `PROBES_TIMEOUT`), and the next one
/// for that report.
pub(crate) async fn watch(
    endpoint: &iroh::Endpoint,
    relays: &[RelayUrl],
    resting: &Resting,
    may_replace: impl Fn() -> bool,
) -> RelayUrl {
    let leave = async {
        loop {
            let home = gone(endpoint, relays).await;
            if may_replace() {
                return home;
            }
            let others = resting.all().len() + 1 < relays.len();
            if others && let Some(config) = endpoint.remove_relay(&home).await {
                tracing::warn!("relay {home} is gone: using another");
                resting.all().push(config);
            } else {
                // The last one, or one that is on its way out already.
                sleep(GONE).await;
            }
        }
    };
    tokio::select! {
        home = leave => home,
        never = resting.bring_back(endpoint) => match never {},
    }
}

/// Those of these relays that take no TCP connections while another one does.
pub(crate) async fn dead(relays: &[RelayUrl]) -> Vec<RelayUrl> {
    let mut dead = relays.to_vec();
    let mut asked: FuturesUnordered<_> =
        relays.iter().map(async |url| (url, answers(url).await)).collect();
    let mut end = None;
    loop {
        tokio::select! {
            answer = asked.next() => match answer {
                Some((url, true)) => {
                    dead.retain(|other| other != url);
                    end.get_or_insert_with(|| Instant::now() + SLOWER);
                }
                Some((_, false)) => {}
                None => break,
            },
            () = until(end) => break,
        }
    }
    if dead.len() < relays.len() { dead } else { Vec::new() }
}

/// The relay by which a connection hangs, once it has gone. `received` counts the packets that have come, and `relay` is
/// the one that carries the connection at the moment.
pub(crate) async fn stranded(
    relays: &[RelayUrl],
    received: impl Fn() -> u64,
    relay: impl Fn() -> Option<String>,
) -> String {
    let (mut seen, mut since) = (received(), Instant::now());
    let (mut pause, mut suspect) = (LOOKS.0, false);
    loop {
        sleep(pause).await;
        let now = received();
        if now != seen {
            (seen, since) = (now, Instant::now());
            (pause, suspect) = (LOOKS.0, false);
        } else if since.elapsed() >= SILENCE
            && let Some(url) = relay()
        {
            if !only_this_is_gone(&url, relays).await {
                (pause, suspect) = ((pause * 2).min(LOOKS.1), false);
            } else if suspect && received() == seen {
                return url;
            } else {
                (pause, suspect) = (LOOKS.0, true);
            }
        }
    }
}

/// Whether, of these relays, others take connections and `relay` does not.
async fn only_this_is_gone(relay: &str, relays: &[RelayUrl]) -> bool {
    let asked: FuturesUnordered<_> =
        relays.iter().map(async |url| (url.as_str() == relay, answers(url).await)).collect();
    let answers: Vec<_> = asked.collect().await;
    answers.contains(&(true, false)) && answers.contains(&(false, true))
}

/// Whether a relay takes TCP connections.
pub(crate) async fn answers(url: &RelayUrl) -> bool {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return false;
    };
    // An IPv6 address stands in brackets in a URL and in no other place.
    let host = host.trim_matches(['[', ']']);
    let answer = async {
        let addresses = lookup_host((host, port)).await.ok()?;
        // All at once: one family may lead nowhere.
        let mut attempts: FuturesUnordered<_> = addresses.map(TcpStream::connect).collect();
        while let Some(connected) = attempts.next().await {
            if connected.is_ok() {
                return Some(());
            }
        }
        None
    };
    timeout(ANSWER, answer).await.is_ok_and(|answer| answer.is_some())
}

/// The home relay, once it has been out of reach for a while and takes no connections.
async fn gone(endpoint: &iroh::Endpoint, relays: &[RelayUrl]) -> RelayUrl {
    let mut status = endpoint.home_relay_status();
    let lost = |relays: Vec<RelayStatus>| {
        let connected = relays.iter().any(RelayStatus::is_connected);
        if connected { None } else { relays.first().map(|relay| relay.url().clone()) }
    };
    loop {
        if let Some(home) = lost(status.get()) {
            sleep(GONE).await;
            if lost(status.get()).as_ref() == Some(&home)
                && only_this_is_gone(home.as_str(), relays).await
            {
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

    #[tokio::test]
    async fn those_that_refuse_are_dead_where_another_answers() -> std::io::Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (alive, gone) = (url(listener.local_addr()?.port()), url(closed.local_addr()?.port()));
        drop(closed);
        let both = [alive.clone(), gone];
        assert_eq!(dead(&both).await, both[1..]);
        assert_eq!(dead(std::slice::from_ref(&alive)).await, []);
        drop(listener);
        assert_eq!(dead(&both).await, [], "none answers: it is the network");
        Ok(())
    }
}
