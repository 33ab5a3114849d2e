//! The lab's networks do to packets what they say. A packet that must not arrive is followed by one that must.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::{
    Error,
    enter::bind_udp,
    nat::{Family, Nat},
    process::run,
    services::{Coturn, binding},
};

const LIMIT: Duration = Duration::from_secs(10);

/// What is sent where it must not arrive.
const STOPPED: [&str; 3] = ["cut", "no", "unasked"];

fn socket(namespace: &Namespace, port: u16) -> Result<UdpSocket> {
    // On Linux `::` takes IPv4 as well.
    let socket = bind_udp(namespace, SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
    socket.set_read_timeout(Some(LIMIT)).map_err(Error::io("limit the wait for packets"))?;
    Ok(socket)
}

fn send(socket: &UdpSocket, text: &str, to: impl Into<IpAddr>, port: u16) -> Result<()> {
    let to = match to.into() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let sent = socket.send_to(text.as_bytes(), SocketAddr::from((to, port)));
    sent.map(drop).map_err(Error::io(format!("send {text} to {to}")))
}

/// The next packet and where it comes from.
fn receive(socket: &UdpSocket) -> Result<(String, SocketAddr)> {
    let mut bytes = [0; 64];
    let (size, from) = socket.recv_from(&mut bytes).map_err(Error::io("receive a packet"))?;
    let text = String::from_utf8_lossy(&bytes[..size]).into_owned();
    Ok((text, SocketAddr::new(from.ip().to_canonical(), from.port())))
}

/// Sends packets with this text until one has arrived; where it came from. One may be lost: a cable that was plugged in a moment
/// ago carries nothing before the kernel has come to it.
fn arrives(
    host: &UdpSocket,
    text: &str,
    to: impl Into<IpAddr>,
    observer: &UdpSocket,
) -> Result<SocketAddr> {
    let to = to.into();
    let port = observer.local_addr().map_err(Error::io("read a port"))?.port();
    let short = Some(Duration::from_secs(1));
    observer.set_read_timeout(short).map_err(Error::io("limit the wait for packets"))?;
    let deadline = Instant::now() + 3 * LIMIT;
    let mut sent = false;
    loop {
        if !sent {
            send(host, text, to, port)?;
        }
        match receive(observer) {
            Ok((came, from)) if came == text => break Ok(from),
            // What may arrive late is only something that was sent more than once.
            Ok((came, _)) => {
                assert!(!STOPPED.contains(&&*came), "{came} arrived");
                sent = true;
            }
            Err(error) if Instant::now() > deadline => break Err(error),
            Err(_) => sent = false,
        }
    }
}

/// Where the relay's host sees the packets of a socket come from that go to two ports of it.
fn seen(lab: &NatLab, from: &UdpSocket) -> Result<[SocketAddr; 2]> {
    let observers = [socket(&lab.relay, 0)?, socket(&lab.relay, 0)?];
    let mut seen = Vec::new();
    for observer in &observers {
        seen.push(arrives(from, "here", NatLab::RELAY, observer)?);
    }
    Ok([seen[0], seen[1]])
}

#[test]
fn every_nat_maps_as_its_kind_says() -> Result<()> {
    for nat in Nat::ALL.into_iter().filter(|nat| *nat != Nat::UdpBlocked) {
        let lab = NatLab::new(nat, Nat::None)?;
        let host = socket(&lab.a.host, 0)?;
        let [one, other] = seen(&lab, &host)?;
        assert_eq!(Some(one.ip()), lab.a.public(), "{nat}");
        assert_eq!(one.ip(), other.ip(), "{nat}");
        let by_peer = matches!(nat, Nat::Symmetric | Nat::CarrierGradeSymmetric);
        assert_eq!(one.port() != other.port(), by_peer, "{nat}: {one} {other}");
        assert_eq!(lab.a.uplink().carrier().is_some(), nat.carrier().is_some(), "{nat}");
    }
    Ok(())
}

#[test]
fn without_udp_there_is_dns() -> Result<()> {
    let access = Access { nat: Nat::UdpBlocked, family: Family::Dual };
    let lab = NatLab::new(access, Nat::None)?;
    let host = socket(&lab.a.host, 0)?;
    let (dns, other) = (socket(&lab.relay, 53)?, socket(&lab.relay, 7000)?);
    for relay in [IpAddr::from(NatLab::RELAY), NatLab::RELAY6.into()] {
        send(&host, "no", relay, 7000)?;
        arrives(&host, &format!("to {relay}"), relay, &dns)?;
    }
    other.set_nonblocking(true).map_err(Error::io("look without waiting"))?;
    let nothing = other.recv(&mut [0]).map_err(|error| error.kind());
    assert_eq!(nothing, Err(ErrorKind::WouldBlock));
    Ok(())
}

#[test]
fn mappings_that_expire_get_another_port() -> Result<()> {
    let lab = NatLab::new(Nat::Expiring, Nat::None)?;
    let host = socket(&lab.a.host, 0)?;
    let before = seen(&lab, &host)?;
    let expiry = lab.a.uplink().expiry().map(|expiry| (expiry.expire_now(), expiry.count()));
    assert!(matches!(expiry, Some((Ok(()), 1))), "{expiry:?}");
    let after = seen(&lab, &host)?;
    assert_eq!((before[0], after[0]), (before[1], after[1]), "it depends on the peer");
    assert_ne!(before[0], after[0]);
    // Nothing to delete is no error.
    for _ in 0..2 {
        lab.a.uplink().expiry().map_or(Ok(()), |expiry| expiry.expire_now())?;
    }
    Ok(())
}

#[test]
fn mappings_that_expire_when_idle_live_as_long_as_they_are_used() -> Result<()> {
    const IDLE: Duration = Duration::from_secs(3);
    let mut lab = NatLab::new(Nat::Expiring, Nat::None)?;
    lab.a.expire_when_idle(3)?;
    let (busy, idle) = (socket(&lab.a.host, 0)?, socket(&lab.a.host, 0)?);
    let before = (seen(&lab, &busy)?, seen(&lab, &idle)?);
    let (mut known, mut since, mut used) = (before.0, Instant::now(), Instant::now());
    while since.elapsed() < 2 * IDLE {
        let began = Instant::now();
        let now = seen(&lab, &busy)?;
        if used.elapsed() < IDLE - Duration::from_millis(500) {
            assert_eq!(now, known);
        } else {
            // This machine stood still for so long that it was idle.
            (known, since) = (now, Instant::now());
        }
        used = began;
        thread::sleep(IDLE / 8);
    }
    // What lists them removes those that are over.
    run(lab.a.router().command("conntrack").args(["-L", "-p", "udp"]), LIMIT)?;
    assert_ne!(seen(&lab, &idle)?, before.1);
    Ok(())
}

#[test]
fn two_stun_servers_show_how_a_nat_maps() -> Result<()> {
    for (nat, same) in [(Nat::PortRestricted, true), (Nat::Symmetric, false)] {
        let lab = NatLab::new(nat, Access { nat: Nat::None, family: Family::V6 })?;
        let servers = lab.start_stun()?;
        let a = bind_udp(&lab.a.host, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let ask = |address: Ipv4Addr| binding(&a, (address, Coturn::PORT).into(), LIMIT);
        let [one, other] = [ask(StunServers::V4[0])?, ask(StunServers::V4[1])?];
        assert_eq!([Some(one.ip()), Some(other.ip())], [lab.a.public(); 2]);
        assert_eq!(one.port() == other.port(), same, "{nat}: {one} {other}");

        let b = bind_udp(&lab.b.host, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        for address in StunServers::V6 {
            let mapped = binding(&b, (address, Coturn::PORT).into(), LIMIT)?;
            assert_eq!(Some(mapped.ip()), lab.b.address());
        }
        servers.silence(0)?;
        let silent = (StunServers::V4[0], Coturn::PORT).into();
        assert!(binding(&a, silent, Duration::from_millis(100)).is_err());
        ask(StunServers::V4[1])?;
    }
    Ok(())
}

#[test]
fn hosts_know_the_stun_servers_by_name() -> Result<()> {
    let lab = NatLab::new(Nat::None, Nat::None)?;
    for (name, v4) in StunServers::NAMES.into_iter().zip(StunServers::V4) {
        let found = run(lab.b.host.command("getent").args(["ahosts", name]), LIMIT)?;
        assert!(found.contains(&v4.to_string()), "{found}");
    }
    Ok(())
}

#[test]
fn a_cable_that_is_cut_leaves_the_other_one() -> Result<()> {
    let lab = PairLab::new()?;
    lab.add_second_cable()?;
    let (a, b) = (socket(&lab.a, 7000)?, socket(&lab.b, 7000)?);
    for cut in [Cable::First, Cable::Second] {
        lab.cut(&[cut])?;
        for (cut, left) in cut.b().into_iter().zip(cut.other().b()) {
            send(&a, "cut", cut, 7000)?;
            arrives(&a, &format!("to {left}"), left, &b)?;
        }
    }
    lab.restore()?;
    for address in [Cable::First.a(), Cable::Second.a()].concat() {
        arrives(&b, &format!("to {address}"), address, &a)?;
        assert_eq!(Cable::of(address).map(|cable| cable.a().contains(&address)), Some(true));
    }
    Ok(())
}

#[test]
fn a_host_that_switches_has_another_network_and_comes_back() -> Result<()> {
    let dual = |nat| Access { nat, family: Family::Dual };
    let mut lab = NatLab::new(dual(Nat::PortRestricted), Nat::None)?;
    assert!(matches!(lab.a.switch(), Err(Error::NoUplink { .. })));
    lab.a.add_uplink(&lab.internet, dual(Nat::CarrierGradeSymmetric))?;
    let host = socket(&lab.a.host, 0)?;
    let observer = socket(&lab.relay, 7000)?;
    let mut networks = Vec::new();
    for round in 0..3 {
        for relay in [IpAddr::from(NatLab::RELAY), NatLab::RELAY6.into()] {
            let from = arrives(&host, &format!("{round} to {relay}"), relay, &observer)?.ip();
            let public: Vec<_> = lab.a.uplink().public_addresses().collect();
            assert!(public.contains(&from), "{from} is not one of {public:?}");
            networks.push(from);
        }
        lab.a.switch()?;
    }
    assert_eq!(networks[..2], networks[4..]);
    assert!(networks[0] != networks[2] && networks[1] != networks[3], "{networks:?}");
    Ok(())
}

#[test]
fn a_nat64_leads_to_ipv4() -> Result<()> {
    let access = Access { nat: Nat::PortRestricted, family: Family::V6Nat64 };
    let lab = NatLab::new(access, Nat::None)?;
    let (host, observer) = (socket(&lab.a.host, 0)?, socket(&lab.relay, 7000)?);
    let [a, b, c, d] = NatLab::RELAY.octets().map(u16::from);
    let translated = Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, (a << 8) | b, (c << 8) | d);
    let from = arrives(&host, "translated", translated, &observer)?;
    assert_eq!(from.ip(), IpAddr::from([198, 51, 100, 2]));
    send(&observer, "answer", from.ip(), from.port())?;
    assert_eq!(receive(&host)?, ("answer".to_owned(), SocketAddr::from((translated, 7000))));
    let from = arrives(&host, "native", NatLab::RELAY6, &observer)?;
    assert_eq!(Some(from.ip()), lab.a.address());
    Ok(())
}

#[test]
fn a_firewall_lets_in_what_was_asked_for() -> Result<()> {
    let v6 = |nat| Access { nat, family: Family::V6 };
    let lab = NatLab::new(v6(Nat::FullCone), v6(Nat::None))?;
    let (a, b) = (socket(&lab.a.host, 7000)?, socket(&lab.b.host, 7000)?);
    let addresses = lab.a.address().zip(lab.b.address());
    let Some((to_a, to_b)) = addresses else { panic!("a host without an address") };
    send(&b, "unasked", to_a, 7000)?;
    arrives(&a, "question", to_b, &b)?;
    arrives(&b, "answer", to_a, &a)?;
    Ok(())
}

#[test]
fn what_is_cut_between_the_sites_comes_back() -> Result<()> {
    let dual = Access { nat: Nat::None, family: Family::Dual };
    let lab = NatLab::new(dual, dual)?;
    let (a, b) = (socket(&lab.a.host, 7000)?, socket(&lab.b.host, 7000)?);
    for address in lab.b.uplink().own_addresses() {
        lab.cut_direct()?;
        send(&a, "cut", address, 7000)?;
        seen(&lab, &a)?;
        lab.restore_direct()?;
        arrives(&a, &format!("to {address}"), address, &b)?;
    }
    Ok(())
}
