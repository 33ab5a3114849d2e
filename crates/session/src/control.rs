//! The control stream of a session, the same on both ends: messages out, and flows held back by the peer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tunnel_model::protocol::{self, FrameError, Message, Pause, Resume};

use crate::frame::write_message;
use crate::transport::{Lost, SendStream, WriteError};

/// The writing half of a session's control stream, that of its latest connection, and what the peer's messages rule.
pub(crate) struct Control<S> {
    send: Arc<tokio::sync::Mutex<Present<S>>>,
    gates: Mutex<HashMap<u64, GateState>>,
}

/// A connection's stream, with its epoch.
type Present<S> = (u64, Option<S>);

struct GateState {
    paused: watch::Sender<bool>,
    /// Of the connection on which the peer ruled it last.
    epoch: u64,
}

/// Lets a flow's bytes out unless the peer has asked to wait.
pub(crate) struct Gate {
    paused: watch::Receiver<bool>,
}

/// A flow's gate in the table; taken out when dropped.
pub(crate) struct GatePlace<S> {
    control: Arc<Control<S>>,
    flow: u64,
}

impl<S> Drop for GatePlace<S> {
    fn drop(&mut self) {
        self.control.gates().remove(&self.flow);
    }
}

impl Gate {
    /// Whether the peer has asked to wait.
    pub(crate) fn is_closed(&self) -> bool {
        *self.paused.borrow() && self.paused.has_changed().is_ok()
    }

    /// Resolves at once, or when the peer wants more.
    pub(crate) async fn open(&mut self) {
        // Without its sender the flow is over, which the streams will tell.
        let _ = self.paused.wait_for(|paused| !paused).await;
    }
}

impl<S> Control<S> {
    fn gates(&self) -> MutexGuard<'_, HashMap<u64, GateState>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gate for a flow that is about to begin.
    pub(crate) fn gate(self: &Arc<Self>, flow: u64) -> (Gate, GatePlace<S>) {
        let (sender, paused) = watch::channel(false);
        self.gates().insert(flow, GateState { paused: sender, epoch: 0 });
        (Gate { paused }, GatePlace { control: self.clone(), flow })
    }

    /// Takes a message that rules a gate, from the connection of `epoch`. `Ok(false)` where it is another one.
    pub(crate) fn handle(&self, frame: &[u8], epoch: u64) -> Result<bool, FrameError> {
        let (flow, paused) = match protocol::frame_type(frame)? {
            Pause::TYPE => (protocol::decode::<Pause>(frame)?.flow, true),
            Resume::TYPE => (protocol::decode::<Resume>(frame)?.flow, false),
            _ => return Ok(false),
        };
        // The flow may have ended while the message was on its way.
        if let Some(gate) = self.gates().get_mut(&flow) {
            gate.epoch = epoch;
            gate.paused.send_replace(paused);
        }
        Ok(true)
    }

    /// Takes in what the peer said of a gate when its flow was attached to the connection of `epoch`. A message on the
    /// control stream of that connection was decided later, though it may have come first.
    pub(crate) fn attached(&self, flow: u64, paused: bool, epoch: u64) {
        if let Some(gate) = self.gates().get_mut(&flow)
            && gate.epoch < epoch
        {
            gate.epoch = epoch;
            gate.paused.send_replace(paused);
        }
    }
}

impl<S: SendStream> Control<S> {
    /// Without a connection; nothing is sent until [`Control::replace`].
    pub(crate) fn new() -> Arc<Self> {
        Self::of((0, None))
    }

    /// With the stream of the connection of `epoch`.
    pub(crate) fn with(epoch: u64, send: S) -> Arc<Self> {
        Self::of((epoch, Some(urgent(send))))
    }

    fn of(present: Present<S>) -> Arc<Self> {
        Arc::new(Self { send: Arc::new(tokio::sync::Mutex::new(present)), gates: Mutex::default() })
    }

    /// Goes on with the control stream of the connection of `epoch`, or without one, unless a later one is in place. The
    /// earlier one must be closed: a message that is being sent on it is waited for.
    pub(crate) async fn replace(&self, epoch: u64, send: Option<S>) {
        let mut present = self.send.lock().await;
        if present.0 <= epoch {
            *present = (epoch, send.map(urgent));
        }
    }

    /// Sends a message. Must not be given up half-way: the next message would be garbled.
    pub(crate) async fn send<M: Message + Sync>(&self, message: &M) -> Result<(), WriteError> {
        match &mut self.send.lock().await.1 {
            Some(send) => write_message(send, message).await,
            None => Err(WriteError::Lost(Lost::Local)),
        }
    }

    /// The same, on the connection of `epoch` and no other.
    pub(crate) async fn send_in<M: Message + Sync>(
        &self,
        epoch: u64,
        message: &M,
    ) -> Result<(), WriteError> {
        match &mut *self.send.lock().await {
            (present, Some(send)) if *present == epoch => write_message(send, message).await,
            _ => Err(WriteError::Lost(Lost::Local)),
        }
    }

    /// Sends a message in the background unless another one is being sent, which makes the network speak as well.
    pub(crate) fn post_if_idle<M: Message + Send + Sync + 'static>(&self, message: M) {
        if let Ok(mut send) = self.send.clone().try_lock_owned() {
            tokio::spawn(async move {
                if let Some(send) = &mut send.1 {
                    let _ = write_message(send, &message).await;
                }
            });
        }
    }
}

/// A ping behind bulk data would measure the queue, and a pause would come too late.
fn urgent<S: SendStream>(mut send: S) -> S {
    send.set_priority(1);
    send
}

/// What this side wants of the peer's half of a flow, told in the order in which it was decided.
pub(crate) struct Brake<S> {
    control: Arc<Control<S>>,
    flow: u64,
    state: Arc<BrakeState>,
}

/// How a brake stands.
#[derive(Default)]
pub(crate) struct BrakeState {
    wanted: AtomicBool,
    /// What the peer was told last; changed only while the control stream is held.
    told: AtomicBool,
    /// Whether the peer has ever been asked to wait.
    used: AtomicBool,
    /// Whether it is to be told though nothing has changed.
    told_anew: AtomicBool,
    /// Whether a task is on its way to tell the peer.
    telling: AtomicBool,
}

impl BrakeState {
    /// Whether the peer is to wait.
    pub(crate) fn is_on(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
    }
}

impl<S: SendStream> Brake<S> {
    pub(crate) fn new(control: &Arc<Control<S>>, flow: u64, state: &Arc<BrakeState>) -> Self {
        Self { control: control.clone(), flow, state: state.clone() }
    }

    /// Whether the peer is to wait.
    pub(crate) fn is_on(&self) -> bool {
        self.state.wanted.load(Ordering::Relaxed)
    }

    /// Asks the peer to wait, or to go on.
    pub(crate) fn set(&self, on: bool) {
        self.state.wanted.store(on, Ordering::SeqCst);
        if on {
            self.state.used.store(true, Ordering::SeqCst);
        }
        self.tell();
    }

    /// Tells the peer once more how things stand: on another connection it has been told by the message that attached
    /// the flow, which may have been made before the last change.
    pub(crate) fn repeat(&self) {
        if self.state.used.load(Ordering::SeqCst) {
            self.state.told_anew.store(true, Ordering::SeqCst);
            self.tell();
        }
    }

    fn tell(&self) {
        let state = self.state.clone();
        // Messages of their own would be sent in whatever order their tasks run; one task tells how things stand
        // when it comes to it.
        if state.telling.swap(true, Ordering::SeqCst) {
            return;
        }
        let (send, flow) = (self.control.send.clone(), self.flow);
        tokio::spawn(async move {
            let mut send = send.lock().await;
            state.telling.store(false, Ordering::SeqCst);
            // Without a connection there is nobody to tell; the next one begins by telling it.
            let Some(send) = &mut send.1 else { return };
            let on = state.wanted.load(Ordering::SeqCst);
            let anew = state.told_anew.swap(false, Ordering::SeqCst);
            if state.told.swap(on, Ordering::SeqCst) == on && !anew {
                return;
            }
            let _ = if on {
                write_message(send, &Pause { flow }).await
            } else {
                write_message(send, &Resume { flow }).await
            };
        });
    }
}
