//! What a client does that its relay keeps out.

use std::sync::Arc;
use std::time::Duration;

use tunnel_cli::Failure;
use tunnel_iroh::{Endpoint, IrohDialer, Standing};
use tunnel_session::client::Link;
use tunnel_session::transport::Connection as _;

/// For a session that needs no relay to open: a direct path on the same network is found in less.
const WITHOUT_RELAY: Duration = Duration::from_secs(5);

/// For the link to notice that its session has ended.
const NOTICED: Duration = Duration::from_secs(1);

/// Says that the relay keeps this client out, and ends where there is no session and none comes without the relay. Where one
/// came, its server is near, and may be away for a while.
pub(super) async fn hopeless(endpoint: &Endpoint, link: Arc<Link<IrohDialer>>) -> Failure {
    let mut needless = false;
    loop {
        let refusal = endpoint.refused().await;
        tracing::warn!("{refusal}");
        let connection = if needless {
            link.up().await
        } else if let Ok(connection) = tokio::time::timeout(WITHOUT_RELAY, link.up()).await {
            connection
        } else if let Standing::Refused(refusal) = endpoint.present_standing() {
            return Failure::Refused(refusal.to_string());
        } else {
            continue;
        };
        needless = true;
        tracing::warn!("going on without the relay, as there is a direct path");
        connection.closed().await;
        tokio::time::sleep(NOTICED).await;
    }
}

/// Says on a server what its relay says that keeps it out, each time anew. It can still be reached directly, and the
/// relay's rules can change.
pub(super) async fn warn(endpoint: Endpoint) {
    loop {
        let refusal = endpoint.refused().await;
        tracing::warn!("{refusal}: until that changes, clients must reach this machine directly");
        if let Standing::Relay(url) = endpoint.online().await {
            tracing::info!("relay {url} answers");
        }
    }
}
