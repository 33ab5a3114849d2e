//! The whole of it in one process: a relay, a server, a client, two services, and what passes between them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tunnel_cli::{Failure, Outcome};
use tunnel_iroh::{
    Discovery, Endpoint, EndpointConfig, IrohConnection, IrohDialer, RelayCa, RelayServer, Relays,
};
use tunnel_model::{Allowlist, Forward, Policy, Protocol, Source, Token, TokenEntry};
use tunnel_relay::{Relay, RelayOptions};
use tunnel_session::client::Link;
use tunnel_session::events::Events;
use tunnel_session::limits::DEFAULT_GRACE;
use tunnel_session::server::{Limits, Server};
use tunnel_session::transport::{Connection as _, PathKind, Role};

use super::{print, print_json, server};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Enough for a figure that says something, little enough for a small machine.
const BULK: usize = 256 * 1024 * 1024;
const PACKETS: usize = 200;
/// Larger than one datagram carries, so that splitting is part of what is shown.
const PACKET: usize = 1452;
/// Everything is on this machine; what takes longer than this has failed.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Args, Debug)]
pub(crate) struct DemoArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What the demo has seen.
struct Report {
    server_id: String,
    relay: String,
    path: String,
    direct: bool,
    key_exchange: String,
    rtt: Duration,
    up: f64,
    down: f64,
    packets: usize,
    packet_rtt: Duration,
}

type Link0 = Arc<Link<IrohDialer>>;

pub(super) async fn run(args: &DemoArgs) -> Outcome {
    let report = timeout(LIMIT, show())
        .await
        .map_err(|_| Failure::Failed(format!("no end within {} s", LIMIT.as_secs())))??;
    if args.json {
        return print_json(&json!({
            "server_id": report.server_id,
            "relay": report.relay,
            "path": report.path,
            "direct": report.direct,
            "key_exchange": report.key_exchange,
            "round_trip_ms": report.rtt.as_secs_f64() * 1000.0,
            "tcp_up_mbit_s": report.up,
            "tcp_down_mbit_s": report.down,
            "udp_packets_returned": report.packets,
            "udp_packets_sent": PACKETS,
            "udp_round_trip_ms": report.packet_rtt.as_secs_f64() * 1000.0,
        }));
    }
    for line in lines(&report) {
        print(&line)?;
    }
    Ok(())
}

fn lines(report: &Report) -> Vec<String> {
    let mib = BULK / 1024 / 1024;
    vec![
        "tunnel-rs demo: a relay, a server and a client in this process, on loopback".to_owned(),
        String::new(),
        format!("  server        {}", report.server_id),
        format!("  relay         {}", report.relay),
        format!("  path          {}", report.path),
        format!("  key exchange  {}", report.key_exchange),
        format!("  round trip    {:.2} ms", report.rtt.as_secs_f64() * 1000.0),
        format!(
            "  TCP           {mib} MiB each way, hashes equal: {:.0} Mbit/s up, {:.0} Mbit/s down",
            report.up, report.down
        ),
        format!(
            "  UDP           {} of {PACKETS} packets of {PACKET} bytes returned, {:.2} ms each",
            report.packets,
            report.packet_rtt.as_secs_f64() * 1000.0
        ),
        String::new(),
        "On two real machines, with one token on both:".to_owned(),
        String::new(),
        "  tunnel-rs generate-token > token && chmod 600 token".to_owned(),
        "  # where the service is".to_owned(),
        "  tunnel-rs server --allowed-tcp 127.0.0.0/8 --auth-tokens-file token".to_owned(),
        "  # where it is wanted; the server prints its ticket".to_owned(),
        "  tunnel-rs client --ticket TICKET --auth-token-file token -L 2222:127.0.0.1:22"
            .to_owned(),
    ]
}

async fn show() -> Outcome<Report> {
    let options =
        RelayOptions::for_now(SocketAddr::new(LOCALHOST, 0), 0).map_err(Failure::failed)?;
    let relay = Relay::start(options).await.map_err(Failure::failed)?;
    let token = Token::generate().map_err(Failure::failed)?;
    let tcp = TcpListener::bind((LOCALHOST, 0)).await.map_err(Failure::failed)?;
    let udp = UdpSocket::bind((LOCALHOST, 0)).await.map_err(Failure::failed)?;
    let (tcp_service, udp_service) =
        (tcp.local_addr().map_err(Failure::failed)?, udp.local_addr().map_err(Failure::failed)?);
    tokio::spawn(bulk_service(tcp));
    tokio::spawn(echo_service(udp));

    let shutdown = CancellationToken::new();
    let server = Endpoint::bind(endpoint_config(&relay)?, Role::Server).await;
    let server = server.map_err(Failure::failed)?;
    tokio::spawn(server::accept(server.clone(), serve(&token)?, shutdown.clone()));
    server.standing(Duration::from_secs(5)).await;
    let ticket = server.ticket();

    let client = Endpoint::bind(endpoint_config(&relay)?, Role::Client).await;
    let client = client.map_err(Failure::failed)?;
    let forwards = [
        forward(Protocol::Tcp, tcp_service).map_err(Failure::failed)?,
        forward(Protocol::Udp, udp_service).map_err(Failure::failed)?,
    ];
    let listeners = tunnel_session::bind(&forwards).await.map_err(Failure::failed)?;
    let (tcp_target, udp_target) = (listeners[0].address(), listeners[1].address());
    let sources: Vec<Source> = forwards.iter().map(|f| f.source.clone()).collect();
    let dialer = IrohDialer::new(client.clone(), server.id(), Some(ticket));
    let link = Link::new(dialer, Some(token), sources, DEFAULT_GRACE, Events::default(), |_| {});
    let link: Link0 = link.map_err(Failure::failed)?;
    for listener in listeners {
        tokio::spawn(listener.run(link.clone()));
    }
    let running = {
        let link = link.clone();
        tokio::spawn(async move { link.run().await })
    };
    let connection = link.up().await;
    settle(&connection).await;

    let (up, down) = bulk(tcp_target).await?;
    let (packets, packet_rtt) = echo(udp_target).await?;
    let path =
        connection.path().ok_or_else(|| Failure::Failed("the session has no path".into()))?;
    let report = Report {
        server_id: server.id().to_string(),
        relay: url(&relay),
        path: path.kind.to_string(),
        direct: matches!(path.kind, PathKind::Direct(_)),
        key_exchange: connection.key_exchange().map_or_else(String::new, |kx| format!("{kx:?}")),
        rtt: path.rtt,
        up,
        down,
        packets,
        packet_rtt,
    };
    running.abort();
    link.close();
    shutdown.cancel();
    client.close().await;
    server.close().await;
    Ok(report)
}

fn url(relay: &Relay) -> String {
    format!("https://{}", relay.address())
}

fn endpoint_config(relay: &Relay) -> Outcome<EndpointConfig> {
    let pin = relay.pin().unwrap_or_default().parse().map_err(Failure::failed)?;
    let url = url(relay).parse().map_err(Failure::failed)?;
    let quic_port = relay.quic_address().map(|address| address.port());
    let relay_ca = RelayCa::Pins(vec![pin]);
    Ok(EndpointConfig {
        relays: Relays::Own(vec![RelayServer { url, quic_port }]),
        discovery: Discovery::None,
        relay_ca,
        bind: vec![SocketAddr::new(LOCALHOST, 0)],
        ..EndpointConfig::default()
    })
}

fn serve(token: &Token) -> Outcome<Server> {
    let loopback = || "127.0.0.0/8".parse().map_err(Failure::failed);
    let allowed = Allowlist { tcp: vec![loopback()?], udp: vec![loopback()?] };
    let entry = TokenEntry { token: token.clone(), label: None };
    // The rules never change here, and a channel whose sender is gone says just that.
    let (_, rules) = watch::channel(Arc::new(Policy::new(vec![entry], allowed)));
    Server::new(rules, Limits::default(), Events::default()).map_err(Failure::failed)
}

fn forward(
    protocol: Protocol,
    service: SocketAddr,
) -> Result<Forward, Box<dyn std::error::Error + Send + Sync>> {
    let source = format!("{protocol}://{service}").parse()?;
    Ok(Forward::new(source, "127.0.0.1:0".parse()?)?)
}

/// Gives a session that began through the relay the time to find the direct path.
async fn settle(connection: &IrohConnection) {
    use futures_util::StreamExt;
    let direct = async {
        let mut paths = Box::pin(connection.paths());
        while let Some(path) = paths.next().await {
            if matches!(path.kind, PathKind::Direct(_)) {
                return;
            }
        }
    };
    let _ = timeout(Duration::from_secs(5), direct).await;
}

/// Reads a stream to its end, answers with its hash and length, then sends as many bytes back.
async fn bulk_service(listener: TcpListener) {
    while let Ok((mut tcp, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok((length, hash)) = read_all(&mut tcp, usize::MAX).await else { return };
            if tcp.write_all(&hash).await.is_ok() && write_pattern(&mut tcp, length).await.is_ok() {
                let _ = tcp.shutdown().await;
            }
        });
    }
}

async fn echo_service(socket: UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        // An error is about an earlier packet.
        if let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let _ = socket.send_to(&buffer[..n], from).await;
        }
    }
}

fn pattern() -> Vec<u8> {
    // A prime length, so that the pattern never lines up with a buffer.
    (0..1_048_573u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

async fn write_pattern(tcp: &mut TcpStream, mut length: usize) -> std::io::Result<[u8; 32]> {
    let pattern = pattern();
    let mut hash = Sha256::new();
    while length > 0 {
        let n = length.min(pattern.len());
        tcp.write_all(&pattern[..n]).await?;
        hash.update(&pattern[..n]);
        length -= n;
    }
    Ok(hash.finalize().into())
}

async fn read_all(tcp: &mut TcpStream, limit: usize) -> std::io::Result<(usize, [u8; 32])> {
    let (mut hash, mut length) = (Sha256::new(), 0);
    let mut buffer = vec![0; 256 * 1024];
    while length < limit {
        let n = tcp.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        hash.update(&buffer[..n]);
        length += n;
    }
    Ok((length, hash.finalize().into()))
}

/// Sends a stream up and takes it back down; Mbit/s of both.
async fn bulk(target: SocketAddr) -> Outcome<(f64, f64)> {
    let mut tcp = TcpStream::connect(target).await.map_err(Failure::failed)?;
    let start = Instant::now();
    let sent = write_pattern(&mut tcp, BULK).await.map_err(Failure::failed)?;
    tcp.shutdown().await.map_err(Failure::failed)?;
    let mut arrived = [0; 32];
    tcp.read_exact(&mut arrived).await.map_err(Failure::failed)?;
    let up = start.elapsed();
    let start = Instant::now();
    let (length, back) = read_all(&mut tcp, usize::MAX).await.map_err(Failure::failed)?;
    let down = start.elapsed();
    if sent != arrived || sent != back || length != BULK {
        return Err(Failure::Failed("the bytes that arrived are not those that were sent".into()));
    }
    let rate = |time: Duration| BULK as f64 * 8.0 / 1e6 / time.as_secs_f64();
    Ok((rate(up), rate(down)))
}

/// Sends packets one by one; how many came back, and the median time of a round trip.
async fn echo(target: SocketAddr) -> Outcome<(usize, Duration)> {
    let socket = UdpSocket::bind((LOCALHOST, 0)).await.map_err(Failure::failed)?;
    socket.connect(target).await.map_err(Failure::failed)?;
    let mut times = Vec::new();
    let mut buffer = vec![0; 65_536];
    for number in 0..PACKETS {
        let mut packet = vec![number as u8; PACKET];
        packet[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let start = Instant::now();
        socket.send(&packet).await.map_err(Failure::failed)?;
        let answer = timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await;
        if matches!(answer, Ok(Ok(n)) if buffer[..n] == packet) {
            times.push(start.elapsed());
        }
    }
    times.sort_unstable();
    let median = times.get(times.len() / 2).copied();
    let median = median.ok_or_else(|| Failure::Failed("no UDP packet came back".into()))?;
    Ok((times.len(), median))
}
