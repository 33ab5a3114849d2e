use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tunnel_cli::client::{FAREWELL, announce, failure, follow, notice, run, sources};
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::output::print;
use tunnel_cli::{Failure, Outcome, signals};
use tunnel_ice::signaling::manual::{
    Answer, Block, CodePart, MAX_SOURCES, Offer, OfferId, ShortCode, encode_offer,
};
use tunnel_ice::{Endpoint, PathState, Side};
use tunnel_session::client::{Link, LinkError, Notice};

use super::blocks::{Found, Inbox, publish};
use crate::cli::path::watch_path;
use crate::config::channel::Channel;
use crate::config::client::ManualClientConfig;

/// How long a path may take to be found. The server has been trying since it answered, so that a path that exists is
/// found in a few round trips; lost packets make it some seconds.
const FIRST_PATH: Duration = Duration::from_secs(9);

pub(crate) async fn connect(config: ManualClientConfig) -> Outcome {
    let ManualClientConfig { forwards, stun, offer: outbox, answer: inbox, ttl, qr, grace, health } =
        config;
    let sources = sources(&forwards);
    if sources.len() > MAX_SOURCES {
        let text = format!("{} sources: an offer holds {MAX_SOURCES} at most", sources.len());
        return Err(Failure::Usage(text));
    }
    let shutdown = signals::shutdown_with_terminal().map_err(Failure::failed)?;
    // Before anything is offered: a forward that cannot listen would leave the others half a service.
    let listeners = tunnel_session::bind(&forwards).await.map_err(Failure::failed)?;
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    announce(&listeners)?;
    let part = CodePart::generate().map_err(Failure::failed)?;
    let id = OfferId::generate().map_err(Failure::failed)?;
    let endpoint =
        Endpoint::bind(Side::Offering, stun, Some(part.0)).await.map_err(Failure::failed)?;
    let description = endpoint.gathered().await;
    let commitment = part.commitment();
    let offer = Offer { id, ttl, commitment, description, sources: sources.clone() };
    let mut exchange = Exchange {
        endpoint: endpoint.clone(),
        inbox: Inbox::open(&inbox),
        from: inbox,
        outbox,
        qr,
        offer,
    };
    let answer = tokio::select! {
        answer = exchange.wait() => answer?,
        () = shutdown.cancelled() => return Ok(()),
    };
    endpoint.meet(&answer.description, None).await.map_err(Failure::failed)?;
    tokio::select! {
        found = first_path(&endpoint, &answer) => found?,
        never = exchange.follow() => never?,
        () = shutdown.cancelled() => return Ok(()),
    }

    let events = health.events();
    let log = tokio::spawn(log_events(events.subscribe()));
    let told = |told: Notice| match told {
        // The path has more to say of that.
        Notice::Silent => {}
        other => notice(other),
    };
    let told = health.counting(told);
    let link = Link::new(endpoint.dialer(), None, sources, grace, events, told);
    let link = link.map_err(Failure::failed)?;
    follow(&health, &link, &shutdown);
    let code = ShortCode::new(&exchange.offer, &answer, part);
    let shown = async {
        link.up().await;
        if let Some(code) = code {
            print(&format!("Code: {code}"))?;
        }
        std::future::pending::<Outcome>().await
    };
    let outcome = tokio::select! {
        outcome = run(listeners, link.clone(), &shutdown, endpoint.close()) => match outcome {
            // It has ended in order, and that is the end of what was asked for.
            Err(_) if endpoint.was_ended_by_peer() => {
                tracing::info!("the server has ended the session");
                Ok(())
            }
            // What cannot heal is a certificate that is not the one in the answer.
            Err(LinkError::Dial(error)) => Err(Failure::Refused(error.to_string())),
            outcome => outcome.map_err(|error| failure(&error)),
        },
        failed = shown => failed,
        () = watch_path(endpoint.path()) => {
            let text = "no path for too long: exchange an offer and an answer again";
            Err(Failure::Failed(text.to_owned()))
        }
        never = exchange.follow() => never,
    };
    link.close();
    let _ = timeout(FAREWELL, endpoint.close()).await;
    drop((link, health));
    let _ = timeout(FAREWELL, log).await;
    outcome
}

/// Waits for the first path.
async fn first_path(endpoint: &Endpoint, answer: &Answer) -> Outcome {
    let mut path: watch::Receiver<PathState> = endpoint.path();
    let up = path.wait_for(|state| matches!(state, PathState::Up(_)));
    match timeout(FIRST_PATH, up).await {
        Ok(_) => Ok(()),
        Err(_) => {
            let why = endpoint.diagnose(&answer.description);
            Err(Failure::Failed(format!("no path: {why}")))
        }
    }
}

/// The client's half of the exchange.
struct Exchange {
    endpoint: Endpoint,
    inbox: Inbox,
    from: Channel,
    outbox: Channel,
    qr: bool,
    offer: Offer,
}

impl Exchange {
    /// Gives the offer out, again whenever it changes, and waits for the answer.
    async fn wait(&mut self) -> Outcome<Answer> {
        let expires = Instant::now() + self.offer.ttl;
        self.publish().await?;
        let minutes = self.offer.ttl.as_secs_f64() / 60.0;
        tracing::info!("give this offer to the other side: tunnel-rs-ice server manual");
        match &self.from {
            Channel::Standard => {
                tracing::info!("paste its answer here, within {minutes:.0} minutes:");
            }
            Channel::File(path) => {
                tracing::info!("waiting {minutes:.0} minutes for its answer in {}", path.display());
            }
        }
        let mut last = None;
        loop {
            let found = tokio::select! {
                found = self.inbox.next() => found,
                description = self.endpoint.changed(&self.offer.description) => {
                    self.offer.description = description;
                    tracing::warn!("the network has given this machine other addresses: use this offer, not the last one");
                    self.publish().await?;
                    continue;
                }
                () = sleep_until(expires) => {
                    let text = "no answer came in time, and the offer has expired: start again";
                    return Err(Failure::Failed(text.to_owned()));
                }
            };
            let Some(found) = found else {
                let why = last.unwrap_or_else(|| "the input ended without an answer".to_owned());
                return Err(Failure::Failed(why));
            };
            match self.read(found) {
                Ok(answer) => return Ok(answer),
                Err(why) => {
                    tracing::error!("{why}");
                    last = Some(why);
                }
            }
        }
    }

    fn read(&self, found: Found) -> Result<Answer, String> {
        let answer = found.and_then(Block::into_answer);
        let answer = answer.map_err(|error| error.to_string())?;
        answer.check_id(self.offer.id).map_err(|error| error.to_string())?;
        if answer.description.fingerprint == self.offer.description.fingerprint {
            return Err("the answer names this side's own certificate".to_owned());
        }
        Ok(answer)
    }

    async fn publish(&self) -> Outcome {
        publish(&self.outbox, encode_offer(&self.offer), self.qr).await
    }

    /// Takes answers that the server makes anew because its addresses have changed.
    async fn follow(&mut self) -> Outcome {
        while let Some(found) = self.inbox.next().await {
            match self.read(found) {
                Ok(answer) => match self.endpoint.meet(&answer.description, None).await {
                    Ok(()) => tracing::info!("the server's new addresses are tried"),
                    Err(error) => tracing::error!("{error}"),
                },
                Err(why) => tracing::error!("{why}"),
            }
        }
        std::future::pending().await
    }
}
