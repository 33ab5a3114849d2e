//! Who may go on with a session, who makes room for whom, and peers that abuse resumption.

use tunnel_model::protocol::{
    Acknowledge, FEATURE_RESUME, HelloProof, Kept, MAX_KEPT, Message, Ping, Pong, Reattach,
    Reattached,
};
use tunnel_model::resume::{GONE, ResumptionSecret, ResumptionTranscript};
use tunnel_model::{ROLE_SERVER, ResetCode};

use super::resume::*;
use super::*;
use crate::frame::{ReadFrameError, read_frame, write_message};
use crate::limits::{MAX_FLOWS, MAX_HELD_FLOW};
use crate::transport::ReadError;
use crate::transport::memory::{MemoryRecv, MemorySend};

/// A client by hand, authenticated.
struct Hand {
    connection: MemoryConnection,
    send: MemorySend,
    recv: MemoryRecv,
    welcome: Welcome,
}

/// What a client says of itself.
#[derive(Clone, Copy)]
struct Who {
    id: u8,
    instance: [u8; 16],
    token: &'static str,
}

const ME: Who = Who { id: 1, instance: [1; 16], token: TOKEN };

fn secret(connection: &MemoryConnection) -> ResumptionSecret {
    ResumptionSecret::new(connection.keying_material(ResumptionSecret::LABEL).unwrap())
}

impl Hand {
    async fn new(bench: &Bench, who: Who) -> Self {
        Self::resuming(bench, who, |_, _| None).await
    }

    /// With what `resume` makes of the new connection's transcript.
    async fn resuming(
        bench: &Bench,
        who: Who,
        resume: impl FnOnce(&MemoryConnection, &ResumptionTranscript<'_>) -> Option<Vec<u8>>,
    ) -> Self {
        let connection = connect_as(who.id, &bench.server, &bench.stop);
        let keying_material = connection.keying_material(Transcript::LABEL).unwrap();
        let identities = connection.identities();
        let (client, server) = (&identities.local[..], &identities.remote[..]);
        let resumption = ResumptionTranscript { keying_material: &keying_material, client, server };
        let hello = Hello {
            version: 1,
            features: FEATURE_RESUME,
            instance: who.instance,
            resume: resume(&connection, &resumption),
        };
        let hello = protocol::encode(&hello).unwrap();
        let transcript =
            Transcript { keying_material: &keying_material, client, server, hello: &hello[2..] };
        let proof = transcript.prove(Some(&who.token.parse().unwrap()), ROLE_CLIENT);
        let proof = protocol::encode(&HelloProof { proof }).unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_chunks(&mut [hello.into(), proof.into()]).await.unwrap();
        let welcome = read_message(&mut recv, protocol::MAX_FRAME).await.unwrap();
        Self { connection, send, recv, welcome }
    }

    /// The same client goes on with its session over another connection.
    async fn again(&self, bench: &Bench) -> Self {
        let again = Self::resuming(bench, ME, |_, transcript| Some(self.proof(transcript))).await;
        assert_eq!(again.welcome.session, self.welcome.session);
        again
    }

    fn proof(&self, transcript: &ResumptionTranscript<'_>) -> Vec<u8> {
        secret(&self.connection).prove(self.welcome.session, transcript).to_bytes()
    }

    async fn tell<M: Message + Sync>(&mut self, message: &M) {
        write_message(&mut self.send, message).await.unwrap();
    }

    /// Returns when the server has handled what was told before.
    async fn settled(&mut self) {
        self.tell(&Ping { id: 77 }).await;
        loop {
            let frame = timeout(SOON, read_frame(&mut self.recv, protocol::MAX_FRAME));
            let frame = frame.await.unwrap().unwrap().unwrap();
            if protocol::frame_type(&frame).unwrap() == Pong::TYPE {
                return;
            }
        }
    }

    async fn begin<M: Message + Sync>(&self, message: &M) -> (MemorySend, MemoryRecv) {
        let (mut send, recv) = self.connection.open_bi().await.unwrap();
        write_message(&mut send, message).await.unwrap();
        (send, recv)
    }

    async fn open(&self, flow: u64, source: &str) -> (MemorySend, MemoryRecv) {
        let (send, mut recv) = self.begin(&OpenTcp { flow, source: source.parse().unwrap() }).await;
        let opened: Opened = timeout(SOON, read_message(&mut recv, 4096)).await.unwrap().unwrap();
        assert_eq!(opened.refusal, None);
        (send, recv)
    }

    async fn reattach(&self, flow: u64, position: u64, source: &str) -> (MemorySend, MemoryRecv) {
        let source = source.parse().unwrap();
        self.begin(&Reattach { flow, position, paused: false, source }).await
    }
}

/// A session by hand with one flow, whose connection is lost.
struct Away {
    bench: Bench,
    hand: Hand,
    source: String,
    remote: TcpStream,
}

/// What the answer to an opened flow takes of the positions: a frame of a type and no refusal.
const OPENED: u64 = 4;

async fn away(limits: Limits) -> Away {
    let (service, source) = tcp_service().await;
    let mut bench = bench(limits);
    let hand = Hand::new(&bench, ME).await;
    let _streams = hand.open(1, &source).await;
    let remote = accepted(&service).await;
    hand.connection.cut();
    bench.event(suspended).await;
    Away { bench, hand, source, remote }
}

#[tokio::test]
async fn a_session_goes_on_for_its_own_client_alone() {
    let Away { bench, hand, source, mut remote } = away(Limits::default()).await;
    bench.rules.send_replace(policy(&format!("{TOKEN}\n{OTHER}"), &["127.0.0.0/8"]));
    let strangers = [
        Who { id: 7, ..ME },
        Who { instance: [2; 16], ..ME },
        Who { token: OTHER, instance: [2; 16], ..ME },
        Who { token: OTHER, id: 7, ..ME },
    ];
    for who in strangers {
        // They know the secret, and it does not help them.
        let stranger =
            Hand::resuming(&bench, who, |_, transcript| Some(hand.proof(transcript))).await;
        assert_ne!(stranger.welcome.session, hand.welcome.session);
        let (_send, mut recv) = stranger.reattach(1, 0, &source).await;
        // A flow of their own, to a connection of its own.
        let _: Reattached = read_message(&mut recv, 4096).await.unwrap();
        assert!(is_open(&remote));
    }
    let again = hand.again(&bench).await;
    let (mut send, mut recv) = again.reattach(1, OPENED, &source).await;
    let Reattached { position, .. } = read_message(&mut recv, 4096).await.unwrap();
    assert_eq!(position, 0);
    send.write_chunks(&mut [Bytes::from_static(b"mine")]).await.unwrap();
    remote.read_exact(&mut [0; 4]).await.unwrap();
}

#[tokio::test]
async fn a_resumption_that_does_not_prove_it_begins_a_session_of_its_own() {
    type Forge = fn(&Hand, &MemoryConnection, &ResumptionTranscript<'_>) -> Vec<u8>;
    let forgeries: [(&str, Forge); 5] = [
        ("the secret of another connection", |hand, connection, transcript| {
            secret(connection).prove(hand.welcome.session, transcript).to_bytes()
        }),
        ("a proof made on another connection", |hand, _, transcript| {
            let other = ResumptionTranscript { keying_material: &[7; 32], ..*transcript };
            hand.proof(&other)
        }),
        ("of an unknown session", |hand, _, transcript| {
            secret(&hand.connection).prove([9; 16], transcript).to_bytes()
        }),
        ("cut off", |hand, _, transcript| hand.proof(transcript)[..20].to_vec()),
        ("empty", |_, _, _| Vec::new()),
    ];
    for (what, forge) in forgeries {
        println!("{what}");
        let Away { bench, hand, .. } = away(Limits::default()).await;
        let forger = Hand::resuming(&bench, ME, |connection, transcript| {
            Some(forge(&hand, connection, transcript))
        });
        assert_ne!(forger.await.welcome.session, hand.welcome.session);
    }
}

#[tokio::test]
async fn a_proof_changes_with_each_resumption() {
    let Away { mut bench, hand, .. } = away(Limits::default()).await;
    let mut second = hand.again(&bench).await;
    second.tell(&Kept { flows: vec![1], last: true }).await;
    second.settled().await;
    second.connection.cut();
    bench.event(suspended).await;
    // What the first connection knew is worth nothing once the client has shown that it knows better.
    let old = Hand::resuming(&bench, ME, |_, transcript| Some(hand.proof(transcript))).await;
    assert_ne!(old.welcome.session, hand.welcome.session);
}

#[tokio::test]
async fn a_token_taken_back_while_away_ends_the_kept_session_and_its_client() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    carried.bench.rules.send_replace(policy(OTHER, &["127.0.0.0/8"]));
    assert!(is_reset(&mut carried.remote).await);
    carried.bench.event(closed).await;
    carried.client.network.send_replace(Network::Up);
    let error = timeout(SOON, carried.client.running).await.unwrap().unwrap();
    assert!(matches!(error, LinkError::Authentication(_)), "{error:?}");
    assert!(is_reset(&mut carried.app).await);
}

#[tokio::test]
async fn a_network_taken_back_while_away_cuts_its_flows() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    carried.bench.rules.send_replace(policy(TOKEN, &["10.0.0.0/8"]));
    assert!(is_reset(&mut carried.remote).await);
    carried.client.network.send_replace(Network::Up);
    assert!(is_reset(&mut carried.app).await);
}

#[tokio::test]
async fn positions_where_nobody_can_stand_end_the_session_alone() {
    let mut bystander = Carried::kept().await;
    for position in [OPENED + 1, 1 << 40, GONE - 1] {
        let Away { mut bench, hand, source, mut remote } = away(Limits::default()).await;
        let again = hand.again(&bench).await;
        let _streams = again.reattach(1, position, &source).await;
        assert_eq!(close_code(&again.connection).await, CloseCode::ProtocolError, "{position}");
        assert!(is_reset(&mut remote).await);
        bench.event(closed).await;
    }
    for position in [OPENED + 1, 1 << 40, GONE - 1] {
        let mut hand = Hand::new(&bystander.bench, Who { id: 7, ..ME }).await;
        let (service, source) = tcp_service().await;
        let _streams = hand.open(1, &source).await;
        let mut remote = accepted(&service).await;
        hand.tell(&Acknowledge { flows: vec![(2, position), (1, position)] }).await;
        assert_eq!(close_code(&hand.connection).await, CloseCode::ProtocolError, "{position}");
        assert!(is_reset(&mut remote).await);
    }
    echo(&mut bystander.app, &mut bystander.remote).await;
}

#[tokio::test]
async fn a_receiver_does_not_go_back_behind_what_it_has_acknowledged() {
    let (service, source) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let mut hand = Hand::new(&bench, ME).await;
    let _streams = hand.open(1, &source).await;
    let _remote = accepted(&service).await;
    hand.tell(&Acknowledge { flows: vec![(1, OPENED)] }).await;
    hand.settled().await;
    hand.connection.cut();
    bench.event(suspended).await;
    let again = hand.again(&bench).await;
    let _streams = again.reattach(1, OPENED - 1, &source).await;
    assert_eq!(close_code(&again.connection).await, CloseCode::ProtocolError);
}

#[tokio::test]
async fn a_flow_is_attached_once_to_a_connection() {
    let Away { bench, hand, source, .. } = away(Limits::default()).await;
    let again = hand.again(&bench).await;
    let (_send, mut recv) = again.reattach(1, OPENED, &source).await;
    let _: Reattached = read_message(&mut recv, 4096).await.unwrap();
    let _streams = again.reattach(1, OPENED, &source).await;
    assert_eq!(close_code(&again.connection).await, CloseCode::ProtocolError);
}

#[tokio::test]
async fn a_flow_that_is_up_is_not_attached_to_the_same_connection() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let hand = Hand::new(&bench, ME).await;
    let _streams = hand.open(1, &source).await;
    let _remote = accepted(&service).await;
    let _streams = hand.reattach(1, OPENED, &source).await;
    assert_eq!(close_code(&hand.connection).await, CloseCode::ProtocolError);
}

async fn is_unknown(recv: &mut MemoryRecv) -> bool {
    let read = timeout(SOON, read_message::<_, Opened>(recv, 4096)).await.unwrap();
    matches!(read, Err(ReadFrameError::Read(ReadError::Reset(ResetCode::UnknownFlow))))
}

#[tokio::test]
async fn a_flow_number_serves_once() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let mut hand = Hand::new(&bench, ME).await;
    let (send, recv) = hand.open(1, &source).await;
    let mut remote = accepted(&service).await;
    let open = OpenTcp { flow: 1, source: source.parse().unwrap() };
    let (_send, mut second) = hand.begin(&open).await;
    assert!(is_unknown(&mut second).await);
    drop((send, recv));
    assert!(is_reset(&mut remote).await);
    let (_send, mut third) = hand.begin(&open).await;
    assert!(is_unknown(&mut third).await);
    // Nor by reattachment, which would connect to the target again.
    hand.settled().await;
    let again = hand.again(&bench).await;
    let (_send, mut recv) = again.reattach(1, 0, &source).await;
    assert!(is_unknown(&mut recv).await);
    assert_eq!(hand.connection.closed_with(), Some(CloseCode::Superseded));
}

#[tokio::test]
async fn more_kept_flows_than_there_can_be_end_the_session() {
    let bench = bench(Limits::default());
    let mut hand = Hand::new(&bench, ME).await;
    let most = 2 * u64::from(MAX_FLOWS);
    let mut next = 0;
    while next <= most {
        let flows = (next..next + MAX_KEPT as u64).collect();
        hand.tell(&Kept { flows, last: false }).await;
        next += MAX_KEPT as u64;
    }
    assert_eq!(close_code(&hand.connection).await, CloseCode::ProtocolError);
}

#[tokio::test]
async fn a_flow_that_its_client_no_longer_has_is_cut() {
    let Away { bench, hand, mut remote, .. } = away(Limits::default()).await;
    let mut again = hand.again(&bench).await;
    again.tell(&Kept { flows: vec![2, 3], last: false }).await;
    again.settled().await;
    assert!(is_open(&remote));
    again.tell(&Kept { flows: vec![], last: true }).await;
    assert!(is_reset(&mut remote).await);
}

#[tokio::test]
async fn what_a_client_never_acknowledges_is_bounded() {
    let (service, source) = tcp_service().await;
    let bench = bench(Limits::default());
    let mut hand = Hand::new(&bench, ME).await;
    let (_send, mut recv) = hand.open(1, &source).await;
    let mut remote = accepted(&service).await;
    let writing =
        tokio::spawn(async move { while remote.write_all(&[5; 65_536]).await.is_ok() {} });
    let mut taken = OPENED as usize;
    let mut chunks = [const { Bytes::new() }; 16];
    let still = Duration::from_secs(5);
    let mut take = async || {
        while let Ok(read) = timeout(still, recv.read_chunks(&mut chunks)).await {
            let count = read.unwrap().unwrap();
            taken += chunks[..count].iter().map(Bytes::len).sum::<usize>();
        }
        taken
    };
    let first = take().await;
    // One read of the target's socket comes on top.
    assert!((MAX_HELD_FLOW..MAX_HELD_FLOW + 128 * 1024).contains(&first), "{first} bytes");
    hand.tell(&Acknowledge { flows: vec![(1, first as u64)] }).await;
    let second = take().await - first;
    assert!((MAX_HELD_FLOW..MAX_HELD_FLOW + 128 * 1024).contains(&second), "{second} bytes");
    writing.abort();
}

#[tokio::test]
async fn a_session_whose_flows_are_acknowledged_to_their_end_is_not_kept() {
    let (service, source) = tcp_service().await;
    let mut bench = bench(Limits::default());
    let mut hand = Hand::new(&bench, ME).await;
    let (mut send, mut recv) = hand.open(1, &source).await;
    let mut remote = accepted(&service).await;
    send.finish();
    assert_eq!(remote.read(&mut [0]).await.unwrap(), 0);
    remote.write_all(b"bye").await.unwrap();
    drop(remote);
    let mut bye = [0; 4];
    assert!(!recv.read_exact(&mut bye).await.unwrap());
    // The end counts as one.
    hand.tell(&Acknowledge { flows: vec![(1, OPENED + 3 + 1)] }).await;
    hand.settled().await;
    hand.connection.cut();
    let ended = |event: &Event| match event {
        Event::SessionSuspended { .. } => panic!("kept without flows"),
        event => closed(event),
    };
    assert_eq!(bench.event(ended).await, Lost::TimedOut);
}

#[tokio::test]
async fn a_session_without_flows_is_not_kept() {
    let mut bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &["tcp://127.0.0.1:22".into()]).await;
    let mut told = client.link.events().subscribe();
    let connection = dialled(&mut client).await;
    client.link.up().await;
    connection.cut();
    let ended = |event: &Event| match event {
        Event::SessionSuspended { .. } => panic!("kept without flows"),
        event => closed(event),
    };
    assert_eq!(bench.event(ended).await, Lost::TimedOut);
    assert_eq!(event(&mut told, ended).await, Lost::TimedOut);
    client.link.up().await;
}

#[tokio::test]
async fn the_session_that_is_away_longest_makes_room() {
    let limits = Limits { max_sessions: 2, ..Limits::default() };
    let Away { mut bench, remote: mut first, .. } = away(limits).await;
    let (service, source) = tcp_service().await;
    let second = Hand::new(&bench, Who { id: 3, ..ME }).await;
    let _streams = second.open(1, &source).await;
    let later = accepted(&service).await;
    second.connection.cut();
    bench.event(suspended).await;
    assert_eq!(bench.server.session_count(), 2);
    assert!(bench.server.has_room_for("memory9"));
    let third = Hand::new(&bench, Who { id: 4, ..ME }).await;
    assert!(is_reset(&mut first).await);
    bench.event(closed).await;
    assert!(is_open(&later));
    assert_eq!(bench.server.session_count(), 2);
    drop(third);
}

#[tokio::test]
async fn a_session_that_is_present_makes_no_room() {
    let limits = Limits { max_sessions: 1, ..Limits::default() };
    let mut carried = Carried::begin(limits, GRACE).await;
    let mut stranger =
        client_of(7, GRACE, &carried.bench, TOKEN, &["tcp://127.0.0.1:22".into()]).await;
    match timeout(SOON, stranger.notices.recv()).await.unwrap().unwrap() {
        Notice::Retrying { why, .. } => assert!(why.contains("as many sessions"), "{why}"),
        other => panic!("{other:?}"),
    }
    echo(&mut carried.app, &mut carried.remote).await;
}

#[tokio::test]
async fn a_client_is_not_kept_out_by_its_own_kept_session() {
    let limits = Limits { max_sessions: 1, ..Limits::default() };
    let mut carried = Carried::begin(limits, GRACE).await;
    carried.away().await;
    assert_eq!(carried.bench.server.session_count(), 1);
    carried.back().await;
    echo(&mut carried.app, &mut carried.remote).await;
    // Nor where it begins a new one.
    let Away { bench, mut remote, .. } = away(limits).await;
    let _fresh = Hand::new(&bench, ME).await;
    assert!(is_reset(&mut remote).await);
}

/// A server by hand: what a client makes of one that breaks the protocol.
struct FakeDialer(mpsc::UnboundedSender<MemoryConnection>);

impl Dialer for FakeDialer {
    type Connection = MemoryConnection;

    async fn dial(&self) -> Result<MemoryConnection, DialError> {
        let (client, server) = pair();
        let _ = self.0.send(server);
        Ok(client)
    }

    async fn network_changed(&self) {
        std::future::pending().await
    }
}

async fn welcomes(
    server: &MemoryConnection,
    session: [u8; 16],
) -> (MemorySend, MemoryRecv, Option<Vec<u8>>) {
    let (mut send, mut recv) = server.accept_bi().await.unwrap();
    let bytes = read_frame(&mut recv, protocol::MAX_HELLO).await.unwrap().unwrap();
    let hello: Hello = protocol::decode(&bytes).unwrap();
    let _: HelloProof = read_message(&mut recv, protocol::MAX_HELLO).await.unwrap();
    let identities = server.identities();
    let transcript = Transcript {
        keying_material: &server.keying_material(Transcript::LABEL).unwrap(),
        client: &identities.remote,
        server: &identities.local,
        hello: &bytes,
    };
    let proof = transcript.prove(Some(&TOKEN.parse().unwrap()), ROLE_SERVER);
    let welcome = Welcome { version: 1, features: 0, instance: [8; 16], session, proof, grace: 60 };
    write_message(&mut send, &welcome).await.unwrap();
    (send, recv, hello.resume)
}

#[tokio::test]
async fn a_server_that_stands_where_it_cannot_ends_the_clients_session() {
    #[derive(Clone, Copy, Debug)]
    enum Lie {
        Acknowledged,
        Reattached,
    }
    for (lie, position) in [
        (Lie::Acknowledged, 6),
        (Lie::Acknowledged, GONE - 1),
        (Lie::Reattached, 6),
        (Lie::Reattached, GONE - 1),
    ] {
        println!("{lie:?} {position}");
        let source = "tcp://127.0.0.1:22";
        let forward = Forward::new(source.parse().unwrap(), "127.0.0.1:0".parse().unwrap());
        let listener = crate::bind(&[forward.unwrap()]).await.unwrap().remove(0);
        let target = listener.address();
        let (dial, mut dialled) = mpsc::unbounded_channel();
        let sources = vec![source.parse().unwrap()];
        let link = Link::new(
            FakeDialer(dial),
            Some(TOKEN.parse().unwrap()),
            sources,
            GRACE,
            Events::default(),
            |_| (),
        );
        let link = link.unwrap();
        let mut told = link.events().subscribe();
        tokio::spawn(listener.run(link.clone()));
        let running = tokio::spawn(async move { link.run().await });
        let server = timeout(SOON, dialled.recv()).await.unwrap().unwrap();
        let (mut send, _recv, resume) = welcomes(&server, [5; 16]).await;
        assert_eq!(resume, None);
        let mut app = TcpStream::connect(target).await.unwrap();
        app.write_all(b"hello").await.unwrap();
        let (_flow_send, mut flow_recv) = timeout(SOON, server.accept_bi()).await.unwrap().unwrap();
        let _: OpenTcp = read_message(&mut flow_recv, 4096).await.unwrap();
        assert!(flow_recv.read_exact(&mut [0; 5]).await.unwrap());
        let broken = match lie {
            Lie::Acknowledged => {
                let acknowledge = Acknowledge { flows: vec![(0, position)] };
                write_message(&mut send, &acknowledge).await.unwrap();
                server
            }
            Lie::Reattached => {
                server.cut();
                let server = timeout(SOON, dialled.recv()).await.unwrap().unwrap();
                let (control, mut recv, resume) = welcomes(&server, [5; 16]).await;
                assert!(resume.is_some());
                let kept = async {
                    loop {
                        let frame = read_frame(&mut recv, 4096).await.unwrap().unwrap();
                        if let Ok(Kept { flows, last }) = protocol::decode(&frame) {
                            return (flows, last);
                        }
                    }
                };
                assert_eq!(timeout(SOON, kept).await.unwrap(), (vec![0], true));
                let (mut send, mut recv) =
                    timeout(SOON, server.accept_bi()).await.unwrap().unwrap();
                let reattach: Reattach = read_message(&mut recv, 4096).await.unwrap();
                assert_eq!((reattach.flow, reattach.position), (0, 0));
                let lie = Reattached { position, paused: false };
                write_message(&mut send, &lie).await.unwrap();
                assert_eq!(close_code(&server).await, CloseCode::ProtocolError);
                drop(control);
                server
            }
        };
        assert_eq!(close_code(&broken).await, CloseCode::ProtocolError);
        assert!(is_reset(&mut app).await);
        assert!(matches!(event(&mut told, closed).await, Lost::Transport(_)));
        running.abort();
    }
}
