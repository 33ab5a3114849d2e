//! The server's half of a negotiation, without I/O and without a clock.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::key::Npub;
use super::message::{
    Answer, Candidates, Message, Nonce, Offer, Reason, Refused, Request, SessionId,
};
use super::seal::{MAX_AGE, MAX_AHEAD};
use crate::{Description, Fingerprint};

#[cfg(test)]
mod tests;

/// The most negotiations of one key at once that no answer has shown to be more than a recorded request. Each costs
/// sockets and checks.
pub const MAX_AT_ONCE: usize = 4;

/// From the request to the answer.
pub const NEGOTIATION: Duration = Duration::from_secs(15);

/// How long a negotiation that has ended is remembered: longer than any event that belongs to it is taken.
const MEMORY: Duration = Duration::from_secs(MAX_AGE + MAX_AHEAD + 60);

/// The most negotiations of one key that are remembered. Beyond it new ones are refused, because what is not
/// remembered could be replayed.
const MAX_REMEMBERED: usize = 256;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Gather, tell [`Negotiations::offer`] (or [`Negotiations::refuse`]), and look for the client.
    Start {
        /// Who asks.
        peer: Npub,
        /// What it asks for.
        request: Request,
    },
    /// Publish this to the client, for the first time or again.
    Send {
        /// To whom.
        peer: Npub,
        /// What.
        message: Message,
    },
    /// The client is elsewhere now.
    Update {
        /// Who.
        peer: Npub,
        /// In which negotiation.
        session: SessionId,
        /// Where.
        description: Description,
    },
    /// The client has the offer: it is there now, and this is no recording.
    Confirmed {
        /// Who.
        peer: Npub,
        /// In which negotiation.
        session: SessionId,
    },
    /// Undo what [`Effect::Start`] began, unless a connection stands.
    Ended {
        /// Who.
        peer: Npub,
        /// Which negotiation.
        session: SessionId,
        /// Whether the client says so; otherwise it did not answer in time.
        withdrawn: bool,
    },
    /// Nothing, for this reason.
    Ignored(&'static str),
}

#[derive(Debug)]
enum State {
    /// The server gathers.
    Started,
    /// The client has not answered yet.
    Offered(Offer, Option<Candidates>),
    /// The client was refused.
    Refused(Refused),
    /// The client has answered.
    Confirmed,
    /// It came to nothing.
    Over,
}

#[derive(Debug)]
struct Negotiation {
    nonce: Nonce,
    fingerprint: Fingerprint,
    /// Of the last update from the client.
    revision: u32,
    state: State,
    /// The end of the negotiation, or of its memory.
    until: Instant,
}

impl Negotiation {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Started | State::Offered(..))
    }

    fn end(&mut self, state: State, now: Instant) {
        self.state = state;
        self.until = now + MEMORY;
    }
}

/// All negotiations of a server, by key and session.
///
/// A request is answered with the same offer however often it comes, one that is over is ignored, and a request that
/// nobody answers for costs at most [`NEGOTIATION`]. Messages must come from [`open`](super::open) with its peers, and
/// through a [`ReplayGuard`](super::ReplayGuard).
#[derive(Debug, Default)]
pub struct Negotiations {
    peers: BTreeMap<Npub, HashMap<SessionId, Negotiation>>,
    queue: VecDeque<Effect>,
}

impl Negotiations {
    /// Takes a message of a peer. [`poll`](Self::poll) says more behind it.
    pub fn handle(&mut self, peer: Npub, message: Message, now: Instant) -> Effect {
        match message {
            Message::Request(request) => self.handle_request(peer, request, now),
            Message::Answer(answer) => self.handle_answer(peer, &answer, now),
            Message::Candidates(candidates) => self.handle_candidates(peer, candidates),
            Message::Refused(Refused { session, .. }) => match self.find(peer, session) {
                Some(negotiation) if negotiation.is_open() => {
                    negotiation.end(State::Over, now);
                    Effect::Ended { peer, session, withdrawn: true }
                }
                _ => Effect::Ignored("the client withdraws what is not open"),
            },
            Message::Offer(_) => Effect::Ignored("an offer is not for a server"),
        }
    }

    fn handle_request(&mut self, peer: Npub, request: Request, now: Instant) -> Effect {
        let session = request.session;
        if let Some(known) = self.find(peer, session) {
            if known.nonce != request.nonce {
                return Effect::Ignored("another request has this session's name");
            }
            return match &known.state {
                State::Started => Effect::Ignored("the offer is being made"),
                State::Confirmed => Effect::Ignored("the client has the offer"),
                State::Over => Effect::Ignored("the negotiation is over"),
                State::Refused(refused) => {
                    Effect::Send { peer, message: Message::Refused(refused.clone()) }
                }
                State::Offered(offer, candidates) => {
                    let message = Message::Offer(offer.clone());
                    if let Some(candidates) = candidates.clone() {
                        let message = Message::Candidates(candidates);
                        self.queue.push_back(Effect::Send { peer, message });
                    }
                    Effect::Send { peer, message }
                }
            };
        }
        let known = self.peers.entry(peer).or_default();
        known.retain(|_, negotiation| negotiation.is_open() || negotiation.until > now);
        let open = known.values().filter(|negotiation| negotiation.is_open()).count();
        if open >= MAX_AT_ONCE || known.len() >= MAX_REMEMBERED {
            let words = "too many attempts of this key at once: wait some seconds".to_owned();
            let refused = Refused { session, reason: Reason::Busy, words };
            return Effect::Send { peer, message: Message::Refused(refused) };
        }
        let negotiation = Negotiation {
            nonce: request.nonce,
            fingerprint: request.description.fingerprint,
            revision: 0,
            state: State::Started,
            until: now + NEGOTIATION,
        };
        known.insert(session, negotiation);
        Effect::Start { peer, request }
    }

    fn handle_answer(&mut self, peer: Npub, answer: &Answer, now: Instant) -> Effect {
        let session = answer.session;
        let Some(negotiation) = self.find(peer, session) else {
            return Effect::Ignored("an answer to no offer of this server");
        };
        match &negotiation.state {
            State::Offered(offer, _) if offer.nonce == answer.echo => {
                negotiation.end(State::Confirmed, now);
                Effect::Confirmed { peer, session }
            }
            State::Offered(..) => Effect::Ignored("the answer is to another offer"),
            State::Confirmed => Effect::Ignored("the client has answered before"),
            State::Started | State::Refused(_) | State::Over => {
                Effect::Ignored("an answer to no offer that stands")
            }
        }
    }

    fn handle_candidates(&mut self, peer: Npub, candidates: Candidates) -> Effect {
        let Candidates { session, revision, description } = candidates;
        let Some(negotiation) = self.find(peer, session) else {
            return Effect::Ignored("an update to no negotiation");
        };
        if !negotiation.is_open() && !matches!(negotiation.state, State::Confirmed) {
            return Effect::Ignored("an update to a negotiation that is over");
        }
        if description.fingerprint != negotiation.fingerprint {
            return Effect::Ignored("an update of somebody else");
        }
        if revision <= negotiation.revision {
            return Effect::Ignored("an update that is not the latest");
        }
        negotiation.revision = revision;
        Effect::Update { peer, session, description }
    }

    fn find(&mut self, peer: Npub, session: SessionId) -> Option<&mut Negotiation> {
        self.peers.get_mut(&peer)?.get_mut(&session)
    }

    /// The offer to publish, once this side has gathered; `None` where the negotiation is over. `nonce` must be fresh.
    pub fn offer(
        &mut self,
        peer: Npub,
        session: SessionId,
        nonce: Nonce,
        description: Description,
    ) -> Option<Message> {
        let negotiation = self.find(peer, session)?;
        if !matches!(negotiation.state, State::Started) {
            return None;
        }
        let offer = Offer { session, nonce, echo: negotiation.nonce, description };
        negotiation.state = State::Offered(offer.clone(), None);
        Some(Message::Offer(offer))
    }

    /// The update to publish where this side's addresses have changed since the offer; `None` where there is no offer
    /// that nobody has answered.
    pub fn update(
        &mut self,
        peer: Npub,
        session: SessionId,
        description: Description,
    ) -> Option<Message> {
        let State::Offered(_, candidates) = &mut self.find(peer, session)?.state else {
            return None;
        };
        let revision = candidates.as_ref().map_or(1, |last| last.revision.saturating_add(1));
        let update = Candidates { session, revision, description };
        *candidates = Some(update.clone());
        Some(Message::Candidates(update))
    }

    /// The refusal to publish; `None` where the negotiation is over.
    pub fn refuse(
        &mut self,
        peer: Npub,
        session: SessionId,
        reason: Reason,
        words: String,
        now: Instant,
    ) -> Option<Message> {
        let negotiation = self.find(peer, session).filter(|known| known.is_open())?;
        let refused = Refused { session, reason, words };
        negotiation.end(State::Refused(refused.clone()), now);
        Some(Message::Refused(refused))
    }

    /// A connection of this negotiation stands, which shows as much as an answer does.
    pub fn confirm(&mut self, peer: Npub, session: SessionId, now: Instant) {
        if let Some(negotiation) = self.find(peer, session).filter(|known| known.is_open()) {
            negotiation.end(State::Confirmed, now);
        }
    }

    /// What is to be done besides. Ask until there is nothing left, after [`handle`](Self::handle) and at
    /// [`poll_at`](Self::poll_at).
    pub fn poll(&mut self, now: Instant) -> Option<Effect> {
        for (peer, sessions) in &mut self.peers {
            for (session, negotiation) in sessions.iter_mut() {
                if negotiation.is_open() && negotiation.until <= now {
                    negotiation.end(State::Over, now);
                    let (peer, session) = (*peer, *session);
                    self.queue.push_back(Effect::Ended { peer, session, withdrawn: false });
                }
            }
            sessions.retain(|_, negotiation| negotiation.until > now);
        }
        self.peers.retain(|_, sessions| !sessions.is_empty());
        self.queue.pop_front()
    }

    /// When [`poll`](Self::poll) will have something to do by itself.
    pub fn poll_at(&self) -> Option<Instant> {
        self.peers.values().flat_map(HashMap::values).map(|negotiation| negotiation.until).min()
    }
}
