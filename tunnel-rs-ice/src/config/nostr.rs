//! Nostr mode: the settings of both roles.

use std::fmt;
use std::path::{Path, PathBuf};

use clap::{ArgMatches, Args};
use tunnel_cli::settings::{OneOrMany, from_environment};
use tunnel_cli::{Failure, Outcome, SecretText, file, secret};
use tunnel_ice::signaling::nostr::{MAX_RELAYS, NostrKey, Npub, RelayUrl, RelaysError};

mod client;
mod server;
#[cfg(test)]
mod tests;

pub(crate) use client::NostrClientConfig;
pub(super) use client::{NostrClientArgs, NostrClientFile};
pub(crate) use server::NostrServerConfig;
pub(super) use server::{NostrServerArgs, NostrServerFile};

/// What is used where no relay is named. Four operators, of which one is enough.
const DEFAULT_RELAYS: [&str; 4] = [
    "wss://nos.lol",
    "wss://relay.nostr.net",
    "wss://relay.primal.net",
    "wss://relay.snort.social",
];

/// Who this side is, and where it meets the other, by flags.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Nostr mode")]
struct NostrArgs {
    /// The secret key of this side: an nsec or 64 hexadecimal digits. Other users of this machine see it: prefer a file
    #[arg(long, value_name = "KEY", env = "TUNNEL_RS_NSEC", hide_env_values = true)]
    nsec: Option<SecretText>,
    /// A file with that key; see generate-nostr-key
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_NSEC_FILE")]
    nsec_file: Option<PathBuf>,
    /// A Nostr relay, wss:// or ws://, through which the two sides find each other; repeatable. No traffic goes through it [default: wss://nos.lol, wss://relay.nostr.net, wss://relay.primal.net and wss://relay.snort.social]
    #[arg(long, value_name = "URL", env = "TUNNEL_RS_RELAY", value_delimiter = ',')]
    relay: Vec<String>,
}

/// The part of a file's `[nostr]` that both roles have.
#[derive(Debug, Default)]
struct NostrFile {
    nsec: Option<SecretText>,
    nsec_file: Option<PathBuf>,
    relays: Option<OneOrMany<String>>,
}

impl NostrArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    fn prefer_command_line(&mut self, matches: &ArgMatches) {
        let [nsec, file] = from_environment(matches, ["nsec", "nsec_file"]);
        self.nsec = self.nsec.take().filter(|_| !nsec);
        self.nsec_file = self.nsec_file.take().filter(|_| !file);
    }

    /// This side's key, and the relays to use: each once, at most [`MAX_RELAYS`]. `config` is the file that `read` is
    /// from.
    fn resolve(self, read: NostrFile, config: Option<&Path>) -> Outcome<(NostrKey, Vec<RelayUrl>)> {
        if read.nsec.is_some()
            && let Some(config) = config
        {
            secret::warn_if_open_to_others(config);
        }
        let by_hand = (self.nsec, self.nsec_file);
        // A key given by hand is not half overruled by one in the file.
        let key = if by_hand == (None, None) {
            key("nsec", (read.nsec, read.nsec_file))?
        } else {
            key("--nsec", by_hand)?
        };
        Ok((key, relays(self.relay, read.relays)?))
    }
}

fn key(origin: &str, given: (Option<SecretText>, Option<PathBuf>)) -> Outcome<NostrKey> {
    match given {
        (Some(text), _) => {
            text.expose().parse().map_err(|error| Failure::Usage(format!("{origin}: {error}")))
        }
        (None, Some(path)) => read_key(&path),
        (None, None) => {
            let text = "no key for this side: give --nsec-file FILE or --nsec KEY (generate-nostr-key makes one)";
            Err(Failure::Usage(text.to_owned()))
        }
    }
}

/// Reads a secret key from a file.
pub(crate) fn read_key(path: &Path) -> Outcome<NostrKey> {
    let path = file::expand(path);
    let text = secret::read(&path).map_err(|error| {
        if looks_like_key(&path) {
            let text =
                "a secret key stands where the file that holds it is wanted (--nsec-file, nsec_file)";
            return Failure::Usage(text.to_owned());
        }
        Failure::usage(error)
    })?;
    text.parse().map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))
}

/// Whether this is a secret key, perhaps with a typing error, and no path: nobody gets to see it in an error.
fn looks_like_key(path: &Path) -> bool {
    path.to_str().is_some_and(|text| {
        text.parse::<NostrKey>().is_ok() || (text.starts_with("nsec1") && text.len() > 40)
    })
}

fn relays(flags: Vec<String>, file: Option<OneOrMany<String>>) -> Outcome<Vec<RelayUrl>> {
    let usage = |text: String| Err(Failure::Usage(text));
    let (origin, named) = match file {
        _ if !flags.is_empty() => ("--relay", flags),
        Some(list) if list.is_empty() => {
            return usage("relays is empty: leave it out to use the public ones".to_owned());
        }
        Some(list) => ("relays", list.into()),
        None => ("relays", DEFAULT_RELAYS.map(str::to_owned).to_vec()),
    };
    let mut urls = Vec::new();
    for text in named {
        let url = match RelayUrl::parse(&text) {
            Ok(url) => url,
            Err(error) => {
                let wanted = "wss://HOST or ws://HOST, with :PORT and /PATH where needed";
                return usage(format!("{origin}: '{text}' is not {wanted}: {error}"));
            }
        };
        if !urls.contains(&url) {
            urls.push(url);
        }
    }
    match urls.len() {
        ..=MAX_RELAYS => Ok(urls),
        more => Err(Failure::usage(RelaysError::TooMany(more))),
    }
}

/// The other side's public keys, each once. No error quotes one, as a secret key may stand there by mistake.
fn peers(flags: Vec<SecretText>, file: OneOrMany<SecretText>, own: Npub) -> Outcome<Vec<Npub>> {
    let (origin, texts) =
        if flags.is_empty() { ("peer_npub", file.into()) } else { ("--peer-npub", flags) };
    let mut peers = Vec::new();
    for (place, text) in (1..).zip(&texts) {
        let wrong = |why: &dyn fmt::Display| match texts.len() {
            1 => Failure::Usage(format!("{origin}: {why}")),
            _ => Failure::Usage(format!("{origin}, number {place}: {why}")),
        };
        let peer: Npub = text.expose().parse().map_err(|error| wrong(&error))?;
        if peer == own {
            return Err(wrong(&"this is the key of this side itself: give the other side's"));
        }
        if !peers.contains(&peer) {
            peers.push(peer);
        }
    }
    if peers.is_empty() {
        let text = "no peer: give --peer-npub KEY, the other side's npub (generate-nostr-key and show-npub print it there)";
        return Err(Failure::Usage(text.to_owned()));
    }
    Ok(peers)
}
