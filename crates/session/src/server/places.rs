//! Which sessions a server has, and who makes room for whom.

use std::any::Any;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;
use tunnel_model::CloseCode;

use super::Refused;
use crate::events::SessionId;
use crate::limits::{MAX_CONNECTIONS, MAX_HELD_SERVER};

/// Connections of one client process are one client, so that a second connection beside a silent one is not turned away.
#[derive(PartialEq, Eq, Hash, Clone)]
pub(super) struct Client {
    pub(super) peer: Vec<u8>,
    pub(super) instance: [u8; 16],
}

/// A session in the count.
struct Entry {
    id: SessionId,
    client: Client,
    superseded: CancellationToken,
    /// The session itself, whose type is the transport's, once it has begun.
    session: Option<Arc<dyn Any + Send + Sync>>,
    /// What it keeps in memory, while it is without a connection.
    away: Option<usize>,
}

/// All sessions of a server. Those without a connection stand in the order in which they lost it.
#[derive(Default)]
pub(super) struct Places(Arc<Mutex<Vec<Entry>>>);

/// Takes a session out of the count when it ends, however it ends.
pub(super) struct Place {
    places: Arc<Mutex<Vec<Entry>>>,
    id: SessionId,
    superseded: CancellationToken,
}

fn lock(places: &Mutex<Vec<Entry>>) -> MutexGuard<'_, Vec<Entry>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Places {
    /// How many clients there are.
    pub(super) fn clients(&self) -> usize {
        lock(&self.0).iter().map(|entry| &entry.client).collect::<HashSet<_>>().len()
    }

    /// How many other clients than `peer` have a connection.
    pub(super) fn present_besides(&self, peer: &[u8]) -> usize {
        let entries = lock(&self.0);
        let present = entries.iter().filter(|entry| entry.away.is_none());
        let others = present.map(|entry| &entry.client).filter(|client| client.peer != peer);
        others.collect::<HashSet<_>>().len()
    }

    /// The session with this id.
    pub(super) fn get(&self, id: SessionId) -> Option<Arc<dyn Any + Send + Sync>> {
        lock(&self.0).iter().find(|entry| entry.id == id)?.session.clone()
    }

    /// A place for a client's new session. One of the same client that is without a connection ends: the client has given
    /// it up. So does that which has been without one for longest, where there are `max` clients already; 0 is no limit.
    pub(super) fn enter(
        &self,
        id: SessionId,
        client: Client,
        max: usize,
    ) -> Result<Place, Refused> {
        let mut entries = lock(&self.0);
        for entry in entries.iter().filter(|entry| entry.client == client && entry.away.is_some()) {
            entry.superseded.cancel();
        }
        // Who has been told to make room has made it.
        let staying = entries.iter().filter(|entry| !entry.superseded.is_cancelled());
        let others = staying.map(|entry| &entry.client).filter(|other| **other != client);
        let others: HashSet<_> = others.collect();
        if max != 0 && others.len() >= max {
            let longest_away = entries
                .iter()
                .find(|entry| entry.away.is_some() && !entry.superseded.is_cancelled())
                .ok_or_else(|| Refused::new(CloseCode::Full, format!("at most {max}")))?;
            longest_away.superseded.cancel();
        }
        let own = entries.iter().filter(|entry| entry.client == client);
        let own: Vec<_> = own.filter(|entry| !entry.superseded.is_cancelled()).collect();
        if own.len() >= MAX_CONNECTIONS
            && let Some(oldest) = own.first()
        {
            oldest.superseded.cancel();
        }
        let superseded = CancellationToken::new();
        entries.push(Entry {
            id,
            client,
            superseded: superseded.clone(),
            session: None,
            away: None,
        });
        Ok(Place { places: self.0.clone(), id, superseded })
    }

    /// Notes that the session has a connection.
    pub(super) fn present(&self, id: SessionId) {
        if let Some(entry) = lock(&self.0).iter_mut().find(|entry| entry.id == id) {
            entry.away = None;
        }
    }

    /// Notes that the session is without a connection and keeps so many bytes. What sessions without a connection keep
    /// is bounded: those that have been without one for longest make room.
    pub(super) fn away(&self, id: SessionId, bytes: usize) {
        let mut entries = lock(&self.0);
        let Some(index) = entries.iter().position(|entry| entry.id == id) else { return };
        let mut entry = entries.remove(index);
        entry.away = Some(bytes);
        entries.push(entry);
        let away = entries.iter().filter(|entry| !entry.superseded.is_cancelled());
        let away: Vec<_> =
            away.filter_map(|entry| entry.away.map(|bytes| (entry, bytes))).collect();
        let mut sum: usize = away.iter().map(|(_, bytes)| bytes).sum();
        for (entry, bytes) in away {
            if sum <= MAX_HELD_SERVER {
                break;
            }
            entry.superseded.cancel();
            sum -= bytes;
        }
    }
}

impl Place {
    /// Notes the session itself, so that it can be found again.
    pub(super) fn fill(&self, session: Arc<dyn Any + Send + Sync>) {
        if let Some(entry) = lock(&self.places).iter_mut().find(|entry| entry.id == self.id) {
            entry.session = Some(session);
        }
    }

    /// Resolves when this session must make room.
    pub(super) async fn superseded(&self) {
        self.superseded.cancelled().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut entries = lock(&self.places);
        let left = entries.iter().position(|entry| entry.id == self.id);
        let left = left.map(|index| entries.remove(index));
        drop(entries);
        drop(left);
    }
}
