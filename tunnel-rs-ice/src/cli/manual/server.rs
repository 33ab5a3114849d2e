use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tunnel_cli::client::FAREWELL;
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::output::print;
use tunnel_cli::{Failure, Outcome, drain, signals};
use tunnel_ice::signaling::manual::{Answer, Block, CodePart, Offer, ShortCode, encode_answer};
use tunnel_ice::{Endpoint, PathState, Side, StunServer};
use tunnel_model::Identity;
use tunnel_model::protocol::Reason;
use tunnel_session::server::{Limits, Server};

use super::blocks::{Found, Inbox, publish};
use crate::cli::accept::{Acceptor, Standing};
use crate::cli::path::watch_path;
use crate::cli::rules::Rules;
use crate::config::channel::Channel;
use crate::config::server::ManualServerConfig;

/// However long an offer is said to stand, it is not waited for longer.
const LONGEST: Duration = Duration::from_secs(3600);

pub(crate) async fn serve(config: ManualServerConfig) -> Outcome {
    let ManualServerConfig {
        allowed: source,
        limits,
        stun,
        offer: inbox,
        answer: outbox,
        qr,
        drain: time,
        health,
    } = config;
    let rules = Rules::follow(source)?;
    let ending = signals::ending(time).map_err(Failure::failed)?;
    let shutdown = ending.end.clone();
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    let events = health.events();
    let log = tokio::spawn(log_events(events.subscribe()));
    // One client, by whose certificate nobody else comes in.
    let limits = Limits { max_sessions: 1, ..limits };
    let server = Server::new(rules.watch(), limits, events).map_err(Failure::failed)?;
    let draining = drain::on_request(&ending, &server);
    {
        let (serving, server) = (server.clone(), server.clone());
        let unready = move || {
            let nobody = || (serving.session_count() == 0).then(|| "no session".to_owned());
            ending.why_unready().or_else(nobody)
        };
        health.follow(unready, move || server.traffic());
    }
    let inbox_opened = Inbox::open(&inbox);
    let mut exchange = Exchange { inbox: inbox_opened, from: inbox, outbox, qr };

    let mut offer = None;
    let outcome = loop {
        match session(&mut exchange, &server, stun.clone(), offer, &shutdown).await {
            Ok(End::AnotherOffer(another)) => offer = Some(another),
            Ok(End::Done) => break Ok(()),
            Err(failure) => break Err(failure),
        }
    };
    let _ = timeout(FAREWELL, server.close()).await;
    drop((server, health, draining));
    // The last events are those of the session that has just ended.
    let _ = timeout(FAREWELL, log).await;
    outcome
}

/// How the work on one offer ends in order.
enum End {
    /// The session has ended, or this side ends.
    Done,
    /// The client has begun anew before there was a session.
    AnotherOffer(Box<Offer>),
}

/// From an offer to the end of its session.
async fn session(
    exchange: &mut Exchange,
    server: &Server,
    stun: Vec<StunServer>,
    offer: Option<Box<Offer>>,
    shutdown: &CancellationToken,
) -> Outcome<End> {
    let endpoint = Endpoint::bind(Side::Answering, stun, None).await.map_err(Failure::failed)?;
    let made = async {
        let offer = match offer {
            Some(offer) => offer,
            None => exchange.wait().await?,
        };
        check(server, &offer).await?;
        let nonce = CodePart::generate().map_err(Failure::failed)?.0;
        let answer = Answer { id: offer.id, nonce, description: endpoint.gathered().await };
        Ok::<_, Failure>((offer, answer))
    };
    let (offer, answer) = tokio::select! {
        made = made => made?,
        () = shutdown.cancelled() => return Ok(End::Done),
    };
    let ttl = offer.ttl.min(LONGEST);
    let expires = Instant::now() + ttl;
    endpoint.meet(&offer.description, None).await.map_err(Failure::failed)?;
    tokio::select! {
        // A FIFO may have to wait for its reader.
        published = exchange.publish(&answer) => published?,
        () = shutdown.cancelled() => return Ok(End::Done),
    }
    let seconds = ttl.as_secs();
    tracing::info!(
        "give this answer to the client; it is waited for until the offer expires, for {seconds} s"
    );

    // Shown once; a connection beside a silent one has the same.
    let shown = AtomicBool::new(false);
    let admits = |part: Option<[u8; 16]>| {
        let code = part.and_then(|part| ShortCode::new(&offer, &answer, CodePart(part)));
        if let Some(code) = code
            && !shown.swap(true, Ordering::Relaxed)
            && let Err(error) = print(&format!("Code: {code}"))
        {
            tracing::warn!("{error}");
        }
        code.is_some()
    };
    let acceptor = Acceptor::new(endpoint.clone(), server.clone(), admits);
    let standing = acceptor.standing();
    let mut told = answer.clone();
    let outcome = tokio::select! {
        outcome = acceptor.run(shutdown) => outcome.map(|()| {
            if !shutdown.is_cancelled() {
                tracing::info!("the client has ended the session");
            }
            End::Done
        }),
        outcome = expiry(&endpoint, &offer, expires, standing) => outcome,
        () = watch_path(endpoint.path()) => {
            let text = "no path for too long: exchange an offer and an answer again";
            Err(Failure::Failed(text.to_owned()))
        },
        another = exchange.follow(&endpoint, &offer, &mut told) => another.map(End::AnotherOffer),
    };
    // The farewells have been queued; this sends them.
    let _ = timeout(FAREWELL, endpoint.close()).await;
    outcome
}

/// Ends when the offer has expired and no session stands.
async fn expiry(
    endpoint: &Endpoint,
    offer: &Offer,
    expires: Instant,
    standing: watch::Receiver<Standing>,
) -> Outcome<End> {
    sleep_until(expires).await;
    if standing.borrow().ever {
        std::future::pending::<()>().await;
    }
    let why = if endpoint.peer_address().is_some() {
        "there is a path to the client, but it has not connected".to_owned()
    } else {
        format!("no path was found: {}", endpoint.diagnose(&offer.description))
    };
    Err(Failure::Failed(format!("the offer has expired, and {why}")))
}

/// The server's half of the exchange.
struct Exchange {
    inbox: Inbox,
    from: Channel,
    outbox: Channel,
    qr: bool,
}

impl Exchange {
    /// Waits for an offer.
    async fn wait(&mut self) -> Outcome<Box<Offer>> {
        match &self.from {
            Channel::Standard => tracing::info!("paste the client's offer here:"),
            Channel::File(path) => tracing::info!("waiting for an offer in {}", path.display()),
        }
        let mut last = None;
        while let Some(found) = self.inbox.next().await {
            match read(found) {
                Ok(offer) => return Ok(Box::new(offer)),
                Err(why) => {
                    tracing::error!("{why}");
                    last = Some(why);
                }
            }
        }
        let why = last.unwrap_or_else(|| "the input ended without an offer".to_owned());
        Err(Failure::Failed(why))
    }

    async fn publish(&self, answer: &Answer) -> Outcome {
        publish(&self.outbox, encode_answer(answer), self.qr).await
    }

    /// Gives the answer out anew when this side's addresses change before there is a path, and takes what the client
    /// makes anew: the same offer with other addresses at any time, another offer as long as there is no path.
    async fn follow(
        &mut self,
        endpoint: &Endpoint,
        offer: &Offer,
        answer: &mut Answer,
    ) -> Outcome<Box<Offer>> {
        let (mut found_path, mut ended) = (false, false);
        loop {
            let up = async {
                let mut path = endpoint.path();
                // Whatever was found must not be held on to: it keeps the agent from going on.
                drop(path.wait_for(|state| matches!(state, PathState::Up(_))).await);
            };
            tokio::select! {
                () = up, if !found_path => {
                    // From here on the connection itself carries such news.
                    found_path = true;
                }
                description = endpoint.changed(&answer.description), if !found_path => {
                    answer.description = description;
                    tracing::warn!(
                        "the network has given this machine other addresses: use this answer, not the last one"
                    );
                    self.publish(answer).await?;
                }
                found = self.inbox.next(), if !ended => match found.map(read) {
                    None => ended = true,
                    Some(Err(why)) => tracing::error!("{why}"),
                    Some(Ok(new)) if new.id == offer.id => match endpoint.meet(&new.description, None).await {
                        Ok(()) => tracing::info!("the client's new addresses are tried"),
                        Err(error) => tracing::error!("{error}"),
                    },
                    Some(Ok(new)) if !found_path => {
                        tracing::info!("the client has begun anew: offer {} in place of {}", new.id, offer.id);
                        return Ok(Box::new(new));
                    }
                    Some(Ok(new)) => tracing::error!(
                        "offer {} is of another session: this one belongs to offer {}; start another server for it",
                        new.id, offer.id
                    ),
                },
                // Both are over: whoever waits for this waits for something else, too.
                else => std::future::pending::<()>().await,
            }
        }
    }
}

fn read(found: Found) -> Result<Offer, String> {
    found.and_then(Block::into_offer).map_err(|error| error.to_string())
}

/// Says which sources the client will be refused; an error where the rules allow none of them.
async fn check(server: &Server, offer: &Offer) -> Outcome {
    let identity = Identity::pinned(offer.description.fingerprint.to_string());
    let refusals = server.check(&identity, &offer.sources).await;
    let mut refused = 0;
    for (source, refusal) in offer.sources.iter().zip(&refusals) {
        let Some(refusal) = refusal else {
            tracing::info!("the client asks for {source}");
            continue;
        };
        // A name that does not resolve at the moment may do so later.
        refused += usize::from(refusal.reason == Reason::NotAllowed);
        tracing::warn!("the client asks for {source}, which is refused: {refusal}");
    }
    if refused == offer.sources.len() {
        let text =
            "every source that the client asks for is refused, so there is no answer to give";
        return Err(Failure::SourceRefused(text.to_owned()));
    }
    Ok(())
}
