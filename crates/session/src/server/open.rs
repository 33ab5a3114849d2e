//! From a source to an open socket: resolve, decide, connect, in this order, on the same address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout_at};
use tunnel_model::protocol::{Reason, Refusal};
use tunnel_model::{Denied, Host, Identity, Permit, Policy, Request, Source};

use crate::limits::{CONNECT_STAGGER, MAX_ADDRESSES};
use crate::server::Shared;

/// Who asks, and what the asking may cost.
#[derive(Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) shared: &'a Shared,
    pub(super) identity: &'a Identity,
    /// The session's own share of look-ups.
    pub(super) lookups: &'a Arc<Semaphore>,
}

fn refusal(reason: Reason, detail: impl ToString) -> Refusal {
    Refusal { reason, detail: detail.to_string() }
}

fn timed_out() -> Refusal {
    refusal(Reason::TimedOut, "")
}

/// The permits for the addresses behind `source`, at least one.
pub(super) async fn permits(
    asker: &Asker<'_>,
    source: &Source,
    deadline: tokio::time::Instant,
) -> Result<Vec<Permit>, Refusal> {
    let Asker { shared, identity, .. } = *asker;
    // No rule can allow it, so no name server needs to hear of it.
    if !shared.rules.borrow().allows_any(source.protocol) {
        return Err(refusal(Reason::NotAllowed, Denied::NotAllowed(source.protocol)));
    }
    let addresses = match &source.host {
        Host::Ip(ip) => vec![*ip],
        Host::Name(name) => timeout_at(deadline, lookup(asker, name))
            .await
            .map_err(|_| refusal(Reason::NameNotFound, "the resolver did not answer in time"))??,
    };
    let rules = shared.rules.borrow().clone();
    decide(&rules, identity, source, addresses)
}

fn decide(
    rules: &Policy,
    identity: &Identity,
    source: &Source,
    addresses: Vec<IpAddr>,
) -> Result<Vec<Permit>, Refusal> {
    let mut denied = Denied::NotAllowed(source.protocol);
    let mut permits = Vec::new();
    for ip in addresses {
        let request = Request::new(source.protocol, SocketAddr::new(ip, source.port));
        match rules.decide(identity, &request) {
            Ok(permit) if permits.len() < MAX_ADDRESSES => permits.push(permit),
            Ok(_) => break,
            Err(why) => denied = why,
        }
    }
    if permits.is_empty() { Err(refusal(Reason::NotAllowed, denied)) } else { Ok(permits) }
}

async fn lookup(asker: &Asker<'_>, name: &str) -> Result<Vec<IpAddr>, Refusal> {
    let failed = |error: &dyn ToString| refusal(Reason::NameNotFound, error.to_string());
    let own = asker.lookups.clone().acquire_owned().await.map_err(|e| failed(&e))?;
    let place = asker.shared.lookups.clone().acquire_owned().await.map_err(|e| failed(&e))?;
    let name = name.to_owned();
    // A task of its own: the places stay taken as long as the look-up's thread does, also if nobody waits any more.
    let answers = tokio::spawn(async move {
        let answers = tokio::net::lookup_host((name.as_str(), 0)).await.map(Iterator::collect);
        drop((own, place));
        answers
    });
    let answers: Vec<SocketAddr> =
        answers.await.map_err(|e| failed(&e))?.map_err(|e: io::Error| failed(&e))?;
    if answers.is_empty() {
        return Err(failed(&"no addresses"));
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for ip in answers.iter().map(|answer| answer.ip().to_canonical()) {
        if !addresses.contains(&ip) {
            addresses.push(ip);
        }
    }
    Ok(addresses)
}

fn connect_refusal(error: &io::Error) -> Refusal {
    let reason = match error.kind() {
        io::ErrorKind::ConnectionRefused => return refusal(Reason::ConnectionRefused, ""),
        io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable
        | io::ErrorKind::NetworkDown => Reason::Unreachable,
        io::ErrorKind::TimedOut => Reason::TimedOut,
        _ => Reason::Other,
    };
    refusal(reason, error)
}

/// Connects to the first permitted address that answers; each next one is tried a little after the one before
/// (RFC 8305 section 5).
pub(super) async fn connect_tcp(
    permits: Vec<Permit>,
    deadline: tokio::time::Instant,
) -> Result<(Request, TcpStream), Refusal> {
    let mut attempts: FuturesUnordered<_> = permits
        .into_iter()
        .filter_map(|permit| Some((permit.request(), permit.request().addr()?)))
        .zip(0u32..)
        .map(|((request, addr), nth)| async move {
            // Even no time at all is a whole tick of the timer.
            if nth > 0 {
                sleep(nth * CONNECT_STAGGER).await;
            }
            connect_one(addr).await.map(|tcp| (request, tcp))
        })
        .collect();
    let first = async {
        let mut last = None;
        while let Some(attempt) = attempts.next().await {
            match attempt {
                Ok(open) => return Ok(open),
                Err(error) => last = Some(error),
            }
        }
        Err(last.as_ref().map_or_else(timed_out, connect_refusal))
    };
    timeout_at(deadline, first).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Connects a socket that resets its connection when dropped: one that is given up before it was served must not look
/// like an orderly end to the target.
async fn connect_one(addr: SocketAddr) -> io::Result<TcpStream> {
    let socket = if addr.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    socket.connect(addr).await
}

/// A socket that exchanges packets with one permitted address and with no other: the first to which there is a route. No
/// answer tells whether anybody listens there, and of `localhost` it is rather the address of IPv4.
pub(super) async fn connect_udp(permits: Vec<Permit>) -> Result<(Request, UdpSocket), Refusal> {
    let mut refused = timed_out();
    let mut targets: Vec<_> = permits
        .iter()
        .filter_map(|permit| Some((permit.request(), permit.request().addr()?)))
        .collect();
    targets.sort_by_key(|(_, addr)| addr.ip() == Ipv6Addr::LOCALHOST);
    for (request, addr) in targets {
        match connect_udp_one(addr).await {
            Ok(socket) => return Ok((request, socket)),
            Err(error) => refused = connect_refusal(&error),
        }
    }
    Err(refused)
}

async fn connect_udp_one(addr: SocketAddr) -> io::Result<UdpSocket> {
    let local: IpAddr = match addr {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((local, 0)).await?;
    socket.connect(addr).await?;
    enlarge(&socket);
    Ok(socket)
}

/// Room for a burst of full-size packets while this process is scheduled; systems cap it to their own limit.
const SOCKET_BUFFER: usize = 2 * 1024 * 1024;

pub(crate) fn enlarge(socket: &UdpSocket) {
    let socket = socket2::SockRef::from(socket);
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
}

/// The refusal of each source as things stand, without connecting.
pub(super) async fn check(
    asker: &Asker<'_>,
    sources: Vec<Source>,
    time: Duration,
) -> Vec<Option<Refusal>> {
    let deadline = tokio::time::Instant::now() + time;
    let checks = sources.iter().map(|source| permits(asker, source, deadline));
    futures_util::future::join_all(checks).await.into_iter().map(Result::err).collect()
}

#[cfg(test)]
mod tests {
    use tunnel_model::{Allowlist, TokenList};

    use super::*;

    #[test]
    fn only_allowed_answers_are_kept_and_none_left_is_a_refusal() {
        let tokens: TokenList = "ikAdvudu_ZxNXhNLCD".parse().unwrap();
        let identity =
            Identity { token: Some(tokens.0[0].token.id()), label: None, peer: String::new() };
        let tcp = vec!["10.0.0.0/8".parse().unwrap()];
        let rules = Policy::new(tokens.0, Allowlist { tcp, udp: Vec::new() });
        let source: Source = "tcp://name:80".parse().unwrap();
        let answers = |ips: &[&str]| ips.iter().map(|ip| ip.parse().unwrap()).collect::<Vec<_>>();
        let mixed = answers(&["127.0.0.1", "10.0.0.9", "::1", "169.254.169.254"]);
        let kept = decide(&rules, &identity, &source, mixed).unwrap();
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].request().addr(), "10.0.0.9:80".parse().ok());
        let refused = decide(&rules, &identity, &source, answers(&["127.0.0.1"])).unwrap_err();
        assert_eq!(refused.reason, Reason::NotAllowed);
    }
}
