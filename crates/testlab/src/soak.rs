//! A client and a server under traffic for as long as one likes, while their network and they themselves are
//! disturbed again and again: everything that is carried is checked, and what the programs occupy is measured.
//!
//! Which faults come follows from a seed. Connections that are open at the beginning must last until the end.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result, process::Proc};

mod fault;
mod messages;
mod resources;
mod scene;
mod table;
mod traffic;

pub use fault::{Deck, Fault, Kind, Side};
pub use resources::Resources;
pub use scene::Mode;
pub use traffic::Recovery;

use scene::Scene;
use traffic::{Carried, Traffic};

/// From the start of one fault to that of the next, at least.
const INTERVAL: Duration = Duration::from_secs(20);

/// How long traffic is undisturbed before the first fault, after each one, and after the last.
const CALM: Duration = Duration::from_secs(5);

/// How long traffic runs before the programs are measured for the first time.
const WARM_UP: Duration = Duration::from_secs(4);

/// How long nothing is carried before the programs are measured.
const IDLE: Duration = Duration::from_secs(10);

/// A fault that is not among so many has a name that none has.
const MANY: usize = 10_000;

/// What is run, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program: `tunnel-rs`, or `tunnel-rs-ice` for `Mode::Nostr`.
    pub binary: PathBuf,
    /// How its two sides find each other.
    pub mode: Mode,
    /// How long there is traffic; no fault begins later, and one that lasts is waited for.
    pub length: Duration,
    /// What the faults and the sizes of messages follow from.
    pub seed: u64,
    /// What the name of a fault must contain to be brought about.
    pub only: String,
}

impl Plan {
    /// The faults in their order; none where none has such a name.
    pub fn faults(&self) -> impl Iterator<Item = Fault> {
        let wanted = |fault: &Fault| fault.to_string().contains(&self.only);
        let none = !Deck::new(self.seed, self.length).take(MANY).any(|fault| wanted(&fault));
        let faults = Deck::new(self.seed, self.length).filter(move |fault| wanted(fault));
        faults.take(if none { 0 } else { usize::MAX })
    }
}

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// How the two sides found each other.
    pub mode: Mode,
    /// What the faults followed from.
    pub seed: u64,
    /// How long there was traffic.
    pub length: Duration,
    /// The faults, and how long traffic took to go on after each, as far as it did.
    pub faults: Vec<(Fault, Option<Recovery>)>,
    /// How often the client has said that its session goes on over another connection.
    pub resumptions: usize,
    /// What the client and the server occupied without traffic, at the start.
    pub start: [Resources; 2],
    /// The same at the end, if they got as far.
    pub end: Option<[Resources; 2]>,
    /// Everything that must not be.
    pub violations: Vec<String>,
    /// What the client and the server have printed.
    pub logs: [String; 2],
    carried: Carried,
}

/// Runs it. `progress` is told each fault, and when it began, as soon as traffic has gone on after it.
///
/// An error if the lab does not do what it is told; what the programs do wrong is in the report.
pub fn run(plan: &Plan, progress: &dyn Fn(Duration, &Fault, Option<Recovery>)) -> Result<Report> {
    let mut scene = Scene::start(plan.mode, &plan.binary)?;
    warm_up(&scene, plan.seed)?;
    let start = occupied(&scene)?;
    let traffic = Traffic::start(&scene.lab.a.host, scene.entrances, &scene.services, plan.seed)?;
    let began = Instant::now();
    let mut faults = Vec::new();
    let mut violations = Vec::new();
    let mut next = began + CALM;
    for fault in plan.faults() {
        let end = began + plan.length;
        if next + CALM > end {
            sleep_until(end);
            break;
        }
        sleep_until(next);
        let struck = Instant::now();
        let recovery = match suffer(&mut scene, &traffic, &fault) {
            Ok(recovery) => Some(recovery),
            Err(error) if is_of_the_lab(&error) => return Err(error),
            Err(error) => {
                violations.push(format!("{fault}: {error}"));
                None
            }
        };
        progress(struck - began, &fault, recovery);
        faults.push((fault, recovery));
        violations.extend(traffic.wrong());
        violations.extend(scene.services.messages.wrong());
        if !violations.is_empty() {
            break;
        }
        next = (struck + INTERVAL).max(Instant::now() + CALM);
    }
    let length = began.elapsed();
    let mut report = Report {
        mode: plan.mode,
        seed: plan.seed,
        length,
        faults,
        resumptions: 0,
        start,
        end: None,
        violations,
        logs: Default::default(),
        carried: traffic.carried(),
    };
    if report.violations.is_empty() {
        let (carried, wrong) = traffic.finish();
        report.carried = carried;
        report.violations = wrong;
        report.violations.extend(scene.services.messages.wrong());
        thread::sleep(IDLE);
        let end = occupied(&scene)?;
        for (side, (end, start)) in SIDES.into_iter().zip(end.iter().zip(&start)) {
            let grown = end.growth(start).into_iter().map(|what| format!("{side}: {what}"));
            report.violations.extend(grown);
        }
        report.end = Some(end);
    }
    report.logs = SIDES.map(|side| scene.program(side).output());
    report.resumptions = resumptions(scene.program(Side::Client));
    Ok(report)
}

/// In the order of a report.
const SIDES: [Side; 2] = [Side::Client, Side::Server];

/// Carries a little of everything, and ends it: what a program occupies from then on, it keeps.
fn warm_up(scene: &Scene, seed: u64) -> Result<()> {
    let traffic = Traffic::start(&scene.lab.a.host, scene.entrances, &scene.services, seed)?;
    thread::sleep(WARM_UP);
    let (_, wrong) = traffic.finish();
    if let Some(wrong) = wrong.into_iter().next() {
        return Err(Error::NotCarried {
            action: "carry anything undisturbed",
            source: std::io::Error::other(wrong),
            output: scene.program(Side::Client).output(),
        });
    }
    thread::sleep(IDLE);
    Ok(())
}

/// Brings a fault about, and says how long traffic took to go on: from when it could again. Where another way is left
/// that is the fault's beginning, and its end once more; the longer one counts.
fn suffer(scene: &mut Scene, traffic: &Traffic, fault: &Fault) -> Result<Recovery> {
    let struck = Instant::now();
    scene.strike(fault)?;
    let mut recovery = Recovery::default();
    let mut came = Ok(());
    if scene.leaves_a_way(fault) {
        came = traffic.recovered().map(|first| recovery = first);
    }
    if !fault.length.is_zero() {
        if came.is_ok() {
            scene::last(fault, struck);
        }
        scene.undo(fault)?;
        came?;
        return Ok(recovery.longer(traffic.recovered()?));
    }
    came.map(|()| recovery)
}

fn occupied(scene: &Scene) -> Result<[Resources; 2]> {
    let [client, server] = SIDES.map(|side| Resources::of(scene.program(side)));
    Ok([client?, server?])
}

fn resumptions(client: &Proc) -> usize {
    client.lines().iter().filter(|line| line.text.contains("session resumed")).count()
}

/// Whether it says nothing of the traffic.
fn is_of_the_lab(error: &Error) -> bool {
    !matches!(error, Error::Broken { .. } | Error::Stalled { .. })
}

fn sleep_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()));
}
