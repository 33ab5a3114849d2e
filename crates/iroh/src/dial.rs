use std::future::Future;
use std::time::Duration;

use iroh::{EndpointId, Watcher};
use tunnel_model::protocol::ALPN;
use tunnel_session::client::{DialError, Dialer};
use tunnel_session::limits::ATTEMPT;

use crate::endpoint::{chain, require_post_quantum};
use crate::{Endpoint, IrohConnection, Ticket};

/// How long an attempt takes at first, and at most, where the relay is behind Tor: a stream to it takes several circuits,
/// and each round trip a second or two.
const TOR_ATTEMPT: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));

/// Dials one server from an endpoint.
#[derive(Clone, Debug)]
pub struct IrohDialer {
    endpoint: Endpoint,
    server: EndpointId,
    ticket: Option<Ticket>,
}

impl IrohDialer {
    /// A dialer for `server`, which a ticket may help to find.
    pub fn new(endpoint: Endpoint, server: EndpointId, ticket: Option<Ticket>) -> Self {
        Self { endpoint, server, ticket }
    }

    /// The endpoint that dials.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl Dialer for IrohDialer {
    type Connection = IrohConnection;

    async fn dial(&self) -> Result<IrohConnection, DialError> {
        let server = self.server.fmt_short();
        let failed = |why: String, fatal| DialError {
            message: format!("cannot connect to {server}: {why}"),
            fatal,
        };
        let closed = || failed("this endpoint is closed".to_owned(), true);
        let to_itself = self.server == self.endpoint.id();
        let connection = loop {
            let replaced = self.endpoint.replaced();
            let endpoint = self.endpoint.ready().await.ok_or_else(closed)?;
            let addr = self.endpoint.address_of(self.server, self.ticket.as_ref());
            tokio::select! {
                connection = endpoint.connect(addr, ALPN) => break connection,
                // The fresh one waits for the ports that this one holds.
                () = replaced => {}
            }
        };
        let connection = connection.map_err(|error| {
            let why = match self.endpoint.tor_failure() {
                Some(why) => format!("{}; relay {why}", chain(&error)),
                None => chain(&error),
            };
            failed(why, to_itself)
        })?;
        let connection = self.endpoint.connection(connection);
        require_post_quantum(&connection).map_err(|()| DialError {
            message: format!("{server} offers no post-quantum key exchange: update the server"),
            fatal: true,
        })?;
        Ok(connection)
    }

    fn attempt_limits(&self) -> (Duration, Duration) {
        if self.endpoint.uses_tor() { TOR_ATTEMPT } else { ATTEMPT }
    }

    /// iroh sends the first packets of a connection by the path that another one to the same endpoint has selected, and
    /// by no other, until that one has ended.
    fn is_hindered_by_silent(&self) -> bool {
        true
    }

    fn network_changed(&self) -> impl Future<Output = ()> + Send {
        let addresses = self.endpoint.present().map(|endpoint| endpoint.watch_addr());
        let replaced = self.endpoint.replaced();
        async move {
            let changed = async {
                let updated = match addresses {
                    Some(mut addresses) => addresses.updated().await.is_ok(),
                    None => false,
                };
                if !updated {
                    // The endpoint is closed: nothing will change any more.
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = changed => {}
                () = replaced => {}
            }
        }
    }
}
