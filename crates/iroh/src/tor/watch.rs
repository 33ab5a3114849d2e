//! What is watched while an endpoint reaches its relays through Tor.

use futures_util::StreamExt;
use iroh::{RelayMap, Watcher};
use tunnel_session::transport::{Connection, PathKind};

use super::Gate;
use crate::IrohConnection;

/// Makes the endpoint choose its home relay as soon as one is within reach, until it is closed. By itself it would look
/// again half a minute after a first look for which Tor was too slow.
pub(crate) async fn choose_home_relay(endpoint: iroh::Endpoint, gate: Gate, relays: RelayMap) {
    loop {
        tokio::select! {
            () = endpoint.closed() => return,
            () = gate.reached() => {}
        }
        if endpoint.home_relay_status().get().is_empty()
            && let Some(config) = relays.relays::<Vec<_>>().pop()
        {
            // Nothing is changed by it, and the relays are measured anew.
            endpoint.insert_relay(config.url.clone(), config).await;
        }
    }
}

/// Says each direct path that a connection takes, until it ends.
pub(crate) async fn announce_direct_paths(connection: IrohConnection) {
    let mut paths = std::pin::pin!(connection.paths());
    let mut told = None;
    loop {
        let path = tokio::select! {
            path = paths.next() => path,
            _ = connection.closed() => return,
        };
        match path.map(|path| path.kind) {
            Some(PathKind::Direct(address)) if told != Some(address) => {
                tracing::warn!(
                    "direct path to {address}: this connection does not go through Tor now, and the other side \
                     sees this machine's address; --tor-only forbids it"
                );
                told = Some(address);
            }
            Some(_) => {}
            None => return,
        }
    }
}
