//! The control stream of a session, the same on both ends: messages out, and flows held back by the peer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tunnel_model::protocol::{self, FrameError, Message, Pause, Resume};

use crate::frame::write_message;
use crate::transport::{SendStream, WriteError};

/// The writing half of a control stream, and what the peer's messages rule.
pub(crate) struct Control<S> {
    send: Arc<tokio::sync::Mutex<S>>,
    gates: Mutex<HashMap<u64, watch::Sender<bool>>>,
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
    fn gates(&self) -> MutexGuard<'_, HashMap<u64, watch::Sender<bool>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A gate for a flow that is about to begin.
    pub(crate) fn gate(self: &Arc<Self>, flow: u64) -> (Gate, GatePlace<S>) {
        let (sender, paused) = watch::channel(false);
        self.gates().insert(flow, sender);
        (Gate { paused }, GatePlace { control: self.clone(), flow })
    }

    /// Takes a message that rules a gate. `Ok(false)` where it is another one.
    pub(crate) fn handle(&self, frame: &[u8]) -> Result<bool, FrameError> {
        let (flow, paused) = match protocol::frame_type(frame)? {
            Pause::TYPE => (protocol::decode::<Pause>(frame)?.flow, true),
            Resume::TYPE => (protocol::decode::<Resume>(frame)?.flow, false),
            _ => return Ok(false),
        };
        // The flow may have ended while the message was on its way.
        if let Some(gate) = self.gates().get(&flow) {
            gate.send_replace(paused);
        }
        Ok(true)
    }
}

impl<S: SendStream> Control<S> {
    pub(crate) fn new(mut send: S) -> Arc<Self> {
        // A ping behind bulk data would measure the queue, and a pause would come too late.
        send.set_priority(1);
        Arc::new(Self { send: Arc::new(tokio::sync::Mutex::new(send)), gates: Mutex::default() })
    }

    /// Sends a message. Must not be given up half-way: the next message would be garbled.
    pub(crate) async fn send<M: Message + Sync>(&self, message: &M) -> Result<(), WriteError> {
        write_message(&mut *self.send.lock().await, message).await
    }

    /// Sends a message in the background unless another one is being sent, which makes the network speak as well.
    pub(crate) fn post_if_idle<M: Message + Send + Sync + 'static>(&self, message: M) {
        if let Ok(mut send) = self.send.clone().try_lock_owned() {
            tokio::spawn(async move { write_message(&mut *send, &message).await });
        }
    }
}

/// What this side wants of the peer's half of a flow, told in the order in which it was decided.
pub(crate) struct Brake<S> {
    control: Arc<Control<S>>,
    flow: u64,
    state: Arc<BrakeState>,
}

#[derive(Default)]
struct BrakeState {
    wanted: AtomicBool,
    /// What the peer was told last; changed only while the control stream is held.
    told: AtomicBool,
    /// Whether a task is on its way to tell the peer.
    telling: AtomicBool,
}

impl<S: SendStream> Brake<S> {
    pub(crate) fn new(control: &Arc<Control<S>>, flow: u64) -> Self {
        Self { control: control.clone(), flow, state: Arc::default() }
    }

    /// Whether the peer is to wait.
    pub(crate) fn is_on(&self) -> bool {
        self.state.wanted.load(Ordering::Relaxed)
    }

    /// Asks the peer to wait, or to go on.
    pub(crate) fn set(&self, on: bool) {
        let state = self.state.clone();
        state.wanted.store(on, Ordering::SeqCst);
        // Messages of their own would be sent in whatever order their tasks run; one task tells how things stand
        // when it comes to it.
        if state.telling.swap(true, Ordering::SeqCst) {
            return;
        }
        let (send, flow) = (self.control.send.clone(), self.flow);
        tokio::spawn(async move {
            let mut send = send.lock().await;
            state.telling.store(false, Ordering::SeqCst);
            let on = state.wanted.load(Ordering::SeqCst);
            if state.told.swap(on, Ordering::SeqCst) == on {
                return;
            }
            // A connection that is lost needs no brake.
            let _ = if on {
                write_message(&mut *send, &Pause { flow }).await
            } else {
                write_message(&mut *send, &Resume { flow }).await
            };
        });
    }
}
