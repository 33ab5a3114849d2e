//! A relay of iroh without TLS, as one stands behind an onion service.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::mpsc,
    thread::{self, JoinHandle},
    time::Duration,
};

use iroh_relay::server::{RelayConfig, Server, ServerConfig};
use tokio::{runtime, sync::oneshot};

use crate::{Error, Result, enter::enter, netns::Namespace};

/// For a socket to be bound.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A relay on the loopback of a namespace, in a thread of the test; it ends with this value.
#[derive(Debug)]
pub struct HttpRelay {
    /// Where it listens.
    pub port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpRelay {
    /// Starts it on any free port.
    pub fn start(namespace: &Namespace) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = mpsc::channel();
        let thread = enter(namespace, || thread::spawn(move || serve(stopped, &ready)))?;
        let failed = |why: String| Error::io("start a relay")(std::io::Error::other(why));
        let started = started.recv_timeout(START_LIMIT);
        let address = started.map_err(|error| failed(error.to_string()))?.map_err(failed)?;
        Ok(Self { port: address.port(), stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for HttpRelay {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs the relay until it is to stop, and tells where it listens, or why it does not.
fn serve(
    stopped: oneshot::Receiver<()>,
    ready: &mpsc::Sender<std::result::Result<SocketAddr, String>>,
) {
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = ready.send(Err(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        let mut config = ServerConfig::default();
        config.relay = Some(RelayConfig::new((Ipv4Addr::LOCALHOST, 0)));
        let server = Server::spawn(config).await;
        let address = match &server {
            Ok(server) => server.http_addr().ok_or_else(|| "it has no socket".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        };
        let _ = ready.send(address);
        let _ = stopped.await;
    });
}
