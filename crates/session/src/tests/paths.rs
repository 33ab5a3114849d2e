//! A connection that goes on by another path while what was on its way stands still.

use tokio::sync::mpsc::error::TryRecvError;

use super::resume::*;
use super::*;

/// Takes the path in use from a connection, once the client watches it.
async fn lose_path(connection: &MemoryConnection) {
    until(async || connection.path_watches() > 0).await;
    connection.lose_path();
}

/// The same where the client does nothing about it.
async fn lose_path_in_vain(client: &mut Client, connection: &MemoryConnection) {
    lose_path(connection).await;
    let watches = connection.path_watches();
    until(async || connection.path_watches() > watches).await;
    assert_eq!(client.dialled.try_recv().err(), Some(TryRecvError::Empty));
}

#[tokio::test]
async fn flows_go_on_over_another_connection_and_nothing_is_said_of_silence() {
    let mut carried = Carried::kept().await;
    let earlier = carried.connection.clone();
    lose_path(&earlier).await;
    carried.connection = dialled(&mut carried.client).await;
    let unbroken = |event: &Event| match event {
        Event::SessionSuspended { .. } => panic!("it was never without a connection"),
        event => resumed(event),
    };
    let id = carried.bench.event(unbroken).await;
    assert_eq!(event(&mut carried.told, unbroken).await, id);
    assert_eq!(earlier.closed_with(), Some(CloseCode::Superseded));
    echo(&mut carried.app, &mut carried.remote).await;
    assert_eq!(carried.client.notices.try_recv().err(), Some(TryRecvError::Empty));
}

#[tokio::test]
async fn a_dial_that_fails_harms_nothing() {
    let mut carried = Carried::kept().await;
    carried.client.network.send_replace(Network::Gone);
    let connection = carried.connection.clone();
    lose_path_in_vain(&mut carried.client, &connection).await;
    echo(&mut carried.app, &mut carried.remote).await;
    assert_eq!(connection.closed_with(), None);
    assert_eq!(count(&mut carried.told, resumed), 0);
    assert_eq!(carried.client.notices.try_recv().err(), Some(TryRecvError::Empty));
}

#[tokio::test]
async fn flows_stay_with_a_server_that_lives_though_another_process_answers_the_dial() {
    let mut carried = Carried::kept().await;
    let mut successor = bench(Limits::default());
    carried.client.link.dialer().server.send_replace(successor.server.clone());
    lose_path(&carried.connection).await;
    let beside = dialled(&mut carried.client).await;
    successor.event(closed).await;
    assert_eq!(beside.closed_with(), Some(CloseCode::Done));
    echo(&mut carried.app, &mut carried.remote).await;
    assert_eq!(carried.connection.closed_with(), None);
}

#[tokio::test]
async fn paths_that_come_and_go_cost_no_connection_each() {
    let mut carried = Carried::kept().await;
    lose_path(&carried.connection).await;
    carried.connection = dialled(&mut carried.client).await;
    carried.resumed().await;
    let connection = carried.connection.clone();
    for _ in 0..3 {
        lose_path_in_vain(&mut carried.client, &connection).await;
    }
    echo(&mut carried.app, &mut carried.remote).await;
}

#[tokio::test]
async fn a_session_without_tcp_flows_stays_where_it_is() {
    let service = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let source = format!("udp://{}", service.local_addr().unwrap());
    let bench = bench(Limits::default());
    let mut client = client(&bench, TOKEN, &[source]).await;
    let connection = dialled(&mut client).await;
    lose_path_in_vain(&mut client, &connection).await;
    let app = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    app.send_to(b"one", client.targets[0]).await.unwrap();
    timeout(SOON, service.recv_from(&mut [0; 64])).await.unwrap().unwrap();
    lose_path_in_vain(&mut client, &connection).await;
}

#[tokio::test]
async fn a_session_that_cannot_be_resumed_stays_where_it_is() {
    for (server, client) in [(Duration::ZERO, GRACE), (GRACE, Duration::ZERO)] {
        let limits = Limits { grace: server, ..Limits::default() };
        let mut carried = Carried::begin(limits, client).await;
        let connection = carried.connection.clone();
        lose_path_in_vain(&mut carried.client, &connection).await;
        echo(&mut carried.app, &mut carried.remote).await;
    }
}
