use iroh_metrics::{Counter, Gauge, MetricsGroup};

/// What the libraries below do not count.
#[derive(Debug, Default, MetricsGroup)]
#[metrics(name = "tunnel_relay")]
pub(crate) struct Metrics {
    /// Clients of the relay at the moment.
    #[metrics(help = "Clients of the relay at the moment.")]
    pub(crate) clients: Gauge,
    /// Clients that the rules have kept out.
    #[metrics(help = "Clients that the rules have kept out.")]
    pub(crate) clients_refused: Counter,
    /// Connections that were closed at once because their address had as many as it may have.
    #[metrics(help = "Connections closed because their address had as many as it may have.")]
    pub(crate) connections_over_limit: Counter,
    /// Records that the discovery server did not take.
    #[metrics(help = "Records that the discovery server did not take.")]
    pub(crate) records_refused: Counter,
}
