use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tunnel_cli::rules::{Look, keep_fresh};
use tunnel_cli::signals::Reload;
use tunnel_cli::{Failure, Outcome};
use tunnel_model::Policy;

use crate::config::server::RuleSource;

/// A server's rules, read again when the file that they come from changes, for as long as this lives.
pub(super) struct Rules {
    present: watch::Sender<Arc<Policy>>,
    fresh: Option<JoinHandle<()>>,
}

impl Drop for Rules {
    fn drop(&mut self) {
        if let Some(fresh) = &self.fresh {
            fresh.abort();
        }
    }
}

impl Rules {
    /// Reads the rules for the first time.
    pub(super) fn follow(source: RuleSource) -> Outcome<Self> {
        let look = Look::at(&source.files());
        let policy = source.load()?;
        if policy.allowed().tcp.is_empty() && policy.allowed().udp.is_empty() {
            tracing::warn!("nothing may be reached: give --allowed-tcp CIDR or --allowed-udp CIDR");
        }
        let present = watch::Sender::new(Arc::new(policy));
        // Without a file there is nothing to read again, and a hang-up ends this as it ends other programs.
        let fresh = if source.files().is_empty() {
            None
        } else {
            let reload = Reload::new().map_err(Failure::failed)?;
            let again = source.clone();
            let (files, load) = (move || source.files(), move || again.load());
            Some(tokio::spawn(keep_fresh(present.clone(), reload, look, files, load)))
        };
        Ok(Self { present, fresh })
    }

    /// The rules of the moment, and all that follow.
    pub(super) fn watch(&self) -> watch::Receiver<Arc<Policy>> {
        self.present.subscribe()
    }
}
