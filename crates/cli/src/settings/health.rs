use std::net::SocketAddr;

use clap::Args;

/// Where health and metrics are told, by a flag.
#[derive(Args, Debug, Default)]
pub struct HealthArgs {
    /// Where to tell health (/livez, /readyz) and Prometheus metrics (/metrics) over HTTP, to everybody who asks [default: nowhere]
    #[arg(long, value_name = "ADDR:PORT", env = "TUNNEL_RS_HEALTH_ADDR")]
    health_addr: Option<SocketAddr>,
}

impl HealthArgs {
    /// The flag's address, or else that of the file.
    pub fn resolve(&self, file: Option<SocketAddr>) -> Option<SocketAddr> {
        self.health_addr.or(file)
    }
}
