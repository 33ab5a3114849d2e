//! Measures TCP and UDP over long links, without a tunnel and through the built program, and writes tables.
//!
//! Needs root and what the lab needs. The tables go to standard output or into a file, progress and errors to
//! standard error. No figure is too small: it exits with 1 only if something could not be measured.

use std::{
    io::Write,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
};

use tunnel_testlab::{
    Result,
    wan::{Figures, Item, Plan, measure, table},
};

const USAGE: &str = "\
usage: lab-wan --binary PATH [--seconds N] [--runs N] [--only SUBSTRING] [--congestion NAME]...
               [--out FILE]

  --binary PATH      the program tunnel-rs
  --seconds N        length of each measurement (15); streams that share a link have twice as long
  --runs N           runs of each measurement (3)
  --only SUBSTRING   the measurements with this in their names only, such as `lossy, tunnel bbr`;
                     what ratios are taken to must be among them
  --congestion NAME  for server and client, or `default` for no such flag; repeatable
                     (default, cubic, bbr)
  --out FILE         where the tables go, in place of standard output
";

struct Options {
    plan: Plan,
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
    let plan = &options.plan;
    let total = plan.items().len() * plan.runs as usize;
    let done = AtomicUsize::new(0);
    let progress = |item: &Item, figures: &Result<Figures>| {
        let number = done.fetch_add(1, Ordering::Relaxed) + 1;
        let mut error = std::io::stderr().lock();
        let _ = match figures {
            Ok(figures) => writeln!(error, "{number}/{total} {item}: {}", describe(figures)),
            Err(failed) => writeln!(error, "{number}/{total} {item}: failed: {failed}"),
        };
    };
    let rows = measure(plan, &progress);
    let text = table(&rows);
    let written = match &options.out {
        Some(path) => std::fs::write(path, text),
        None => (&out).write_all(text.as_bytes()),
    };
    if let Err(failed) = written {
        let _ = writeln!(error, "cannot write the tables: {failed}");
        return ExitCode::FAILURE;
    }
    let failed = rows.iter().flat_map(|row| &row.runs).filter(|run| run.is_err()).count();
    let _ = writeln!(error, "{failed} measurements failed");
    if failed == 0 && !rows.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn describe(figures: &Figures) -> String {
    let mut text = format!("{:.1} Mbit/s", figures.rate / 1e6);
    if let Some(beside) = figures.beside {
        text += &format!(", beside {:.1} Mbit/s", beside / 1e6);
    }
    if let Some(loss) = figures.loss {
        text += &format!(", {loss:.2} % lost");
    }
    text
}

fn parse(mut arguments: impl Iterator<Item = String>) -> std::result::Result<Options, String> {
    let (mut binary, mut out, mut only) = (None, None, String::new());
    let (mut seconds, mut runs, mut congestions) = (15, 3, Vec::new());
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let number = || match value.parse() {
            Ok(number) if (1..=3600).contains(&number) => Ok(number),
            _ => Err(format!("{flag} needs a number from 1 to 3600, not '{value}'")),
        };
        match flag.as_str() {
            "--binary" => binary = Some(PathBuf::from(value)),
            "--seconds" => seconds = number()?,
            "--runs" => runs = number()?,
            "--only" => only = value,
            "--congestion" => congestions.push((value != "default").then_some(value)),
            "--out" => out = Some(PathBuf::from(value)),
            _ => return Err(format!("'{flag}' is not known")),
        }
    }
    let binary = binary.ok_or("--binary is missing")?;
    if congestions.is_empty() {
        congestions = vec![None, Some("cubic".to_owned()), Some("bbr".to_owned())];
    }
    Ok(Options { plan: Plan { binary, congestions, seconds, runs, only }, out })
}
