//! STUN servers that do not answer.

use std::time::Duration;

use tunnel_testlab::{
    figures,
    nat::{Access, Family, Nat},
    net::NatLab,
    stream::settled,
};

use crate::{
    scene::Stage,
    support::{TestResult, alone, finished},
};

/// By how much servers that are silent may delay the offer.
const DELAY_LIMIT: Duration = Duration::from_secs(1);

/// By how much two starts of the program may differ on a machine with two cores: one alone takes 0.03 s until its
/// offer is there, one beside four busy loops 0.3 s.
const MARGIN: Duration = Duration::from_millis(250);

#[test]
fn silent_servers_delay_the_offer_by_a_second_at_most() -> TestResult {
    let _alone = alone();
    let dual = Access { nat: Nat::PortRestricted, family: Family::Dual };
    let lab = NatLab::new(dual, Nat::PortRestricted)?;
    let stun = lab.start_stun()?;
    let stage = Stage::new(lab, Some(stun))?;
    let Some(stun) = stage.stun() else { panic!("there are servers") };
    // The first start reads the program from the disk.
    stage.offer()?;
    let usual = stage.offer()?.took;
    figures::record("offer, both STUN servers answer", usual);
    let limit = usual + DELAY_LIMIT + MARGIN;
    stun.silence(0)?;
    let one = stage.offer()?;
    figures::record("offer, one STUN server is silent", one.took);
    stun.silence(1)?;
    let both = stage.offer()?.took;
    figures::record("offer, both STUN servers are silent", both);
    assert!(one.took < limit, "{:?} after {usual:?} with both", one.took);
    assert!(both < limit, "{both:?} after {usual:?} with both");
    Ok(())
}

#[test]
fn one_server_that_answers_is_enough() -> TestResult {
    let _alone = alone();
    let lab = NatLab::new(Nat::PortRestricted, Nat::PortRestricted)?;
    let stun = lab.start_stun()?;
    stun.silence(0)?;
    let scene = Stage::new(lab, Some(stun))?.connect()?;
    let stream = scene.stream()?;
    settled(&stream)?;
    finished(stream)
}
