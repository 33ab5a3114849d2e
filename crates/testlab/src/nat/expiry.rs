//! Mappings that end after a fixed time, however busy they are.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{Error, Result, netns::Namespace, process::Proc};

/// For `conntrack`, which takes milliseconds on an idle machine.
const FLUSH_LIMIT: Duration = Duration::from_secs(30);

/// Each generation of mappings has its ports from a range of its own, so that none gets the port it had.
const RANGE: u32 = 1000;

/// How many ranges there are before the first one is used again.
const RANGES: u32 = 40;

/// The first port of the first range.
const FIRST_PORT: u32 = 20_000;

/// What makes the mappings of an `Expiring` NAT expire, for as long as it lives.
#[derive(Debug)]
pub struct Expiry {
    mappings: Arc<Mappings>,
    end: Option<mpsc::Sender<()>>,
    clock: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Mappings {
    router: Arc<Namespace>,
    uplink: &'static str,
    address: Ipv4Addr,
    /// How many generations of mappings have expired.
    expired: Mutex<u32>,
}

impl Expiry {
    /// The lifetime of a mapping that nothing prolongs. RFC 4787 (REQ-5 and REQ-6) forbids both, an end after
    /// less than two minutes and one that outgoing packets do not put off; carriers do it nevertheless (iroh
    /// issue 4424: direct paths that drop every 50 to 75 s).
    pub const LIFETIME: Duration = Duration::from_secs(60);

    /// For a router that has the rules of generation 0.
    pub(super) fn start(
        router: Arc<Namespace>,
        uplink: &'static str,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let mappings = Arc::new(Mappings { router, uplink, address, expired: Mutex::new(0) });
        let (end, ended) = mpsc::channel();
        let expiring = Arc::clone(&mappings);
        let clock = move || {
            while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(Self::LIFETIME) {
                if expiring.expire().is_err() {
                    break;
                }
            }
        };
        let clock = thread::Builder::new().spawn(clock);
        let clock = clock.map_err(Error::io("start a thread for mappings that expire"))?;
        Ok(Self { mappings, end: Some(end), clock: Some(clock) })
    }

    /// Ends all mappings for UDP at this moment. The next packet of each inner endpoint gets another port.
    pub fn expire_now(&self) -> Result<()> {
        self.mappings.expire()
    }

    /// Stops the clock: from now on mappings expire by `expire_now` alone.
    pub(crate) fn stop_clock(&mut self) {
        drop(self.end.take());
        if let Some(clock) = self.clock.take() {
            let _ = clock.join();
        }
    }

    /// How often all mappings have expired.
    pub fn count(&self) -> u32 {
        *self.mappings.expired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Expiry {
    fn drop(&mut self) {
        self.stop_clock();
    }
}

impl Mappings {
    /// Flows that are open keep their port until conntrack forgets them, so the rules change first.
    fn expire(&self) -> Result<()> {
        let mut expired = self.expired.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = rules(self.uplink, self.address, *expired + 1);
        let added = rules.map(|rule| format!("add rule ip nat postrouting {rule}\n"));
        self.router.nft(&format!("flush chain ip nat postrouting\n{}", added.concat()))?;
        *expired += 1;
        let mut command = self.router.command("conntrack");
        let flush = Proc::spawn(command.args(["-D", "-f", "ipv4", "-p", "udp"]))?;
        let status = flush.wait_exit(FLUSH_LIMIT)?;
        // It calls it a failure that there was nothing to delete.
        if status.success() || flush.output().contains(": 0 flow entries have been deleted") {
            return Ok(());
        }
        Err(Error::Failed { command: format!("{command:?}"), status, output: flush.output() })
    }
}

/// The rules of the postrouting chain for a generation of mappings.
///
/// Within a range netfilter takes, for another peer of the same inner endpoint, the port that it has already
/// (`find_appropriate_src` of nf_nat_core.c), which makes the mapping independent of the peer.
pub(super) fn rules(uplink: &str, address: Ipv4Addr, generation: u32) -> [String; 2] {
    let first = FIRST_PORT + RANGE * (generation % RANGES);
    let last = first + RANGE - 1;
    [
        format!("oif {uplink} meta l4proto udp snat to {address}:{first}-{last}"),
        format!("oif {uplink} masquerade"),
    ]
}
