//! Lines do to real packets what they were asked to, and a line that is not there is noticed.
//!
//! Needs root and the packages of `.ci/packages`, and fails without.

#![cfg(target_os = "linux")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tunnel_testlab::{
    Error, Result,
    enter::{connect_tcp, listen_tcp},
    line::{Condition, End, Line, verify},
    net::PairLab,
    netns::{Interface, Namespace, connect},
    wan::WanLab,
};

const NONE: Condition =
    Condition { delay: Duration::ZERO, rate: None, buffer: 0, loss: 0.0, seed: 0 };

/// For a connection to open, and for a read or a write on it.
const LIMIT: Duration = Duration::from_secs(30);

/// One at a time: rates and times are measured.
fn alone() -> MutexGuard<'static, ()> {
    static LAB: Mutex<()> = Mutex::new(());
    LAB.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Three hosts and the router between them, with IPv4 and IPv6.
struct Star {
    router: Namespace,
    hosts: [Namespace; 3],
}

impl Star {
    fn new() -> Result<Self> {
        let router = Namespace::new("router")?;
        router.forward_ipv4()?;
        router.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let host = |number: u8| {
            let host = Namespace::new(&format!("host{number}"))?;
            let port = Self::port(number);
            connect(
                Interface { namespace: &router, name: &port },
                Interface { namespace: &host, name: "eth0" },
            )?;
            let (v4, v6) = (Self::v4(number, 1), Self::v6(number, 1));
            router.add_address(&port, v4, 24)?;
            router.add_address(&port, v6, 64)?;
            host.add_address("eth0", Self::v4(number, 2), 24)?;
            host.add_address("eth0", Self::v6(number, 2), 64)?;
            host.add_route("default", v4)?;
            host.ip(&["-6", "route", "add", "default", "via", &v6.to_string()])?;
            Ok(host)
        };
        let hosts = [host(0)?, host(1)?, host(2)?];
        Ok(Self { router, hosts })
    }

    fn port(number: u8) -> String {
        format!("to-{number}")
    }

    fn v4(number: u8, host: u8) -> IpAddr {
        Ipv4Addr::new(10, 79, number, host).into()
    }

    fn v6(number: u8, host: u8) -> IpAddr {
        Ipv6Addr::new(0xfd79, 0, 0, number.into(), 0, 0, 0, host.into()).into()
    }

    fn end4(&self, number: u8) -> End<'_> {
        End { namespace: &self.hosts[usize::from(number)], address: Self::v4(number, 2) }
    }

    fn end6(&self, number: u8) -> End<'_> {
        End { namespace: &self.hosts[usize::from(number)], address: Self::v6(number, 2) }
    }
}

#[test]
fn a_line_is_as_asked_for_and_ends_with_its_value() -> Result<()> {
    let _alone = alone();
    let star = Star::new()?;
    let up = NONE.with_delay(ms(20)).with_loss(0.02).with_rate(50_000_000, 125_000);
    let down = NONE.with_delay(ms(5)).with_rate(20_000_000, 30_000);
    let line = Line::start(&star.router, &Star::port(0), up, down)?;
    line.verify(star.end4(0), star.end4(1))?;
    line.verify(star.end6(0), star.end6(1))?;
    verify(star.end4(1), star.end4(2), NONE, NONE)?;
    drop(line);
    verify(star.end4(0), star.end4(1), NONE, NONE)?;
    verify(star.end6(0), star.end6(1), NONE, NONE)
}

#[test]
fn two_lines_of_a_router_add_up() -> Result<()> {
    let _alone = alone();
    let star = Star::new()?;
    let (up0, down0) = (NONE.with_delay(ms(10)), NONE.with_delay(ms(20)));
    let (up1, down1) = (NONE.with_delay(ms(40)), NONE.with_delay(ms(80)).with_loss(0.05));
    let line0 = Line::start(&star.router, &Star::port(0), up0, down0)?;
    let line1 = Line::start(&star.router, &Star::port(1), up1, down1)?;
    verify(star.end4(0), star.end4(1), up0.then(down1), up1.then(down0))?;
    verify(star.end6(0), star.end6(1), up0.then(down1), up1.then(down0))?;
    line0.verify(star.end4(0), star.end4(2))?;
    line1.verify(star.end6(1), star.end6(2))
}

#[test]
fn a_plain_cable_is_not_taken_for_a_line() -> Result<()> {
    let _alone = alone();
    let pair = PairLab::new()?;
    let a = End { namespace: &pair.a, address: PairLab::A4.into() };
    let b = End { namespace: &pair.b, address: PairLab::B4.into() };
    for (asked, figure) in [
        (NONE.with_delay(ms(20)), "round trip"),
        (NONE.with_loss(0.01), "loss"),
        // So fast that it does not lengthen the round trip beyond that of a cable.
        (NONE.with_rate(200_000_000, 400_000), "rate"),
    ] {
        for (forth, back) in [(asked, NONE), (NONE, asked)] {
            match verify(a, b, forth, back) {
                Err(Error::NotImpaired { what, .. }) => {
                    assert!(what.starts_with(figure), "{what} where the {figure} is not as asked");
                }
                other => panic!("{asked:?} was taken to be there: {other:?}"),
            }
        }
    }
    Ok(())
}

#[test]
fn a_line_whose_program_ended_lets_nothing_through() -> Result<()> {
    let _alone = alone();
    let star = Star::new()?;
    let line = Line::start(&star.router, &Star::port(0), NONE, NONE)?;
    line.verify(star.end4(0), star.end4(1))?;
    line.process.signal(9)?;
    line.process.wait_exit(LIMIT)?;
    for (near, far) in [(star.end4(0), star.end4(1)), (star.end6(0), star.end6(1))] {
        let passed = line.verify(near, far);
        assert!(matches!(passed, Err(Error::NotImpaired { .. })), "{passed:?}");
    }
    Ok(())
}

#[test]
fn both_pairs_of_a_wan_share_its_line_and_tcp_is_whole() -> Result<()> {
    const SIZE: usize = 8 << 20;
    let _alone = alone();
    let condition = NONE.with_delay(ms(10)).with_rate(100_000_000, 250_000);
    let lab = WanLab::new(condition)?;
    let c = End { namespace: &lab.c, address: WanLab::C4.into() };
    let d = End { namespace: &lab.d, address: WanLab::D4.into() };
    lab.line.verify(c, d)?;

    let listener = listen_tcp(&lab.b, SocketAddr::new(WanLab::B4.into(), 0))?;
    let io = |source| Error::Io { action: "transfer over the line".to_owned(), source };
    let target = listener.local_addr().map_err(io)?;
    let mut sender = connect_tcp(&lab.a, target, LIMIT)?;
    let (mut receiver, _) = listener.accept().map_err(io)?;
    sender.set_write_timeout(Some(LIMIT)).map_err(io)?;
    receiver.set_read_timeout(Some(LIMIT)).map_err(io)?;
    let sent: Vec<u8> = (0..SIZE).map(|index| (index % 251) as u8).collect();
    let mut received = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            let written = sender.write_all(&sent);
            drop(sender);
            written
        });
        receiver.read_to_end(&mut received)
    })
    .map_err(io)?;
    assert!(received == sent, "{} of {SIZE} bytes arrived, or others", received.len());
    Ok(())
}
