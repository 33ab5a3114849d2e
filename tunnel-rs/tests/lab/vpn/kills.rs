//! SIGKILL at any moment: after the next start and end the machines are as they were.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    thread,
    time::Duration,
};

use tunnel_testlab::{
    Result,
    net::PairLab,
    relay::Relay,
    tunnel::{ClientConfig, ServerConfig},
};

use super::{LIMIT, NETWORK, SIGKILL, SIGTERM};
use crate::support::{TUNNEL_RS, TestResult, alone};

const ROUNDS: usize = 10;

/// From a program's start: by then it has done all that it does to the machine.
const LATEST: u64 = 900;

fn moment() -> Duration {
    Duration::from_millis(RandomState::new().build_hasher().finish() % LATEST)
}

#[test]
fn killed_programs_leave_nothing_after_the_next_start_and_end() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    let relay = Relay::start(Some(&lab.b), PairLab::B4.into())?;
    let server = ServerConfig::vpn(TUNNEL_RS).relay(&relay).arguments([
        "--network",
        NETWORK,
        "--network",
        "fd99::/64",
        "--allow-route",
        "0.0.0.0/0,::/0",
        "--masquerade",
    ]);
    let client = |ticket: &str| {
        let routes = ["--route", "0.0.0.0/0,::/0"];
        ClientConfig::vpn(TUNNEL_RS, ticket).arguments(routes).start(Some(&lab.a))
    };
    let state = || -> Result<[String; 2]> { Ok([lab.a.network_state()?, lab.b.network_state()?]) };
    let before = state()?;
    let mut left_something = 0;
    for round in 0..ROUNDS {
        let running = server.start(Some(&lab.b))?;
        let moments = [moment(), moment(), moment()];
        let killed = client(&running.ticket)?;
        thread::sleep(moments[0]);
        killed.process.signal(SIGKILL)?;
        killed.process.wait_exit(LIMIT)?;
        // While it serves, and while it starts.
        let next = client(&running.ticket)?;
        thread::sleep(moments[1] / 2);
        running.process.signal(SIGKILL)?;
        running.process.wait_exit(LIMIT)?;
        let (starting, _token) = server.spawn(Some(&lab.b))?;
        thread::sleep(moments[2] / 2);
        starting.signal(SIGKILL)?;
        starting.wait_exit(LIMIT)?;
        drop(next);
        left_something += usize::from(state()? != before);

        let last = server.start(Some(&lab.b))?;
        let client = client(&last.ticket)?;
        client.wait_vpn(1, LIMIT)?;
        for process in [&client.process, &last.process] {
            process.signal(SIGTERM)?;
            let code = process.wait_exit(LIMIT)?.code();
            assert_eq!(code, Some(0), "{}", process.output());
        }
        assert_eq!(state()?, before, "round {round}, killed after {moments:?}");
    }
    assert!(left_something > 0, "there was never anything to clean up");
    Ok(())
}
