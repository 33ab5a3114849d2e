//! Messages as events: encrypted for the peer, signed, and readable by nobody else.

use nostr_sdk::nips::nip44;
use nostr_sdk::{Alphabet, Event, EventBuilder, Kind, SingleLetterTag, Tag, TagKind, Timestamp};
use thiserror::Error;

use super::key::{NostrKey, Npub, TransferId, transfer_id};
use super::message::Message;
use super::payload::{self, PayloadError};

#[cfg(test)]
mod tests;

/// The kind of all events. Relays pass on events of this range (20,000 to 29,999, NIP-01) and are not expected to keep
/// them.
pub const KIND: u16 = 24242;

/// The largest event in bytes, as JSON. Common relays take no larger ones.
pub const MAX_EVENT: usize = 64 * 1024;

/// An event may be so old, in seconds. Relays deliver within a second or two; the rest is for clocks that differ.
/// Longer would only give replays more time.
pub const MAX_AGE: u64 = 60;

/// An event may be so far in the future, in seconds: the clocks of the two sides may differ either way.
pub const MAX_AHEAD: u64 = 60;

/// Why an event could not be made.
#[derive(Debug, Error)]
pub enum SealError {
    /// Not encrypted.
    #[error("cannot encrypt a message for {0}: {1}")]
    Encrypt(Npub, nip44::Error),
    /// Not signed.
    #[error("cannot sign a message: {0}")]
    Sign(#[from] nostr_sdk::event::builder::Error),
}

/// Why an event was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// Larger than [`MAX_EVENT`].
    #[error("it is too large")]
    TooLarge,
    /// Not of [`KIND`].
    #[error("it is of kind {0}, which is for something else")]
    Kind(u16),
    /// This side is its author.
    #[error("it is one of this side's own")]
    Own,
    /// Its author is none of the peers.
    #[error("its author is none of the peers")]
    Stranger,
    /// It is addressed to nobody, to several, or to somebody else.
    #[error("it is not for this side")]
    NotForUs,
    /// Its transfer id is not that of its author and this side.
    #[error("its transfer id is not that of the two keys")]
    Transfer,
    /// Older than [`MAX_AGE`].
    #[error(
        "it is {0} s old: it was recorded and sent again, or the two machines' clocks differ (set both by NTP)"
    )]
    Stale(u64),
    /// Further in the future than [`MAX_AHEAD`].
    #[error("it is of {0} s in the future: the two machines' clocks differ (set both by NTP)")]
    Future(u64),
    /// Its id or signature does not fit.
    #[error("its signature is false")]
    Forged,
    /// Not encrypted for this side by its author.
    #[error("it cannot be decrypted")]
    Undecryptable,
    /// What it holds is no message.
    #[error("{0}")]
    Payload(#[from] PayloadError),
}

/// The tag with the transfer id; `x` stands for a SHA-256 elsewhere too (NIP-94).
fn transfer_tag() -> TagKind<'static> {
    TagKind::single_letter(Alphabet::X, false)
}

pub(super) fn peer_tag() -> SingleLetterTag {
    SingleLetterTag::lowercase(Alphabet::P)
}

/// The event that tells `peer` this message. Each call gives another one, also for the same message: a relay that has
/// seen an event does not pass it on again.
///
/// # Errors
///
/// [`SealError`]; not for any message between two keys.
pub fn seal(
    key: &NostrKey,
    peer: Npub,
    message: &Message,
    created_at: Timestamp,
) -> Result<Event, SealError> {
    let (secret, public) = (key.keys().secret_key(), peer.public_key());
    let payload = payload::encode(message);
    let content = nip44::encrypt(secret, public, payload, nip44::Version::V2)
        .map_err(|error| SealError::Encrypt(peer, error))?;
    let transfer = transfer_id(key.npub(), peer).to_string();
    let event = EventBuilder::new(Kind::Custom(KIND), content)
        .tag(Tag::public_key(*public))
        .tag(Tag::custom(transfer_tag(), [transfer]))
        .custom_created_at(created_at)
        .sign_with_keys(key.keys())?;
    Ok(event)
}

/// What can be told of an event at little cost: everything but its signature and its content.
///
/// # Errors
///
/// [`Rejected`].
pub(super) fn check(
    own: Npub,
    is_peer: impl Fn(&Npub) -> bool,
    event: &Event,
    now: Timestamp,
) -> Result<Npub, Rejected> {
    let in_tags = |tag: &Tag| tag.as_slice().iter().map(String::len).sum::<usize>();
    if event.content.len() + event.tags.iter().map(in_tags).sum::<usize>() > MAX_EVENT {
        return Err(Rejected::TooLarge);
    }
    if event.kind.as_u16() != KIND {
        return Err(Rejected::Kind(event.kind.as_u16()));
    }
    if event.pubkey == *own.public_key() {
        return Err(Rejected::Own);
    }
    let author = Npub::of(event.pubkey).filter(is_peer).ok_or(Rejected::Stranger)?;
    let peer = TagKind::SingleLetter(peer_tag());
    if only(event, peer) != Some(&own.public_key().to_hex()) {
        return Err(Rejected::NotForUs);
    }
    let transfer: TransferId = transfer_id(own, author);
    if only(event, transfer_tag()) != Some(&transfer.to_string()) {
        return Err(Rejected::Transfer);
    }
    let (created, now) = (event.created_at.as_secs(), now.as_secs());
    match (now.saturating_sub(created), created.saturating_sub(now)) {
        (age, _) if age > MAX_AGE => Err(Rejected::Stale(age)),
        (_, ahead) if ahead > MAX_AHEAD => Err(Rejected::Future(ahead)),
        _ => Ok(author),
    }
}

/// The value of the only tag of this kind.
fn only<'a>(event: &'a Event, kind: TagKind<'a>) -> Option<&'a str> {
    let mut tags = event.tags.filter(kind);
    let tag = tags.next()?;
    if tags.next().is_some() { None } else { tag.content() }
}

/// Who tells this side what. Whether the event has been seen before is for [`ReplayGuard`](super::ReplayGuard) to say.
///
/// # Errors
///
/// [`Rejected`].
pub fn open(
    key: &NostrKey,
    peers: &[Npub],
    event: &Event,
    now: Timestamp,
) -> Result<(Npub, Message), Rejected> {
    let author = check(key.npub(), |author| peers.contains(author), event, now)?;
    event.verify().map_err(|_| Rejected::Forged)?;
    let (secret, public) = (key.keys().secret_key(), author.public_key());
    let payload = nip44::decrypt_to_bytes(secret, public, &event.content)
        .map_err(|_| Rejected::Undecryptable)?;
    Ok((author, payload::decode(&payload)?))
}
