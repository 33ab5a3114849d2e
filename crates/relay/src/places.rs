//! How many connections each address may have, and how fast it may publish.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Records that an address may publish at once, and seconds until it may publish one more. An endpoint publishes at its
/// start, when its addresses change, and every 5 minutes.
const PUBLISH: (f64, f64) = (60.0, 1.0);

/// Addresses whose rate is remembered; beyond it those that have been quiet are forgotten.
const REMEMBERED: usize = 10_000;

/// Whom a limit counts: an IPv4 address, or the half of an IPv6 address that names a network (RFC 4291 section 2.5.4):
/// the other half is its owner's to choose.
fn subject(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let network = u128::from(ip) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(network))
        }
        v4 => v4,
    }
}

/// Whether an address is one's own network's, where a reverse proxy may stand for everybody.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// Counts the connections of each address. Loopback is not counted: a reverse proxy there stands for everybody.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A connection's place; free again when dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<(Arc<Places>, IpAddr)>);

impl Places {
    /// At most `limit` connections of an address; 0 is no limit.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, taken: Mutex::default() })
    }

    /// A place for a connection from this address, if there is one.
    pub(crate) fn take(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        if self.limit == 0 || ip.to_canonical().is_loopback() {
            return Some(Place(None));
        }
        let subject = subject(ip);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(subject).or_default();
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        Some(Place(Some((Arc::clone(self), subject))))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((places, subject)) = self.0.take() else { return };
        let mut taken = places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&subject) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&subject);
            }
        }
    }
}

/// Bounds how fast each address stores records. Private addresses are free.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<HashMap<IpAddr, (f64, Instant)>>);

impl Pace {
    /// Whether this address may publish now.
    pub(crate) fn allows(&self, ip: IpAddr, now: Instant) -> bool {
        if is_private(ip) {
            return true;
        }
        let (burst, seconds) = PUBLISH;
        let refilled = |(left, at): (f64, Instant)| {
            (left + now.saturating_duration_since(at).as_secs_f64() / seconds).min(burst)
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.retain(|_, state| refilled(*state) < burst);
        }
        let state = known.entry(subject(ip)).or_insert((burst, now));
        *state = (refilled(*state), now);
        if state.0 < 1.0 {
            return false;
        }
        state.0 -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(2);
        let (first, _second) = (places.take(ip("192.0.2.1")), places.take(ip("::ffff:192.0.2.1")));
        assert!(places.take(ip("192.0.2.1")).is_none());
        assert!(places.take(ip("192.0.2.2")).is_some(), "another address");
        drop(first);
        assert!(places.take(ip("192.0.2.1")).is_some());
    }

    #[test]
    fn an_ipv6_network_counts_as_one_and_loopback_not_at_all() {
        let places = Places::new(1);
        let _one = places.take(ip("2001:db8:0:1::1"));
        assert!(places.take(ip("2001:db8:0:1:ffff::2")).is_none());
        assert!(places.take(ip("2001:db8:0:2::1")).is_some());
        let many: Vec<_> = (0..9).map(|_| places.take(ip("127.0.0.1"))).collect();
        assert!(many.iter().all(Option::is_some));
        let free = Places::new(0);
        let many: Vec<_> = (0..9).map(|_| free.take(ip("192.0.2.1"))).collect();
        assert!(many.iter().all(Option::is_some));
    }

    #[test]
    fn publishing_is_bounded_and_recovers() {
        let (pace, start) = (Pace::default(), Instant::now());
        let allowed = (0..100).filter(|_| pace.allows(ip("192.0.2.1"), start)).count();
        assert_eq!(allowed, 60);
        assert!(pace.allows(ip("192.0.2.2"), start));
        assert!((0..100).all(|_| pace.allows(ip("10.0.0.1"), start)));
        let later = start + Duration::from_secs(2);
        let allowed = (0..100).filter(|_| pace.allows(ip("192.0.2.1"), later)).count();
        assert_eq!(allowed, 2);
    }
}
