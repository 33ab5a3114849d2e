//! The commands that make and show keys of Nostr.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use tunnel_cli::output::print;
use tunnel_cli::{Failure, Outcome, file, secret};
use tunnel_ice::signaling::nostr::{NostrKey, Npub};

use crate::config::nostr::read_key;

#[derive(Args, Debug)]
pub(crate) struct GenerateKeyArgs {
    /// Where to write the secret key: an nsec on one line, readable by you alone; - is standard output
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Print the npub as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowNpubArgs {
    /// The file with the secret key: an nsec or 64 hexadecimal digits
    #[arg(long, value_name = "FILE")]
    nsec_file: PathBuf,
    /// Print the npub as JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn generate_key(args: &GenerateKeyArgs) -> Outcome {
    generate(args, &mut std::io::stdout().lock(), &mut std::io::stderr().lock())
}

pub(super) fn show_npub(args: &ShowNpubArgs) -> Outcome {
    print(&shown(read_key(&args.nsec_file)?.npub(), args.json))
}

fn generate(args: &GenerateKeyArgs, out: &mut impl Write, err: &mut impl Write) -> Outcome {
    let key = NostrKey::generate().map_err(Failure::failed)?;
    let (mut nsec, npub) = (key.to_nsec(), shown(key.npub(), args.json));
    if args.output == Path::new("-") {
        write_line(out, &nsec)?;
        return write_line(err, &npub);
    }
    nsec.push('\n');
    secret::write(&file::expand(&args.output), &nsec, args.force).map_err(Failure::failed)?;
    write_line(out, &npub)
}

fn write_line(to: &mut impl Write, line: &str) -> Outcome {
    writeln!(to, "{line}")
        .and_then(|()| to.flush())
        .map_err(|error| Failure::Failed(format!("cannot write the key: {error}")))
}

fn shown(npub: Npub, as_json: bool) -> String {
    if as_json { json!({ "npub": npub.to_string() }).to_string() } else { npub.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes to standard output and to standard error.
    fn run(output: &Path, force: bool, json: bool) -> Outcome<(String, String)> {
        let args = GenerateKeyArgs { output: output.to_owned(), force, json };
        let (mut out, mut err) = (Vec::new(), Vec::new());
        generate(&args, &mut out, &mut err)?;
        Ok((String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap()))
    }

    #[test]
    fn a_key_is_written_to_a_file_and_shown_by_its_npub() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let (out, err) = run(&path, false, false).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("nsec1") && text.ends_with('\n') && text.lines().count() == 1);
        let npub = read_key(&path).unwrap().npub();
        assert!(out.starts_with("npub1"), "{out}");
        assert_eq!((out, err), (format!("{npub}\n"), String::new()));
        assert_eq!(shown(npub, true), format!("{{\"npub\":\"{npub}\"}}"));
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for force in [false, true] {
            run(&path, force, false).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn an_existing_key_is_kept_without_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let in_file = || format!("{}\n", read_key(&path).unwrap().npub());
        let (first, _) = run(&path, false, false).unwrap();
        let Err(Failure::Failed(text)) = run(&path, false, false) else {
            panic!("it was replaced");
        };
        assert!(text.contains("--force"), "{text}");
        assert_eq!(in_file(), first);
        let (second, _) = run(&path, true, false).unwrap();
        assert_ne!(first, second);
        assert_eq!(in_file(), second);
    }

    #[test]
    fn with_a_dash_the_secret_goes_to_standard_output_and_the_npub_beside_it() {
        let (out, err) = run(Path::new("-"), false, true).unwrap();
        let key: NostrKey = out.parse().unwrap();
        assert!(out.starts_with("nsec1") && out.lines().count() == 1);
        assert_eq!(err, shown(key.npub(), true) + "\n");
        assert!(!Path::new("-").exists());
    }

    #[test]
    fn a_file_without_a_secret_key_is_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let hex = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa";
        std::fs::write(&path, hex).unwrap();
        assert!(read_key(&path).is_ok());
        for text in [&hex[1..], "", "two words"] {
            std::fs::write(&path, text).unwrap();
            let Err(Failure::Usage(error)) = read_key(&path) else { panic!("{text} is a key") };
            assert!(error.contains(path.to_str().unwrap()), "{error}");
            assert!(text.is_empty() || !error.contains(text), "{error}");
        }
        let Err(Failure::Usage(error)) = read_key(&folder.path().join("none")) else {
            panic!("there is no such file");
        };
        assert!(error.contains("none"), "{error}");
    }
}
