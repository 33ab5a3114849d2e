use std::net::SocketAddr;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const HOST: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// A proxy that takes one connection and answers each message with the next of these; it returns what it was sent.
async fn proxy(answers: Vec<Vec<u8>>) -> (SocksProxy, JoinHandle<Vec<Vec<u8>>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            let mut buffer = vec![0; 600];
            let n = tcp.read(&mut buffer).await.unwrap_or(0);
            buffer.truncate(n);
            asked.push(buffer);
            let _ = tcp.write_all(&answer).await;
        }
        asked
    });
    (format!("socks5h://{address}").parse().unwrap(), serving)
}

/// The answers of a proxy that takes any password, and then gives this code.
fn answers(code: u8) -> Vec<Vec<u8>> {
    vec![vec![5, 2], vec![1, 0], vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]]
}

async fn connected(answers: Vec<Vec<u8>>) -> Result<TcpStream, SocksError> {
    let (proxy, _serving) = proxy(answers).await;
    let isolation = Isolation { user: "user".to_owned(), password: "word".to_owned() };
    timeout(CHECK_LIMIT, connect(proxy, &isolation, HOST, 3340)).await.unwrap()
}

/// What comes of a proxy that says this whatever it hears, and no more.
async fn connected_to_deaf(said: Vec<u8>) -> Result<TcpStream, SocksError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = format!("socks5h://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let _ = tcp.write_all(&said).await;
        let _ = tcp.shutdown().await;
        let _ = tcp.read_to_end(&mut Vec::new()).await;
    });
    let isolation = Isolation { user: "user".to_owned(), password: "word".to_owned() };
    timeout(CHECK_LIMIT, connect(proxy, &isolation, HOST, 3340)).await.unwrap()
}

#[tokio::test]
async fn a_name_goes_to_the_proxy_as_it_is_with_the_isolation() {
    let (proxy, serving) = proxy(answers(0)).await;
    let isolation = Isolation { user: "user".to_owned(), password: "word".to_owned() };
    assert!(connect(proxy, &isolation, HOST, 3340).await.is_ok());
    let asked = serving.await.unwrap();
    assert_eq!(asked[0], [5, 2, 0, 2]);
    assert_eq!(asked[1], b"\x01\x04user\x04word");
    let request = [&[5, 1, 0, 3, 62][..], HOST.as_bytes(), &3340u16.to_be_bytes()].concat();
    assert_eq!(asked[2], request);
}

#[tokio::test]
async fn each_code_of_a_proxy_is_heard() {
    for code in [1, 4, 5, 6, 8, 0xF0, 0xF6, 0xF7, 0x42] {
        assert_eq!(connected(answers(code)).await.unwrap_err(), SocksError::Reply(code));
    }
    // One that wants no password answers one message less.
    let answers = vec![vec![5, 0], vec![5, 0xF2, 0, 1, 0, 0, 0, 0, 0, 0]];
    assert_eq!(connected(answers).await.unwrap_err(), SocksError::Reply(0xF2));
}

#[test]
fn every_code_has_words_and_no_two_of_tors_the_same() {
    let texts: Vec<_> = (0xF0..=0xF7).map(words).collect();
    for (nth, text) in texts.iter().enumerate() {
        assert!(!texts[..nth].contains(text) && !text.contains("unknown"), "{text}");
    }
    assert!(words(0x42).contains("0x42"));
}

#[tokio::test]
async fn what_is_no_proxy_is_told_apart_from_none() {
    let http = vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()];
    assert!(matches!(connected(http).await, Err(SocksError::Broken(_))));
    assert!(matches!(connected(vec![vec![5]]).await, Err(SocksError::Broken(_))));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let proxy = format!("socks5h://{address}").parse().unwrap();
    let isolation = Isolation::new().unwrap();
    assert!(matches!(connect(proxy, &isolation, HOST, 1).await, Err(SocksError::NoProxy(_))));
    assert!(matches!(require_tor(proxy).await, Err(TorError::NoProxy(..))));
}

/// A proxy that answers a request with what is made of it.
async fn resolver(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocksProxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 300];
        let _ = tcp.read(&mut buffer).await;
        let _ = tcp.write_all(&[5, 0]).await;
        let n = tcp.read(&mut buffer).await.unwrap_or(0);
        let _ = tcp.write_all(&answer(&buffer[..n])).await;
    });
    format!("socks5h://{address}").parse().unwrap()
}

fn address_in(request: &[u8]) -> Ipv4Addr {
    // 5, RESOLVE, 0, "a name follows", its length; and the port behind it.
    assert_eq!(request[..4], [5, 0xF0, 0, 3]);
    std::str::from_utf8(&request[5..request.len() - 2]).unwrap().parse().unwrap()
}

#[tokio::test]
async fn tor_is_known_by_its_own_request() {
    let tor =
        resolver(|request| [&[5, 0, 0, 1][..], &address_in(request).octets(), &[0, 0]].concat());
    assert!(require_tor(tor.await).await.is_ok());
}

#[tokio::test]
async fn other_proxies_are_not_taken_for_tor() {
    let refuses = resolver(|_| vec![5, 7, 0, 1, 0, 0, 0, 0, 0, 0]);
    let takes_anything = resolver(|_| vec![5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    let other_address = resolver(|request| {
        let [a, b, c, d] = address_in(request).octets();
        vec![5, 0, 0, 1, a, b, c, d ^ 1, 0, 0]
    });
    let closes = resolver(|_| Vec::new());
    for proxy in [refuses.await, takes_anything.await, other_address.await, closes.await] {
        let outcome = require_tor(proxy).await;
        assert!(matches!(outcome, Err(TorError::NotTor(..))), "{outcome:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_that_a_proxy_says_panics(
        right in 0..=14_usize,
        said in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let said = [&answers(0).concat()[..right], &said].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(connected_to_deaf(said));
    }

    #[test]
    fn codes_are_read_from_anything(heard in proptest::collection::vec(any::<u8>(), 0..10)) {
        prop_assert_ne!(reply(&heard), Some(0));
    }
}
