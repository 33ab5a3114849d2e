use std::future::Future;

use iroh::{EndpointId, Watcher};
use tunnel_model::protocol::ALPN;
use tunnel_session::client::{DialError, Dialer};

use crate::endpoint::{chain, require_post_quantum};
use crate::{Endpoint, IrohConnection, Ticket};

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
        let addr = self.endpoint.address_of(self.server, self.ticket.as_ref());
        let connection = self.endpoint.inner.connect(addr, ALPN).await.map_err(|error| {
            let message = format!("cannot connect to {server}: {}", chain(&error));
            DialError { message, fatal: self.server == self.endpoint.id() }
        })?;
        let connection =
            IrohConnection::new(connection, self.endpoint.id(), self.endpoint.relays.clone());
        require_post_quantum(&connection).map_err(|()| DialError {
            message: format!("{server} offers no post-quantum key exchange: update the server"),
            fatal: true,
        })?;
        Ok(connection)
    }

    fn network_changed(&self) -> impl Future<Output = ()> + Send {
        let mut addresses = self.endpoint.inner.watch_addr();
        async move {
            if addresses.updated().await.is_err() {
                // The endpoint is closed: nothing will change any more.
                std::future::pending::<()>().await;
            }
        }
    }
}
