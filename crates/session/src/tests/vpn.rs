//! VPN flows, both halves of a session against each other.

use std::sync::Mutex;

use tokio_util::sync::CancellationToken;
use tunnel_model::protocol::{Reason, Refusal, VpnOpened, VpnRequest};

use super::resume::{closed, dialled, resumed, suspended, until};
use super::*;
use crate::vpn::{Applicant, Arrivals, Carrier, Entry, Vpn, VpnError, VpnServer};

/// A VPN with one address for everybody.
#[derive(Default)]
struct Hub {
    arrivals: Arc<Arrivals>,
    entered: Mutex<Vec<Entered>>,
    full: bool,
}

struct Entered {
    preshared: [u8; 32],
    routes: Vec<String>,
    carrier: Carrier,
    replaced: CancellationToken,
    place: std::sync::Weak<()>,
}

const OF_CLIENT: [u8; 32] = [1; 32];
const OF_SERVER: [u8; 32] = [2; 32];

impl VpnServer for Hub {
    fn enter(&self, client: Applicant<'_>) -> Result<Entry, Refusal> {
        if self.full {
            return Err(Refusal { reason: Reason::Limit, detail: "all taken".to_owned() });
        }
        let (replaced, place) = (CancellationToken::new(), Arc::new(()));
        self.entered.lock().unwrap().push(Entered {
            preshared: *client.secret.preshared_key(client.public_key, &OF_SERVER),
            routes: client.routes.iter().map(ToString::to_string).collect(),
            carrier: client.carrier,
            replaced: replaced.clone(),
            place: Arc::downgrade(&place),
        });
        Ok(Entry {
            opened: VpnOpened {
                public_key: OF_SERVER,
                addresses: vec!["10.0.0.2/24".parse().unwrap()],
                server: vec!["10.0.0.1".parse().unwrap()],
                mtu: 1420,
            },
            tag: 77,
            arrivals: self.arrivals.clone(),
            replaced,
            place: Box::new(place),
        })
    }
}

impl Hub {
    fn last<T>(&self, look: impl FnOnce(&Entered) -> T) -> T {
        look(self.entered.lock().unwrap().last().expect("nobody is in the VPN"))
    }
}

fn rules(token: &str, routes: &[&str]) -> Arc<Policy> {
    let tokens: TokenList = token.parse().unwrap();
    let rules = Policy::new(tokens.0, Allowlist::default());
    Arc::new(rules.with_vpn(routes.iter().map(|route| route.parse().unwrap()).collect()))
}

/// A server with a VPN, and a client.
struct Scene {
    bench: Bench,
    hub: Arc<Hub>,
    client: Client,
    connection: MemoryConnection,
    arrivals: Arc<Arrivals>,
}

async fn scene(hub: Hub) -> Scene {
    let (send, watched) = watch::channel(rules(TOKEN, &["10.1.0.0/16"]));
    let (events, hub) = (Events::default(), Arc::new(hub));
    let copies = events.subscribe();
    let server = Server::with_vpn(watched, Limits::default(), events, Some(hub.clone())).unwrap();
    let bench = Bench { server, rules: send, events: copies, stop: watch::Sender::new(false) };
    let mut client = client(&bench, TOKEN, &[]).await;
    let connection = dialled(&mut client).await;
    Scene { bench, hub, client, connection, arrivals: Arc::default() }
}

fn request(routes: &[&str]) -> VpnRequest {
    let routes = routes.iter().map(|route| route.parse().unwrap()).collect();
    VpnRequest { public_key: OF_CLIENT, routes }
}

impl Scene {
    async fn open(&self, routes: &[&str]) -> Result<Vpn, VpnError> {
        let request = request(routes);
        let opening = self.client.link.open_vpn(&request, self.arrivals.clone(), 5);
        timeout(SOON, opening).await.expect("neither opened nor refused")
    }

    /// Sends one packet each way.
    async fn exchange(&self, vpn: &Vpn, packet: &[u8]) {
        let there = self.hub.last(|entered| entered.carrier.clone());
        send(&vpn.carrier, packet);
        assert_eq!(next(&self.hub.arrivals).await, (77, packet.to_vec()));
        send(&there, packet);
        assert_eq!(next(&self.arrivals).await, (5, packet.to_vec()));
    }
}

fn send(carrier: &Carrier, packet: &[u8]) {
    let mut datagrams = vec![Bytes::from([carrier.header(), packet].concat())];
    carrier.send(&mut datagrams);
    assert!(datagrams.is_empty());
}

async fn next(arrivals: &Arrivals) -> (u64, Vec<u8>) {
    let mut taken = Vec::new();
    timeout(SOON, arrivals.ready()).await.expect("no packet came");
    arrivals.take(&mut taken);
    assert_eq!(taken.len(), 1);
    (taken[0].0, taken[0].1.to_vec())
}

async fn ended(vpn: &mut Vpn) -> FlowEnd {
    timeout(SOON, vpn.ended()).await.expect("the flow goes on")
}

fn vpn_closed(event: &Event) -> Option<FlowEnd> {
    match event {
        Event::VpnClosed { why, .. } => Some(why.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn packets_of_every_size_pass_both_ways_and_both_ends_have_the_same_key() {
    let mut scene = scene(Hub::default()).await;
    let vpn = scene.open(&["10.1.2.0/24"]).await.ok().unwrap();
    assert_eq!(vpn.opened.addresses, ["10.0.0.2/24".parse().unwrap()]);
    let preshared = vpn.secret.preshared_key(&OF_CLIENT, &OF_SERVER);
    assert_eq!(*preshared, scene.hub.last(|entered| entered.preshared));
    assert_eq!(scene.hub.last(|entered| entered.routes.clone()), ["10.1.2.0/24"]);
    let limit = vpn.carrier.limit();
    // In one datagram, in two, in four, on a stream.
    for size in [0, 1, limit - vpn.carrier.header().len(), limit, 3 * limit, 10 * limit] {
        scene.exchange(&vpn, &vec![size as u8; size]).await;
    }
    let place = scene.hub.last(|entered| entered.place.clone());
    assert!(place.upgrade().is_some());
    drop(vpn);
    assert_eq!(scene.bench.event(vpn_closed).await, FlowEnd::Finished);
    until(async || place.upgrade().is_none()).await;
}

#[tokio::test]
async fn a_server_without_a_vpn_is_told_from_one_that_refuses() {
    let without = bench(Limits::default());
    let client = client(&without, TOKEN, &[]).await;
    let nothing_more = request(&[]);
    let opening = client.link.open_vpn(&nothing_more, Arc::default(), 0);
    assert_eq!(timeout(SOON, opening).await.unwrap().err(), Some(VpnError::NotOffered));

    let mut scene = scene(Hub::default()).await;
    let Err(VpnError::Refused(refusal)) = scene.open(&["10.1.2.0/24", "10.2.0.0/16"]).await else {
        panic!("a route that is not allowed was given");
    };
    assert_eq!(refusal.reason, Reason::NotAllowed);
    assert!(refusal.detail.contains("--allow-route") && refusal.detail.contains("10.2.0.0/16"));
    let recorded = scene.bench.event(|event| match event {
        Event::VpnRefused { refusal, .. } => Some(refusal.clone()),
        _ => None,
    });
    assert_eq!(recorded.await, refusal);
    assert!(scene.hub.entered.lock().unwrap().is_empty());
    // The session is as good as before.
    assert!(scene.open(&[]).await.is_ok());
}

#[tokio::test]
async fn a_full_vpn_says_so() {
    let scene = scene(Hub { full: true, ..Hub::default() }).await;
    let Err(VpnError::Refused(refusal)) = scene.open(&[]).await else { panic!("let in") };
    assert_eq!((refusal.reason, &refusal.detail[..]), (Reason::Limit, "all taken"));
}

#[tokio::test]
async fn a_flow_goes_on_over_another_connection() {
    let mut scene = scene(Hub::default()).await;
    let vpn = scene.open(&[]).await.ok().unwrap();
    scene.exchange(&vpn, b"before").await;
    scene.client.network.send_replace(Network::Gone);
    scene.connection.cut();
    scene.bench.event(suspended).await;
    until(async || vpn.carrier.limit() == 0).await;
    send(&vpn.carrier, b"dropped, as a network would");
    scene.client.network.send_replace(Network::Up);
    scene.bench.event(resumed).await;
    until(async || vpn.carrier.limit() > 0).await;
    scene.exchange(&vpn, b"after").await;
    assert_eq!(scene.hub.entered.lock().unwrap().len(), 1, "opened anew");
    // Its stream goes on, too: it is where either side learns of the end.
    drop(vpn);
    assert_eq!(scene.bench.event(vpn_closed).await, FlowEnd::Finished);
}

#[tokio::test]
async fn a_flow_whose_opening_was_lost_is_opened_by_the_next_connection() {
    let scene = scene(Hub::default()).await;
    // Without a flow the server would not keep the session.
    let first = scene.open(&[]).await.ok().unwrap();
    // What is sent from here on does not arrive.
    scene.connection.stall();
    let (request, arrivals) = (request(&[]), scene.arrivals.clone());
    let link = scene.client.link.clone();
    let opening = tokio::spawn(async move { link.open_vpn(&request, arrivals, 5).await });
    let told = scene.client.link.clone();
    until(async || told.flow_count().await == 2).await;
    scene.connection.cut();
    let vpn = timeout(SOON, opening).await.unwrap().unwrap().ok().unwrap();
    scene.exchange(&vpn, b"here").await;
    drop(first);
}

#[tokio::test]
async fn what_the_rules_no_longer_allow_is_cut() {
    let mut scene = scene(Hub::default()).await;
    let mut kept = scene.open(&[]).await.ok().unwrap();
    let mut cut = scene.open(&["10.1.2.0/24"]).await.ok().unwrap();
    scene.bench.rules.send_replace(rules(TOKEN, &["10.9.0.0/16"]));
    assert_eq!(ended(&mut cut).await, FlowEnd::Revoked);
    assert_eq!(scene.bench.event(vpn_closed).await, FlowEnd::Revoked);
    scene.bench.rules.send_replace(rules(OTHER, &["10.1.0.0/16"]));
    assert!(matches!(ended(&mut kept).await, FlowEnd::SessionLost | FlowEnd::Revoked));
    scene.bench.event(closed).await;
}

#[tokio::test]
async fn a_flow_that_is_replaced_learns_of_it() {
    let mut scene = scene(Hub::default()).await;
    let mut vpn = scene.open(&[]).await.ok().unwrap();
    scene.hub.last(|entered| entered.replaced.cancel());
    assert_eq!(ended(&mut vpn).await, FlowEnd::Replaced);
    assert_eq!(scene.bench.event(vpn_closed).await, FlowEnd::Replaced);
}

#[tokio::test]
async fn packets_that_nobody_takes_are_bounded() {
    let arrivals = Arrivals::default();
    let mut taken = 0;
    for _ in 0..200 {
        taken += arrivals.push(1, &mut vec![Bytes::from_static(b"x"); 64]);
    }
    let mut queue = Vec::new();
    arrivals.take(&mut queue);
    assert_eq!((taken, queue.len()), (4096, 4096));
    assert_eq!(arrivals.push(1, &mut vec![Bytes::from_static(b"x")]), 1);
}
