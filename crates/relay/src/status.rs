//! Health and metrics of the relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh_metrics::Registry;
use iroh_metrics::encoding::encode_openmetrics_eof;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tunnel_health::Report;

/// For each socket that is looked after.
const ANSWER: Duration = Duration::from_secs(2);

/// What is looked at.
pub(crate) struct Status {
    pub(crate) registry: Registry,
    /// What must take connections, and what it is called.
    pub(crate) sockets: Arc<[(&'static str, SocketAddr)]>,
}

impl Report for Status {
    async fn unready(&self) -> Option<String> {
        for (name, address) in self.sockets.iter() {
            if !matches!(timeout(ANSWER, TcpStream::connect(address)).await, Ok(Ok(_))) {
                return Some(format!("{name} does not answer"));
            }
        }
        None
    }

    fn metrics(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.registry.encode_openmetrics_to_writer(&mut text);
        let _ = encode_openmetrics_eof(&mut text);
        text
    }
}
