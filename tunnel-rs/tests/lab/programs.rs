//! Programs that people use, between two hosts on one cable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tunnel_testlab::{
    Result,
    net::PairLab,
    process::run,
    programs::{MIB, Payload, Transfer, curl, dig, scp, ssh},
    services::{Dns, Http, Iperf3, Redis, Report, Sshd},
    tries::one_of_three,
    tunnel::{Client, ClientConfig, Server, ServerConfig},
};

use crate::support::{ANSWER_LIMIT, SESSION_LIMIT, TUNNEL_RS, TestResult, alone};

/// The server host's loopback, which the client's host cannot reach by itself.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// As in namespaces no port is taken, the client can have this one.
const IPERF_PORT: u16 = 5201;

#[test]
fn ssh_runs_a_command_at_the_far_end() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let sshd = Sshd::start(Some(&lab.b), LOOPBACK)?;
    let (_server, client) =
        connect(&lab, |config| config.forward(&tcp(sshd.address), "127.0.0.1:0"))?;
    let target = client.target(&tcp(sshd.address))?;

    let printed = ssh(&lab.a, &sshd, target, "ip -brief address show dev eth0")?;

    assert!(printed.contains(&format!("{}/24", PairLab::B4)), "not the far end: {printed}");
    Ok(())
}

#[test]
fn scp_carries_a_gibibyte_to_the_far_end() -> TestResult {
    copied(Transfer::There)
}

#[test]
fn scp_carries_a_gibibyte_from_the_far_end() -> TestResult {
    copied(Transfer::Here)
}

/// Copies a gibibyte.
fn copied(direction: Transfer) -> TestResult {
    let _alone = alone();
    let payload = Payload::new(1024 * MIB)?;
    let lab = PairLab::new()?;
    let sshd = Sshd::start(Some(&lab.b), LOOPBACK)?;
    let (_server, client) =
        connect(&lab, |config| config.forward(&tcp(sshd.address), "127.0.0.1:0"))?;

    scp(&lab.a, &sshd, client.target(&tcp(sshd.address))?, &payload, direction)?;

    assert_eq!(payload.hash_of_copy()?, payload.hash);
    Ok(())
}

#[test]
fn curl_gets_a_file_whole() -> TestResult {
    http(IpAddr::V4(PairLab::B4), IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[test]
fn curl_gets_a_file_whole_over_ipv6() -> TestResult {
    http(IpAddr::V6(PairLab::B6), IpAddr::V6(Ipv6Addr::LOCALHOST))
}

fn http(service: IpAddr, listen: IpAddr) -> TestResult {
    let _alone = alone();
    let payload = Payload::new(64 * MIB)?;
    let lab = PairLab::new()?;
    let http = Http::start(Some(&lab.b), service, payload.folder.path())?;
    let listen = SocketAddr::new(listen, 0).to_string();
    let (_server, client) = connect(&lab, |config| config.forward(&tcp(http.address), &listen))?;

    curl(&lab.a, client.target(&tcp(http.address))?, &payload)?;

    assert_eq!(payload.hash_of_copy()?, payload.hash);
    Ok(())
}

#[test]
fn redis_keeps_what_is_set_through_the_tunnel() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let redis = Redis::start(Some(&lab.b), LOOPBACK)?;
    let (_server, client) =
        connect(&lab, |config| config.forward(&tcp(redis.address), "127.0.0.1:0"))?;
    let target = client.target(&tcp(redis.address))?;
    let ask = |question: &[&str]| {
        let mut redis_cli = lab.a.command("redis-cli");
        redis_cli.args(["-h", &target.ip().to_string(), "-p", &target.port().to_string()]);
        run(redis_cli.args(question), ANSWER_LIMIT)
    };

    assert_eq!(ask(&["SET", "key", "a value"])?, "OK\n");
    assert_eq!(ask(&["GET", "key"])?, "a value\n");
    Ok(())
}

#[test]
fn dig_resolves_over_udp_and_over_tcp() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let dns = Dns::start(Some(&lab.b), IpAddr::V4(PairLab::B4))?;
    let (over_tcp, over_udp) = (tcp(dns.address), udp(dns.address));
    let (_server, client) = connect(&lab, |config| {
        config.forward(&over_tcp, "127.0.0.1:0").forward(&over_udp, "127.0.0.1:0")
    })?;

    let answer = format!("{}\n", Dns::ANSWER);
    assert_eq!(dig(&lab.a, client.target(&over_udp)?, "+notcp")?, answer);
    assert_eq!(dig(&lab.a, client.target(&over_tcp)?, "+tcp")?, answer);
    Ok(())
}

#[test]
fn iperf3_measures_tcp_in_both_directions() -> TestResult {
    for report in iperf3(&[])? {
        assert!(report.received_bytes > MIB, "almost nothing arrived: {report:?}");
    }
    Ok(())
}

#[test]
fn iperf3_loses_almost_no_udp_in_either_direction() -> TestResult {
    let is_good = |reports: &[Report; 2]| reports.iter().all(|report| report.is_nearly_whole(50e6));
    let lost = one_of_three(|| iperf3(&Iperf3::UDP_50M), is_good)?;
    assert!(lost.is_none(), "each time too much was lost or too little was sent: {lost:?}");
    Ok(())
}

/// Measures to the far end and from there. iperf3 controls a UDP test over TCP on the same port, so both
/// protocols are forwarded.
fn iperf3(options: &[&str]) -> Result<[Report; 2]> {
    let _alone = alone();
    let lab = PairLab::new()?;
    let mut iperf3 = Iperf3::start(Some(&lab.b), IpAddr::V4(PairLab::B4))?;
    let forward = format!("{IPERF_PORT}:{}", iperf3.address);
    let (_server, client) =
        connect(&lab, |config| config.local(&forward).local(&format!("{forward}/udp")))?;
    let target = client.target(&tcp(iperf3.address))?;

    let forth = iperf3.measure(Some(&lab.a), target, 5, options)?;
    let back = iperf3.measure(Some(&lab.a), target, 5, &[options, &["-R"][..]].concat())?;
    Ok([forth, back])
}

/// A server on `b` that lets clients reach `b`, and a client on `a` with its session open.
fn connect(
    lab: &PairLab,
    forwards: impl FnOnce(ClientConfig) -> ClientConfig,
) -> Result<(Server, Client)> {
    let mut config = ServerConfig::new(TUNNEL_RS);
    for network in ["10.77.0.0/24", "127.0.0.0/8", "fd77::/64"] {
        config = config.allow_tcp(network).allow_udp(network);
    }
    let server = config.start(Some(&lab.b))?;
    let client = ClientConfig::with_ticket(TUNNEL_RS, &server.ticket);
    let client = forwards(client).start(Some(&lab.a))?;
    client.wait_session_open(SESSION_LIMIT)?;
    Ok((server, client))
}

fn tcp(address: SocketAddr) -> String {
    format!("tcp://{address}")
}

fn udp(address: SocketAddr) -> String {
    format!("udp://{address}")
}
