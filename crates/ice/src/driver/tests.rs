//! Two drivers against each other, over a simulated internet.

use std::time::Duration;

mod choice;
mod connect;
mod host;
mod hostile;
mod loss;
mod nat;
mod network;
mod pace;
mod roaming;

use host::State;
use nat::NatKind;
use network::{A, B, Family, Link, Network, SiteId};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The offering side in as many networks as there are kinds, the answering one in one more.
fn network(
    title: impl Into<String>,
    seed: u64,
    offering: &[NatKind],
    answering: NatKind,
) -> (Network, Vec<SiteId>, SiteId) {
    let mut network = Network::new(title, seed);
    let sites: Vec<_> = offering.iter().map(|kind| network.add_site(*kind)).collect();
    for site in &sites {
        network.attach(A, *site, Family::V4);
    }
    let other = network.add_site(answering);
    network.attach(B, other, Family::V4);
    (network, sites, other)
}

impl Network {
    /// Introduces the hosts to each other, and waits until both have a path.
    fn connect(&mut self) {
        self.introduce(ms(100));
        self.expect_paths(secs(2));
    }

    fn expect_paths(&mut self, limit: Duration) -> Duration {
        let took = self.run_until(limit, |network| network.both_are(State::Up));
        took.unwrap_or_else(|| panic!("no path on both sides within {limit:?}"))
    }
}
