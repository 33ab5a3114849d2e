//! Connects two hosts behind every pair of NATs and families with the built program, and writes a table.
//!
//! Needs root and what the lab needs. The table goes to standard output or into a file, progress and errors to
//! standard error. Exits with 1 if any pair did not come out as the oracle says.

use std::{
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use tunnel_testlab::{
    Result,
    matrix::{self, Iroh, Manual, Measured, Mode, Nostr, Pair, Plan, Vpn},
};

const USAGE: &str = "\
usage: lab-matrix --binary PATH [--mode iroh|vpn|manual|nostr] [--runs N] [--parallel N] [--only SUBSTRING] [--out FILE]

  --binary PATH     the program: tunnel-rs, or tunnel-rs-ice for manual and nostr
  --mode MODE       how it finds its peer: iroh, with a relay (the default), vpn, the same for a VPN, manual, with STUN servers,
                    or nostr, with those and a relay for signaling
  --runs N          runs of each pair (3)
  --parallel N      labs at once (3)
  --only SUBSTRING  the pairs with this in `CLIENT -> SERVER` only, such as `symmetric -> none`
  --out FILE        where the table goes, in place of standard output
";

struct Options {
    mode: Box<dyn Mode>,
    plan: Plan,
    only: String,
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "-h" || argument == "--help") {
        let _ = write!(std::io::stdout(), "{USAGE}");
        return ExitCode::SUCCESS;
    }
    let (out, mut error) = (std::io::stdout(), std::io::stderr());
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            let _ = write!(error, "{what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut pairs = matrix::all();
    pairs.retain(|pair| pair.to_string().contains(&options.only));
    let (total, done) = (pairs.len() * options.plan.runs, AtomicUsize::new(0));
    let progress = |pair: Pair, measured: &Result<Measured>| {
        let number = done.fetch_add(1, Ordering::Relaxed) + 1;
        let mut error = std::io::stderr().lock();
        let _ = match measured {
            Ok(measured) => writeln!(error, "{number}/{total} {pair}: {}", describe(measured)),
            Err(failed) => writeln!(error, "{number}/{total} {pair}: failed: {failed}"),
        };
    };
    let rows = matrix::run(options.mode.as_ref(), &pairs, options.plan, &progress);
    let table = matrix::table(&rows);
    let written = match &options.out {
        Some(path) => std::fs::write(path, table),
        None => (&out).write_all(table.as_bytes()),
    };
    if let Err(failed) = written {
        let _ = writeln!(error, "cannot write the table: {failed}");
        return ExitCode::FAILURE;
    }
    let unexpected = rows.iter().filter(|row| !row.as_expected()).count();
    let _ = writeln!(error, "{unexpected} of {} pairs are not as expected", rows.len());
    if unexpected == 0 && !rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(measured: &Measured) -> String {
    let mut text = format!("{:?}", measured.outcome).to_lowercase();
    if let Some(time) = measured.first_byte {
        text += &format!(", first byte after {:.2} s", time.as_secs_f64());
    }
    if let Some(time) = measured.direct {
        text += &format!(", direct after {:.2} s", time.as_secs_f64());
    }
    text
}

fn parse(mut arguments: impl Iterator<Item = String>) -> std::result::Result<Options, String> {
    let (mut binary, mut out, mut only) = (None, None, String::new());
    let mut mode = "iroh".to_owned();
    let mut plan = Plan { runs: 3, parallel: 3 };
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || match value.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err(format!("{flag} needs a number of at least 1, not '{value}'")),
        };
        match flag.as_str() {
            "--binary" => binary = Some(PathBuf::from(value)),
            "--mode" => mode = value,
            "--runs" => plan.runs = number()?,
            "--parallel" => plan.parallel = number()?,
            "--only" => only = value,
            "--out" => out = Some(PathBuf::from(value)),
            _ => return Err(format!("'{flag}' is not known")),
        }
    }
    let binary = binary.ok_or("--binary is missing")?;
    let mode: Box<dyn Mode> = match mode.as_str() {
        "iroh" => Box::new(Iroh::new(&binary)),
        "vpn" => Box::new(Vpn::new(&binary)),
        "manual" => Box::new(Manual::new(&binary)),
        "nostr" => Box::new(Nostr::new(&binary)),
        _ => return Err(format!("--mode is iroh, vpn, manual or nostr, not '{mode}'")),
    };
    Ok(Options { mode, plan, only, out })
}
