//! The end of a server that lets what is open come to its own end first.

use tunnel_session::server::Server;

use crate::signals::Ending;

/// Once the process has been told to drain, lets `server` take nothing new, and ends in order when nothing is left of what
/// it had or the time for it is over. Given up with `ending`.
pub fn on_request(ending: &Ending, server: &Server) {
    let (ending, server) = (ending.clone(), server.clone());
    tokio::spawn(async move {
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
    });
}
