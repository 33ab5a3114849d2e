//! Runs a client and a server under checked traffic in the lab, with a fault every 20 s, and writes tables of it.
//!
//! Needs root and what the lab needs. The tables go to standard output or into a file, progress and errors to
//! standard error. Exits with 1 if a byte was wrong, a connection broke, traffic did not go on, or a program grew.

use std::{fs, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use tunnel_testlab::soak::{self, Fault, Mode, Plan, Recovery, Report};

const USAGE: &str = "\
usage: lab-soak --binary PATH [--mode iroh|nostr] [--seconds N] [--seed N] [--only SUBSTRING]
                [--out FILE] [--logs FOLDER]

  --binary PATH     the program: tunnel-rs, or tunnel-rs-ice for nostr
  --mode MODE       how it finds its peer: iroh, with two relays (the default), or nostr, with two relays for
                    signaling and two STUN servers
  --seconds N       how long there is traffic (180); in less than 180 not every kind of fault has its turn
  --seed N          what the faults follow from; any, which is shown, if not given
  --only SUBSTRING  the faults with this in their names only, such as `outage, client`
  --out FILE        where the tables go, in place of standard output
  --logs FOLDER     where client.log and server.log go; without it they are shown where something went wrong
";

struct Options {
    plan: Plan,
    out: Option<PathBuf>,
    logs: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "-h" || argument == "--help") {
        let _ = write!(std::io::stdout(), "{USAGE}");
        return ExitCode::SUCCESS;
    }
    let mut error = std::io::stderr();
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            let _ = write!(error, "{what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let plan = &options.plan;
    let _ = writeln!(error, "{} s, seed {}", plan.length.as_secs(), plan.seed);
    let progress = |at: Duration, fault: &Fault, recovery: Option<Recovery>| {
        let mut error = std::io::stderr().lock();
        let went_on = recovery.map_or_else(|| "traffic did not go on".to_owned(), describe);
        let _ = writeln!(error, "{:5.1} s: {fault}: {went_on}", at.as_secs_f64());
    };
    let report = match soak::run(plan, &progress) {
        Ok(report) => report,
        Err(failed) => {
            let _ = writeln!(error, "{failed}");
            return ExitCode::FAILURE;
        }
    };
    let written = write(&options, &report);
    if let Err(failed) = &written {
        let _ = writeln!(error, "cannot write what came of it: {failed}");
    }
    for violation in &report.violations {
        let _ = writeln!(error, "{violation}");
    }
    let _ = writeln!(error, "{} violations", report.violations.len());
    if written.is_ok() && report.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn describe(recovery: Recovery) -> String {
    let Recovery { up, down, udp } = recovery;
    let [up, down, udp] = [up, down, udp].map(|time| format!("{:.2} s", time.as_secs_f64()));
    format!("TCP went on after {up} to the server and {down} to the client, UDP after {udp}")
}

fn write(options: &Options, report: &Report) -> std::io::Result<()> {
    let names = ["client", "server"].into_iter().zip(&report.logs);
    match &options.logs {
        Some(folder) => {
            fs::create_dir_all(folder)?;
            for (name, log) in names {
                fs::write(folder.join(format!("{name}.log")), log)?;
            }
        }
        None if report.violations.is_empty() => {}
        None => {
            for (name, log) in names {
                write!(std::io::stderr(), "the {name} printed:\n{log}")?;
            }
        }
    }
    let table = report.table();
    match &options.out {
        Some(path) => fs::write(path, table),
        None => std::io::stdout().write_all(table.as_bytes()),
    }
}

fn parse(mut arguments: impl Iterator<Item = String>) -> std::result::Result<Options, String> {
    let (mut binary, mut out, mut logs) = (None, None, None);
    let mut only = String::new();
    let (mut mode, mut seconds, mut seed) = (Mode::Iroh, 180, None);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = |value: &str| {
            let number = value.parse::<u64>();
            number.map_err(|_| format!("{flag} needs a number, not '{value}'"))
        };
        match flag.as_str() {
            "--binary" => binary = Some(PathBuf::from(value)),
            "--mode" => {
                mode = match value.as_str() {
                    "iroh" => Mode::Iroh,
                    "nostr" => Mode::Nostr,
                    _ => return Err(format!("--mode is iroh or nostr, not '{value}'")),
                }
            }
            "--seconds" => seconds = number(&value)?,
            "--seed" => seed = Some(number(&value)?),
            "--only" => only = value,
            "--out" => out = Some(PathBuf::from(value)),
            "--logs" => logs = Some(PathBuf::from(value)),
            _ => return Err(format!("'{flag}' is not known")),
        }
    }
    let binary = binary.ok_or("--binary is missing")?;
    let seed = seed.unwrap_or_else(|| fastrand::u64(1..1_000_000));
    let plan = Plan { binary, mode, length: Duration::from_secs(seconds), seed, only };
    if plan.faults().next().is_none() {
        return Err(format!("no fault is called '{}'", plan.only));
    }
    Ok(Options { plan, out, logs })
}
