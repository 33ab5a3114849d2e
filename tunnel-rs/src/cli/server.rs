use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel_cli::health::Health;
use tunnel_cli::logging::log_events;
use tunnel_cli::signals::{self, Ending, Reload};
use tunnel_cli::{Failure, Outcome, drain, rules};
use tunnel_iroh::{Accepting, Endpoint, Standing};
use tunnel_model::Policy;
use tunnel_session::limits::AUTHENTICATION_TIMEOUT;
use tunnel_session::server::{Admission, Limits, Server, Unauthenticated};
use tunnel_session::transport::Role;
use tunnel_session::vpn::VpnServer;

use super::{print, refusal};
use crate::config::server::{HostConfig, ServerArgs, ServerConfig};

/// How long the ticket waits for a relay to answer: a relay across the world takes less than a second.
const RELAY_WAIT: Duration = Duration::from_secs(3);

/// The same through Tor: its first way to an onion service takes several circuits.
const TOR_RELAY_WAIT: Duration = Duration::from_secs(60);

/// How long the farewells may take; the peers are a few round trips away.
const FAREWELL: Duration = Duration::from_secs(3);

pub(super) async fn run(args: ServerArgs) -> Outcome {
    let ServerConfig { host, rules: source } = args.resolve()?;
    let HostConfig { endpoint: config, limits, drain, health } = host;
    let look = rules::Look::at(&source.files());
    let policy = source.load()?;
    require_tokens(&policy)?;
    let ending = signals::ending(drain).map_err(Failure::failed)?;
    let reload = Reload::new().map_err(Failure::failed)?;
    let health = Health::start(health, env!("CARGO_PKG_VERSION")).await?;
    let own = config.own_infrastructure();
    let endpoint = Endpoint::bind(config, Role::Server).await.map_err(Failure::failed)?;
    print(&format!("EndpointId: {}", endpoint.id()))?;
    warn_if_nothing_is_allowed(&policy);
    let again = source.clone();
    let host = Host {
        endpoint,
        own,
        limits,
        reload,
        health,
        command: "client --ticket TICKET --source tcp://HOST:PORT --target 127.0.0.1:PORT",
    };
    let rules = Rules { policy, look, files: move || source.files(), load: move || again.load() };
    host.serve(rules, None, &ending).await
}

/// Refuses rules by which nobody could come in.
pub(super) fn require_tokens(policy: &Policy) -> Outcome {
    if policy.token_count() > 0 {
        return Ok(());
    }
    let text = "no token is accepted, so nobody could come in: give --auth-tokens-file FILE \
                or --auth-tokens TOKEN (generate-token makes one)";
    Err(Failure::Usage(text.to_owned()))
}

/// A server's rules as they were read first, and how they are read again.
pub(super) struct Rules<F, L> {
    pub(super) policy: Policy,
    /// How the files looked before that.
    pub(super) look: rules::Look,
    pub(super) files: F,
    pub(super) load: L,
}

/// A server that is about to let clients in.
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    /// Whether it names infrastructure of its own.
    pub(super) own: bool,
    pub(super) limits: Limits,
    pub(super) reload: Reload,
    pub(super) health: Health,
    /// What a client is started with, TICKET standing for the ticket.
    pub(super) command: &'static str,
}

impl Host {
    /// Serves clients until it is told to end, and tells the user how they come in.
    pub(super) async fn serve<F, L>(
        self,
        rules: Rules<F, L>,
        vpn: Option<Arc<dyn VpnServer>>,
        ending: &Ending,
    ) -> Outcome
    where
        F: Fn() -> Vec<PathBuf> + Send + Sync + 'static,
        L: Fn() -> Outcome<Policy> + Send + Sync + 'static,
    {
        let Self { endpoint, own, limits, reload, health, command } = self;
        let Rules { policy, look, files, load } = rules;
        print(&format!("Auth tokens: {} token(s) configured", policy.token_count()))?;
        let (present, watched) = watch::channel(Arc::new(policy));
        let fresh = tokio::spawn(rules::keep_fresh(present, reload, look, files, load));
        let events = health.events();
        let log = tokio::spawn(log_events(events.subscribe()));
        let server = Server::with_vpn(watched, limits, events, vpn).map_err(Failure::failed)?;
        let draining = drain::on_request(ending, &server);
        follow(&health, &endpoint, &server, ending);
        let serving = tokio::spawn(accept(endpoint.clone(), server, ending.end.clone()));

        let refused = tokio::spawn(refusal::warn(endpoint.clone()));
        announce(&endpoint, own, command, &ending.end).await?;
        let served = serving.await;
        drop((health, draining));
        fresh.abort();
        refused.abort();
        // The farewells have been queued; this sends them.
        let _ = tokio::time::timeout(FAREWELL, endpoint.close()).await;
        // The last events are those of the sessions that have just ended.
        let _ = tokio::time::timeout(FAREWELL, log).await;
        served.map_err(Failure::failed)
    }
}

/// Has `health` tell how the server is: ready while clients can reach it.
fn follow(health: &Health, endpoint: &Endpoint, server: &Server, ending: &Ending) {
    let (endpoint, ending) = (endpoint.clone(), ending.clone());
    let unready = move || ending.why_unready().or_else(|| endpoint.unreachable());
    let server = server.clone();
    health.follow(unready, move || server.traffic());
}

fn warn_if_nothing_is_allowed(policy: &Policy) {
    if policy.allowed().tcp.is_empty() && policy.allowed().udp.is_empty() {
        tracing::warn!("nothing may be reached: give --allowed-tcp CIDR or --allowed-udp CIDR");
    }
}

/// Prints what clients need, once it is known whether a relay answers.
async fn announce(
    endpoint: &Endpoint,
    own: bool,
    command: &str,
    shutdown: &CancellationToken,
) -> Outcome {
    let tor = endpoint.uses_tor();
    let wait = if tor { TOR_RELAY_WAIT } else { RELAY_WAIT };
    let standing = tokio::select! {
        standing = endpoint.standing(wait) => standing,
        () = shutdown.cancelled() => return Ok(()),
    };
    match &standing {
        Standing::Relay(url) => tracing::info!("relay {url} answers"),
        Standing::Direct => {
            tracing::info!("no relay is configured: clients must reach this machine directly")
        }
        // Said by the task that watches for it.
        Standing::Refused(_) => {}
        Standing::NoRelay(reason) => {
            let whose = if own { "your" } else { "the public" };
            let reason = reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let until =
                if tor { "nobody can come in" } else { "clients must reach this machine directly" };
            tracing::warn!("{whose} relays do not answer{reason}: until they do, {until}");
            let endpoint = endpoint.clone();
            tokio::spawn(async move {
                if let Standing::Relay(url) = endpoint.online().await {
                    tracing::info!("relay {url} answers");
                }
            });
        }
    }
    let ticket = endpoint.ticket();
    let proxy = if tor { " --socks5-proxy socks5h://127.0.0.1:9050" } else { "" };
    print(&format!("Ticket: {ticket}"))?;
    let command = command.replace("TICKET", &format!("{ticket}{proxy}"));
    print(&format!("Client: tunnel-rs {command} --auth-token-file FILE"))?;
    print("Waiting for clients to connect...")
}

/// Serves everyone who comes until `shutdown`, then tells all of them.
pub(super) async fn accept(endpoint: Endpoint, server: Server, shutdown: CancellationToken) {
    let admission = Admission::default();
    let mut clients = JoinSet::new();
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            Some(ended) = clients.join_next() => {
                if let Err(error) = ended {
                    tracing::error!("a client's task failed: {error}");
                }
                continue;
            }
            () = shutdown.cancelled() => break,
        };
        let Some(incoming) = incoming else { break };
        if admission.is_crowded() && !incoming.is_from_real_address() {
            incoming.ask_for_proof_of_address();
            continue;
        }
        // The handshake is in the client's own task: a slow or silent peer delays nobody.
        let task = client(incoming, admission.enter(), server.clone(), shutdown.clone());
        clients.spawn(task);
    }
    while clients.join_next().await.is_some() {}
    server.close().await;
}

async fn client(
    incoming: Accepting,
    place: Unauthenticated,
    server: Server,
    shutdown: CancellationToken,
) {
    let connection = tokio::select! {
        connection = incoming.complete(AUTHENTICATION_TIMEOUT) => connection,
        () = place.displaced() => return,
        () = shutdown.cancelled() => return,
    };
    match connection {
        Ok(connection) => server.serve(connection, Some(place), shutdown.cancelled()).await,
        // Strangers and scanners; a client that fails here is told by its own side.
        Err(error) => tracing::debug!("a connection came to nothing: {error}"),
    }
}
