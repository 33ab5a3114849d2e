//! Logs on standard error, or where `output` has it go, ruled by `RUST_LOG`.

use std::env::VarError;
use std::io::IsTerminal;
use std::sync::Arc;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tracing::{Level, Metadata, info, warn};
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use tunnel_session::events::{Event, Record};
use tunnel_session::transport::{Lost, Role};

/// What is logged where `RUST_LOG` says nothing: what this program has to say, and the libraries' errors.
const DEFAULT: &str = "error,boringtun=off,iroh=off,nostr=off,swarm_discovery=off,tunnel=info,tunnel_rs=info,tunnel_cli=info,tunnel_session=info,tunnel_iroh=info";

/// Starts logging. A second call changes nothing.
pub fn init() {
    let (filter, error) = match std::env::var(EnvFilter::DEFAULT_ENV).map(EnvFilter::try_new) {
        Ok(Ok(filter)) => (filter, None),
        Ok(Err(error)) => (EnvFilter::new(DEFAULT), Some(error.to_string())),
        Err(VarError::NotPresent) => (EnvFilter::new(DEFAULT), None),
        Err(error) => (EnvFilter::new(DEFAULT), Some(error.to_string())),
    };
    let colour = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        // A console of Windows has to be told to take colours, and an old one has none; nothing to ask elsewhere.
        && anstyle_query::windows::enable_ansi_colors() != Some(false);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(crate::output::log)
        .with_target(false)
        .with_ansi(colour)
        .with_filter(filter.and(filter_fn(|metadata| !tells_secrets(metadata))));
    let _ = tracing_subscriber::registry().with(lines).try_init();
    if let Some(error) = error {
        warn!("RUST_LOG is not understood, and counts as not set: {error}");
    }
}

/// Whether a library's message may hold a secret, whatever `RUST_LOG` says: the ICE agent writes its passwords down, and
/// iroh's relay client that of a proxy.
fn tells_secrets(metadata: &Metadata<'_>) -> bool {
    const TELLERS: [&str; 2] = ["is::", "iroh_relay::client"];
    let target = metadata.target();
    *metadata.level() > Level::INFO && TELLERS.iter().any(|teller| target.starts_with(teller))
}

/// Writes a line for every event, until there can be no more.
pub async fn log_events(mut events: Receiver<Arc<Record>>) {
    loop {
        match events.recv().await {
            Ok(record) => log(&record.event),
            Err(RecvError::Lagged(lost)) => warn!("{lost} events happened too fast to be logged"),
            Err(RecvError::Closed) => return,
        }
    }
}

fn log(event: &Event) {
    match event {
        Event::SessionOpened { session, role, peer, identity, path } => {
            let path = path.as_ref().map(|path| format!(", path {path}")).unwrap_or_default();
            match (role, identity) {
                (Role::Server, Some(identity)) => {
                    info!("session open: {session}, client {identity}{path}");
                }
                _ => info!("session open: {session}, server {peer}{path}"),
            }
        }
        Event::SessionRefused { peer, code, detail } => {
            let detail = words(detail);
            warn!("client {peer} refused: {code}{detail}");
        }
        Event::PathChanged { session, path } => info!("session {session} path now {path}"),
        Event::SessionSuspended { session, why, flows, grace } => info!(
            "session suspended: {session}, {why}; {flows} flows wait for up to {} s",
            grace.as_secs()
        ),
        Event::SessionResumed { session, path, flows } => {
            let path = path.as_ref().map(|path| format!(", path {path}")).unwrap_or_default();
            info!("session resumed: {session}, {flows} flows go on{path}");
        }
        Event::SessionClosed { session, why, flows, sent, received } => {
            let why = match why {
                Lost::Local => "by this side".to_owned(),
                other => other.to_string(),
            };
            info!(
                "session closed: {session}, {why}; {flows} flows, {sent} B sent, {received} B received"
            );
        }
        Event::SourceRefused { session, source, refusal } => {
            warn!("session {session} would be refused {source}: {refusal}");
        }
        Event::FlowOpened { session, flow, source, request } => {
            let at = request.and_then(|request| request.addr());
            let at = at.map(|addr| format!(" at {addr}")).unwrap_or_default();
            info!("flow {flow} of {session} open: {source}{at}");
        }
        Event::FlowRefused { session, flow, source, refusal } => {
            warn!("flow {flow} of {session} refused: {source}: {refusal}");
        }
        Event::VpnOpened { session, flow, addresses, routes } => {
            let routes = if routes.is_empty() {
                String::new()
            } else {
                format!(", routes {}", list(routes))
            };
            info!("VPN flow {flow} of {session} open: addresses {}{routes}", list(addresses));
        }
        Event::VpnRefused { session, flow, refusal } => {
            warn!("VPN flow {flow} of {session} refused: {refusal}");
        }
        Event::VpnClosed { session, flow, why, sent, received } => {
            info!(
                "VPN flow {flow} of {session} closed: {why}; {sent} B sent, {received} B received"
            );
        }
        Event::FlowClosed { session, flow, source, why, sent, received } => {
            info!(
                "flow {flow} of {session} closed: {source}, {why}; {sent} B sent, {received} B received"
            );
        }
    }
}

fn list(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A peer's words, made safe for a terminal.
fn words(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {}", detail.escape_debug()) }
}
