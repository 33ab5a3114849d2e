//! The client's local listeners.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use socket2::{Domain, SockRef, Type};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream, UdpSocket, lookup_host};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tunnel_model::protocol::{MAX_FRAME, OpenTcp, OpenUdp, Opened, Reason, Refusal};
use tunnel_model::{Forward, Host, Protocol, ResetCode, Source};

use crate::client::{Dialer, Link, Session};
use crate::control::Brake;
use crate::events::{Event, FlowEnd};
use crate::forward::Counters;
use crate::forward::tcp::{Socket, pump};
use crate::forward::udp::{self, Flow, Port};
use crate::frame::{ReadFrameError, read_message};
use crate::limits::{LAST_FLOWS, MAX_FLOWS, MAX_PENDING_PACKETS, OPEN_TIMEOUT, REFUSED_PAUSE};
use crate::resume::Service;
use crate::server::open::enlarge;
use crate::transport::{Connection, ReadError, RecvStream, SendStream};

/// A forward cannot listen.
#[derive(Debug, Error)]
#[error("cannot listen on {target} for {source_}: {error}")]
pub struct BindError {
    target: String,
    source_: String,
    error: std::io::Error,
}

enum Socketed {
    Tcp(TcpListener),
    Udp(Arc<UdpSocket>),
}

/// A bound local address that waits for its link.
pub struct Listener {
    source: Source,
    address: SocketAddr,
    socket: Socketed,
}

/// Listens for every forward, or for none.
///
/// # Errors
///
/// The first forward that cannot listen.
pub async fn bind(forwards: &[Forward]) -> Result<Vec<Listener>, BindError> {
    let mut listeners = Vec::new();
    for forward in forwards {
        let bound = bind_one(forward).await.map_err(|error| BindError {
            target: forward.target.to_string(),
            source_: forward.source.to_string(),
            error,
        })?;
        listeners.extend(bound);
    }
    Ok(listeners)
}

async fn bind_one(forward: &Forward) -> std::io::Result<Vec<Listener>> {
    let port = forward.target.port;
    let protocol = forward.source.protocol;
    let addresses: Vec<SocketAddr> = match &forward.target.host {
        // Such a socket takes IPv4 as well, unless the system is set otherwise; without IPv6, IPv4 alone remains.
        Host::Ip(ip) if *ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            if cfg!(windows)
                && let Ok(socket) = bind_both(protocol, port)
            {
                return Ok(vec![listener(forward, socket)?]);
            }
            vec![SocketAddr::new(*ip, port), (Ipv4Addr::UNSPECIFIED, port).into()]
        }
        Host::Ip(ip) => vec![SocketAddr::new(*ip, port)],
        Host::Name(name) => return bind_each(forward, name).await,
    };
    Ok(vec![bind_first(forward, &addresses).await?])
}

/// Binds every address of a name, as `localhost` has one of each family: which one an application takes is its own affair.
/// Those that this machine does not have, or whose family it does not have, are left out as long as there is another one.
async fn bind_each(forward: &Forward, name: &str) -> std::io::Result<Vec<Listener>> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in lookup_host((name, forward.target.port)).await? {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    let mut listeners = Vec::new();
    let mut missing = ErrorKind::NotFound.into();
    for address in addresses {
        match bind_first(forward, &[address]).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => {
                let kind = error.kind();
                let error = std::io::Error::new(kind, format!("{address}: {error}"));
                if matches!(kind, ErrorKind::AddrInUse | ErrorKind::PermissionDenied) {
                    return Err(error);
                }
                missing = error;
            }
        }
    }
    if listeners.is_empty() { Err(missing) } else { Ok(listeners) }
}

async fn bind_first(forward: &Forward, addresses: &[SocketAddr]) -> std::io::Result<Listener> {
    let socket = match forward.source.protocol {
        Protocol::Tcp => {
            let listener = TcpListener::bind(addresses).await?;
            SockRef::from(&listener).listen(BACKLOG)?;
            Socketed::Tcp(listener)
        }
        Protocol::Udp => Socketed::Udp(Arc::new(UdpSocket::bind(addresses).await?)),
    };
    listener(forward, socket)
}

fn listener(forward: &Forward, socket: Socketed) -> std::io::Result<Listener> {
    let address = match &socket {
        Socketed::Tcp(listener) => listener.local_addr()?,
        Socketed::Udp(socket) => {
            enlarge(socket);
            socket.local_addr()?
        }
    };
    Ok(Listener { source: forward.source.clone(), address, socket })
}

/// Connections that may wait to be accepted, as far as the system allows. tokio's own listeners have 128 (mio 1.2,
/// `TcpListener::bind`), and a browser's or a load test's burst of more would in part be reset.
const BACKLOG: i32 = 1024;

/// Binds `::` for both families where the system has to be told: Windows sets `IPV6_V6ONLY` by itself.
fn bind_both(protocol: Protocol, port: u16) -> std::io::Result<Socketed> {
    let of_type = match protocol {
        Protocol::Tcp => Type::STREAM,
        Protocol::Udp => Type::DGRAM,
    };
    let socket = socket2::Socket::new(Domain::IPV6, of_type, None)?;
    socket.set_only_v6(false)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port).into())?;
    Ok(match protocol {
        Protocol::Tcp => {
            socket.listen(BACKLOG)?;
            Socketed::Tcp(TcpListener::from_std(socket.into())?)
        }
        Protocol::Udp => Socketed::Udp(Arc::new(UdpSocket::from_std(socket.into())?)),
    })
}

impl Listener {
    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it asks the server for.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Serves the listener over `link` for good.
    pub async fn run<D: Dialer>(self, link: Arc<Link<D>>) {
        match self.socket {
            Socketed::Tcp(listener) => accept(&listener, &self.source, &link).await,
            Socketed::Udp(socket) => packets(socket, self.source, link).await,
        }
    }
}

/// How long to wait when the system has no more files to give: some flow must end first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

async fn accept<D: Dialer>(listener: &TcpListener, source: &Source, link: &Arc<Link<D>>) {
    let mut flows = JoinSet::new();
    loop {
        let first = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = flows.join_next() => continue,
        };
        begin(&mut flows, first, source, link).await;
        // It asks for its flow before this one asks for more connections; those are taken together, or a burst would
        // overflow the listener's queue.
        tokio::task::yield_now().await;
        while let Some(accepted) = listener.accept().now_or_never() {
            begin(&mut flows, accepted, source, link).await;
        }
    }
}

async fn begin<D: Dialer>(
    flows: &mut JoinSet<()>,
    accepted: std::io::Result<(TcpStream, SocketAddr)>,
    source: &Source,
    link: &Arc<Link<D>>,
) {
    match accepted {
        Ok((tcp, _)) => {
            flows.spawn(tcp_flow(tcp, source.clone(), link.clone()));
        }
        Err(error) => {
            tracing::warn!(%source, %error, "a local connection was not accepted");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

/// Why a flow never came to be.
enum Unopened {
    /// The server says so.
    Refused(Refusal),
    /// The session was lost, or the stream cut, before it could.
    Ended(FlowEnd),
}

/// Reads the server's answer to an opened flow. One that does not come is no reason to let an application wait: the server
/// may have vanished just before, and its session be waited for.
async fn opened<R: RecvStream>(recv: &mut R) -> Result<(), Unopened> {
    let Ok(answer) = timeout(OPEN_TIMEOUT, read_message(recv, MAX_FRAME)).await else {
        let detail = format!("the server has not answered within {} s", OPEN_TIMEOUT.as_secs());
        return Err(Unopened::Refused(Refusal { reason: Reason::Other, detail }));
    };
    match answer {
        Ok(Opened { refusal }) => refusal.map_or(Ok(()), |r| Err(Unopened::Refused(r))),
        Err(ReadFrameError::Read(error)) => Err(Unopened::Ended(flow_end(&error))),
        Err(error) => {
            let detail = error.to_string();
            Err(Unopened::Refused(Refusal { reason: Reason::Other, detail }))
        }
    }
}

fn flow_end(error: &ReadError) -> FlowEnd {
    match error {
        ReadError::Reset(ResetCode::Revoked) => FlowEnd::Revoked,
        ReadError::Reset(ResetCode::Ended) | ReadError::Lost(_) => FlowEnd::SessionLost,
        ReadError::Reset(_) => FlowEnd::Reset,
    }
}

async fn tcp_flow<D: Dialer>(tcp: TcpStream, source: Source, link: Arc<Link<D>>) {
    let socket = Socket::new(tcp);
    let Some(session) = link.session().await else {
        tracing::warn!(%source, "a local connection was closed: there is no session with the server");
        return;
    };
    let _open = session.open_flow();
    let flow = link.next_flow();
    let open = OpenTcp { flow, source: source.clone() };
    let (send, recv) = match session.open(flow, &Service::Source(source.clone()), &open).await {
        Ok(halves) => halves,
        Err(why) => {
            tracing::warn!(%source, "a local connection was closed: {why}");
            return;
        }
    };
    let counters = Counters::part_of(&session.totals);
    let record = async |recv: &mut _| {
        opened(recv).await?;
        record_opened(&link, &session, flow, &source)
    };
    // An application that takes nothing must not keep what is left of a session.
    let over = async {
        session.streams.over().await;
        sleep(LAST_FLOWS).await;
        ResetCode::Ended
    };
    let (gate, _place) = session.control.gate(flow);
    let brake = Brake::new(&session.control, flow, send.stream().brake());
    let halves = ((send, gate), (recv, brake));
    let pump = pump(socket, halves.0, halves.1, &session.waiting, &counters, record, over);
    match Box::pin(pump).await {
        Ok(why) | Err(Unopened::Ended(why)) => {
            record_closed(&link, &session, flow, source, why, &counters);
        }
        Err(Unopened::Refused(refusal)) => record_refused(&link, &session, flow, source, refusal),
    }
}

fn record_opened<D: Dialer>(
    link: &Link<D>,
    session: &Session<D::Connection>,
    flow: u64,
    source: &Source,
) -> Result<(), Unopened> {
    let (session, source) = (session.id, source.clone());
    link.events().decide(Event::FlowOpened { session, flow, source, request: None }).map_err(
        |error| Unopened::Refused(Refusal { reason: Reason::Other, detail: error.to_string() }),
    )
}

fn record_refused<D: Dialer>(
    link: &Link<D>,
    session: &Session<D::Connection>,
    flow: u64,
    source: Source,
    refusal: Refusal,
) {
    link.events().notice(Event::FlowRefused { session: session.id, flow, source, refusal });
}

fn record_closed<D: Dialer>(
    link: &Link<D>,
    session: &Session<D::Connection>,
    flow: u64,
    source: Source,
    why: FlowEnd,
    counters: &Counters,
) {
    link.events().notice(Event::FlowClosed {
        session: session.id,
        flow,
        source,
        why,
        sent: counters.sent(),
        received: counters.received(),
    });
}

/// One local peer's flow, as the listener sees it.
enum Peer<C: Connection> {
    /// Its task is opening it; packets wait there.
    Opening(mpsc::Sender<Bytes>),
    /// Packets go straight to the session.
    Open(Arc<Session<C>>, Arc<Flow>),
    /// The server does not want them; for a while they are dropped here.
    Refused,
}

type Peers<C> = Arc<Mutex<HashMap<SocketAddr, Peer<C>>>>;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn packets<D: Dialer>(socket: Arc<UdpSocket>, source: Source, link: Arc<Link<D>>) {
    let peers: Peers<D::Connection> = Arc::default();
    let mut tasks = JoinSet::new();
    let mut datagrams = Vec::new();
    while socket.readable().await.is_ok() {
        while tasks.try_join_next().is_some() {}
        let result = {
            let mut table = lock(&peers);
            let mut touched: Option<Arc<Session<D::Connection>>> = None;
            let result = udp::drain(&socket, |from, packet| match table.get(&from) {
                Some(Peer::Open(session, flow)) => {
                    // A batch of one socket nearly always has one session; another one's datagrams must not go there.
                    if let Some(last) = touched.as_ref().filter(|last| !Arc::ptr_eq(last, session))
                    {
                        last.udp.flush(&mut datagrams);
                    }
                    session.udp.prepare(flow, packet, &mut datagrams);
                    touched = Some(session.clone());
                }
                // A full queue drops, as a full socket buffer would.
                Some(Peer::Opening(queue)) => {
                    let _ = queue.try_send(Bytes::copy_from_slice(packet));
                }
                Some(Peer::Refused) => {}
                None if table.len() >= MAX_FLOWS as usize => {}
                None => {
                    let (queue, waiting) = mpsc::channel(MAX_PENDING_PACKETS);
                    table.insert(from, Peer::Opening(queue));
                    let first = Bytes::copy_from_slice(packet);
                    let place = Place { peers: peers.clone(), peer: from };
                    let port = Port::new(socket.clone(), Some(from));
                    tasks.spawn(udp_flow(
                        link.clone(),
                        source.clone(),
                        first,
                        waiting,
                        place,
                        port,
                    ));
                }
            });
            if let Some(session) = touched {
                session.udp.flush(&mut datagrams);
            }
            result
        };
        match result {
            // Under a flood the socket is always readable, and nothing else would run on this thread.
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => {}
            // An ICMP message about a packet to a local peer that has gone.
            Err(error) => tracing::debug!(%source, %error, "a local UDP peer is gone"),
        }
    }
}

/// A local peer's place in the listener's table; given back however its flow ends.
struct Place<C: Connection> {
    peers: Peers<C>,
    peer: SocketAddr,
}

impl<C: Connection> Drop for Place<C> {
    fn drop(&mut self) {
        lock(&self.peers).remove(&self.peer);
    }
}

async fn udp_flow<D: Dialer>(
    link: Arc<Link<D>>,
    source: Source,
    first: Bytes,
    mut waiting: mpsc::Receiver<Bytes>,
    place: Place<D::Connection>,
    port: Port,
) {
    let Some(session) = link.session().await else { return };
    let _open = session.open_flow();
    let id = link.next_flow();
    session.udp.make_room();
    let Some(flow) = session.udp.enter(id) else { return };
    let open = OpenUdp { flow: id, source: source.clone() };
    let service = Service::Source(source.clone());
    let (mut send, mut recv) = match session.open(id, &service, &open).await {
        Ok(halves) => halves,
        Err(why) => {
            session.udp.remove(id);
            tracing::warn!(%source, "packets of a local peer were dropped: {why}");
            return;
        }
    };
    session.udp.open(&flow, port);
    let length = u16::try_from(first.len()).unwrap_or_default().to_be_bytes();
    let mut packet = [Bytes::copy_from_slice(&length), first.clone()];
    let end = match send.write_chunks(&mut packet).await {
        Err(_) => Ok(FlowEnd::SessionLost),
        Ok(()) => {
            flow.counters.add_sent(first.len());
            drop(first);
            lock(&place.peers).insert(place.peer, Peer::Open(session.clone(), flow.clone()));
            let mut datagrams = Vec::new();
            while let Ok(packet) = waiting.try_recv() {
                session.udp.prepare(&flow, &packet, &mut datagrams);
            }
            session.udp.flush(&mut datagrams);
            let open = async {
                opened(&mut recv).await?;
                record_opened(&link, &session, id, &source)
            };
            match open.await {
                Err(unopened) => Err(unopened),
                // The server ends the flow: by its idle time, its rules, or its end.
                Ok(()) => {
                    let mut farewell = [0];
                    Ok(tokio::select! {
                        read = recv.read_exact(&mut farewell) => match read {
                            Ok(_) => FlowEnd::Idle,
                            Err(error) => flow_end(&error),
                        },
                        () = flow.displaced() => FlowEnd::Idle,
                    })
                }
            }
        }
    };
    // Before the place is given back: the peer's next packet opens a new flow.
    session.udp.remove(id);
    send.finish();
    match end {
        Ok(why) | Err(Unopened::Ended(why)) => {
            drop(place);
            record_closed(&link, &session, id, source, why, &flow.counters);
        }
        Err(Unopened::Refused(refusal)) => {
            lock(&place.peers).insert(place.peer, Peer::Refused);
            record_refused(&link, &session, id, source, refusal);
            tokio::time::sleep(REFUSED_PAUSE).await;
        }
    }
}
