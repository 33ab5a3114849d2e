//! The VPN flow of a client that is being served.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::timeout;
use tunnel_model::datagram::MAX_FLOW;
use tunnel_model::protocol::{self, MAX_ROUTES, Opened, Reason, Refusal, VpnRequest};
use tunnel_model::{Request, ResetCode};

use super::{Broken, Session};
use crate::events::{Event, FlowEnd};
use crate::forward::udp::{Flow, Port};
use crate::frame::{ReadFrameError, read_message, write_message};
use crate::limits;
use crate::resume::{Receiver, Sender};
use crate::transport::{Connection, RecvStream, SendStream};
use crate::vpn::{Applicant, Carrier, Entry};

impl<C: Connection> Session<C> {
    pub(super) async fn vpn(
        &self,
        id: u64,
        send: Sender<C>,
        mut recv: Receiver<C>,
    ) -> Result<(), Broken> {
        if id > MAX_FLOW {
            return Err(Broken(format!("flow number {id} is too large")));
        }
        let request = read_message(&mut recv, protocol::MAX_FRAME);
        let request: VpnRequest = match timeout(limits::HEADER_TIMEOUT, request).await {
            Ok(Ok(request)) => request,
            // Given up before it began, or cut off for so long that nobody waits for an answer any more.
            Err(_) | Ok(Err(ReadFrameError::Read(_))) => return Ok(()),
            Ok(Err(error)) => return Err(Broken(error.to_string())),
        };
        if request.routes.len() > MAX_ROUTES {
            return Err(Broken(format!("a request for {} routes", request.routes.len())));
        }
        self.flow_count.fetch_add(1, Ordering::Relaxed);
        let refusal = match self.udp.enter(id) {
            None => Refusal { reason: Reason::Limit, detail: String::new() },
            Some(flow) => match self.let_in(&flow, &request) {
                Ok((entry, requests)) => {
                    let why = self.vpn_flow(&flow, entry, &requests, send, recv).await;
                    self.udp.remove(id);
                    self.shared.events.notice(Event::VpnClosed {
                        session: self.id,
                        flow: id,
                        why,
                        sent: flow.counters.sent(),
                        received: flow.counters.received(),
                    });
                    return Ok(());
                }
                Err(refusal) => {
                    self.udp.remove(id);
                    refusal
                }
            },
        };
        let event = Event::VpnRefused { session: self.id, flow: id, refusal: refusal.clone() };
        self.refuse_with(event, refusal, send, recv).await;
        Ok(())
    }

    /// Decides on a client's request, and gives it a place.
    fn let_in(
        &self,
        flow: &Arc<Flow>,
        request: &VpnRequest,
    ) -> Result<(Entry, Vec<Request>), Refusal> {
        let routes = request.routes.iter().map(|route| Request::VpnRoute(*route));
        let requests: Vec<_> = std::iter::once(Request::VpnAddress).chain(routes).collect();
        let rules = self.shared.rules.borrow().clone();
        let mut routes = Vec::new();
        for request in &requests {
            let permit = rules.decide(&self.identity, request).map_err(|denied| Refusal {
                reason: Reason::NotAllowed,
                detail: denied.to_string(),
            })?;
            if let Request::VpnRoute(route) = permit.request() {
                routes.push(route);
            }
        }
        let failed = |detail: &str| Refusal { reason: Reason::Other, detail: detail.to_owned() };
        let Some(vpn) = &self.shared.vpn else {
            let detail = "this server has no VPN".to_owned();
            return Err(Refusal { reason: Reason::NotAllowed, detail });
        };
        let secret = self.vpn.as_ref().ok_or_else(|| failed("there is no keying material"))?;
        let entry = vpn.enter(Applicant {
            peer: &self.client.peer,
            identity: &self.identity,
            public_key: &request.public_key,
            routes: &routes,
            secret,
            carrier: Carrier::new(self.udp.clone(), flow.clone()),
        })?;
        let opened = Event::VpnOpened {
            session: self.id,
            flow: flow.id,
            addresses: entry.opened.addresses.clone(),
            routes,
        };
        self.shared.events.decide(opened).map_err(|error| failed(&error.to_string()))?;
        Ok((entry, requests))
    }

    async fn vpn_flow(
        &self,
        flow: &Arc<Flow>,
        entry: Entry,
        requests: &[Request],
        mut send: Sender<C>,
        mut recv: Receiver<C>,
    ) -> FlowEnd {
        let Entry { opened, tag, arrivals, replaced, place } = entry;
        self.udp.open(flow, Port::vpn(arrivals, tag));
        let answered = async {
            write_message(&mut send, &Opened { refusal: None }).await?;
            write_message(&mut send, &opened).await
        };
        if answered.await.is_err() {
            return FlowEnd::SessionLost;
        }
        let revoked = requests.iter().map(|request| Box::pin(self.flow_revoked(*request)));
        let mut farewell = [0];
        let end = tokio::select! {
            _ = futures_util::future::select_all(revoked) => FlowEnd::Revoked,
            () = replaced.cancelled() => FlowEnd::Replaced,
            farewell = recv.read_exact(&mut farewell) => match farewell {
                Ok(_) => FlowEnd::Finished,
                Err(_) if self.streams.is_over() => FlowEnd::SessionLost,
                Err(_) => FlowEnd::Reset,
            },
        };
        match end {
            FlowEnd::Revoked => send.reset(ResetCode::Revoked),
            FlowEnd::Replaced => send.reset(ResetCode::Replaced),
            _ => send.finish(),
        }
        drop(place);
        end
    }
}
