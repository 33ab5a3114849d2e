//! Programs that people use, between two hosts on one cable.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tunnel_testlab::{
    Result,
    ice::ManualConfig,
    net::PairLab,
    programs::{MIB, Payload, Transfer, dig, scp, ssh},
    services::{Dns, Iperf3, Report, Sshd},
    tries::one_of_three,
};

use crate::{
    scene::Tunnel,
    support::{TUNNEL_RS_ICE, TestResult, alone},
};

/// The server host's loopback, which the client's host cannot reach by itself.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// As in namespaces no port is taken, the client can have this one.
const IPERF_PORT: u16 = 5201;

/// Of a measurement by iperf3.
const SECONDS: u32 = 3;

#[test]
fn ssh_runs_a_command_at_the_far_end() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let sshd = Sshd::start(Some(&lab.b), LOOPBACK)?;
    let source = format!("tcp://{}", sshd.address);
    let tunnel = connect(&lab, |config| config.forward(&source, "127.0.0.1:0"))?;

    let target = tunnel.0.target(&source)?;
    let printed = ssh(&lab.a, &sshd, target, "ip -brief address show dev eth0")?;

    assert!(printed.contains(&format!("{}/24", PairLab::B4)), "not the far end: {printed}");
    Ok(())
}

#[test]
fn scp_carries_a_file_to_the_far_end() -> TestResult {
    copied(Transfer::There)
}

#[test]
fn scp_carries_a_file_from_the_far_end() -> TestResult {
    copied(Transfer::Here)
}

fn copied(direction: Transfer) -> TestResult {
    let _alone = alone();
    let payload = Payload::new(1024 * MIB)?;
    let lab = PairLab::new()?;
    let sshd = Sshd::start(Some(&lab.b), LOOPBACK)?;
    let source = format!("tcp://{}", sshd.address);
    let tunnel = connect(&lab, |config| config.forward(&source, "127.0.0.1:0"))?;

    scp(&lab.a, &sshd, tunnel.0.target(&source)?, &payload, direction)?;

    assert_eq!(payload.hash_of_copy()?, payload.hash);
    Ok(())
}

#[test]
fn dig_resolves_over_udp_and_over_tcp() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let dns = Dns::start(Some(&lab.b), IpAddr::V4(PairLab::B4))?;
    let [over_tcp, over_udp] = ["tcp", "udp"].map(|scheme| format!("{scheme}://{}", dns.address));
    let tunnel = connect(&lab, |config| {
        config.forward(&over_tcp, "127.0.0.1:0").forward(&over_udp, "127.0.0.1:0")
    })?;

    let answer = format!("{}\n", Dns::ANSWER);
    assert_eq!(dig(&lab.a, tunnel.0.target(&over_udp)?, "+notcp")?, answer);
    assert_eq!(dig(&lab.a, tunnel.0.target(&over_tcp)?, "+tcp")?, answer);
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
    let tunnel = connect(&lab, |config| config.local(&forward).local(&format!("{forward}/udp")))?;
    let target: SocketAddr = tunnel.0.target(&format!("tcp://{}", iperf3.address))?;

    let forth = iperf3.measure(Some(&lab.a), target, SECONDS, options)?;
    let back = iperf3.measure(Some(&lab.a), target, SECONDS, &[options, &["-R"][..]].concat())?;
    Ok([forth, back])
}

/// A client on `a`, and a server on `b` that lets it reach `b`.
fn connect(lab: &PairLab, forwards: impl FnOnce(ManualConfig) -> ManualConfig) -> Result<Tunnel> {
    let config = ManualConfig::new(TUNNEL_RS_ICE, None).allow("10.77.0.0/24").allow("127.0.0.0/8");
    let offered = forwards(config).offer(Some(&lab.a))?;
    let tunnel = Tunnel(offered.answer(Some(&lab.b))?.hand_over()?);
    tunnel.0.wait_connected()?;
    Ok(tunnel)
}
