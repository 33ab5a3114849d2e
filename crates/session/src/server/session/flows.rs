//! Flows of a client that is being served.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, timeout};
use tunnel_model::datagram::{MAX_FLOW, MAX_PACKET};
use tunnel_model::protocol::{
    self, Message, OpenTcp, OpenUdp, OpenVpn, Opened, Reason, Reattach, ReattachVpn, Reattached,
    Refusal,
};
use tunnel_model::{Protocol, Request, ResetCode, Source};

use super::{Broken, Session, no_longer};
use crate::control::Brake;
use crate::events::{Event, FlowEnd};
use crate::forward::Counters;
use crate::forward::tcp::{Socket, pump};
use crate::forward::udp::{self, Flow, Port};
use crate::frame::{ReadFrameError, read_frame, write_message};
use crate::limits;
use crate::resume::{AttachError, Receiver, Sender, Service};
use crate::server::open;
use crate::transport::{Connection, RecvStream, SendStream};

/// Where a client goes on with a flow that began on an earlier connection.
struct Again {
    flow: u64,
    position: u64,
    paused: bool,
    service: Service,
}

impl<C: Connection> Session<C> {
    /// Serves one stream of the connection of `epoch`.
    pub(super) async fn stream(
        self: &Arc<Self>,
        epoch: u64,
        send: C::Send,
        mut recv: C::Recv,
    ) -> Result<(), Broken> {
        let header = read_frame(&mut recv, protocol::MAX_HELLO);
        let frame = match timeout(limits::HEADER_TIMEOUT, header).await {
            Ok(Ok(Some(frame))) => frame,
            // Opened and given up before it began: nothing came to be.
            Err(_) | Ok(Ok(None) | Err(ReadFrameError::Read(_))) => return Ok(()),
            Ok(Err(error)) => return Err(Broken(error.to_string())),
        };
        let broken = |error: protocol::FrameError| Broken(error.to_string());
        let (flow, service) = match protocol::frame_type(&frame).map_err(broken)? {
            OpenTcp::TYPE => {
                let OpenTcp { flow, source } = protocol::decode(&frame).map_err(broken)?;
                (flow, Service::Source(Source { protocol: Protocol::Tcp, ..source }))
            }
            OpenUdp::TYPE => {
                let OpenUdp { flow, source } = protocol::decode(&frame).map_err(broken)?;
                (flow, Service::Source(Source { protocol: Protocol::Udp, ..source }))
            }
            OpenVpn::TYPE => {
                let OpenVpn { flow } = protocol::decode(&frame).map_err(broken)?;
                (flow, Service::Vpn)
            }
            Reattach::TYPE if !self.grace.is_zero() => {
                let Reattach { flow, position, paused, source } =
                    protocol::decode(&frame).map_err(broken)?;
                let again = Again { flow, position, paused, service: Service::Source(source) };
                return Box::pin(self.reattach(epoch, again, send, recv)).await;
            }
            ReattachVpn::TYPE if !self.grace.is_zero() => {
                let ReattachVpn { flow, position, paused } =
                    protocol::decode(&frame).map_err(broken)?;
                let again = Again { flow, position, paused, service: Service::Vpn };
                return Box::pin(self.reattach(epoch, again, send, recv)).await;
            }
            other => return Err(Broken(format!("a stream of unknown type {other:#04x}"))),
        };
        match self.streams.begin(flow, service.clone(), epoch, Some((send, recv))) {
            Ok((mut send, mut recv)) => {
                // What it is opened for may take its time.
                send.hand_over();
                recv.hand_over();
                self.flow(flow, service, send, recv).await
            }
            // The streams are reset with it.
            Err(_) => Ok(()),
        }
    }

    async fn flow(
        &self,
        flow: u64,
        service: Service,
        send: Sender<C>,
        recv: Receiver<C>,
    ) -> Result<(), Broken> {
        // Its stream has been counted before, so that one which is not refused here is waited for.
        if self.shared.draining.is_cancelled() {
            let refusal = Refusal { reason: Reason::Other, detail: "it is ending".to_owned() };
            let session = self.id;
            let refused = refusal.clone();
            let event = match service {
                Service::Source(source) => {
                    Event::FlowRefused { session, flow, source, refusal: refused }
                }
                Service::Vpn => Event::VpnRefused { session, flow, refusal: refused },
            };
            Box::pin(self.refuse_with(event, refusal, send, recv)).await;
            return Ok(());
        }
        match service {
            Service::Source(source) if source.protocol == Protocol::Tcp => {
                self.tcp(flow, source, send, recv).await;
                Ok(())
            }
            Service::Source(source) => Box::pin(self.udp(flow, source, send, recv)).await,
            Service::Vpn => Box::pin(self.vpn(flow, send, recv)).await,
        }
    }

    /// Attaches a flow to the connection of `epoch`, or opens it where its opening was lost with an earlier one.
    async fn reattach(
        self: &Arc<Self>,
        epoch: u64,
        again: Again,
        mut send: C::Send,
        mut recv: C::Recv,
    ) -> Result<(), Broken> {
        let Again { flow, position, paused, service } = again;
        let stream = match self.streams.get(flow) {
            Some(stream) => stream,
            None => match self.streams.begin(flow, service.clone(), epoch, None) {
                Ok((flow_send, flow_recv)) => {
                    let stream = flow_send.stream().clone();
                    let session = self.clone();
                    self.spawn(
                        async move { session.flow(flow, service, flow_send, flow_recv).await },
                    );
                    stream
                }
                Err(_) => {
                    send.reset(ResetCode::UnknownFlow);
                    recv.stop(ResetCode::UnknownFlow);
                    return Ok(());
                }
            },
        };
        if self.streams.epoch() != epoch {
            return Ok(());
        }
        let (own_position, own_paused) = match stream.detach(epoch) {
            Ok(standing) => standing,
            Err(present) if present == epoch => {
                return Err(Broken(format!("flow {flow} attached twice")));
            }
            // A later connection has come meanwhile.
            Err(_) => return Ok(()),
        };
        let answer = Reattached { position: own_position, paused: own_paused };
        if write_message(&mut send, &answer).await.is_err() {
            return Ok(());
        }
        Brake::new(&self.control, flow, stream.brake()).repeat();
        self.control.attached(flow, paused, epoch);
        match stream.attach(epoch, send, recv, position).await {
            Err(AttachError::OutOfRange(error)) => Err(Broken(error.to_string())),
            Ok(()) | Err(AttachError::NotAttached) => Ok(()),
        }
    }

    pub(super) async fn flow_revoked(&self, request: Request) {
        no_longer(self.shared.rules.clone(), |rules| {
            rules.decide(&self.identity, &request).is_ok()
        })
        .await;
    }

    async fn refuse(
        &self,
        flow: u64,
        source: Source,
        refusal: Refusal,
        send: Sender<C>,
        recv: Receiver<C>,
    ) {
        let refused = refusal.clone();
        let event = Event::FlowRefused { session: self.id, flow, source, refusal: refused };
        self.refuse_with(event, refusal, send, recv).await;
    }

    /// Tells the client that its flow is refused, which `refused` records.
    pub(super) async fn refuse_with(
        &self,
        refused: Event,
        refusal: Refusal,
        mut send: Sender<C>,
        mut recv: Receiver<C>,
    ) {
        recv.stop(ResetCode::Refused);
        let answer = Opened { refusal: Some(refusal) };
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

    async fn tcp(&self, flow: u64, source: Source, mut send: Sender<C>, mut recv: Receiver<C>) {
        self.flow_count.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + limits::CONNECT_TIMEOUT;
        let brake = Brake::new(&self.control, flow, send.stream().brake());
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
            biased;
            opened = opened => opened,
            // The client's application has gone before the target answered.
            _ = send.stopped() => return,
            () = slow => return,
        };
        let (request, tcp) = match opened {
            Ok(open) => open,
            Err(refusal) => {
                return Box::pin(self.refuse(flow, source, refusal, send, recv)).await;
            }
        };
        let socket = Socket::new(tcp);
        let counters = Counters::part_of(&self.totals);
        let end = if write_message(&mut send, &Opened { refusal: None }).await.is_err() {
            recv.stop(ResetCode::ConnectionReset);
            FlowEnd::Reset
        } else {
            let nothing = async |_: &mut Receiver<C>| Ok::<(), std::convert::Infallible>(());
            let cut = async {
                tokio::select! {
                    () = self.flow_revoked(request) => ResetCode::Revoked,
                    // A target that takes nothing must not keep what is left of a session.
                    () = self.closed.cancelled() => ResetCode::Ended,
                }
            };
            let (gate, _place) = self.control.gate(flow);
            let halves = ((send, gate), (recv, brake));
            let pump = pump(socket, halves.0, halves.1, &self.waiting, &counters, nothing, cut);
            let Ok(end) = Box::pin(pump).await;
            end
        };
        self.record_closed(flow, source, end, &counters);
    }

    async fn udp(
        &self,
        id: u64,
        source: Source,
        send: Sender<C>,
        mut recv: Receiver<C>,
    ) -> Result<(), Broken> {
        if id > MAX_FLOW {
            return Err(Broken(format!("flow number {id} is too large")));
        }
        let first = timeout(limits::HEADER_TIMEOUT, read_frame(&mut recv, usize::from(u16::MAX)));
        let first = match first.await {
            Ok(Ok(Some(first))) if first.len() <= MAX_PACKET => first,
            // Given up before it began, or cut off for so long that nobody waits for an answer any more.
            Err(_) | Ok(Err(ReadFrameError::Read(_))) => return Ok(()),
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
                let end = self.udp_flow(&flow, first, request, socket, send, recv).await;
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
        first: Vec<u8>,
        request: Request,
        socket: tokio::net::UdpSocket,
        mut send: Sender<C>,
        mut recv: Receiver<C>,
    ) -> FlowEnd {
        let socket = Arc::new(socket);
        let port = Port::new(socket.clone(), None);
        // A fresh socket is not known to be writable, and the first packet would be dropped.
        let _ = socket.writable().await;
        self.udp.first(flow, &port, &first);
        drop(first);
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
