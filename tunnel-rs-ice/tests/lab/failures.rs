//! Two hosts that no path can join: the client says why.

use std::thread;

use tunnel_testlab::{
    Result,
    ice::Attempt,
    nat::{Access, Family, Nat},
    net::NatLab,
};

use crate::{
    scene::Stage,
    support::{TestResult, alone},
};

/// What the reason must say, in lower case.
type Says = fn(&str) -> bool;

fn both_symmetric(why: &str) -> bool {
    why.contains("both") && why.contains("symmetric")
}

fn no_udp(why: &str) -> bool {
    (why.contains("stun") && why.contains("answer"))
        || (why.contains("udp") && why.contains("block"))
}

fn no_common_family(why: &str) -> bool {
    why.contains("no common address family")
}

#[test]
fn a_client_without_a_path_says_why() -> TestResult {
    let behind = |nat, family| Access { nat, family };
    let cases: [(Access, Access, Says); 5] = [
        (Nat::Symmetric.into(), Nat::Symmetric.into(), both_symmetric),
        (Nat::UdpBlocked.into(), Nat::PortRestricted.into(), no_udp),
        (Nat::PortRestricted.into(), Nat::UdpBlocked.into(), no_udp),
        (Nat::None.into(), behind(Nat::None, Family::V6), no_common_family),
        (behind(Nat::PortRestricted, Family::V6), Nat::PortRestricted.into(), no_common_family),
    ];
    let _alone = alone();
    let attempts: Vec<_> = thread::scope(|scope| {
        let attempts = cases.map(|(a, b, _)| scope.spawn(move || attempt(a, b)));
        attempts.into_iter().map(|attempt| attempt.join()).collect()
    });
    for ((a, b, says), attempt) in cases.into_iter().zip(attempts) {
        let Ok(attempt) = attempt else { panic!("{a} -> {b}: the attempt panicked") };
        match attempt? {
            Attempt::NoPath(why) => {
                assert!(says(&why.to_lowercase()), "{a} -> {b}: not the reason: {why}");
            }
            Attempt::Connected => panic!("{a} -> {b} are connected"),
        }
    }
    Ok(())
}

fn attempt(a: Access, b: Access) -> Result<Attempt> {
    let lab = NatLab::new(a, b)?;
    let stun = lab.start_stun()?;
    let stage = Stage::new(lab, Some(stun))?;
    stage.answer(stage.offer()?)?.hand_over()?.attempt()
}
