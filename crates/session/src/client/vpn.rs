//! A client's VPN flow.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tunnel_model::ResetCode;
use tunnel_model::protocol::{
    MAX_ADDRESSES, MAX_FRAME, OpenVpn, Opened, Reason, Refusal, VpnOpened, VpnRequest,
};

use super::{Dialer, Link, Session};
use crate::events::{Event, FlowEnd};
use crate::forward::udp::{Flow, Port};
use crate::frame::{ReadFrameError, read_message, write_message};
use crate::resume::{Receiver, Sender, Service};
use crate::transport::{Connection, ReadError, RecvStream, SendStream};
use crate::vpn::{Arrivals, Carrier, Vpn, VpnError};

/// A flow that has been opened and has not been handed over; it leaves nothing behind when dropped.
struct Begun<C: Connection> {
    session: Arc<Session<C>>,
    flow: Arc<Flow>,
}

impl<C: Connection> Drop for Begun<C> {
    fn drop(&mut self) {
        self.session.udp.remove(self.flow.id);
    }
}

impl<D: Dialer> Link<D> {
    /// How many flows the present session has.
    #[cfg(test)]
    pub(crate) async fn flow_count(&self) -> usize {
        self.next_session().await.streams.all().1.len()
    }

    /// Opens a VPN flow on the present session, or on the next one if there is none, for as long as that takes. Its packets
    /// go to `arrivals`, with `tag`.
    ///
    /// # Errors
    ///
    /// Why the server has none for this client, or that the session was lost meanwhile.
    pub async fn open_vpn(
        &self,
        request: &VpnRequest,
        arrivals: Arc<Arrivals>,
        tag: u64,
    ) -> Result<Vpn, VpnError> {
        let session = self.next_session().await;
        let secret = session.vpn_secret().ok_or(VpnError::NotOffered)?;
        let id = self.next_flow();
        let open = session.open_flow();
        let lost = VpnError::Lost(FlowEnd::SessionLost);
        let flow = session.udp.enter(id).ok_or_else(|| lost.clone())?;
        let begun = Begun { session: session.clone(), flow: flow.clone() };
        session.udp.open(&flow, Port::vpn(arrivals, tag));
        let (mut send, mut recv) = session
            .open(id, &Service::Vpn, &OpenVpn { flow: id })
            .await
            .map_err(|_| lost.clone())?;
        write_message(&mut send, request).await.map_err(|_| lost)?;
        let opened = match answer(&mut recv).await {
            Ok(opened) => opened,
            Err(error) => {
                if let VpnError::Refused(refusal) = &error {
                    let refusal = refusal.clone();
                    self.events().notice(Event::VpnRefused {
                        session: session.id,
                        flow: id,
                        refusal,
                    });
                }
                return Err(error);
            }
        };
        let recorded = self.events().decide(Event::VpnOpened {
            session: session.id,
            flow: id,
            addresses: opened.addresses.clone(),
            routes: request.routes.clone(),
        });
        recorded.map_err(|error| {
            VpnError::Refused(Refusal { reason: Reason::Other, detail: error.to_string() })
        })?;
        let (told, end) = oneshot::channel();
        let leaving = CancellationToken::new();
        let (events, left) = (self.events().clone(), leaving.clone());
        tokio::spawn(async move {
            let why = tokio::select! {
                why = over(&mut recv) => why,
                () = left.cancelled() => FlowEnd::Finished,
            };
            send.finish();
            let counters = &begun.flow.counters;
            events.notice(Event::VpnClosed {
                session: begun.session.id,
                flow: id,
                why: why.clone(),
                sent: counters.sent(),
                received: counters.received(),
            });
            drop((begun, open));
            let _ = told.send(why);
            hand_back(send, recv);
        });
        let carrier = Carrier::new(session.udp.clone(), flow);
        Ok(Vpn { opened, secret, carrier, end, _leaving: leaving.drop_guard() })
    }
}

/// Lets go of a flow that has ended in order.
fn hand_back<C: Connection>(send: Sender<C>, mut recv: Receiver<C>) {
    drop(send);
    recv.stop(ResetCode::Ended);
}

fn end_of(error: &ReadError) -> FlowEnd {
    match error {
        ReadError::Reset(ResetCode::Revoked) => FlowEnd::Revoked,
        ReadError::Reset(ResetCode::Replaced) => FlowEnd::Replaced,
        ReadError::Reset(ResetCode::Ended) | ReadError::Lost(_) => FlowEnd::SessionLost,
        ReadError::Reset(_) => FlowEnd::Reset,
    }
}

/// Resolves when the server has ended the flow.
async fn over<R: RecvStream>(recv: &mut R) -> FlowEnd {
    match recv.read_exact(&mut [0]).await {
        Ok(_) => FlowEnd::Finished,
        Err(error) => end_of(&error),
    }
}

/// Reads what the server says to a request.
async fn answer<R: RecvStream>(recv: &mut R) -> Result<VpnOpened, VpnError> {
    let unread = |error: ReadFrameError| match error {
        ReadFrameError::Read(error) => VpnError::Lost(end_of(&error)),
        other => VpnError::Malformed(other.to_string()),
    };
    let Opened { refusal } = read_message(recv, MAX_FRAME).await.map_err(unread)?;
    if let Some(refusal) = refusal {
        return Err(VpnError::Refused(refusal));
    }
    let opened: VpnOpened = read_message(recv, MAX_FRAME).await.map_err(unread)?;
    check(&opened).map_err(|why| VpnError::Malformed(why.to_owned()))?;
    Ok(opened)
}

/// Whether what a server gives can be: its word alone must not take more of this machine's traffic than a VPN's network.
fn check(opened: &VpnOpened) -> Result<(), &'static str> {
    let addresses = &opened.addresses;
    if addresses.is_empty() || addresses.len() > MAX_ADDRESSES {
        return Err("not one address of each family");
    }
    if addresses.len() == 2 && addresses[0].addr().is_ipv4() == addresses[1].addr().is_ipv4() {
        return Err("two addresses of one family");
    }
    for address in addresses {
        let ip = address.addr();
        let least = if ip.is_ipv4() { 8 } else { 32 };
        if address.prefix_len() < least {
            return Err("an address of a network that is too large");
        }
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err("an address that no host can have");
        }
    }
    // A link below it carries no IPv6 (RFC 8200 section 5).
    if opened.mtu < 1280 {
        return Err("an MTU below 1280");
    }
    let of_vpn = |ip: &std::net::IpAddr| addresses.iter().any(|address| address.contains(ip));
    if !opened.server.iter().all(of_vpn) {
        return Err("a server outside its own network");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(addresses: &[&str], server: &str) -> VpnOpened {
        VpnOpened {
            public_key: [0; 32],
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            server: vec![server.parse().unwrap()],
            mtu: 1420,
        }
    }

    #[test]
    fn a_server_cannot_take_more_than_a_network() {
        assert!(check(&opened(&["10.0.0.2/24", "fd00::2/64"], "10.0.0.1")).is_ok());
        for (addresses, server) in [
            (&[] as &[&str], "10.0.0.1"),
            (&["0.0.0.1/0"], "10.0.0.1"),
            (&["10.0.0.2/4"], "10.0.0.1"),
            (&["2001:db8::2/16"], "2001:db8::1"),
            (&["127.0.0.2/24"], "127.0.0.1"),
            (&["10.0.0.2/24", "10.1.0.2/24"], "10.0.0.1"),
            (&["10.0.0.2/24"], "8.8.8.8"),
        ] {
            assert!(check(&opened(addresses, server)).is_err(), "{addresses:?}");
        }
    }
    #[test]
    fn an_mtu_that_carries_no_ipv6_is_none() {
        let with = |mtu| VpnOpened { mtu, ..opened(&["10.0.0.2/24"], "10.0.0.1") };
        assert!(check(&with(1280)).is_ok());
        assert!(check(&with(1279)).is_err() && check(&with(0)).is_err());
    }
}
