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

/// Starts of which the shortest counts.
const STARTS: usize = 5;

/// How long it takes until there is an offer, at the shortest; further starts are not tried below `enough`.
fn shortest(stage: &Stage<NatLab>, enough: Duration) -> tunnel_testlab::Result<Duration> {
    let mut shortest = Duration::MAX;
    for _ in 0..STARTS {
        shortest = shortest.min(stage.offer()?.took);
        if shortest < enough {
            break;
        }
    }
    Ok(shortest)
}

#[test]
fn silent_servers_delay_the_offer_by_a_second_at_most() -> TestResult {
    let _alone = alone();
    let dual = Access { nat: Nat::PortRestricted, family: Family::Dual };
    let lab = NatLab::new(dual, Nat::PortRestricted)?;
    let stun = lab.start_stun()?;
    let stage = Stage::new(lab, Some(stun))?;
    let Some(stun) = stage.stun() else { panic!("there are servers") };
    let usual = shortest(&stage, Duration::ZERO)?;
    figures::record("offer, both STUN servers answer", usual);
    let limit = usual + DELAY_LIMIT + MARGIN;
    stun.silence(0)?;
    let one = shortest(&stage, limit)?;
    figures::record("offer, one STUN server is silent", one);
    stun.silence(1)?;
    let both = shortest(&stage, limit)?;
    figures::record("offer, both STUN servers are silent", both);
    assert!(one < limit, "{one:?} after {usual:?} with both");
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
