use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tunnel_cli::{Failure, Outcome};
use tunnel_ice::{AcceptError, Accepting, Endpoint, IceConnection};
use tunnel_model::CloseCode;
use tunnel_session::server::Server;
use tunnel_session::transport::Connection as _;

/// Handshakes at once. The one client has two connections at most; whoever else knows the blocks can begin handshakes,
/// and finish none.
const HANDSHAKES: usize = 8;

/// What stands of an endpoint's one client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// It has connected.
    pub(super) ever: bool,
    /// Connections that are being served.
    pub(super) now: usize,
}

/// Serves the connections of an endpoint's one client.
pub(super) struct Acceptor<F> {
    endpoint: Endpoint,
    server: Server,
    /// Whether the client is let in that told this first.
    admits: F,
    standing: watch::Sender<Standing>,
}

type Completed = Result<(IceConnection, Option<[u8; 16]>), AcceptError>;

impl<F: Fn(Option<[u8; 16]>) -> bool + Send + Sync> Acceptor<F> {
    pub(super) fn new(endpoint: Endpoint, server: Server, admits: F) -> Self {
        Self { endpoint, server, admits, standing: watch::Sender::default() }
    }

    /// What stands, and when that changes.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Runs until the client says that it ends, or `shutdown`.
    pub(super) async fn run(&self, shutdown: &CancellationToken) -> Outcome {
        let mut handshakes: JoinSet<Completed> = JoinSet::new();
        let mut sessions = JoinSet::new();
        loop {
            tokio::select! {
                accepting = self.endpoint.accept(), if handshakes.len() < HANDSHAKES => {
                    let Some(accepting) = accepting else { return Ok(()) };
                    handshakes.spawn(Accepting::complete(accepting));
                }
                Some(completed) = handshakes.join_next() => match completed {
                    Ok(Ok((connection, part))) => self.serve(connection, part, &mut sessions, shutdown)?,
                    Ok(Err(AcceptError::UnknownPeer)) => tracing::warn!(
                        "somebody connects with another certificate than the client's: if it is the client, what it told \
                         was altered on its way"
                    ),
                    Ok(Err(AcceptError::Rejected)) => tracing::warn!(
                        "somebody does not take this side's certificate for the one that it was told: if it is the \
                         client, what this side told was altered on its way"
                    ),
                    Ok(Err(error)) => tracing::debug!("a connection came to nothing: {error}"),
                    Err(error) => tracing::error!("a handshake's task failed: {error}"),
                },
                Some(ended) = sessions.join_next() => {
                    let now = sessions.len();
                    self.standing.send_modify(|standing| standing.now = now);
                    match ended {
                        // A connection beside a silent one ends, too, while the other lives on.
                        Ok(true) if now == 0 => return Ok(()),
                        Ok(_) => {}
                        Err(error) => tracing::error!("a session's task failed: {error}"),
                    }
                }
                () = shutdown.cancelled() => break,
            }
        }
        drop(handshakes);
        // Each tells the client and says so in the log.
        while sessions.join_next().await.is_some() {}
        Ok(())
    }

    /// Serves one connection in a task that tells whether the client has ended.
    fn serve(
        &self,
        connection: IceConnection,
        part: Option<[u8; 16]>,
        sessions: &mut JoinSet<bool>,
        shutdown: &CancellationToken,
    ) -> Outcome {
        if !(self.admits)(part) {
            connection.close(CloseCode::UnknownPeer, "the hello does not fit the offer");
            let text =
                "the client does not keep to its offer: the blocks were altered on their way";
            return Err(Failure::Refused(text.to_owned()));
        }
        let (server, shutdown) = (self.server.clone(), shutdown.clone());
        sessions.spawn(async move {
            server.serve(connection.clone(), None, shutdown.cancelled()).await;
            connection.was_ended_by_peer()
        });
        let now = sessions.len();
        self.standing.send_replace(Standing { ever: true, now });
        Ok(())
    }
}
