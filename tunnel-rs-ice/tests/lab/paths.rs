//! The path of a transfer is lost; the hosts' networks stay as they are.

use std::{
    thread,
    time::{Duration, Instant},
};

use tunnel_testlab::{
    figures,
    ice::{IcePath, wait_path},
    net::{Cable, PairLab},
    stream::{goes_on, settled},
};

use crate::{
    scene::Stage,
    support::{PATH_LIMIT, TestResult, alone, finished},
};

/// For bytes to flow again where there is another path: 0.9 s as a rule, 3 s as a goal, and a busy machine's time.
const PAUSE_LIMIT: Duration = Duration::from_secs(10);

/// For both sides to say that there is no path left: 3.9 s as a rule, 5 s as a goal, and a busy machine's time.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// How long the only path is gone: a session waits 20 s for its return.
const OUTAGE: Duration = Duration::from_secs(15);

/// Whether both ends of a path are on the cable: packets of other paths take both cables.
fn is_on(path: &IcePath, cable: Cable) -> bool {
    [path.local, path.remote].iter().all(|end| Cable::of(end.ip()) == Some(cable))
}

#[test]
fn a_transfer_takes_the_second_path_when_the_first_is_lost() -> TestResult {
    let _alone = alone();
    let lab = PairLab::new()?;
    lab.add_second_cable()?;
    let scene = Stage::new(lab, None)?.connect()?;
    let stream = scene.stream()?;
    let cut = settled(&stream)?;
    let (path, _) = wait_path(&scene.tunnel.0.client, |_| true, PATH_LIMIT)?;
    let Some(used) = Cable::of(path.local.ip()) else { panic!("{path:?} is on no cable") };
    scene.stage.lab.cut(&[used])?;

    let pause = goes_on("path lost, another one present", &stream, cut)?;
    for (name, process) in scene.tunnel.sides() {
        let (_, at) = wait_path(process, |path| is_on(path, used.other()), PATH_LIMIT)?;
        figures::record(&format!("path lost: {name} names the other one"), at - cut.at);
    }
    finished(stream)?;
    assert!(pause < PAUSE_LIMIT, "nothing arrived for {pause:?}");
    Ok(())
}

#[test]
fn a_transfer_outlasts_the_loss_of_its_only_path() -> TestResult {
    let _alone = alone();
    let scene = Stage::new(PairLab::new()?, None)?.connect()?;
    let stream = scene.stream()?;
    let cut = settled(&stream)?;
    scene.stage.lab.cut(&[Cable::First])?;
    for (name, process) in scene.tunnel.sides() {
        let gone = process.wait_line_at(|line| line.contains("the path is gone"), PATH_LIMIT)?.at;
        figures::record(&format!("only path lost: {name} says so"), gone - cut.at);
        assert!(gone - cut.at < GONE_LIMIT, "{name} says so only after {:?}", gone - cut.at);
    }
    thread::sleep(OUTAGE.saturating_sub(cut.at.elapsed()));
    let restored = Instant::now();
    scene.stage.lab.restore()?;

    goes_on("only path lost for 15 s", &stream, stream.mark())?;
    for (name, process) in scene.tunnel.sides() {
        let said = process.wait_line_at(|line| line.contains("path restored"), PATH_LIMIT)?.at;
        assert!(said >= restored, "{name} says too early that the path is restored");
        figures::record(&format!("only path back: {name} says so"), said - restored);
    }
    finished(stream)
}
