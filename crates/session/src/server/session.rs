//! One authenticated client being served.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tunnel_model::datagram::MAX_FLOW;
use tunnel_model::protocol::{
    self, Check, Checked, Message, OpenTcp, OpenUdp, Opened, Ping, Pong, Reason, Refusal,
};
use tunnel_model::{CloseCode, Identity, Policy, Request, ResetCode, Source};

use super::open;
use super::{Place, Shared};
use crate::control::Control;
use crate::events::{Event, FlowEnd, SessionId};
use crate::forward::tcp::{Brake, Socket, pump};
use crate::forward::udp::{self, Flow, Flows, Port};
use crate::forward::Counters;
use crate::frame::{ReadFrameError, read_frame, write_message};
use crate::limits;
use crate::transport::{Connection, Lost, RecvStream, SendStream};

pub(super) struct Start<C: Connection> {
    pub(super) session: SessionId,
    pub(super) identity: Identity,
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
}

/// The peer broke the protocol; its session ends.
struct Broken(String);

pub(super) async fn run<C: Connection>(
    shared: &Arc<Shared>,
    connection: C,
    start: Start<C>,
    shutdown: impl Future<Output = ()>,
) {
    let Start { session: id, identity, control: (control, messages), place } = start;
    let totals = Arc::new(Counters::default());
    let session = Arc::new(Session {
        shared: shared.clone(),
        id,
        identity,
        control,
        udp: Arc::new(Flows::new(connection.clone(), totals.clone())),
        connection: connection.clone(),
        totals,
        flow_count: AtomicU64::new(0),
    });
    let close = |code: CloseCode, why: &str| {
        connection.close(code, why);
        Lost::Closed { code, reason: why.to_owned() }
    };
    let why = tokio::select! {
        () = shutdown => close(CloseCode::ShuttingDown, ""),
        () = session.revoked() => close(CloseCode::Revoked, ""),
        broken = session.messages(messages) => match broken {
            Err(Broken(why)) => close(CloseCode::ProtocolError, &why),
            Ok(()) => connection.closed().await,
        },
        end = session.accept() => match end {
            Err(Broken(why)) => close(CloseCode::ProtocolError, &why),
            Ok(lost) => lost,
        },
        lost = session.udp.run_datagrams() => lost,
        lost = session.udp.run_large() => lost,
        lost = connection.closed() => lost,
        () = session.report_paths() => connection.closed().await,
    };
    drop(place);
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
        no_longer(self.shared.rules.clone(), |rules| rules.decide(&self.identity, &request).is_ok())
            .await;
    }

    async fn report_paths(&self) {
        let mut last = self.connection.path().map(|path| path.kind);
        let mut paths = Box::pin(self.connection.paths());
        while let Some(path) = paths.next().await {
            if last.as_ref() != Some(&path.kind) {
                last = Some(path.kind.clone());
                self.shared.events.notice(Event::PathChanged { session: self.id, path });
            }
        }
    }

    async fn messages(&self, mut recv: C::Recv) -> Result<(), Broken> {
        loop {
            let frame = match read_frame(&mut recv, protocol::MAX_FRAME).await {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(ReadFrameError::Read(_)) => return Ok(()),
                Err(error) => return Err(Broken(error.to_string())),
            };
            let broken = |error: protocol::FrameError| Broken(error.to_string());
            if self.control.handle(&frame).map_err(broken)? {
                continue;
            }
            let written = match protocol::frame_type(&frame).map_err(broken)? {
                Check::TYPE => {
                    let Check { id, sources } = protocol::decode(&frame).map_err(broken)?;
                    if sources.len() > protocol::MAX_CHECKED {
                        return Err(Broken(format!("a check of {} sources", sources.len())));
                    }
                    let time = limits::CONNECT_TIMEOUT;
                    let refusals =
                        open::check(&self.shared, &self.identity, sources, time).await;
                    self.control.send(&Checked { id, refusals }).await
                }
                Ping::TYPE => {
                    let Ping { id } = protocol::decode(&frame).map_err(broken)?;
                    self.control.send(&Pong { id }).await
                }
                // A later version's.
                _ => Ok(()),
            };
            if written.is_err() {
                return Ok(());
            }
        }
    }

    /// Serves streams until the connection ends. The flows' tasks end with this future.
    async fn accept(self: &Arc<Self>) -> Result<Lost, Broken> {
        let mut flows = JoinSet::new();
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
        let frame = match timeout(limits::HEADER_TIMEOUT, read_frame(&mut recv, protocol::MAX_HELLO))
            .await
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
        self.flow_count.fetch_add(1, Ordering::Relaxed);
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
        let deadline = Instant::now() + limits::CONNECT_TIMEOUT;
        let opened = async {
            let permits = open::permits(&self.shared, &self.identity, &source, deadline).await?;
            let (request, tcp) = open::connect_tcp(permits, deadline).await?;
            self.record_opened(flow, &source, request)?;
            Ok((request, tcp))
        };
        let opened = tokio::select! {
            opened = opened => opened,
            // The client's application has gone before the target answered.
            _ = send.stopped() => return,
        };
        let (request, tcp) = match opened {
            Ok(open) => open,
            Err(refusal) => return self.refuse(flow, source, refusal, send, recv).await,
        };
        let socket = Socket::new(tcp);
        let counters = Counters::default();
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
            let brake = Brake::new(&self.control, flow);
            let Ok(end) = pump(socket, (send, gate), (recv, brake), &counters, nothing, cut).await;
            end
        };
        self.totals.add(&counters);
        self.record_closed(flow, source, end, &counters);
    }

    async fn udp(&self, open: OpenUdp, send: C::Send, mut recv: C::Recv) -> Result<(), Broken> {
        let OpenUdp { flow: id, source, .. } = open;
        if id > MAX_FLOW {
            return Err(Broken(format!("flow number {id} is too large")));
        }
        let Ok(Some(first)) =
            timeout(limits::HEADER_TIMEOUT, read_frame(&mut recv, usize::from(u16::MAX)))
                .await
                .unwrap_or(Ok(None))
        else {
            return Err(Broken("a UDP flow without its first packet".to_owned()));
        };
        let Some(flow) = self.udp.enter(id) else {
            let refusal = Refusal { reason: Reason::Limit, detail: String::new() };
            self.refuse(id, source, refusal, send, recv).await;
            return Ok(());
        };
        let deadline = Instant::now() + limits::CONNECT_TIMEOUT;
        let opened = async {
            let permits = open::permits(&self.shared, &self.identity, &source, deadline).await?;
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
        self.udp.first(flow, &port, first).await;
        self.udp.open(flow, port).await;
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
