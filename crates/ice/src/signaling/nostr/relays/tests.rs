mod fake;
mod hostile;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use nostr_relay_builder::builder::{RateLimit, RelayBuilder, RelayBuilderNip42};
use nostr_relay_builder::local::LocalRelay;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, sleep_until, timeout};

use self::fake::{Fake, Manner};
use super::*;
use crate::Description;
use crate::signaling::nostr::samples::{description, key, moved, request_body};
use crate::signaling::nostr::{
    Action, Effect, Message, Negotiation, Negotiations, Nonce, SessionId, open, seal,
};

/// For everything that takes a moment.
const LIMIT: Duration = Duration::from_secs(20);

async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(LIMIT, what).await.expect("it took too long")
}

/// Waits until it is so.
async fn until(mut so: impl FnMut() -> bool) {
    within(async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

fn builder() -> RelayBuilder {
    RelayBuilder::default().rate_limit(RateLimit { max_reqs: 100, notes_per_minute: 10_000 })
}

/// A relay as others run them.
async fn local(builder: RelayBuilder) -> (LocalRelay, RelayUrl) {
    let relay = LocalRelay::new(builder);
    relay.run().await.unwrap();
    let url = relay.url().await;
    (relay, url)
}

/// Where nobody listens.
async fn nobody() -> RelayUrl {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    RelayUrl::parse(&format!("ws://{}", listener.local_addr().unwrap())).unwrap()
}

struct Side {
    key: NostrKey,
    peer: Npub,
    relays: Relays,
}

impl Side {
    async fn start(key: &NostrKey, peer: &NostrKey, urls: &[RelayUrl]) -> Self {
        let relays = Relays::start(key, [peer.npub()], urls.iter().cloned()).await.unwrap();
        Self { key: key.clone(), peer: peer.npub(), relays }
    }

    /// A client and a server.
    async fn pair(urls: &[RelayUrl]) -> (Self, Self) {
        let (client, server) = (key(), key());
        (Self::start(&client, &server, urls).await, Self::start(&server, &client, urls).await)
    }

    fn seal(&self, message: &Message) -> Event {
        seal(&self.key, self.peer, message, Timestamp::now()).unwrap()
    }

    fn open(&self, event: &Event) -> Message {
        open(&self.key, &[self.peer], event, Timestamp::now()).unwrap().1
    }

    /// Publishes without waiting for relays.
    fn publish(&self, message: &Message) {
        let (event, relays) = (self.seal(message), self.relays.clone());
        tokio::spawn(async move { relays.publish(&event).await });
    }

    /// Serves until a client has been confirmed; calls `started` when one begins.
    async fn serve(&self, mut events: Events, mut started: impl FnMut()) -> SessionId {
        let mut negotiations = Negotiations::default();
        loop {
            let event = events.next().await.unwrap();
            match negotiations.handle(self.peer, self.open(&event), Instant::now().into_std()) {
                Effect::Start { peer, request } => {
                    started();
                    let nonce = Nonce::generate().unwrap();
                    let offer = negotiations.offer(peer, request.session, nonce, moved(1));
                    self.publish(&offer.unwrap());
                }
                Effect::Send { message, .. } => self.publish(&message),
                Effect::Confirmed { session, .. } => return session,
                Effect::Ignored(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Asks until there is an offer, and answers it for ever.
    async fn ask(&self, met: impl FnOnce(SessionId, Description)) {
        let (session, nonce) = (SessionId::generate().unwrap(), Nonce::generate().unwrap());
        let (mut events, mut met) = (self.relays.events(), Some(met));
        self.relays.connected().await;
        let now = || Instant::now().into_std();
        let sources = request_body().sources;
        let mut negotiation =
            Negotiation::new(self.peer, session, nonce, description(), sources, now());
        loop {
            while let Some(action) = negotiation.poll(now()) {
                match action {
                    Action::Publish(message) => self.publish(&message),
                    Action::Meet(server) => met.take().unwrap()(session, server),
                    other => panic!("{other:?}"),
                }
            }
            let next = negotiation.poll_at().unwrap();
            tokio::select! {
                () = sleep_until(next.into()) => {}
                event = events.next() => {
                    let message = self.open(&event.unwrap());
                    let _ = negotiation.handle(self.peer, message, now());
                }
            }
        }
    }
}

/// From the request to the confirmation.
async fn exchange(client: &Side, server: &Side, started: impl FnMut()) {
    let mut met = None;
    let events = server.relays.events();
    let confirmed = within(async {
        server.relays.connected().await;
        tokio::select! {
            session = server.serve(events, started) => session,
            () = client.ask(|session, server| met = Some((session, server))) => unreachable!(),
        }
    })
    .await;
    assert_eq!(met, Some((confirmed, moved(1))));
}

#[tokio::test]
async fn two_sides_exchange_descriptions_through_a_relay() {
    let (_relay, url) = local(builder()).await;
    let (client, server) = Side::pair(std::slice::from_ref(&url)).await;
    exchange(&client, &server, || {}).await;
    assert_eq!(client.relays.health(), [(url, Health::Serving)]);
    client.relays.close().await;
    assert_eq!(within(client.relays.events().next()).await, None);
}

#[tokio::test]
async fn two_of_three_relays_may_die_in_mid_signaling() {
    let (a, url_a) = local(builder()).await;
    let (b, url_b) = local(builder()).await;
    let (_c, url_c) = local(builder()).await;
    let (client, server) = Side::pair(&[url_a, url_b, url_c]).await;
    for side in [&client, &server] {
        until(|| side.relays.health().iter().all(|(_, health)| *health == Health::Serving)).await;
    }
    exchange(&client, &server, || {
        a.shutdown();
        b.shutdown();
    })
    .await;
    let unreachable = |side: &Side| {
        let health = side.relays.health();
        health.iter().filter(|(_, health)| *health == Health::Unreachable).count()
    };
    until(|| unreachable(&client) == 2 && unreachable(&server) == 2).await;
}

#[tokio::test]
async fn relays_that_do_anything_but_their_work_do_no_harm() {
    let (_relay, good) = local(builder()).await;
    let mute = Fake::start(Manner::Mute).await;
    let deaf = Fake::start(Manner::Deaf).await;
    let garbage = Fake::start(Manner::Garbage).await;
    let flood = Fake::start(Manner::Flood(10_000)).await;
    let mut urls = vec![good.clone(), nobody().await];
    urls.extend([&mute, &deaf, &garbage, &flood].map(|fake| fake.url.clone()));
    let (client, server) = Side::pair(&urls).await;
    exchange(&client, &server, || {}).await;
    let health = client.relays.health();
    assert!(health.contains(&(good, Health::Serving)), "{health:?}");
    until(|| client.relays.health().contains(&(mute.url.clone(), Health::Slow))).await;
}

#[tokio::test]
async fn one_relay_that_floods_is_enough() {
    let flood = Fake::start(Manner::Flood(10_000)).await;
    let (client, server) = Side::pair(std::slice::from_ref(&flood.url)).await;
    exchange(&client, &server, || {}).await;
    // Nothing is kept of strangers.
    let seen = format!("{:?}", lock(&server.relays.inner.shared.seen));
    assert!(seen.contains(&client.key.npub().to_string()));
    assert_eq!(seen.matches("Npub(").count(), 1, "{seen}");
}

#[tokio::test]
async fn a_relay_that_asks_who_this_side_is_gets_told() {
    let (_relay, url) = local(builder().nip42(RelayBuilderNip42::default())).await;
    let (client, server) = Side::pair(&[url]).await;
    exchange(&client, &server, || {}).await;
}

#[tokio::test]
async fn a_relay_that_refuses_is_named_with_its_words() {
    let closed = Fake::start(Manner::Closed).await;
    let (client, _) = Side::pair(std::slice::from_ref(&closed.url)).await;
    until(|| client.relays.health() == [(closed.url.clone(), Health::Rejecting)]).await;

    let reject = Fake::start(Manner::Reject).await;
    let (client, _) = Side::pair(std::slice::from_ref(&reject.url)).await;
    within(client.relays.connected()).await;
    let event = client.seal(&Message::Request(request_body()));
    let refused = within(client.relays.publish(&event)).await;
    assert_eq!(refused, Err(PublishError::Refused("blocked: not you".to_owned())));
    assert_eq!(client.relays.health(), [(reject.url.clone(), Health::Rejecting)]);
}

#[tokio::test]
async fn without_a_relay_nothing_is_published_and_with_a_silent_one_not_for_ever() {
    let (client, _) = Side::pair(&[nobody().await]).await;
    let event = client.seal(&Message::Request(request_body()));
    assert_eq!(client.relays.publish(&event).await, Err(PublishError::NotConnected));
    until(|| client.relays.health()[0].1 == Health::Unreachable).await;

    let mute = Fake::start(Manner::Mute).await;
    let (client, _) = Side::pair(std::slice::from_ref(&mute.url)).await;
    // It may be one that does not say when it has taken a subscription.
    within(client.relays.connected()).await;
    assert_eq!(within(client.relays.publish(&event)).await, Err(PublishError::NoAnswer));
    assert!(lock(&client.relays.inner.shared.published).is_empty());
}

#[tokio::test]
async fn a_relay_that_comes_back_is_used_again() {
    let relay = Fake::start(Manner::Relay).await;
    let (client, server) = Side::pair(std::slice::from_ref(&relay.url)).await;
    exchange(&client, &server, || {}).await;
    relay.drop_connections();
    until(|| client.relays.health()[0].1 == Health::Unreachable).await;
    exchange(&client, &server, || {}).await;
    let before = relay.accepted();
    client.relays.network_changed();
    until(|| relay.accepted() > before).await;
    exchange(&client, &server, || {}).await;
}

#[tokio::test]
async fn connections_end_with_the_last_handle() {
    let relay = Fake::start(Manner::Relay).await;
    let (client, server) = Side::pair(std::slice::from_ref(&relay.url)).await;
    within(client.relays.connected()).await;
    within(server.relays.connected()).await;
    assert_eq!(relay.open(), 2);
    let mut events = client.relays.events();
    drop(client);
    until(|| relay.open() == 1).await;
    assert_eq!(within(events.next()).await, None);
    server.relays.close().await;
    until(|| relay.open() == 0).await;
}

#[tokio::test]
async fn wrong_settings_are_told() {
    let (own, peer) = (key(), key().npub());
    let url = |port: usize| RelayUrl::parse(&format!("ws://127.0.0.1:{port}")).unwrap();
    let start = |peers: Vec<Npub>, urls: Vec<RelayUrl>| Relays::start(&own, peers, urls);
    assert!(matches!(start(vec![peer], vec![]).await, Err(RelaysError::None)));
    assert!(matches!(start(vec![], vec![url(1)]).await, Err(RelaysError::NoPeer)));
    let many = (1..=MAX_RELAYS + 1).map(url).collect();
    assert!(matches!(start(vec![peer], many).await, Err(RelaysError::TooMany(17))));
}

/// TLS in front of a relay.
async fn tls(relay: &RelayUrl, certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> RelayUrl {
    crate::crypto::install();
    let chain = vec![certificate.cert.der().clone()];
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behind: SocketAddr = relay.as_str().trim_start_matches("ws://").parse().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut client = acceptor.accept(stream).await?;
                let mut relay = TcpStream::connect(behind).await?;
                tokio::io::copy_bidirectional(&mut client, &mut relay).await
            });
        }
    });
    RelayUrl::parse(&format!("wss://localhost:{port}")).unwrap()
}

#[tokio::test]
async fn certificates_of_relays_are_checked() {
    let certificate = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (_relay, url) = local(builder()).await;
    let url = tls(&url, &certificate).await;
    let (client, server) = (key(), key());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate.cert.der().clone()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots);
    let connector = Connector::Rustls(Arc::new(config.with_no_client_auth()));
    let trusting = async |own: &NostrKey, peer: &NostrKey| {
        let (peer, urls, connector) = (peer.npub(), [url.clone()], Some(connector.clone()));
        let relays = Relays::start_with(own, [peer], urls, connector).await.unwrap();
        Side { key: own.clone(), peer, relays }
    };
    let (client, server) = (trusting(&client, &server).await, trusting(&server, &client).await);
    exchange(&client, &server, || {}).await;

    let (client, _) = Side::pair(&[url]).await;
    until(|| client.relays.health()[0].1 == Health::Unreachable).await;
}
