//! The client's half of a negotiation, without I/O and without a clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tunnel_model::Source;

use super::key::Npub;
use super::message::{
    Answer, Candidates, Message, Nonce, Offer, Reason, Refused, Request, SessionId,
};
use crate::{Description, Fingerprint};

#[cfg(test)]
mod tests;

/// Between repetitions. Nobody keeps these events, so that one which the server could not see when it was published is
/// lost.
pub const REPEAT: Duration = Duration::from_secs(1);

/// How long the client waits for an offer; and then repeats its answer, unless the connection stands before.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publish this to the server.
    Publish(Message),
    /// The server is there: look for it.
    Meet(Description),
    /// The server is elsewhere now.
    Update(Description),
    /// The server refuses; the negotiation is over.
    Refused(Refused),
    /// No offer came in time; the negotiation is over.
    GiveUp,
}

#[derive(Debug)]
enum State {
    /// No offer has come.
    Asking,
    /// The server's fingerprint, the answer to its offer, and the last update that it has sent.
    Answering(Fingerprint, Answer, u32),
    Over,
}

/// One negotiation with one server. It asks until the server offers, and answers until that has arrived.
///
/// Messages must come from [`open`](super::open), with the server as its only peer.
#[derive(Debug)]
pub struct Negotiation {
    server: Npub,
    request: Request,
    /// Where the client has moved to since the request.
    moved: Option<Candidates>,
    state: State,
    /// When the next repetition is due.
    next: Instant,
    /// When asking, or answering, ends.
    until: Instant,
    queue: VecDeque<Action>,
}

impl Negotiation {
    /// A negotiation that begins now. `session` and `nonce` must be fresh.
    pub fn new(
        server: Npub,
        session: SessionId,
        nonce: Nonce,
        description: Description,
        sources: Vec<Source>,
        now: Instant,
    ) -> Self {
        Self {
            server,
            request: Request { session, nonce, description, sources },
            moved: None,
            state: State::Asking,
            next: now,
            until: now + PATIENCE,
            queue: VecDeque::new(),
        }
    }

    /// Takes a message. [`poll`](Self::poll) says what follows from it; an error says why nothing does.
    ///
    /// # Errors
    ///
    /// The reason, for logs.
    pub fn handle(
        &mut self,
        from: Npub,
        message: Message,
        now: Instant,
    ) -> Result<(), &'static str> {
        if from != self.server {
            return Err("it is not from the server");
        }
        if message.session() != self.request.session {
            return Err("it is of another session");
        }
        match message {
            Message::Offer(offer) => self.handle_offer(offer, now),
            Message::Candidates(candidates) => self.handle_candidates(candidates),
            Message::Refused(refused) => {
                if !matches!(self.state, State::Asking) {
                    return Err("the server refuses what it has offered, or what is over");
                }
                self.state = State::Over;
                self.queue.push_back(Action::Refused(refused));
                Ok(())
            }
            Message::Request(_) | Message::Answer(_) => Err("it is not for a client"),
        }
    }

    fn handle_offer(&mut self, offer: Offer, now: Instant) -> Result<(), &'static str> {
        if offer.echo != self.request.nonce {
            return Err("it is the offer to another request");
        }
        match &self.state {
            State::Over => Err("the negotiation is over"),
            State::Answering(_, answer, _) if answer.echo == offer.nonce => {
                self.queue.push_back(Action::Publish(Message::Answer(answer.clone())));
                Ok(())
            }
            // Two servers with one key, or one that was restarted: the first is being connected to.
            State::Answering(..) => Err("it is a second offer to this request"),
            State::Asking => {
                let answer = Answer { session: offer.session, echo: offer.nonce };
                self.state = State::Answering(offer.description.fingerprint, answer, 0);
                (self.next, self.until) = (now, now + PATIENCE);
                self.queue.push_back(Action::Meet(offer.description));
                Ok(())
            }
        }
    }

    fn handle_candidates(&mut self, candidates: Candidates) -> Result<(), &'static str> {
        let State::Answering(fingerprint, _, revision) = &mut self.state else {
            return Err("an update before the offer");
        };
        if candidates.description.fingerprint != *fingerprint {
            return Err("an update of somebody else");
        }
        if candidates.revision <= *revision {
            return Err("an update that is not the latest");
        }
        *revision = candidates.revision;
        self.queue.push_back(Action::Update(candidates.description));
        Ok(())
    }

    /// The client's addresses have changed.
    pub fn update(&mut self, description: Description) {
        let revision = self.moved.as_ref().map_or(1, |last| last.revision.saturating_add(1));
        let update = Candidates { session: self.request.session, revision, description };
        self.moved = Some(update.clone());
        if !matches!(self.state, State::Over) {
            self.queue.push_back(Action::Publish(Message::Candidates(update)));
        }
    }

    /// Ends the negotiation; gives what to publish, so that the server need not wait.
    pub fn withdraw(&mut self) -> Message {
        self.state = State::Over;
        self.queue.clear();
        let (session, words) = (self.request.session, String::new());
        Message::Refused(Refused { session, reason: Reason::Withdrawn, words })
    }

    /// What is to be done. Ask until there is nothing left, at the start, after every other call and at
    /// [`poll_at`](Self::poll_at).
    pub fn poll(&mut self, now: Instant) -> Option<Action> {
        if let Some(action) = self.queue.pop_front() {
            return Some(action);
        }
        if now >= self.until {
            return match std::mem::replace(&mut self.state, State::Over) {
                State::Asking => Some(Action::GiveUp),
                State::Answering(..) | State::Over => None,
            };
        }
        let message = match &self.state {
            State::Over => return None,
            _ if now < self.next => return None,
            State::Asking => Message::Request(self.request.clone()),
            State::Answering(_, answer, _) => Message::Answer(answer.clone()),
        };
        self.next = now + REPEAT;
        if let Some(moved) = &self.moved {
            self.queue.push_back(Action::Publish(Message::Candidates(moved.clone())));
        }
        Some(Action::Publish(message))
    }

    /// When [`poll`](Self::poll) will have something to do by itself; `None` where it never will.
    pub fn poll_at(&self) -> Option<Instant> {
        match self.state {
            State::Over => None,
            State::Asking | State::Answering(..) => Some(self.next.min(self.until)),
        }
    }
}
