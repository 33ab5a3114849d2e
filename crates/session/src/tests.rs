//! Both halves of a session against each other, and the server against peers that do not keep to the protocol.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;
use tunnel_model::protocol::{self, Hello, HelloProof, Kept, OpenTcp, Opened, Welcome};
use tunnel_model::{
    Allowlist, CloseCode, Forward, Policy, ROLE_CLIENT, Source, Token, TokenList, Transcript,
};

use crate::client::{DialError, Dialer, Link, LinkError, Notice};
use crate::events::{Event, Events, FlowEnd, Record};
use crate::frame::read_message;
use crate::server::{Limits, Server};
use crate::transport::memory::{MemoryConnection, pair, pair_of};
use crate::transport::{Connection, Lost, RecvStream, SendStream};

mod drain;
mod keeping;
mod paths;
mod resume;
mod takeover;
mod vpn;

const TOKEN: &str = "ikAdvudu_ZxNXhNLCD";
const OTHER: &str = "iw3nLKic3oV7zmFJ8v";
const SOON: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(60);

fn policy(tokens: &str, networks: &[&str]) -> Arc<Policy> {
    let tokens: TokenList = tokens.parse().unwrap();
    let networks = || networks.iter().map(|n| n.parse().unwrap()).collect();
    Arc::new(Policy::new(tokens.0, Allowlist { tcp: networks(), udp: networks() }))
}

struct Bench {
    server: Server,
    rules: watch::Sender<Arc<Policy>>,
    events: broadcast::Receiver<Arc<Record>>,
    stop: watch::Sender<bool>,
}

fn bench(limits: Limits) -> Bench {
    let (rules, watched) = watch::channel(policy(TOKEN, &["127.0.0.0/8"]));
    let events = Events::default();
    let copies = events.subscribe();
    let server = Server::new(watched, limits, events).unwrap();
    Bench { server, rules, events: copies, stop: watch::Sender::new(false) }
}

impl Bench {
    /// A client's end whose other end this server serves.
    fn connect(&self) -> MemoryConnection {
        connect(&self.server, &self.stop)
    }

    async fn event<T>(&mut self, mut found: impl FnMut(&Event) -> Option<T>) -> T {
        let search = async {
            loop {
                let record = self.events.recv().await.unwrap();
                if let Some(found) = found(&record.event) {
                    return found;
                }
            }
        };
        timeout(SOON, search).await.expect("the event never came")
    }
}

fn connect(server: &Server, stop: &watch::Sender<bool>) -> MemoryConnection {
    connect_as(1, server, stop)
}

fn connect_as(id: u8, server: &Server, stop: &watch::Sender<bool>) -> MemoryConnection {
    let (client, end) = pair_of(id);
    let (server, mut stop) = (server.clone(), stop.subscribe());
    tokio::spawn(async move {
        let stopped = async {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        server.serve(end, None, stopped).await;
    });
    client
}

/// What a client's network is like.
#[derive(Clone, Copy, PartialEq)]
enum Network {
    Up,
    /// Nothing can be dialled.
    Gone,
    /// What is dialled reaches the server, and nothing comes back.
    Deaf,
}

struct MemoryDialer {
    id: u8,
    network: watch::Sender<Network>,
    server: watch::Sender<Server>,
    stop: watch::Sender<bool>,
    dialled: mpsc::UnboundedSender<MemoryConnection>,
}

impl Dialer for MemoryDialer {
    type Connection = MemoryConnection;

    async fn dial(&self) -> Result<MemoryConnection, DialError> {
        let network = *self.network.borrow();
        if network == Network::Gone {
            return Err(DialError { message: "no network".to_owned(), fatal: false });
        }
        let server = self.server.borrow().clone();
        let connection = connect_as(self.id, &server, &self.stop);
        if network == Network::Deaf {
            connection.deafen();
        }
        let _ = self.dialled.send(connection.clone());
        Ok(connection)
    }

    async fn network_changed(&self) {
        let _ = self.network.subscribe().changed().await;
    }
}

struct Client {
    network: watch::Sender<Network>,
    targets: Vec<SocketAddr>,
    running: tokio::task::JoinHandle<LinkError>,
    notices: mpsc::UnboundedReceiver<Notice>,
    dialled: mpsc::UnboundedReceiver<MemoryConnection>,
    link: Arc<Link<MemoryDialer>>,
}

async fn client(bench: &Bench, token: &str, sources: &[String]) -> Client {
    client_of(1, GRACE, bench, token, sources).await
}

async fn client_of(
    id: u8,
    grace: Duration,
    bench: &Bench,
    token: &str,
    sources: &[String],
) -> Client {
    let forwards: Vec<Forward> = sources
        .iter()
        .map(|s| Forward::new(s.parse().unwrap(), "127.0.0.1:0".parse().unwrap()).unwrap())
        .collect();
    let listeners = crate::bind(&forwards).await.unwrap();
    let (dialled, dials) = mpsc::unbounded_channel();
    let network = watch::Sender::new(Network::Up);
    let (server, stop) = (watch::Sender::new(bench.server.clone()), bench.stop.clone());
    let dialer = MemoryDialer { id, network: network.clone(), server, stop, dialled };
    let (tell, notices) = mpsc::unbounded_channel();
    let sources = forwards.iter().map(|f| f.source.clone()).collect();
    let notice = move |notice| drop(tell.send(notice));
    let token: Token = token.parse().unwrap();
    let link = Link::new(dialer, Some(token), sources, grace, Events::default(), notice);
    let link = link.unwrap();
    let targets = listeners.iter().map(crate::Listener::address).collect();
    for listener in listeners {
        tokio::spawn(listener.run(link.clone()));
    }
    let running = tokio::spawn({
        let link = link.clone();
        async move { link.run().await }
    });
    Client { network, targets, running, notices, dialled: dials, link }
}

async fn tcp_service() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = format!("tcp://{}", listener.local_addr().unwrap());
    (listener, source)
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    timeout(SOON, listener.accept()).await.unwrap().unwrap().0
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_half_closes_by_itself() {
    let (service, source) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    app.write_all(b"question").await.unwrap();
    app.shutdown().await.unwrap();
    let mut question = String::new();
    remote.read_to_string(&mut question).await.unwrap();
    assert_eq!(question, "question");
    remote.write_all(b"answer").await.unwrap();
    remote.shutdown().await.unwrap();
    let mut answer = String::new();
    app.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "answer");
    let closed = bench
        .event(|event| match event {
            Event::FlowClosed { why, sent, received, .. } => Some((why.clone(), *sent, *received)),
            _ => None,
        })
        .await;
    assert_eq!(closed, (FlowEnd::Finished, 6, 8));
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    remote.write_all(b"220 ready").await.unwrap();
    let mut greeting = [0; 9];
    app.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready");
}

#[tokio::test]
async fn what_follows_urgent_data_arrives() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    // All of it before anything is read, which waits for this task: a read ends where the urgent byte was.
    let socket = socket2::SockRef::from(&app);
    assert_eq!(socket.send(b"before").unwrap(), 6);
    assert_eq!(socket.send_out_of_band(b"!").unwrap(), 1);
    assert_eq!(socket.send(b"after").unwrap(), 5);
    let mut arrived = [0; 11];
    timeout(SOON, remote.read_exact(&mut arrived)).await.unwrap().unwrap();
    assert_eq!(&arrived, b"beforeafter");
}

fn reset(tcp: TcpStream) {
    socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
}

async fn is_reset(tcp: &mut TcpStream) -> bool {
    let mut buffer = [0; 1024];
    loop {
        match timeout(SOON, tcp.read(&mut buffer)).await.expect("neither data nor an end") {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[tokio::test]
async fn a_reset_passes_in_both_directions() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    for from_app in [true, false] {
        let app = TcpStream::connect(client.targets[0]).await.unwrap();
        let remote = accepted(&service).await;
        let (gone, mut left) = if from_app { (app, remote) } else { (remote, app) };
        reset(gone);
        assert!(is_reset(&mut left).await, "from_app: {from_app}");
    }
}

#[tokio::test]
async fn a_reset_is_passed_on_though_one_direction_has_ended() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    app.shutdown().await.unwrap();
    assert_eq!(remote.read(&mut [0; 8]).await.unwrap(), 0);
    reset(app);
    // Writing is how the other end learns of it, as over plain TCP.
    let end = async {
        while remote.write_all(&[0; 1024]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, end).await.expect("the reset never came");
}

#[tokio::test]
async fn what_a_target_says_before_it_turns_the_rest_away_arrives() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    remote.write_all(b"413 too large").await.unwrap();
    drop(remote);
    let mut answer = [0; 13];
    app.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"413 too large");
}

#[tokio::test]
async fn what_was_said_before_a_reset_arrives() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    for from_app in [false, true] {
        let app = TcpStream::connect(client.targets[0]).await.unwrap();
        let remote = accepted(&service).await;
        let (mut gone, mut left) = if from_app { (app, remote) } else { (remote, app) };
        left.write_all(b"unread").await.unwrap();
        gone.peek(&mut [0]).await.unwrap();
        gone.write_all(b"413 too large").await.unwrap();
        // What is not read makes the close a reset (RFC 2525 section 2.17).
        drop(gone);
        let mut answer = Vec::new();
        let end = timeout(SOON, left.read_to_end(&mut answer)).await.unwrap();
        assert_eq!(answer, b"413 too large", "from_app: {from_app}");
        let error = end.expect_err("an orderly end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "from_app: {from_app}");
    }
}

#[tokio::test]
async fn a_target_that_takes_nothing_does_not_outlive_its_session() {
    let (service, source) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let connection = bench.connect();
    let _control = by_hand(&connection).await;
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let open = OpenTcp { flow: 1, source: source.parse().unwrap() };
    send.write_chunks(&mut [protocol::encode(&open).unwrap().into()]).await.unwrap();
    let mut remote = accepted(&service).await;
    let opened: Opened = read_message(&mut recv, protocol::MAX_FRAME).await.unwrap();
    assert_eq!(opened.refusal, None);
    remote.shutdown().await.unwrap();
    assert!(!recv.read_exact(&mut [0]).await.unwrap());
    // This client does not pause, and fills all that there is.
    let chunk = Bytes::from(vec![7; 64 * 1024]);
    for _ in 0..256 {
        let mut piece = [chunk.clone()];
        if timeout(Duration::from_millis(500), send.write_chunks(&mut piece)).await.is_err() {
            break;
        }
    }
    connection.close(CloseCode::Done, "");
    let closed = |event: &Event| matches!(event, Event::FlowClosed { .. }).then_some(());
    bench.event(closed).await;
    assert!(is_reset(&mut remote).await);
}

#[tokio::test]
async fn a_server_that_vanishes_while_a_flow_is_opened_closes_its_connection() {
    let (_service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &[source]).await;
    let connection = timeout(SOON, client.dialled.recv()).await.unwrap().unwrap();
    client.link.up().await;
    client.network.send_replace(Network::Gone);
    connection.deafen();
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    assert!(is_reset(&mut app).await);
}

#[tokio::test]
async fn a_stalled_reader_holds_its_sender_back_and_nobody_else() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let stalled = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut sender = accepted(&service).await;
    const TOTAL: usize = 64 * 1024 * 1024;
    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    // Until nothing more is taken for a while: every buffer on the way is full, and bounded.
    while sent < TOTAL
        && timeout(Duration::from_millis(500), sender.write_all(&chunk)).await.is_ok()
    {
        sent += chunk.len();
    }
    assert!(sent < TOTAL, "a stalled reader was sent {sent} bytes");
    let mut other = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    remote.write_all(b"alive").await.unwrap();
    let mut alive = [0; 5];
    timeout(SOON, other.read_exact(&mut alive)).await.unwrap().unwrap();
    drop(sender);
    let mut stalled = stalled;
    let mut received = 0;
    let mut buffer = vec![0; 256 * 1024];
    while let Ok(n @ 1..) = timeout(SOON, stalled.read(&mut buffer)).await.unwrap() {
        received += n;
    }
    assert!(received >= sent, "{received} of {sent} bytes arrived");
}

#[tokio::test]
async fn refused_and_unreachable_targets_are_told_apart_and_close_the_connection() {
    let (closed, unreachable) = tcp_service().await;
    drop(closed);
    let bench = bench(Limits::default());
    let sources = [unreachable, "tcp://10.9.9.9:22".into(), "tcp://name.invalid:22".into()];
    let mut client = client(&bench, TOKEN, &sources).await;
    for target in client.targets.clone() {
        // The reset may come before the connecting is over.
        if let Ok(mut app) = TcpStream::connect(target).await {
            assert!(is_reset(&mut app).await);
        }
    }
    let mut refused = Vec::new();
    while refused.len() < 2 {
        match timeout(SOON, client.notices.recv()).await.unwrap().unwrap() {
            Notice::SourceRefused(source, refusal) => refused.push((source, refusal.reason)),
            other => panic!("{other:?}"),
        }
    }
    let reasons: Vec<_> = refused.iter().map(|(_, reason)| *reason).collect();
    use protocol::Reason;
    assert_eq!(reasons, [Reason::NotAllowed, Reason::NameNotFound]);
    assert!(!client.running.is_finished());
}

#[tokio::test]
async fn a_client_whose_sources_are_all_refused_ends() {
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &["tcp://10.9.9.9:22".into()]).await;
    assert_eq!(timeout(SOON, client.running).await.unwrap().unwrap(), LinkError::AllRefused);
}

#[tokio::test]
async fn a_wrong_token_is_refused_for_good() {
    let mut bench = bench(Limits::default());
    let client = client(&bench, OTHER, &["tcp://127.0.0.1:22".into()]).await;
    let error = timeout(SOON, client.running).await.unwrap().unwrap();
    assert!(matches!(error, LinkError::Authentication(_)), "{error:?}");
    let code = bench
        .event(|event| match event {
            Event::SessionRefused { code, .. } => Some(*code),
            _ => None,
        })
        .await;
    assert_eq!(code, CloseCode::BadToken);
}

#[tokio::test]
async fn a_full_server_says_so_and_lets_the_next_in_when_there_is_room() {
    let bench = bench(Limits { max_sessions: 1, ..Limits::default() });
    let first = client(&bench, TOKEN, &["tcp://127.0.0.1:22".into()]).await;
    first.link.up().await;
    let mut second = client(&bench, TOKEN, &["tcp://127.0.0.1:22".into()]).await;
    match timeout(SOON, second.notices.recv()).await.unwrap().unwrap() {
        Notice::Retrying { why, .. } => assert!(why.contains("as many sessions"), "{why}"),
        other => panic!("{other:?}"),
    }
    first.running.abort();
    first.link.close();
    timeout(SOON, second.link.up()).await.unwrap();
}

#[tokio::test]
async fn revoking_a_token_cuts_its_session_and_no_other() {
    let (service, source) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let both = format!("{TOKEN}\n{OTHER}");
    bench.rules.send_replace(policy(&both, &["127.0.0.0/8"]));
    let kept = client(&bench, OTHER, std::slice::from_ref(&source)).await;
    let mut kept_app = TcpStream::connect(kept.targets[0]).await.unwrap();
    let mut kept_remote = accepted(&service).await;
    let cut = client(&bench, TOKEN, &[source]).await;
    let mut cut_app = TcpStream::connect(cut.targets[0]).await.unwrap();
    let mut cut_remote = accepted(&service).await;
    bench.rules.send_replace(policy(OTHER, &["127.0.0.0/8"]));
    assert!(is_reset(&mut cut_app).await);
    assert!(is_reset(&mut cut_remote).await);
    let error = timeout(SOON, cut.running).await.unwrap().unwrap();
    let revoked = Lost::Closed { code: CloseCode::Revoked, reason: String::new() };
    assert_eq!(error, LinkError::Ended(revoked));
    kept_app.write_all(b"still").await.unwrap();
    kept_remote.read_exact(&mut [0; 5]).await.unwrap();
    let _ = bench.event(|event| matches!(event, Event::SessionClosed { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_network_taken_back_cuts_its_flows_and_leaves_the_session() {
    let (service, source) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    bench.rules.send_replace(policy(TOKEN, &["10.0.0.0/8"]));
    assert!(is_reset(&mut app).await);
    assert!(is_reset(&mut remote).await);
    let why = bench
        .event(|event| match event {
            Event::FlowClosed { why, .. } => Some(why.clone()),
            Event::SessionClosed { .. } => panic!("the session was closed"),
            _ => None,
        })
        .await;
    assert_eq!(why, FlowEnd::Revoked);
    bench.rules.send_replace(policy(TOKEN, &["127.0.0.0/8"]));
    let _again = TcpStream::connect(client.targets[0]).await.unwrap();
    accepted(&service).await;
}

#[tokio::test]
async fn a_lost_session_resets_its_flows_and_the_listener_serves_the_next() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    let connection = client.dialled.recv().await.unwrap();
    connection.close(CloseCode::ShuttingDown, "");
    assert!(is_reset(&mut app).await);
    assert!(is_reset(&mut remote).await);
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    app.write_all(b"again").await.unwrap();
    let mut remote = accepted(&service).await;
    remote.read_exact(&mut [0; 5]).await.unwrap();
}

#[tokio::test]
async fn packets_of_every_size_come_back_as_they_were() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = format!("udp://{}", service.local_addr().unwrap());
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    app.connect(client.targets[0]).await.unwrap();
    let mut buffer = vec![0; 65_536];
    for size in [0, 1, 1189, 1190, 1200, 1452, 4000, 4700, 5000, 20_000, 65_507] {
        let packet: Vec<u8> = (0..size).map(|i| (i * 31 % 251) as u8).collect();
        app.send(&packet).await.unwrap();
        let (n, from) = timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(buffer[..n], packet, "{size} bytes");
        service.send_to(&packet, from).await.unwrap();
        let n = timeout(SOON, app.recv(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(buffer[..n], packet, "{size} bytes back");
    }
}

#[tokio::test]
async fn packets_of_two_peers_are_kept_apart_and_idle_flows_end() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = format!("udp://{}", service.local_addr().unwrap());
    let limits = Limits { udp_idle: Duration::from_secs(5), ..Limits::default() };
    let mut bench = bench(limits);
    let client = client(&bench, TOKEN, &[source]).await;
    let mut froms = Vec::new();
    let mut buffer = [0; 64];
    let mut apps = Vec::new();
    for name in [b"one", b"two"] {
        let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        app.connect(client.targets[0]).await.unwrap();
        app.send(name).await.unwrap();
        let (n, from) = timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..n], name);
        froms.push(from);
        apps.push(app);
    }
    assert_ne!(froms[0], froms[1]);
    service.send_to(b"for two", froms[1]).await.unwrap();
    let n = timeout(SOON, apps[1].recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..n], b"for two");
    for _ in 0..2 {
        let why = bench
            .event(|event| match event {
                Event::FlowClosed { why, .. } => Some(why.clone()),
                _ => None,
            })
            .await;
        assert_eq!(why, FlowEnd::Idle);
    }
    // The same peer's next packet opens a flow anew.
    let back = async {
        loop {
            apps[0].send(b"again").await.unwrap();
            let wait = Duration::from_millis(200);
            if timeout(wait, service.recv_from(&mut buffer)).await.is_ok() {
                return;
            }
        }
    };
    timeout(SOON, back).await.unwrap();
}

/// Authenticates by hand, so that a test can go on as it likes.
async fn by_hand(connection: &MemoryConnection) -> (impl SendStream, impl RecvStream) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let hello = Hello { version: 1, features: u64::MAX, instance: [1; 16], resume: None };
    let mut hello = protocol::encode(&hello).unwrap();
    // A later version's field behind those known.
    hello.extend_from_slice(b"later");
    let length = u16::try_from(hello.len() - 2).unwrap().to_be_bytes();
    hello[..2].copy_from_slice(&length);
    let identities = connection.identities();
    let transcript = Transcript {
        keying_material: &connection.keying_material(Transcript::LABEL).unwrap(),
        client: &identities.local,
        server: &identities.remote,
        hello: &hello[2..],
    };
    let proof = transcript.prove(Some(&TOKEN.parse().unwrap()), ROLE_CLIENT);
    let proof = protocol::encode(&HelloProof { proof }).unwrap();
    send.write_chunks(&mut [hello.clone().into(), proof.into()]).await.unwrap();
    let welcome: Welcome = read_message(&mut recv, protocol::MAX_FRAME).await.unwrap();
    assert_eq!(welcome.version, 1);
    (send, recv)
}

async fn close_code(connection: &MemoryConnection) -> CloseCode {
    match timeout(SOON, connection.closed()).await.expect("the connection was not closed") {
        Lost::Closed { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn unknown_features_and_later_fields_are_passed_over() {
    let bench = bench(Limits::default());
    let connection = bench.connect();
    let _control = by_hand(&connection).await;
    assert_eq!(bench.server.session_count(), 1);
}

#[tokio::test]
async fn garbage_instead_of_a_hello_ends_the_connection() {
    for garbage in
        [&b"\x00\x00"[..], b"\xff\xff garbage", b"\x00\x05\x01\x01\x00", b"\x00\x03\x7fxx"]
    {
        let bench = bench(Limits::default());
        let connection = bench.connect();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_chunks(&mut [Bytes::copy_from_slice(garbage)]).await.unwrap();
        send.finish();
        assert_eq!(close_code(&connection).await, CloseCode::ProtocolError, "{garbage:?}");
    }
}

#[tokio::test]
async fn another_version_is_told_apart() {
    let bench = bench(Limits::default());
    let connection = bench.connect();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    let hello = Hello { version: 9, features: 0, instance: [0; 16], resume: None };
    let hello = protocol::encode(&hello).unwrap();
    send.write_chunks(&mut [hello.into()]).await.unwrap();
    assert_eq!(close_code(&connection).await, CloseCode::VersionMismatch);
}

#[tokio::test(start_paused = true)]
async fn silence_and_half_a_hello_are_given_ten_seconds() {
    for half in [false, true] {
        let bench = bench(Limits::default());
        let connection = bench.connect();
        let start = tokio::time::Instant::now();
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        if half {
            send.write_chunks(&mut [Bytes::from_static(b"\x00\x20\x01")]).await.unwrap();
        }
        let code = match connection.closed().await {
            Lost::Closed { code, .. } => code,
            other => panic!("{other:?}"),
        };
        assert_eq!(code, CloseCode::AuthenticationTimeout);
        assert_eq!(start.elapsed().as_secs(), 10);
    }
}

#[tokio::test]
async fn a_proof_from_another_connection_is_worth_nothing() {
    let bench = bench(Limits::default());
    let (other, _end) = pair();
    let connection = bench.connect();
    let hello = Hello { version: 1, features: 0, instance: [0; 16], resume: None };
    let hello = protocol::encode(&hello).unwrap();
    let identities = other.identities();
    let transcript = Transcript {
        keying_material: &other.keying_material(Transcript::LABEL).unwrap(),
        client: &identities.local,
        server: &identities.remote,
        hello: &hello[2..],
    };
    let proof = transcript.prove(Some(&TOKEN.parse().unwrap()), ROLE_CLIENT);
    let proof = protocol::encode(&HelloProof { proof }).unwrap();
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_chunks(&mut [hello.into(), proof.into()]).await.unwrap();
    assert_eq!(close_code(&connection).await, CloseCode::BadToken);
}

#[tokio::test]
async fn an_authenticated_peer_that_breaks_the_protocol_loses_its_session_alone() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &[source]).await;
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(&service).await;
    let oversized =
        [b"\xff\xff\x20".as_slice(), b"\x00\x01\x99", b"\x00\x00", b"\x00\x03\x20\x01\x00"];
    let kept = protocol::encode(&Kept { flows: Vec::new(), last: true }).unwrap();
    let connection = bench.connect();
    let (mut control, _recv) = by_hand(&connection).await;
    control.write_chunks(&mut [kept.clone().into(), kept.into()]).await.unwrap();
    assert_eq!(close_code(&connection).await, CloseCode::ProtocolError, "kept flows twice");
    for garbage in oversized {
        let connection = bench.connect();
        let _control = by_hand(&connection).await;
        let (mut send, _recv) = connection.open_bi().await.unwrap();
        send.write_chunks(&mut [Bytes::copy_from_slice(garbage)]).await.unwrap();
        assert_eq!(close_code(&connection).await, CloseCode::ProtocolError, "{garbage:?}");
    }
    app.write_all(b"unhurt").await.unwrap();
    remote.read_exact(&mut [0; 6]).await.unwrap();
}

#[tokio::test]
async fn datagrams_of_no_flow_are_bounded_and_forgotten() {
    let bench = bench(Limits::default());
    let connection = bench.connect();
    let _control = by_hand(&connection).await;
    for i in 0..10_000u32 {
        let mut datagram = vec![0, 0x80, 0, 0, 0];
        datagram[1..].copy_from_slice(&(0x8000_0000 | i).to_be_bytes());
        connection.send_datagrams(&[datagram.into(), Bytes::from_static(b"\x01"), Bytes::new()]);
    }
    // Served after all of them.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let source: Source = "tcp://10.0.0.1:1".parse().unwrap();
    let open = protocol::encode(&OpenTcp { flow: 1, source }).unwrap();
    send.write_chunks(&mut [open.into()]).await.unwrap();
    let opened: Opened = read_message(&mut recv, protocol::MAX_FRAME).await.unwrap();
    assert!(opened.refusal.is_some());
}

#[tokio::test]
async fn a_server_that_ends_tells_its_clients() {
    let mut bench = bench(Limits::default());
    let client = client(&bench, TOKEN, &["tcp://127.0.0.1:22".into()]).await;
    client.link.up().await;
    bench.stop.send_replace(true);
    let mut notices = client.notices;
    match timeout(SOON, notices.recv()).await.unwrap().unwrap() {
        Notice::Lost { why, kept: false } => assert!(why.contains("shutting down"), "{why}"),
        other => panic!("{other:?}"),
    }
    let _ = bench.event(|event| matches!(event, Event::SessionClosed { .. }).then_some(())).await;
}

#[tokio::test]
async fn a_listener_that_cannot_bind_is_named() {
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let taken = taken.listen(1).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let forward = Forward::new("tcp://nas:22".parse().unwrap(), address.parse().unwrap()).unwrap();
    let Err(error) = crate::bind(&[forward]).await else { panic!("bound twice") };
    let error = error.to_string();
    assert!(error.contains(&address) && error.contains("tcp://nas:22"), "{error}");
}

#[tokio::test]
async fn every_address_of_a_name_is_listened_on_and_none_where_one_is_taken() {
    let forward = |port: u16| {
        let target = format!("localhost:{port}").parse().unwrap();
        Forward::new("tcp://nas:22".parse().unwrap(), target).unwrap()
    };
    let mut addresses: Vec<_> = tokio::net::lookup_host("localhost:0").await.unwrap().collect();
    addresses.dedup();
    addresses.retain(|address| std::net::TcpListener::bind(address).is_ok());
    let listeners = crate::bind(&[forward(0)]).await.unwrap();
    let bound: Vec<_> = listeners.iter().map(|listener| listener.address().ip()).collect();
    assert_eq!(bound, addresses.iter().map(SocketAddr::ip).collect::<Vec<_>>());
    for listener in &listeners {
        TcpStream::connect(listener.address()).await.unwrap();
    }
    let taken = listeners.last().unwrap().address();
    let Err(error) = crate::bind(&[forward(taken.port())]).await else { panic!("bound twice") };
    let error = error.to_string();
    assert!(error.contains(&taken.to_string()) && error.contains("localhost"), "{error}");
}

/// Other systems have smaller bounds of their own.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_burst_of_connections_waits_for_its_listener() {
    let target = "127.0.0.1:0".parse().unwrap();
    let forward = Forward::new("tcp://nas:22".parse().unwrap(), target).unwrap();
    let listeners = crate::bind(&[forward]).await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..300 {
        let connection = timeout(SOON, TcpStream::connect(listeners[0].address())).await;
        waiting.push(connection.expect("the queue is full").unwrap());
    }
}
