//! One authenticated client being served.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tunnel_model::datagram::{MAX_FLOW, MAX_PACKET};
use tunnel_model::protocol::{
    self, Check, Checked, Message, OpenTcp, OpenUdp, Opened, Ping, Pong, Reason, Refusal,
};
use tunnel_model::{CloseCode, Identity, Policy, Request, ResetCode, Source};

use super::open;
use super::{Place, Shared};
use crate::control::{Brake, Control};
use crate::events::{Event, FlowEnd, SessionId};
use crate::forward::tcp::{Socket, pump};
use crate::forward::udp::{self, Flow, Flows, Port};
use crate::forward::{Counters, Waiting};
use crate::frame::{ReadFrameError, read_frame, write_message};
use crate::limits;
use crate::transport::{Connection, Lost, PathKind, ReadError, RecvStream, SendStream};

pub(super) struct Start<C: Connection> {
    pub(super) session: SessionId,
    pub(super) identity: Identity,
    /// The path that its opening was recorded with.
    pub(super) path: Option<PathKind>,
    pub(super) control: (Arc<Control<C::Send>>, C::Recv),
    pub(super) place: Place,
}

struct Session<C: Connection> {
    shared: Arc<Shared>,
    id: SessionId,
    identity: Identity,
    connection: C,
    totals: Arc<Counters>,
    flow_count: AtomicU64,
    udp: Arc<Flows<C>>,
    control: Arc<Control<C::Send>>,
    waiting: Waiting,
    checks: Arc<Semaphore>,
    lookups: Semaphore,
}

/// The peer broke the protocol; its session ends.
struct Broken(String);

pub(super) async fn run<C: Connection>(
    shared: &Arc<Shared>,
    connection: C,
    start: Start<C>,
    shutdown: impl Future<Output = ()>,
) {
    let Start { session: id, identity, path: reported, control: (control, messages), place } =
        start;
    let totals = Arc::new(Counters::default());
    let session = Arc::new(Session {
        shared: shared.clone(),
        id,
        identity,
        control,
        waiting: Waiting::default(),
        checks: Arc::new(Semaphore::new(limits::MAX_CHECKS)),
        lookups: Semaphore::new(limits::MAX_SESSION_LOOKUPS),
        udp: Arc::new(Flows::new(connection.clone(), totals.clone())),
        connection: connection.clone(),
        totals,
        flow_count: AtomicU64::new(0),
    });
    // In the words of this side: those of the code are the peer's.
    let close = |code: CloseCode, reason: &str, words: String| {
        connection.close(code, reason);
        Lost::Transport(words)
    };
    let broke = |why: &str| {
        let words = format!("the client broke the protocol: {why}");
        close(CloseCode::ProtocolError, why, words)
    };
    let mut flows = JoinSet::new();
    let why = tokio::select! {
        () = shutdown => close(CloseCode::ShuttingDown, "", "this server is ending".to_owned()),
        () = place.superseded() => {
            close(CloseCode::Superseded, "", "the client has newer connections".to_owned())
        }
        () = session.revoked() => close(CloseCode::Revoked, "", "the token was revoked".to_owned()),
        Err(Broken(why)) = session.messages(messages) => broke(&why),
        end = session.accept(&mut flows) => match end {
            Err(Broken(why)) => broke(&why),
            Ok(lost) => lost,
        },
        lost = session.udp.run_datagrams() => lost,
        lost = session.udp.run_large() => lost,
        lost = connection.closed() => lost,
        never = session.report_paths(reported) => never,
    };
    drop(place);
    // The connection is gone, so the flows end by themselves; their records come before the session's.
    let last = async { while flows.join_next().await.is_some() {} };
    let _ = timeout(limits::LAST_FLOWS, last).await;
    shared.events.notice(Event::SessionClosed {
        session: id,
        why,
        flows: session.flow_count.load(Ordering::Relaxed),
        sent: session.totals.sent(),
        received: session.totals.received(),
    });
}

/// Resolves once `rules` fail `test`.
async fn no_longer(mut rules: watch::Receiver<Arc<Policy>>, test: impl Fn(&Policy) -> bool) {
    // The owner of the rules gone means that they can change no more.
    if rules.wait_for(|rules| !test(rules)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

impl<C: Connection> Session<C> {
    async fn revoked(&self) {
        no_longer(self.shared.rules.clone(), |rules| rules.admits(&self.identity)).await;
    }

    async fn flow_revoked(&self, request: Request) {
        no_longer(self.shared.rules.clone(), |rules| {
            rules.decide(&self.identity, &request).is_ok()
        })
        .await;
    }

    /// Reports each change of path; `last` is what the session's opening was reported with.
    async fn report_paths(&self, mut last: Option<PathKind>) -> Lost {
        let mut paths = Box::pin(self.connection.paths());
        while let Some(path) = paths.next().await {
            if last.as_ref() != Some(&path.kind) {
                last = Some(path.kind.clone());
                self.shared.events.notice(Event::PathChanged { session: self.id, path });
            }
        }
        // The reports end with the connection, which others notice with the reason.
        std::future::pending().await
    }

    /// Answers the client's messages for as long as the connection lasts.
    async fn messages(self: &Arc<Self>, mut recv: C::Recv) -> Result<(), Broken> {
        loop {
            let frame = match read_frame(&mut recv, protocol::MAX_FRAME).await {
                Ok(Some(frame)) => frame,
                // With the connection, which others notice with the reason.
                Err(ReadFrameError::Read(ReadError::Lost(_))) => std::future::pending().await,
                Ok(None) => return Err(Broken("the control stream ended".to_owned())),
                Err(error) => return Err(Broken(error.to_string())),
            };
            let broken = |error: protocol::FrameError| Broken(error.to_string());
            if self.control.handle(&frame).map_err(broken)? {
                continue;
            }
            match protocol::frame_type(&frame).map_err(broken)? {
                Check::TYPE => {
                    let Check { id, sources } = protocol::decode(&frame).map_err(broken)?;
                    if sources.len() > protocol::MAX_CHECKED {
                        return Err(Broken(format!("a check of {} sources", sources.len())));
                    }
                    // At most some at a time; meanwhile other messages are read, a resume among them.
                    let Ok(place) = self.checks.clone().acquire_owned().await else { continue };
                    let session = self.clone();
                    tokio::spawn(async move {
                        session.check(id, sources).await;
                        drop(place);
                    });
                }
                Ping::TYPE => {
                    let Ping { id } = protocol::decode(&frame).map_err(broken)?;
                    // Where it cannot be sent the connection is gone.
                    let _ = self.control.send(&Pong { id }).await;
                }
                // A later version's.
                _ => {}
            }
        }
    }

    async fn check(&self, id: u32, sources: Vec<Source>) {
        let time = limits::CONNECT_TIMEOUT;
        let asker = self.asker();
        let checks = open::check(&asker, sources.clone(), time);
        let refusals = tokio::select! {
            refusals = checks => refusals,
            _ = self.connection.closed() => return,
        };
        for (source, refusal) in sources.into_iter().zip(&refusals) {
            if let Some(refusal) = refusal.clone() {
                let session = self.id;
                self.shared.events.notice(Event::SourceRefused { session, source, refusal });
            }
        }
        let _ = self.control.send(&Checked { id, refusals }).await;
    }

    fn asker(&self) -> open::Asker<'_> {
        open::Asker { shared: &self.shared, identity: &self.identity, lookups: &self.lookups }
    }

    /// Serves streams until the connection ends.
    async fn accept(
        self: &Arc<Self>,
        flows: &mut JoinSet<Result<(), Broken>>,
    ) -> Result<Lost, Broken> {
        loop {
            tokio::select! {
                stream = self.connection.accept_bi() => match stream {
                    Ok((send, recv)) => {
                        flows.spawn(self.clone().flow(send, recv));
                    }
                    Err(lost) => return Ok(lost),
                },
                Some(ended) = flows.join_next() => match ended {
                    Ok(Ok(())) => {}
                    Ok(Err(broken)) => return Err(broken),
                    Err(error) => tracing::error!(session = %self.id, %error, "a flow's task failed"),
                },
            }
        }
    }

    async fn flow(self: Arc<Self>, send: C::Send, mut recv: C::Recv) -> Result<(), Broken> {
        let frame =
            match timeout(limits::HEADER_TIMEOUT, read_frame(&mut recv, protocol::MAX_HELLO)).await
            {
                Err(_) => return Err(Broken("half a message and silence".to_owned())),
                Ok(Ok(Some(frame))) => frame,
                // Opened and given up before it began: nothing came to be.
                Ok(Ok(None) | Err(ReadFrameError::Read(_))) => return Ok(()),
                Ok(Err(error)) => return Err(Broken(error.to_string())),
            };
        let broken = |error: protocol::FrameError| Broken(error.to_string());
        match protocol::frame_type(&frame).map_err(broken)? {
            OpenTcp::TYPE => {
                let open = protocol::decode(&frame).map_err(broken)?;
                self.tcp(open, send, recv).await;
                Ok(())
            }
            OpenUdp::TYPE => {
                let open = protocol::decode(&frame).map_err(broken)?;
                self.udp(open, send, recv).await
            }
            other => Err(Broken(format!("a stream of unknown type {other:#04x}"))),
        }
    }

    async fn refuse(
        &self,
        flow: u64,
        source: Source,
        refusal: Refusal,
        mut send: C::Send,
        mut recv: C::Recv,
    ) {
        recv.stop(ResetCode::Refused);
        let answer = Opened { refusal: Some(refusal.clone()) };
        let refused = Event::FlowRefused { session: self.id, flow, source, refusal };
        // What cannot be recorded is refused all the same.
        let _ = self.shared.events.decide(refused);
        if write_message(&mut send, &answer).await.is_ok() {
            send.finish();
            // Dropped earlier, the stream would be reset and the reason lost.
            let _ = send.stopped().await;
        }
    }

    /// Records that a flow opens; where that fails the flow is refused.
    fn record_opened(&self, flow: u64, source: &Source, request: Request) -> Result<(), Refusal> {
        let source = source.clone();
        let opened = Event::FlowOpened { session: self.id, flow, source, request: Some(request) };
        self.shared
            .events
            .decide(opened)
            .map_err(|error| Refusal { reason: Reason::Other, detail: error.to_string() })
    }

    fn record_closed(&self, flow: u64, source: Source, why: FlowEnd, counters: &Counters) {
        self.shared.events.notice(Event::FlowClosed {
            session: self.id,
            flow,
            source,
            why,
            sent: counters.sent(),
            received: counters.received(),
        });
    }

    async fn tcp(&self, open: OpenTcp, mut send: C::Send, mut recv: C::Recv) {
        let OpenTcp { flow, source, .. } = open;
        self.flow_count.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + limits::CONNECT_TIMEOUT;
        let brake = Brake::new(&self.control, flow);
        let opened = async {
            let permits = open::permits(&self.asker(), &source, deadline).await?;
            let (request, tcp) = open::connect_tcp(permits, deadline).await?;
            self.record_opened(flow, &source, request)?;
            Ok((request, tcp))
        };
        let slow = async {
            tokio::time::sleep(limits::SLOW_TARGET).await;
            brake.set(true);
            std::future::pending::<()>().await;
        };
        let opened = tokio::select! {
            opened = opened => opened,
            // The client's application has gone before the target answered.
            _ = send.stopped() => return,
            () = slow => return,
        };
        let (request, tcp) = match opened {
            Ok(open) => open,
            Err(refusal) => return self.refuse(flow, source, refusal, send, recv).await,
        };
        let socket = Socket::new(tcp);
        let counters = Counters::of_flow(&self.totals);
        let end = if write_message(&mut send, &Opened { refusal: None }).await.is_err() {
            recv.stop(ResetCode::ConnectionReset);
            FlowEnd::Reset
        } else {
            let nothing = async |_: &mut C::Recv| Ok::<(), std::convert::Infallible>(());
            let cut = async {
                self.flow_revoked(request).await;
                ResetCode::Revoked
            };
            let (gate, _place) = self.control.gate(flow);
            let halves = ((send, gate), (recv, brake));
            let Ok(end) =
                pump(socket, halves.0, halves.1, &self.waiting, &counters, nothing, cut).await;
            end
        };
        self.record_closed(flow, source, end, &counters);
    }

    async fn udp(&self, open: OpenUdp, send: C::Send, mut recv: C::Recv) -> Result<(), Broken> {
        let OpenUdp { flow: id, source, .. } = open;
        if id > MAX_FLOW {
            return Err(Broken(format!("flow number {id} is too large")));
        }
        let first = timeout(limits::HEADER_TIMEOUT, read_frame(&mut recv, usize::from(u16::MAX)));
        let first = match first.await {
            Ok(Ok(Some(first))) if first.len() <= MAX_PACKET => first,
            // Given up before it began.
            Ok(Err(ReadFrameError::Read(_))) => return Ok(()),
            _ => return Err(Broken("a UDP flow without its first packet".to_owned())),
        };
        self.flow_count.fetch_add(1, Ordering::Relaxed);
        let Some(flow) = self.udp.enter(id) else {
            let refusal = Refusal { reason: Reason::Limit, detail: String::new() };
            self.refuse(id, source, refusal, send, recv).await;
            return Ok(());
        };
        let deadline = Instant::now() + limits::CONNECT_TIMEOUT;
        let opened = async {
            let permits = open::permits(&self.asker(), &source, deadline).await?;
            let (request, socket) = open::connect_udp(permits).await?;
            self.record_opened(id, &source, request)?;
            Ok((request, socket))
        };
        match opened.await {
            Ok((request, socket)) => {
                let end = self.udp_flow(&flow, &first, request, socket, send, recv).await;
                self.udp.remove(id);
                self.record_closed(id, source, end, &flow.counters);
            }
            Err(refusal) => {
                self.udp.remove(id);
                self.refuse(id, source, refusal, send, recv).await;
            }
        }
        Ok(())
    }

    async fn udp_flow(
        &self,
        flow: &Arc<Flow>,
        first: &[u8],
        request: Request,
        socket: tokio::net::UdpSocket,
        mut send: C::Send,
        mut recv: C::Recv,
    ) -> FlowEnd {
        let socket = Arc::new(socket);
        let port = Port::new(socket.clone(), None);
        // A fresh socket is not known to be writable, and the first packet would be dropped.
        let _ = socket.writable().await;
        self.udp.first(flow, &port, first);
        self.udp.open(flow, port);
        if write_message(&mut send, &Opened { refusal: None }).await.is_err() {
            return FlowEnd::SessionLost;
        }
        let idle_limit = self.shared.limits.udp_idle;
        let idle = async {
            loop {
                let idle = self.udp.idle(flow);
                match idle_limit.checked_sub(idle) {
                    Some(rest) if !rest.is_zero() => tokio::time::sleep(rest).await,
                    _ => return,
                }
            }
        };
        let mut farewell = [0];
        let end = tokio::select! {
            () = udp::upload(&self.udp, flow, &socket) => FlowEnd::Reset,
            () = idle => FlowEnd::Idle,
            () = self.flow_revoked(request) => FlowEnd::Revoked,
            // The client has ended the flow, in order or not.
            _ = recv.read_exact(&mut farewell) => FlowEnd::Finished,
        };
        match end {
            FlowEnd::Revoked => send.reset(ResetCode::Revoked),
            _ => send.finish(),
        }
        end
    }
}
