//! Health and metrics of a server or a client, on an address of their own.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tunnel_health::Report;
use tunnel_session::Traffic;
use tunnel_session::client::Notice;
use tunnel_session::events::Events;

use crate::metrics::Metrics;
use crate::output::print;
use crate::{Failure, Outcome};

/// Where a process tells how it is, if anywhere; it ends when dropped.
pub struct Health {
    telling: Option<Telling>,
}

struct Telling {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.task.abort();
        // What is looked at may hold the events, and those wait for everybody to let go of them.
        let looks = self.shared.looks().take();
        drop(looks);
    }
}

struct Shared {
    metrics: Arc<Metrics>,
    looks: Mutex<Option<Looks>>,
}

/// Where the answers come from.
struct Looks {
    unready: Box<dyn Fn() -> Option<String> + Send>,
    traffic: Box<dyn Fn() -> Traffic + Send>,
}

impl Shared {
    fn looks(&self) -> MutexGuard<'_, Option<Looks>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn why_unready(&self) -> Option<String> {
        match &*self.looks() {
            Some(looks) => (looks.unready)(),
            None => Some("starting".to_owned()),
        }
    }

    /// Whether it is ready, and its payload.
    fn look(&self) -> (bool, Traffic) {
        let ready = self.why_unready().is_none();
        (ready, self.looks().as_ref().map(|looks| (looks.traffic)()).unwrap_or_default())
    }
}

impl Report for Shared {
    async fn unready(&self) -> Option<String> {
        self.why_unready()
    }

    fn metrics(&self) -> String {
        self.metrics.text()
    }
}

impl Health {
    /// Tells at `address`, where one is given, and prints it: port 0 takes any free one. Not ready until
    /// [`Health::follow`] says what that means. `version` is the program's.
    ///
    /// # Errors
    ///
    /// Where that address cannot be listened on.
    pub async fn start(address: Option<SocketAddr>, version: &'static str) -> Outcome<Self> {
        let Some(address) = address else { return Ok(Self { telling: None }) };
        let failed = |error: std::io::Error| {
            Failure::Failed(format!("cannot listen on {address} for --health-addr: {error}"))
        };
        let listener = tunnel_health::listen(address).await.map_err(failed)?;
        let at = listener.local_addr().map_err(failed)?;
        print(&format!("Health: http://{at}"))?;
        let metrics = Arc::new(Metrics::new(version));
        let shared = Arc::new(Shared { metrics, looks: Mutex::default() });
        let of = Arc::downgrade(&shared);
        shared
            .metrics
            .look_up(move || of.upgrade().map(|shared| shared.look()).unwrap_or_default());
        let serving = tunnel_health::serve(listener, shared.clone(), CancellationToken::new());
        Ok(Self { telling: Some(Telling { shared, task: tokio::spawn(serving) }) })
    }

    /// Events that are counted.
    pub fn events(&self) -> Events {
        match &self.telling {
            Some(telling) => Events::observed(telling.shared.metrics.clone()),
            None => Events::default(),
        }
    }

    /// From here on asks `unready` why the process is of no use, if so, and `traffic` for its payload. Both are dropped
    /// with this, and must not take long.
    pub fn follow(
        &self,
        unready: impl Fn() -> Option<String> + Send + 'static,
        traffic: impl Fn() -> Traffic + Send + 'static,
    ) {
        if let Some(telling) = &self.telling {
            let looks = Looks { unready: Box::new(unready), traffic: Box::new(traffic) };
            *telling.shared.looks() = Some(looks);
        }
    }

    /// A listener to what a link tells, which counts failed attempts before `then` has it.
    pub fn counting(
        &self,
        then: impl Fn(Notice) + Send + Sync + 'static,
    ) -> impl Fn(Notice) + Send + Sync + 'static {
        let metrics = self.telling.as_ref().map(|telling| telling.shared.metrics.clone());
        move |notice| {
            if let (Some(metrics), Notice::Retrying { .. }) = (&metrics, &notice) {
                metrics.attempt_failed();
            }
            then(notice);
        }
    }
}
