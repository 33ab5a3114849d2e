//! Flows that go on over another connection, both halves of a session against each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::FutureExt;

use super::*;
use crate::events::SessionId;
use crate::limits::KEPT_PAUSE;
use tunnel_model::protocol::Reason;

/// A TCP flow over which one byte has passed each way, and what it runs over.
pub(super) struct Carried {
    pub(super) bench: Bench,
    pub(super) client: Client,
    pub(super) told: broadcast::Receiver<Arc<Record>>,
    pub(super) service: TcpListener,
    pub(super) app: TcpStream,
    pub(super) remote: TcpStream,
    pub(super) connection: MemoryConnection,
}

impl Carried {
    pub(super) async fn begin(limits: Limits, grace: Duration) -> Self {
        let (service, source) = tcp_service().await;
        let bench = bench(limits);
        let mut client = client_of(1, grace, &bench, TOKEN, &[source]).await;
        let told = client.link.events().subscribe();
        let connection = dialled(&mut client).await;
        let (app, remote) = open(&client, &service).await;
        Self { bench, client, told, service, app, remote, connection }
    }

    pub(super) async fn kept() -> Self {
        Self::begin(Limits::default(), GRACE).await
    }

    /// Takes the network away, until both sides know.
    pub(super) async fn away(&mut self) {
        self.client.network.send_replace(Network::Gone);
        self.connection.cut();
        self.suspended().await;
    }

    pub(super) async fn suspended(&mut self) {
        self.bench.event(suspended).await;
        event(&mut self.told, suspended).await;
    }

    /// Brings it back, until both sides go on.
    pub(super) async fn back(&mut self) {
        self.client.network.send_replace(Network::Up);
        self.connection = dialled(&mut self.client).await;
        self.resumed().await;
    }

    pub(super) async fn resumed(&mut self) {
        self.bench.event(resumed).await;
        event(&mut self.told, resumed).await;
    }

    /// Whether the server side has been asked for no further connection.
    async fn accepts_no_more(&mut self) {
        echo(&mut self.app, &mut self.remote).await;
        assert!(self.service.accept().now_or_never().is_none(), "connected to twice");
    }
}

pub(super) fn suspended(event: &Event) -> Option<SessionId> {
    match event {
        Event::SessionSuspended { session, .. } => Some(*session),
        Event::SessionClosed { why, .. } => panic!("closed instead of kept: {why:?}"),
        _ => None,
    }
}

pub(super) fn resumed(event: &Event) -> Option<SessionId> {
    match event {
        Event::SessionResumed { session, .. } => Some(*session),
        Event::SessionClosed { why, .. } => panic!("closed instead of resumed: {why:?}"),
        _ => None,
    }
}

pub(super) fn closed(event: &Event) -> Option<Lost> {
    match event {
        Event::SessionClosed { why, .. } => Some(why.clone()),
        _ => None,
    }
}

pub(super) async fn event<T>(
    events: &mut broadcast::Receiver<Arc<Record>>,
    mut found: impl FnMut(&Event) -> Option<T>,
) -> T {
    let search = async {
        loop {
            let record = events.recv().await.unwrap();
            if let Some(found) = found(&record.event) {
                return found;
            }
        }
    };
    timeout(SOON, search).await.expect("the event never came")
}

/// How many of the events that have come so far are such.
pub(super) fn count<T>(
    events: &mut broadcast::Receiver<Arc<Record>>,
    found: impl Fn(&Event) -> Option<T>,
) -> usize {
    std::iter::from_fn(|| events.try_recv().ok())
        .filter(|record| found(&record.event).is_some())
        .count()
}

pub(super) async fn dialled(client: &mut Client) -> MemoryConnection {
    timeout(SOON, client.dialled.recv()).await.expect("nothing was dialled").unwrap()
}

pub(super) async fn open(client: &Client, service: &TcpListener) -> (TcpStream, TcpStream) {
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let mut remote = accepted(service).await;
    echo(&mut app, &mut remote).await;
    (app, remote)
}

pub(super) async fn echo(app: &mut TcpStream, remote: &mut TcpStream) {
    says(app, remote, b"?").await;
    says(remote, app, b"!").await;
}

pub(super) async fn says(from: &mut TcpStream, to: &mut TcpStream, what: &[u8]) {
    from.write_all(what).await.unwrap();
    hears(to, what).await;
}

pub(super) async fn hears(tcp: &mut TcpStream, what: &[u8]) {
    let mut heard = vec![0; what.len()];
    timeout(SOON, tcp.read_exact(&mut heard)).await.expect("nothing came").unwrap();
    assert_eq!(heard, what);
}

pub(super) async fn ends(tcp: &mut TcpStream) {
    let mut rest = Vec::new();
    timeout(SOON, tcp.read_to_end(&mut rest)).await.expect("no end came").unwrap();
    assert_eq!(rest, b"");
}

/// Whether neither bytes nor an end have come.
pub(super) fn is_open(tcp: &TcpStream) -> bool {
    tcp.try_read(&mut [0]).is_err_and(|e| e.kind() == std::io::ErrorKind::WouldBlock)
}

/// Waits for what no event tells.
pub(super) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let holds = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(SOON, holds).await.expect("it never came to be");
}

/// Xorshift64 (Marsaglia 2003).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// The byte at `position`, of no short period.
fn byte(seed: u64, position: u64) -> u8 {
    let mixed = (position / 5 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as u8 ^ position as u8
}

async fn writes(tcp: &mut tokio::net::tcp::OwnedWriteHalf, seed: u64, total: u64) {
    let mut random = Random(seed | 1);
    let mut position = 0;
    while position < total {
        let length = (1 + random.below(100_000)).min(total - position);
        let chunk: Vec<u8> = (position..position + length).map(|p| byte(seed, p)).collect();
        tcp.write_all(&chunk).await.expect("the flow broke");
        position += length;
    }
    tcp.shutdown().await.unwrap();
}

async fn reads(
    tcp: &mut tokio::net::tcp::OwnedReadHalf,
    seed: u64,
    total: u64,
    progress: &AtomicU64,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut position = 0;
    loop {
        let read = timeout(SOON, tcp.read(&mut buffer)).await;
        let n = read.unwrap_or_else(|_| panic!("stands still at {position}")).expect("broke");
        if n == 0 {
            break;
        }
        for byte_read in &buffer[..n] {
            assert_eq!(*byte_read, byte(seed, position), "at {position}");
            position += 1;
        }
        progress.fetch_add(n as u64, Ordering::Relaxed);
    }
    assert_eq!(position, total, "ended early or late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_arrive_whole_once_and_in_order_whenever_the_connection_is_cut() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().subsec_nanos().into()
    });
    println!("SEED={seed}");
    let mut random = Random(seed + 1);
    const TOTAL: u64 = 12 * 1024 * 1024;
    let Carried { mut bench, mut client, app, remote, mut connection, .. } = Carried::kept().await;
    let progress = Arc::new(AtomicU64::new(0));
    let carrying = {
        let progress = progress.clone();
        tokio::spawn(async move {
            let ((mut app_in, mut app_out), (mut remote_in, mut remote_out)) =
                (app.into_split(), remote.into_split());
            let (up, down) = (seed, seed ^ 0x5555);
            tokio::join!(
                writes(&mut app_out, up, TOTAL),
                writes(&mut remote_out, down, TOTAL),
                reads(&mut remote_in, up, TOTAL, &progress),
                reads(&mut app_in, down, TOTAL, &progress),
            );
        })
    };
    let mut cuts = 0;
    while !carrying.is_finished() {
        let next = progress.load(Ordering::Relaxed) + random.below(1536 * 1024);
        until(async || carrying.is_finished() || progress.load(Ordering::Relaxed) >= next).await;
        loop {
            match random.below(3) {
                0 => connection.cut(),
                1 => connection.lose(),
                _ => connection.lose_here(),
            }
            cuts += 1;
            // The last one may come when there is nothing left to go on with.
            let fresh = async {
                tokio::select! {
                    fresh = dialled(&mut client) => Some(fresh),
                    () = until(async || carrying.is_finished()) => None,
                }
            };
            let Some(fresh) = fresh.await else { break };
            connection = fresh;
            match random.below(4) {
                // Again, somewhere on the way to resumption,
                0 => {
                    for _ in 0..random.below(100) {
                        tokio::task::yield_now().await;
                    }
                }
                // or just after the server has done its part.
                1 => drop(timeout(Duration::from_millis(500), bench.event(resumed)).await),
                _ => break,
            }
        }
    }
    carrying.await.unwrap();
    println!("{cuts} cuts");
    let closed = bench
        .event(|event| match event {
            Event::FlowClosed { why, sent, received, .. } => Some((why.clone(), *sent, *received)),
            _ => None,
        })
        .await;
    assert_eq!(closed, (FlowEnd::Finished, TOTAL + 1, TOTAL + 1));
}

#[tokio::test]
async fn each_half_closes_in_order_whenever_the_connection_is_cut() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum When {
        LostWithIt,
        Meanwhile,
        Before,
    }
    for from_app in [true, false] {
        for when in [When::LostWithIt, When::Meanwhile, When::Before] {
            println!("from_app: {from_app}, {when:?}");
            let mut carried = Carried::kept().await;
            let (mut first, mut second) = if from_app {
                (&mut carried.app, &mut carried.remote)
            } else {
                (&mut carried.remote, &mut carried.app)
            };
            if when == When::LostWithIt {
                carried.connection.stall();
            }
            if when != When::Meanwhile {
                first.write_all(b"last words").await.unwrap();
                first.shutdown().await.unwrap();
            }
            if when == When::Before {
                hears(second, b"last words").await;
                ends(second).await;
            }
            carried.away().await;
            (first, second) = if from_app {
                (&mut carried.app, &mut carried.remote)
            } else {
                (&mut carried.remote, &mut carried.app)
            };
            if when == When::Meanwhile {
                first.write_all(b"last words").await.unwrap();
                first.shutdown().await.unwrap();
            }
            second.write_all(b"answer").await.unwrap();
            carried.back().await;
            (first, second) = if from_app {
                (&mut carried.app, &mut carried.remote)
            } else {
                (&mut carried.remote, &mut carried.app)
            };
            if when != When::Before {
                hears(second, b"last words").await;
                ends(second).await;
            }
            hears(first, b"answer").await;
            second.shutdown().await.unwrap();
            ends(first).await;
            let why = |event: &Event| match event {
                Event::FlowClosed { why, .. } => Some(why.clone()),
                _ => None,
            };
            assert_eq!(carried.bench.event(why).await, FlowEnd::Finished);
            assert_eq!(event(&mut carried.told, why).await, FlowEnd::Finished);
        }
    }
}

#[tokio::test]
async fn a_flow_that_ended_on_both_sides_before_the_cut_ends_in_order() {
    let mut carried = Carried::kept().await;
    carried.connection.stall();
    carried.app.write_all(b"question").await.unwrap();
    carried.app.shutdown().await.unwrap();
    carried.remote.write_all(b"answer").await.unwrap();
    carried.remote.shutdown().await.unwrap();
    carried.away().await;
    carried.back().await;
    hears(&mut carried.app, b"answer").await;
    ends(&mut carried.app).await;
    hears(&mut carried.remote, b"question").await;
    ends(&mut carried.remote).await;
}

/// Writes into both ends for as long as anybody takes it.
async fn filled(carried: &Carried) {
    let chunk = [0; 64 * 1024];
    for tcp in [&carried.app, &carried.remote] {
        let mut idle = 0;
        until(async || {
            idle = if tcp.try_write(&chunk).is_ok() { 0 } else { idle + 1 };
            idle > 50
        })
        .await;
    }
}

#[tokio::test]
async fn flows_that_wait_for_room_hold_nothing_of_a_lost_connection() {
    let mut carried = Carried::kept().await;
    carried.client.network.send_replace(Network::Gone);
    carried.connection.stall();
    filled(&carried).await;
    carried.away().await;
    // What this test holds of it: its own end, which looks at the other one.
    let connection = &carried.connection;
    until(async || connection.users() <= 1).await;
}

#[tokio::test]
async fn idle_flows_hold_nothing_of_a_lost_connection() {
    let mut carried = Carried::kept().await;
    // Opened, and nothing has been sent on it by either side.
    let _app = TcpStream::connect(carried.client.targets[0]).await.unwrap();
    let _remote = accepted(&carried.service).await;
    carried.away().await;
    let connection = &carried.connection;
    until(async || connection.users() <= 1).await;
}

#[tokio::test]
async fn a_flow_opened_while_away_works_after_it() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    let mut app = TcpStream::connect(carried.client.targets[0]).await.unwrap();
    app.write_all(b"early").await.unwrap();
    carried.back().await;
    let mut remote = accepted(&carried.service).await;
    hears(&mut remote, b"early").await;
    echo(&mut app, &mut remote).await;
    carried.accepts_no_more().await;
}

#[tokio::test]
async fn a_flow_whose_opening_was_lost_is_opened_by_its_reattachment() {
    let mut carried = Carried::kept().await;
    carried.connection.stall();
    let mut app = TcpStream::connect(carried.client.targets[0]).await.unwrap();
    app.write_all(b"early").await.unwrap();
    let session = carried.client.link.session().await.unwrap();
    until(async || session.streams.all().1.len() == 2).await;
    carried.away().await;
    carried.back().await;
    let mut remote = accepted(&carried.service).await;
    hears(&mut remote, b"early").await;
    echo(&mut app, &mut remote).await;
    carried.accepts_no_more().await;
}

#[tokio::test]
async fn a_flow_whose_answer_was_lost_is_not_opened_again() {
    let mut carried = Carried::kept().await;
    carried.connection.deafen();
    let mut app = TcpStream::connect(carried.client.targets[0]).await.unwrap();
    let mut remote = accepted(&carried.service).await;
    says(&mut app, &mut remote, b"early").await;
    carried.away().await;
    carried.back().await;
    echo(&mut app, &mut remote).await;
    carried.accepts_no_more().await;
}

#[tokio::test]
async fn a_reset_while_away_is_passed_on_after_it() {
    for from_app in [true, false] {
        let mut carried = Carried::kept().await;
        carried.away().await;
        let Carried { app, remote, .. } = carried;
        let (gone, mut left) = if from_app { (app, remote) } else { (remote, app) };
        reset(gone);
        carried.client.network.send_replace(Network::Up);
        assert!(is_reset(&mut left).await, "from_app: {from_app}");
        carried.bench.event(resumed).await;
    }
}

#[tokio::test]
async fn a_reset_lost_with_the_connection_is_passed_on_after_it() {
    for from_app in [true, false] {
        let carried = Carried::kept().await;
        carried.connection.stall();
        let flow_closed = |event: &Event| matches!(event, Event::FlowClosed { .. }).then_some(());
        let Carried { mut bench, client, mut told, app, remote, connection, .. } = carried;
        let (gone, mut left) = if from_app { (app, remote) } else { (remote, app) };
        reset(gone);
        // Not before the stream has been reset as well.
        if from_app {
            event(&mut told, flow_closed).await;
        } else {
            bench.event(flow_closed).await;
        }
        connection.cut();
        assert!(is_reset(&mut left).await, "from_app: {from_app}");
        drop(client);
    }
}

#[tokio::test]
async fn a_refusal_lost_with_the_connection_is_still_told() {
    let (closed, unreachable) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &[unreachable]).await;
    let mut told = client.link.events().subscribe();
    let connection = dialled(&mut client).await;
    client.link.up().await;
    drop(closed);
    // Not before the client has authenticated and checked its source.
    let session = client.link.session().await.unwrap();
    connection.deafen();
    let mut app = TcpStream::connect(client.targets[0]).await.unwrap();
    let refused = |event: &Event| match event {
        Event::FlowRefused { refusal, .. } => Some(refusal.reason),
        _ => None,
    };
    assert_eq!(bench.event(refused).await, Reason::ConnectionRefused);
    connection.cut();
    assert_eq!(event(&mut told, refused).await, Reason::ConnectionRefused);
    assert!(is_reset(&mut app).await);
    until(async || session.streams.is_empty()).await;
}

#[tokio::test]
async fn a_dead_connection_that_nobody_noticed_is_taken_over() {
    let mut carried = Carried::kept().await;
    carried.connection.stall();
    carried.app.write_all(b"into the void").await.unwrap();
    carried.remote.write_all(b"and back").await.unwrap();
    let earlier = carried.connection.clone();
    carried.connection = dialled(&mut carried.client).await;
    let id = carried.bench.event(resumed).await;
    assert_eq!(event(&mut carried.told, resumed).await, id);
    hears(&mut carried.remote, b"into the void").await;
    hears(&mut carried.app, b"and back").await;
    assert_eq!(earlier.closed_with(), Some(CloseCode::Superseded));
    assert_eq!(timeout(SOON, earlier.closed()).await.unwrap(), Lost::Local);
    carried.accepts_no_more().await;
}

#[tokio::test]
async fn a_client_that_alone_noticed_takes_its_session_over() {
    let mut carried = Carried::kept().await;
    carried.remote.write_all(b"not read yet").await.unwrap();
    carried.connection.lose_here();
    let earlier = carried.connection.clone();
    carried.app.write_all(b"more").await.unwrap();
    carried.resumed().await;
    hears(&mut carried.remote, b"more").await;
    hears(&mut carried.app, b"not read yet").await;
    assert_eq!(earlier.closed_with(), Some(CloseCode::Superseded));
}

#[tokio::test]
async fn a_server_that_alone_noticed_keeps_the_session_until_the_client_comes() {
    let mut carried = Carried::kept().await;
    carried.connection.lose_there();
    let id = carried.bench.event(suspended).await;
    carried.app.write_all(b"still there?").await.unwrap();
    carried.remote.write_all(b"yes").await.unwrap();
    assert_eq!(carried.bench.event(resumed).await, id);
    hears(&mut carried.remote, b"still there?").await;
    hears(&mut carried.app, b"yes").await;
}

#[tokio::test]
async fn a_session_whose_welcome_was_lost_is_resumed_by_the_next_attempt() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    carried.app.write_all(b"patience").await.unwrap();
    let mut id = None;
    for _ in 0..3 {
        carried.client.network.send_replace(Network::Deaf);
        let deaf = dialled(&mut carried.client).await;
        let taken = carried.bench.event(resumed).await;
        assert_eq!(taken, *id.get_or_insert(taken));
        carried.client.network.send_replace(Network::Gone);
        deaf.cut();
    }
    carried.back().await;
    hears(&mut carried.remote, b"patience").await;
    carried.accepts_no_more().await;
}

#[tokio::test]
async fn a_session_whose_welcome_never_comes_is_resumed_though_the_server_thinks_it_up() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    carried.client.network.send_replace(Network::Deaf);
    let deaf = dialled(&mut carried.client).await;
    carried.bench.event(resumed).await;
    carried.client.network.send_replace(Network::Up);
    carried.resumed().await;
    // By the client that gave it up, or by the server that has a newer one.
    let closed = deaf.closed_with();
    assert!(matches!(closed, Some(CloseCode::Dropped | CloseCode::Superseded)), "{closed:?}");
    carried.accepts_no_more().await;
}

#[tokio::test]
async fn a_client_that_keeps_a_session_goes_on_dialling_every_second() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    tokio::time::pause();
    let mut waits = Vec::new();
    while waits.len() < 20 {
        match carried.client.notices.recv().await.unwrap() {
            Notice::Retrying { after, .. } => waits.push(after),
            _ => waits.clear(),
        }
    }
    assert!(waits.iter().all(|wait| *wait <= KEPT_PAUSE * 3 / 2), "{waits:?}");
    tokio::time::resume();
    carried.back().await;
    echo(&mut carried.app, &mut carried.remote).await;
}
