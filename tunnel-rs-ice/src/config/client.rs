use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::Outcome;
use tunnel_cli::settings::{
    ForwardArgs, ForwardFile, HealthArgs, OneOrMany, RoleName, SessionGraceArgs, TunnelFile,
    seconds,
};
use tunnel_ice::StunServer;
use tunnel_model::Forward;

use super::channel::Channel;
use super::nostr::{NostrClientArgs, NostrClientConfig, NostrClientFile};
use super::stun::StunArgs;
use super::{Mode, ModeArgs, RoleFile};

/// How long an offer stands where nothing else is said: people have to copy two blocks meanwhile.
const DEFAULT_TTL: Duration = Duration::from_secs(600);

/// In seconds. In less than 10 no two people, and hardly two scripts, carry blocks to and fro; for more than an hour no
/// mapping of a NAT should be held open for a session that may never come.
const TTL_BOUNDS: RangeInclusive<u64> = 10..=3600;

#[derive(Args, Debug, Default)]
pub(crate) struct ClientArgs {
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    both: BothArgs,
    #[command(flatten)]
    manual: ManualClientArgs,
    #[command(flatten)]
    nostr: NostrClientArgs,
}

/// What is for both modes.
#[derive(Args, Debug, Default)]
pub(super) struct BothArgs {
    #[command(flatten)]
    pub(super) forwards: ForwardArgs,
    #[command(flatten)]
    pub(super) stun: StunArgs,
    #[command(flatten)]
    pub(super) grace: SessionGraceArgs,
    #[command(flatten)]
    pub(super) health: HealthArgs,
}

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Manual mode")]
struct ManualClientArgs {
    /// Write the offer to this file; - is standard output [default: -]
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_OFFER_FILE")]
    offer_file: Option<PathBuf>,
    /// Read the answer from this file, which need not be there yet; - is standard input [default: -]
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_ANSWER_FILE")]
    answer_file: Option<PathBuf>,
    /// How long the offer stands and the answer is waited for [default: 600]
    #[arg(long, value_name = "SECS", env = "TUNNEL_RS_OFFER_TTL", value_parser = clap::value_parser!(u64).range(TTL_BOUNDS))]
    offer_ttl: Option<u64>,
    /// Show the offer as a QR code as well
    #[arg(long)]
    qr: bool,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct ManualClientFile {
    #[serde(alias = "source")]
    request_source: Option<String>,
    target: Option<String>,
    tunnels: Vec<TunnelFile>,
    local_forward: OneOrMany<String>,
    #[serde(alias = "stun_server")]
    stun_servers: Option<OneOrMany<String>>,
    offer_file: Option<PathBuf>,
    answer_file: Option<PathBuf>,
    offer_ttl: Option<u64>,
    qr: bool,
    session_grace: Option<u64>,
    health_addr: Option<SocketAddr>,
}

type ClientFile = RoleFile<ManualClientFile, NostrClientFile>;

/// Everything that a client runs by.
pub(crate) enum ClientConfig {
    Manual(ManualClientConfig),
    Nostr(NostrClientConfig),
}

/// Everything that a client runs by in manual mode.
pub(crate) struct ManualClientConfig {
    pub(crate) forwards: Vec<Forward>,
    /// Whom to ask for this machine's public address; possibly nobody.
    pub(crate) stun: Vec<StunServer>,
    /// Where the offer is written.
    pub(crate) offer: Channel,
    /// Where the answer is read.
    pub(crate) answer: Channel,
    /// How long the offer stands.
    pub(crate) ttl: Duration,
    /// Whether the offer is shown as a QR code as well.
    pub(crate) qr: bool,
    /// How long open connections wait for a network that is gone.
    pub(crate) grace: Duration,
    /// Where it tells health and metrics.
    pub(crate) health: Option<SocketAddr>,
}

impl ClientArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.mode.file.prefer_command_line(matches);
        self.both.forwards.prefer_command_line(matches);
        self.both.stun.prefer_command_line(matches);
        self.nostr.prefer_command_line(matches);
        self.mode.note_flags::<ManualClientArgs>(Mode::Manual, matches);
        self.mode.note_flags::<NostrClientArgs>(Mode::Nostr, matches);
    }

    pub(crate) fn resolve(self) -> Outcome<ClientConfig> {
        let settings = self.mode.settings(RoleName::Client)?;
        let read: ClientFile = settings.read()?;
        match settings.mode {
            Mode::Manual => self.manual.resolve(self.both, read.manual).map(ClientConfig::Manual),
            Mode::Nostr => {
                let config = self.nostr.resolve(self.both, read.nostr, settings.path.as_deref())?;
                Ok(ClientConfig::Nostr(config))
            }
        }
    }
}

impl ManualClientArgs {
    fn resolve(self, both: BothArgs, read: ManualClientFile) -> Outcome<ManualClientConfig> {
        let forwards = both.forwards.resolve(ForwardFile {
            request_source: read.request_source,
            target: read.target,
            tunnels: read.tunnels,
            local_forward: read.local_forward.into(),
        })?;
        let stun = both.stun.resolve(read.stun_servers)?;
        let (offer, answer) = Channel::pair(
            self.offer_file.or(read.offer_file),
            self.answer_file.or(read.answer_file),
        )?;
        let ttl = seconds("offer_ttl", self.offer_ttl, read.offer_ttl, &TTL_BOUNDS)?;
        let ttl = ttl.unwrap_or(DEFAULT_TTL);
        let grace = both.grace.resolve(read.session_grace)?;
        let qr = self.qr || read.qr;
        let health = both.health.resolve(read.health_addr);
        Ok(ManualClientConfig { forwards, stun, offer, answer, ttl, qr, grace, health })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{assert_names_every_key, parse, parse_with, usage, with_every_key};
    use super::*;

    const EXAMPLE: &str = include_str!("../../../client_ice.toml.example");

    fn resolve(text: &str, words: &[&str]) -> Outcome<ManualClientConfig> {
        let (_folder, args) = parse_with::<ClientArgs>(text, words);
        manual(args)
    }

    fn manual(args: ClientArgs) -> Outcome<ManualClientConfig> {
        match args.resolve()? {
            ClientConfig::Manual(config) => Ok(config),
            ClientConfig::Nostr(_) => panic!("this is nostr mode"),
        }
    }

    fn shown(config: &ManualClientConfig) -> Vec<String> {
        config.forwards.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "[manual]\nrequest_source = \"tcp://x:1\"\ntarget = \"h:1\"\noffer_ttl = 20\n\
                    offer_file = \"offer\"\nanswer_file = \"answer\"\nqr = true\n";
        let words = ["manual", "-s", "tcp://a:1", "-t", "127.0.0.1:1", "-L", "3:c:3/udp"];
        let config = resolve(text, &words).unwrap();
        let forwards = ["tcp://127.0.0.1:1 to tcp://a:1", "udp://127.0.0.1:3 to udp://c:3"];
        assert_eq!(shown(&config), forwards);
        assert!(config.ttl == Duration::from_secs(20) && config.qr);
        assert_eq!(config.offer, Channel::File("offer".into()));
        let words = ["manual", "--offer-ttl", "3600", "--answer-file", "other"];
        let config = resolve(text, &words).unwrap();
        assert_eq!((shown(&config).len(), config.ttl), (1, Duration::from_secs(3600)));
        assert_eq!(config.answer, Channel::File("other".into()));
    }

    #[test]
    fn a_file_alone_is_enough() {
        let text = "role = \"client\"\nmode = \"manual\"\n[manual]\nsource = \"tcp://a:1\"\n\
                    target = \"127.0.0.1:1\"\nlocal_forward = [\"3:c:3\"]\n\
                    [[manual.tunnels]]\nsource = \"udp://b:2\"\ntarget = \"127.0.0.1:2\"\n";
        let config = resolve(text, &[]).unwrap();
        assert_eq!((config.forwards.len(), config.ttl), (3, Duration::from_secs(600)));
        assert_eq!((config.stun.len(), config.qr), (2, false));
    }

    #[test]
    fn what_is_missing_is_named() {
        let client = |words: &[&str]| usage(parse::<ClientArgs>(words).unwrap().resolve());
        assert!(client(&["-L", "1:h:1"]).contains("tunnel-rs-ice client manual"));
        assert!(client(&["-L", "1:h:1"]).contains("tunnel-rs-ice client nostr"));
        assert!(client(&["manual"]).contains("--source"));
        assert!(client(&["manual", "-s", "tcp://h:1"]).contains("pairs"));
        let error = usage(resolve("[manual]\ntarget = \"h:1\"\n", &["manual"]));
        assert!(error.contains("request_source"), "{error}");
        let error = usage(resolve("role = \"server\"\n[manual]\nallowed_tcp = []\n", &["manual"]));
        assert!(error.contains("role"), "{error}");
    }

    #[test]
    fn flags_of_nostr_mode_are_not_for_this_one() {
        for flag in [["--nsec", "x"], ["--nsec-file", "x"], ["--peer-npub", "x"], ["--relay", "x"]]
        {
            let error = usage(resolve("", &[&["manual", "-L", "1:h:1"][..], &flag].concat()));
            let wanted = format!("{} is for nostr mode, and this is manual mode", flag[0]);
            assert_eq!(error, wanted);
        }
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (line, part) in [
            ("offer_tll = 60", "offer_tll"),
            ("offer_ttl = 9", "offer_ttl: 9 is not from 10 to 3600"),
            ("allowed_tcp = []", "allowed_tcp"),
        ] {
            let error = usage(resolve(&format!("[manual]\n{line}\n"), &["manual", "-L", "1:h:1"]));
            assert!(error.contains(part), "{line}: {error}");
        }
        for seconds in ["9", "3601"] {
            let error = parse::<ClientArgs>(&["--offer-ttl", seconds]).unwrap_err().to_string();
            assert!(error.contains("--offer-ttl") && error.contains(seconds), "{error}");
        }
    }

    #[test]
    fn the_shipped_example_shows_the_defaults() {
        let defaults = manual(parse(&["manual", "-L", "1:h:1"]).unwrap()).unwrap();
        let every = with_every_key(EXAMPLE);
        assert!(every.contains("\noffer_ttl") && every.contains("\n[[manual."), "{every}");
        for (text, forwards) in [(EXAMPLE, 1), (&every, 2)] {
            let config = resolve(text, &[]).unwrap();
            assert_eq!((config.forwards.len(), config.ttl), (forwards, defaults.ttl));
            assert_eq!(config.stun, defaults.stun);
            assert_eq!((config.offer, config.answer), (Channel::Standard, Channel::Standard));
            assert!(!config.qr);
        }
        assert_names_every_key(EXAMPLE, "manual", |text| usage(resolve(text, &[])));
    }
}
