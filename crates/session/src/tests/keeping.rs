//! How long a session is kept, what it holds meanwhile, and UDP flows.

use super::resume::*;
use super::*;
use crate::limits::MAX_HELD_FLOW;

#[tokio::test]
async fn when_the_grace_is_over_both_sides_reset_and_a_new_session_begins() {
    let seconds = Duration::from_secs;
    for (server, client) in [(60, 60), (60, 600), (600, 60)] {
        println!("server {server} s, client {client} s");
        let limits = Limits { grace: seconds(server), ..Limits::default() };
        let mut carried = Carried::begin(limits, seconds(client)).await;
        carried.away().await;
        tokio::time::pause();
        tokio::time::advance(seconds(30)).await;
        tokio::time::resume();
        tokio::task::yield_now().await;
        assert!(is_open(&carried.app) && is_open(&carried.remote));
        tokio::time::pause();
        tokio::time::advance(seconds(31)).await;
        tokio::time::resume();
        assert!(is_reset(&mut carried.app).await);
        assert_eq!(event(&mut carried.told, closed).await, Lost::Kept(seconds(60)));
        if server == 60 {
            assert!(is_reset(&mut carried.remote).await);
            assert_eq!(carried.bench.event(closed).await, Lost::Kept(seconds(60)));
            assert_eq!(carried.bench.server.session_count(), 0);
        }
        carried.client.network.send_replace(Network::Up);
        let _fresh = open(&carried.client, &carried.service).await;
        if server != 60 {
            // The client has given it up, and says so by coming without it.
            assert!(is_reset(&mut carried.remote).await);
            carried.bench.event(closed).await;
        }
        assert_eq!(count(&mut carried.bench.events, closed), 0);
        assert_eq!(count(&mut carried.told, closed), 0);
    }
}

#[tokio::test]
async fn without_grace_on_either_side_flows_end_with_their_connection() {
    for (server, client) in [(Duration::ZERO, GRACE), (GRACE, Duration::ZERO)] {
        let limits = Limits { grace: server, ..Limits::default() };
        let mut carried = Carried::begin(limits, client).await;
        carried.connection.cut();
        assert!(is_reset(&mut carried.app).await);
        assert!(is_reset(&mut carried.remote).await);
        // Neither would pass over an event that the session is suspended.
        let ended = |event: &Event| match event {
            Event::SessionSuspended { .. } => panic!("kept without grace"),
            event => closed(event),
        };
        assert_eq!(carried.bench.event(ended).await, Lost::TimedOut);
        assert_eq!(event(&mut carried.told, ended).await, Lost::TimedOut);
        let _fresh = open(&carried.client, &carried.service).await;
    }
}

#[tokio::test]
async fn a_server_that_ends_ends_what_it_keeps() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    timeout(SOON, carried.bench.server.close()).await.expect("never closed");
    assert!(is_reset(&mut carried.remote).await);
    carried.bench.event(closed).await;
    assert_eq!(carried.bench.server.session_count(), 0);
}

#[tokio::test]
async fn a_client_that_ends_while_away_resets_its_flows() {
    let mut carried = Carried::kept().await;
    carried.away().await;
    carried.client.running.abort();
    carried.client.link.close();
    assert!(is_reset(&mut carried.app).await);
    assert_eq!(event(&mut carried.told, closed).await, Lost::Local);
}

#[tokio::test]
async fn udp_flows_go_on_from_the_same_socket() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = format!("udp://{}", service.local_addr().unwrap());
    let mut bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &[source]).await;
    let connection = dialled(&mut client).await;
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    app.connect(client.targets[0]).await.unwrap();
    let mut buffer = [0; 64];
    app.send(b"one").await.unwrap();
    let (_, from) = timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
    client.network.send_replace(Network::Gone);
    connection.cut();
    bench.event(suspended).await;
    // Lost, as in any network; neither side minds.
    app.send(b"lost").await.unwrap();
    service.send_to(b"lost", from).await.unwrap();
    client.network.send_replace(Network::Up);
    bench.event(resumed).await;
    let wait = Duration::from_millis(50);
    let over = async {
        loop {
            app.send(b"two").await.unwrap();
            if let Ok(packet) = timeout(wait, service.recv_from(&mut buffer)).await {
                let (n, again) = packet.unwrap();
                assert_eq!(again, from);
                // The other one may have been read from its socket only after the resumption.
                if &buffer[..n] == b"two" {
                    return;
                }
            }
        }
    };
    timeout(SOON, over).await.unwrap();
    service.send_to(b"back", from).await.unwrap();
    let back = async {
        loop {
            let n = app.recv(&mut buffer).await.unwrap();
            if &buffer[..n] == b"back" {
                return;
            }
        }
    };
    timeout(SOON, back).await.unwrap();
}

#[tokio::test]
async fn the_first_packet_of_a_udp_flow_survives_the_cut_once() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = format!("udp://{}", service.local_addr().unwrap());
    let mut bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &[source]).await;
    let connection = dialled(&mut client).await;
    client.link.up().await;
    let session = client.link.session().await.unwrap();
    let mut buffer = [0; 64];
    let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    other.send_to(b"other", client.targets[0]).await.unwrap();
    timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
    until(async || session.streams.held() == 0).await;
    connection.stall();
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    app.connect(client.targets[0]).await.unwrap();
    app.send(b"first").await.unwrap();
    until(async || session.streams.held() > 0).await;
    connection.cut();
    bench.event(resumed).await;
    let (n, _) = timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..n], b"first");
}

#[tokio::test]
async fn a_udp_flow_that_idled_out_while_away_begins_anew() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = format!("udp://{}", service.local_addr().unwrap());
    let mut bench = bench(Limits { udp_idle: Duration::from_millis(300), ..Limits::default() });
    let mut client = client(&bench, TOKEN, &[source]).await;
    let mut told = client.link.events().subscribe();
    let connection = dialled(&mut client).await;
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    app.connect(client.targets[0]).await.unwrap();
    app.send(b"one").await.unwrap();
    let mut buffer = [0; 64];
    timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
    client.network.send_replace(Network::Gone);
    connection.cut();
    let idle = |event: &Event| match event {
        Event::FlowClosed { why, .. } => Some(why.clone()),
        _ => None,
    };
    assert_eq!(bench.event(idle).await, FlowEnd::Idle);
    client.network.send_replace(Network::Up);
    assert_eq!(event(&mut told, idle).await, FlowEnd::Idle);
    app.send(b"two").await.unwrap();
    let (n, _) = timeout(SOON, service.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..n], b"two");
}

#[tokio::test]
async fn a_reader_that_stalled_before_the_cut_is_waited_for_after_it() {
    let mut carried = Carried::kept().await;
    let chunk = vec![7; 64 * 1024];
    let still = Duration::from_secs(5);
    let mut sent = 0;
    let mut more = async |remote: &mut TcpStream| loop {
        match timeout(still, remote.write(&chunk)).await {
            Ok(written) => sent += written.unwrap(),
            Err(_) => return sent,
        }
    };
    let before = more(&mut carried.remote).await;
    carried.away().await;
    let away = more(&mut carried.remote).await;
    carried.back().await;
    let after = more(&mut carried.remote).await;
    // One read of the socket may be on its way to being kept.
    assert!(after - before <= 512 * 1024, "{before}, then {away}, then {after}");
    carried.remote.shutdown().await.unwrap();
    let mut received = 0;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match timeout(SOON, carried.app.read(&mut buffer)).await.expect("stands still").unwrap() {
            0 => break,
            n => received += n,
        }
    }
    assert_eq!(received, after);
    echo_up(&mut carried).await;
}

async fn echo_up(carried: &mut Carried) {
    says(&mut carried.app, &mut carried.remote, b"up").await;
}

#[tokio::test]
async fn nothing_is_held_once_it_is_acknowledged_and_no_flow_lingers() {
    let mut carried = Carried::kept().await;
    let session = carried.client.link.session().await.unwrap();
    carried.app.write_all(&[1; 100_000]).await.unwrap();
    until(async || session.streams.held() > 0).await;
    hears(&mut carried.remote, &[1; 100_000]).await;
    until(async || session.streams.held() == 0).await;
    carried.away().await;
    carried.app.write_all(&[2; 50_000]).await.unwrap();
    carried.back().await;
    hears(&mut carried.remote, &[2; 50_000]).await;
    until(async || session.streams.held() == 0).await;
    carried.app.shutdown().await.unwrap();
    ends(&mut carried.remote).await;
    carried.remote.shutdown().await.unwrap();
    ends(&mut carried.app).await;
    until(async || session.streams.is_empty()).await;
    assert_eq!(session.streams.held(), 0);
}

#[tokio::test]
async fn what_is_sent_into_a_stalled_network_is_bounded() {
    let mut carried = Carried::kept().await;
    let session = carried.client.link.session().await.unwrap();
    carried.connection.stall();
    let chunk = vec![7; 64 * 1024];
    let mut sent = 0;
    while sent < 64 * 1024 * 1024
        && timeout(Duration::from_millis(500), carried.app.write_all(&chunk)).await.is_ok()
    {
        sent += chunk.len();
        assert!(session.streams.held() <= MAX_HELD_FLOW + 128 * 1024);
    }
    assert!(sent < 64 * 1024 * 1024, "a stalled network was sent {sent} bytes");
}
