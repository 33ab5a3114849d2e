//! A server that takes nothing new, and what it goes on with.

use futures_util::FutureExt;

use super::resume::*;
use super::*;

fn refused(event: &Event) -> Option<CloseCode> {
    match event {
        Event::SessionRefused { code, .. } => Some(*code),
        _ => None,
    }
}

#[tokio::test]
async fn what_is_open_goes_on_and_nothing_new_is_taken() {
    let mut carried = Carried::kept().await;
    let server = carried.bench.server.clone();
    server.drain();
    let mut drained = std::pin::pin!(server.drained());

    let mut late = TcpStream::connect(carried.client.targets[0]).await.unwrap();
    assert!(is_reset(&mut late).await);
    assert!(carried.service.accept().now_or_never().is_none(), "a flow was opened");
    let stranger = client_of(2, GRACE, &carried.bench, TOKEN, &["tcp://127.0.0.1:9".into()]).await;
    assert_eq!(carried.bench.event(refused).await, CloseCode::ShuttingDown);
    assert!(!stranger.link.has_session());

    // Also over another connection.
    carried.away().await;
    assert!(carried.client.link.has_session(), "the session is not kept");
    carried.back().await;
    echo(&mut carried.app, &mut carried.remote).await;
    assert!(drained.as_mut().now_or_never().is_none(), "a flow is open");

    carried.app.shutdown().await.unwrap();
    ends(&mut carried.remote).await;
    assert!(drained.as_mut().now_or_never().is_none(), "a direction is open");
    carried.remote.write_all(b"the last").await.unwrap();
    carried.remote.shutdown().await.unwrap();
    timeout(SOON, drained).await.expect("never drained");
    // The other end of the test's connection: it was told before the drain was over.
    hears(&mut carried.app, b"the last").await;
    ends(&mut carried.app).await;
}

#[tokio::test]
async fn last_bytes_that_have_not_arrived_are_waited_for() {
    let mut carried = Carried::kept().await;
    let server = carried.bench.server.clone();
    server.drain();
    let mut drained = std::pin::pin!(server.drained());
    carried.away().await;
    carried.remote.write_all(b"the last").await.unwrap();
    carried.remote.shutdown().await.unwrap();
    assert!(timeout(Duration::from_millis(200), drained.as_mut()).await.is_err());
    carried.back().await;
    hears(&mut carried.app, b"the last").await;
    carried.app.shutdown().await.unwrap();
    timeout(SOON, drained).await.expect("never drained");
}

#[tokio::test]
async fn a_server_without_flows_is_drained_at_once_and_one_that_serves_never_is() {
    let bench = bench(Limits::default());
    assert!(bench.server.drained().now_or_never().is_none());
    bench.server.drain();
    timeout(SOON, bench.server.drained()).await.expect("never drained");
}

#[tokio::test]
async fn bytes_are_counted_while_their_flow_is_open() {
    let mut carried = Carried::kept().await;
    let (server, link) = (carried.bench.server.clone(), carried.client.link.clone());
    let before = (server.traffic(), link.traffic());
    echo(&mut carried.app, &mut carried.remote).await;
    says(&mut carried.app, &mut carried.remote, b"12345").await;
    let after = (server.traffic(), link.traffic());
    assert_eq!(after.0.sent - before.0.sent, 1);
    assert_eq!(after.0.received - before.0.received, 6);
    assert_eq!(after.1.sent - before.1.sent, 6);
    assert_eq!(after.1.received - before.1.received, 1);
}
