//! More clients than there are addresses.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use tunnel_testlab::{
    Result, figures,
    net::StarLab,
    netns::Namespace,
    programs::ping,
    relay::Relay,
    tunnel::{Client, ClientConfig, Server, ServerConfig},
};

use super::{LIMIT, SIGTERM};
use crate::support::{TUNNEL_RS, TestResult, alone};

/// Of 16 addresses one is the network's, one the broadcasts' and one the server's.
const NETWORK: &str = "10.99.0.0/28";
const PLACES: usize = 13;

const CLIENTS: u8 = 20;

/// How long the address of a client that has left is kept for it.
const KEPT: Duration = Duration::from_secs(30);

/// For it to be free after that, on a busy machine. A client asks and is told in some 0.3 s.
const FREE_LIMIT: Duration = Duration::from_secs(15);

/// What became of a client: its address, or its exit code and all that it printed.
type Came = std::result::Result<IpAddr, (Option<i32>, String)>;

fn client(server: &Server, host: &Namespace) -> Result<Client> {
    ClientConfig::vpn(TUNNEL_RS, &server.ticket).start(Some(host))
}

/// Waits until it is in or has ended.
fn came(client: &Client) -> Result<Came> {
    match client.wait_vpn(1, LIMIT) {
        Ok(up) => Ok(Ok(up.address)),
        Err(_) => Ok(Err((client.process.wait_exit(LIMIT)?.code(), client.process.output()))),
    }
}

fn is_told(refused: &(Option<i32>, String)) {
    assert_eq!(refused.0, Some(1), "{}", refused.1);
    assert!(refused.1.contains("all 13 addresses of the VPN are taken"), "{}", refused.1);
}

#[test]
fn thirteen_of_twenty_get_in_and_an_address_comes_back() -> TestResult {
    let lock = alone();
    let lab = StarLab::new(CLIENTS)?;
    let relay = Relay::start(Some(&lab.hub), StarLab::HUB.into())?;
    let server = ServerConfig::vpn(TUNNEL_RS)
        .arguments(["--network", NETWORK])
        .relay(&relay)
        .start(Some(&lab.hub))?;
    let hosts = lab.hosts.iter();
    let clients: Vec<_> = hosts.map(|host| client(&server, host)).collect::<Result<_>>()?;
    let (mut inside, mut outside) = (Vec::new(), 0);
    for (client, host) in clients.iter().zip(&lab.hosts) {
        match came(client)? {
            Ok(address) => inside.push((address, client, host)),
            Err(refused) => {
                is_told(&refused);
                outside += 1;
            }
        }
    }
    let addresses: BTreeSet<_> = inside.iter().map(|(address, ..)| *address).collect();
    let expected = (2..15).map(|last| IpAddr::from([10, 99, 0, last])).collect::<BTreeSet<_>>();
    assert_eq!((addresses, outside), (expected, usize::from(CLIENTS) - PLACES));
    for (_, _, host) in &inside {
        ping(host, [10, 99, 0, 1].into(), &[])?;
    }
    // By way of the server.
    let (first, last) = (&inside[0], &inside[PLACES - 1]);
    ping(first.2, last.0, &[])?;

    let (address, leaving, host) = &inside[5];
    let leaves = Instant::now();
    leaving.process.signal(SIGTERM)?;
    leaving.process.wait_exit(LIMIT)?;
    let left = Instant::now();
    let Err(refused) = came(&client(&server, host)?)? else { panic!("in before {KEPT:?}") };
    is_told(&refused);
    drop(lock);
    thread::sleep(KEPT.saturating_sub(left.elapsed() + Duration::from_secs(2)));
    let again = loop {
        let again = client(&server, host)?;
        match came(&again)? {
            Ok(came) => {
                assert_eq!(came, *address);
                break again;
            }
            Err(refused) => is_told(&refused),
        }
        assert!(left.elapsed() < KEPT + FREE_LIMIT, "not free after {:?}", left.elapsed());
    };
    figures::record("an address is free for others after", left.elapsed());
    assert!(leaves.elapsed() >= KEPT - Duration::from_secs(1), "after {:?} only", leaves.elapsed());
    ping(host, [10, 99, 0, 1].into(), &[])?;
    drop(again);
    Ok(())
}
