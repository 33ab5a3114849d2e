use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use super::*;

const HOST: &str = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";

/// For what happens on loopback.
const SOON: Duration = Duration::from_secs(10);

/// A SOCKS5 proxy that gives this code to every request, and echoes what comes behind a success. It counts requests.
async fn tor(code: u8) -> (SocksProxy, Arc<Mutex<Vec<Vec<u8>>>>, JoinHandle<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = format!("socks5h://{}", listener.local_addr().unwrap()).parse().unwrap();
    let asked: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    let requests = Arc::clone(&asked);
    let serving = tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let requests = Arc::clone(&requests);
            tokio::spawn(async move {
                let mut buffer = [0; 600];
                for answer in [&[5, 2][..], &[1, 0], &[5, code, 0, 1, 0, 0, 0, 0, 0, 0]] {
                    let n = tcp.read(&mut buffer).await.unwrap_or(0);
                    requests.lock().unwrap().push(buffer[..n].to_vec());
                    let _ = tcp.write_all(answer).await;
                }
                let (mut read, mut write) = tcp.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    (proxy, asked, serving)
}

/// Sends a request with these headers, and returns the connection and the head of the answer.
async fn ask(shim: &Shim, request: &str, headers: &[String]) -> (TcpStream, String) {
    let address = ("127.0.0.1", shim.url.port().unwrap());
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let mut head = format!("{request} HTTP/1.1\r\nHost: x\r\n");
    for header in headers {
        head.push_str(&format!("{header}\r\n"));
    }
    head.push_str("\r\n");
    tcp.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = timeout(SOON, tcp.read_u8()).await.unwrap();
        answer.push(byte.unwrap());
    }
    (tcp, String::from_utf8(answer).unwrap())
}

fn own(shim: &Shim) -> Vec<String> {
    vec![format!("Proxy-Authorization: {}", *shim.shared.authorization)]
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

#[tokio::test]
async fn a_tunnel_carries_bytes_both_ways_until_it_is_ended() {
    let (proxy, asked, _serving) = tor(0).await;
    let shim = Shim::start(proxy).unwrap();
    let (mut tcp, answer) = ask(&shim, &format!("CONNECT {HOST}:3340"), &own(&shim)).await;
    assert_eq!(status(&answer), "200", "{answer}");
    let text = vec![7; 300_000];
    let (mut read, mut write) = tcp.split();
    let mut echo = vec![0; text.len()];
    let (sent, got) =
        tokio::join!(write.write_all(&text), timeout(SOON, read.read_exact(&mut echo)));
    assert!(sent.is_ok() && got.unwrap().is_ok() && echo == text);
    let request = asked.lock().unwrap()[2].clone();
    assert!(request.ends_with(&[HOST.as_bytes(), &3340u16.to_be_bytes()].concat()));
    // It ends with the endpoint.
    drop(shim);
    assert!(matches!(timeout(SOON, tcp.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_))));
}

#[tokio::test]
async fn whoever_has_no_password_is_refused_and_reaches_nothing() {
    let (proxy, asked, _serving) = tor(0).await;
    let shim = Shim::start(proxy).unwrap();
    let wrong = format!("Proxy-Authorization: Basic {}", BASE64.encode(b"tunnel-rs:wrong"));
    for headers in [Vec::new(), vec![wrong], vec!["Authorization: Basic x".to_owned()]] {
        for request in [format!("CONNECT {HOST}:80"), format!("GET http://{HOST}/ping")] {
            let (_, answer) = ask(&shim, &request, &headers).await;
            assert_eq!(status(&answer), "407", "{answer}");
        }
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn nothing_but_onion_services_is_reached() {
    let (proxy, asked, _serving) = tor(0).await;
    let shim = Shim::start(proxy).unwrap();
    for request in [
        "CONNECT relay.example:443".to_owned(),
        "CONNECT 127.0.0.1:22".to_owned(),
        "CONNECT [::1]:22".to_owned(),
        format!("CONNECT {HOST}.example:80"),
        "GET http://relay.example/ping".to_owned(),
        format!("GET https://{HOST}/ping"),
        "GET /ping".to_owned(),
    ] {
        let (_, answer) = ask(&shim, &request, &own(&shim)).await;
        assert_eq!(status(&answer), "403", "{request}: {answer}");
    }
    let (_, answer) = ask(&shim, &format!("POST http://{HOST}/"), &own(&shim)).await;
    assert_eq!(status(&answer), "405");
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_tor_says_becomes_words() {
    let (proxy, _, _serving) = tor(0xF0).await;
    let shim = Shim::start(proxy).unwrap();
    let (_, answer) = ask(&shim, &format!("CONNECT {HOST}:80"), &own(&shim)).await;
    assert_eq!(status(&answer), "502");
    let failure = shim.failure().unwrap();
    assert!(failure.contains(HOST) && failure.contains("no such onion service"), "{failure}");
}

#[tokio::test]
async fn a_relay_that_was_reached_is_measured_without_a_stream() {
    let (proxy, asked, _serving) = tor(0).await;
    let shim = Shim::start(proxy).unwrap();
    let request = format!("GET http://{HOST}/ping");
    let (_, first) = ask(&shim, &request, &own(&shim)).await;
    assert_eq!(status(&first), "200");
    timeout(SOON, shim.reached()).await.unwrap();
    assert_eq!(asked.lock().unwrap().len(), 3);
    let (_, second) = ask(&shim, &request, &own(&shim)).await;
    assert_eq!(status(&second), "200");
    assert_eq!(asked.lock().unwrap().len(), 3, "another stream was opened");
    assert_eq!(shim.failure(), None);
}

#[tokio::test]
async fn an_attempt_that_was_given_up_is_still_told() {
    // Takes connections and says nothing until it is closed.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let proxy = format!("socks5h://{}", silent.local_addr().unwrap()).parse().unwrap();
    let shim = Shim::start(proxy).unwrap();
    let address = ("127.0.0.1", shim.url.port().unwrap());
    let mut tcp = TcpStream::connect(address).await.unwrap();
    let head = format!("CONNECT {HOST}:80 HTTP/1.1\r\n{}\r\n\r\n", own(&shim)[0]);
    tcp.write_all(head.as_bytes()).await.unwrap();
    let (asked, _) = timeout(SOON, silent.accept()).await.unwrap().unwrap();
    drop(tcp);
    drop(asked);
    let told = async {
        while shim.failure().is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, told).await.unwrap();
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed() {
    let (proxy, _, _serving) = tor(0).await;
    let shim = Shim::start(proxy).unwrap();
    let address = ("127.0.0.1", shim.url.port().unwrap());
    let mut idle = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        idle.push(TcpStream::connect(address).await.unwrap());
    }
    let mut further = TcpStream::connect(address).await.unwrap();
    // Before the others run into their limit.
    let (mut byte, mut other) = ([0; 1], [0; 1]);
    let closed = tokio::select! {
        biased;
        closed = timeout(SOON, further.read(&mut byte)) => closed,
        _ = idle[0].read(&mut other) => panic!("another one ended first"),
    };
    assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");
    // Their places come back.
    let mut first = idle.swap_remove(0);
    assert!(matches!(timeout(SOON, first.read(&mut [0; 1])).await, Ok(Ok(_) | Err(_))));
}

#[tokio::test]
async fn heads_without_an_end_are_refused() {
    let (proxy, _, _serving) = tor(0).await;
    let shim = Shim::start(proxy).unwrap();
    let mut tcp = TcpStream::connect(("127.0.0.1", shim.url.port().unwrap())).await.unwrap();
    let endless = vec![b'x'; 4 * HEAD_SIZE];
    let _ = tcp.write_all(&endless).await;
    let mut answer = Vec::new();
    let read = timeout(SOON, tcp.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "it still listens");
}
