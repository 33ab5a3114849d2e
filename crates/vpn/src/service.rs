//! A server's VPN as sessions see it: who gets which address, and whose place somebody takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio_util::sync::CancellationToken;
use tunnel_model::protocol::{Reason, Refusal, VpnOpened};
use tunnel_session::vpn::{Applicant, Entry, VpnServer};

use crate::engine::PeerId;
use crate::join::{Handle, Member};
use crate::pool::{LeaseId, Pool};
use crate::wireguard::{End, PresharedKey, PrivateKey, PublicKey, Tunnel};

/// Gives addresses to clients and brings them into the VPN; cheap to clone.
#[derive(Clone)]
pub struct VpnService(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    join: Handle,
    mtu: u16,
}

struct State {
    pool: Pool,
    /// Who is told that another one has its addresses.
    present: HashMap<LeaseId, CancellationToken>,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl VpnService {
    /// Gives out the addresses of `pool`; packets go to the task of `join`, over a device with this MTU, in bytes.
    pub fn new(pool: Pool, join: Handle, mtu: u16) -> Self {
        let state = State { pool, present: HashMap::new() };
        Self(Arc::new(Inner { state: Mutex::new(state), join, mtu }))
    }
}

impl VpnServer for VpnService {
    fn enter(&self, client: Applicant<'_>) -> Result<Entry, Refusal> {
        let inner = &self.0;
        let failed =
            |error: &dyn ToString| Refusal { reason: Reason::Other, detail: error.to_string() };
        let key = PrivateKey::generate().map_err(|error| failed(&error))?;
        let mut state = inner.state();
        let lease = state
            .pool
            .assign(Instant::now(), client.peer)
            .map_err(|full| Refusal { reason: Reason::NoAddress, detail: full.to_string() })?;
        // Told in the order in which they are decided, so that no two peers ever have one address.
        if let Some(earlier) = lease.replaces {
            inner.join.remove(PeerId(earlier.0));
            if let Some(replaced) = state.present.remove(&earlier) {
                replaced.cancel();
            }
        }
        let public_key = key.public().0;
        let preshared = client.secret.preshared_key(client.public_key, &public_key);
        let peer = PublicKey(*client.public_key);
        let member = Member {
            name: format!("client {}", client.identity),
            tunnel: Tunnel::new(&key, peer, &PresharedKey::new(*preshared), End::Responder),
            networks: lease.hosts(),
            reach: client.routes.to_vec(),
            carrier: client.carrier,
        };
        inner.join.add(PeerId(lease.id.0), member);
        let replaced = CancellationToken::new();
        state.present.insert(lease.id, replaced.clone());
        let server = state.pool.server_addresses().iter().map(ipnet::IpNet::addr).collect();
        let opened = VpnOpened { public_key, addresses: lease.addresses, server, mtu: inner.mtu };
        Ok(Entry {
            opened,
            tag: lease.id.0,
            arrivals: inner.join.arrivals(),
            replaced,
            place: Box::new(Place { inner: inner.clone(), lease: lease.id }),
        })
    }
}

/// A client's addresses, given back when dropped.
struct Place {
    inner: Arc<Inner>,
    lease: LeaseId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        if state.present.remove(&self.lease).is_some() {
            self.inner.join.remove(PeerId(self.lease.0));
        }
        state.pool.release(Instant::now(), self.lease);
    }
}
