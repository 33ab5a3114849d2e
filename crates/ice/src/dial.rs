use std::future::Future;

use tunnel_session::client::{DialError, Dialer};

use crate::{Endpoint, IceConnection, PathState};

/// Dials the peer of an endpoint.
#[derive(Clone, Debug)]
pub struct IceDialer {
    endpoint: Endpoint,
}

impl IceDialer {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }
}

impl Dialer for IceDialer {
    type Connection = IceConnection;

    async fn dial(&self) -> Result<IceConnection, DialError> {
        if self.endpoint.was_ended_by_peer() {
            // Its certificate went with it.
            let message = "the server has ended the session".to_owned();
            return Err(DialError { message, fatal: true });
        }
        self.endpoint.dial().await
    }

    fn network_changed(&self) -> impl Future<Output = ()> + Send {
        let mut path = self.endpoint.path();
        async move {
            // Only what comes from here on is a change.
            path.mark_unchanged();
            loop {
                if path.changed().await.is_err() {
                    // The endpoint is closed: nothing will change any more.
                    std::future::pending::<()>().await;
                }
                if matches!(*path.borrow_and_update(), PathState::Up(_)) {
                    return;
                }
            }
        }
    }
}
