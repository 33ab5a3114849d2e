//! Mappings that end once nothing has passed by them for a while.

use std::{
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Error, Result, netns::Namespace, process::run};

/// How often mappings are looked for that have been idle for too long.
const SWEEP: Duration = Duration::from_millis(500);

/// For `conntrack`, which takes milliseconds on an idle machine.
const SWEEP_LIMIT: Duration = Duration::from_secs(30);

/// What ends idle mappings of a router, for as long as it lives.
#[derive(Debug)]
pub(super) struct Idle {
    end: Option<mpsc::Sender<()>>,
    sweeper: Option<JoinHandle<()>>,
}

impl Idle {
    /// For a router with a NAT that does not keep ports. UDP mappings that were made before have their time still.
    pub(super) fn start(router: Arc<Namespace>, seconds: u32) -> Result<Self> {
        // Of flows in one direction, and of those that were answered (nf_conntrack-sysctl).
        for timeout in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            router.sysctl(&format!("net.netfilter.{timeout}"), &seconds.to_string())?;
        }
        let (end, ended) = mpsc::channel();
        // A mapping that has timed out lends its port to the next one of the same inner endpoint until the kernel
        // removes it, which may be a minute later, or when it comes by it as it lists all
        // (find_appropriate_src of nf_nat_core.c, ctnetlink_dump_table of nf_conntrack_netlink.c).
        let sweep = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(SWEEP) {
                let mut command = router.command("conntrack");
                if run(command.args(["-L", "-p", "udp"]), SWEEP_LIMIT).is_err() {
                    break;
                }
            }
        };
        let sweeper = thread::Builder::new().spawn(sweep);
        let sweeper = sweeper.map_err(Error::io("start a thread for mappings that are idle"))?;
        Ok(Self { end: Some(end), sweeper: Some(sweeper) })
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(sweeper) = self.sweeper.take() {
            let _ = sweeper.join();
        }
    }
}
