//! Answers that take their time, as people carry them.

use std::{thread, time::Duration};

use tunnel_testlab::{figures, nat::Nat, net::NatLab, stream::settled};

use crate::{
    scene::Stage,
    support::{TestResult, alone, finished},
};

/// After how long without a packet the NATs forget a mapping, in seconds: as short as it is met, and Linux' own time
/// for flows that were not answered (nf_conntrack-sysctl).
const IDLE: u32 = 30;

/// How long the answer lies about.
const LATE: Duration = Duration::from_secs(60);

/// For a client to notice that its mapping has changed: it asks every 15 s.
const RENEWED_LIMIT: Duration = Duration::from_secs(20);

#[test]
fn an_answer_may_come_a_minute_late() -> TestResult {
    let starting = alone();
    let mut lab = NatLab::new(Nat::Expiring, Nat::Expiring)?;
    lab.a.expire_when_idle(IDLE)?;
    lab.b.expire_when_idle(IDLE)?;
    let stun = lab.start_stun()?;
    let stage = Stage::new(lab, Some(stun))?;
    let answered = stage.answer(stage.offer()?)?;
    drop(starting);
    thread::sleep(LATE);

    let _alone = alone();
    let scene = stage.hand_over(answered)?;
    let stream = scene.stream()?;
    settled(&stream)?;
    finished(stream)
}

#[test]
fn a_mapping_that_changes_makes_another_offer() -> TestResult {
    let starting = alone();
    let lab = NatLab::new(Nat::Expiring, Nat::PortRestricted)?;
    let stun = lab.start_stun()?;
    let stage = Stage::new(lab, Some(stun))?;
    let mut offered = stage.offer()?;
    let Some(expiry) = stage.lab.a.uplink().expiry() else { panic!("this NAT forgets nothing") };
    expiry.expire_now()?;
    drop(starting);
    let took = offered.wait_renewed(RENEWED_LIMIT)?;
    figures::record("mapping changed: until the new offer", took);

    let _alone = alone();
    let answered = stage.answer(offered)?;
    let scene = stage.hand_over(answered)?;
    let stream = scene.stream()?;
    settled(&stream)?;
    finished(stream)
}
