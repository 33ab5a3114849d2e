//! The end of a server that lets what is open come to its own end first.

use tokio::task::JoinHandle;
use tunnel_session::server::Server;

use crate::signals::Ending;

/// Waits to be told to drain, until it is dropped.
#[must_use = "without it nothing drains"]
#[derive(Debug)]
pub struct Draining(JoinHandle<()>);

impl Drop for Draining {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Once the process has been told to drain, lets `server` take nothing new, and ends in order when nothing is left of what
/// it had or the time for it is over. Given up when dropped: until then it holds the server.
pub fn on_request(ending: &Ending, server: &Server) -> Draining {
    let (ending, server) = (ending.clone(), server.clone());
    Draining(tokio::spawn(async move {
        let drained = async {
            ending.drain.cancelled().await;
            server.drain();
            server.drained().await;
        };
        tokio::select! {
            () = drained => {
                tracing::info!("drained: no flow is open any more");
                ending.end.cancel();
            }
            () = ending.end.cancelled() => {}
        }
    }))
}
