use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgMatches, Args};
use serde::Deserialize;
use tunnel_cli::Outcome;
use tunnel_cli::settings::{
    AllowArgs, AllowFile, AllowedSources, DrainArgs, HealthArgs, OneOrMany, RoleName,
    SessionGraceArgs, UdpIdleArgs,
};
use tunnel_ice::StunServer;
use tunnel_model::Policy;
use tunnel_session::server::Limits;

use super::channel::Channel;
use super::nostr::{NostrServerArgs, NostrServerConfig, NostrServerFile};
use super::stun::StunArgs;
use super::{Mode, ModeArgs, RoleFile, Settings};

#[derive(Args, Debug, Default)]
pub(crate) struct ServerArgs {
    #[command(flatten)]
    mode: ModeArgs,
    #[command(flatten)]
    both: BothArgs,
    #[command(flatten)]
    manual: ManualServerArgs,
    #[command(flatten)]
    nostr: NostrServerArgs,
}

/// What is for both modes.
#[derive(Args, Debug, Default)]
pub(super) struct BothArgs {
    #[command(flatten)]
    pub(super) allowed: AllowArgs,
    #[command(flatten)]
    pub(super) stun: StunArgs,
    #[command(flatten)]
    pub(super) udp_idle: UdpIdleArgs,
    #[command(flatten)]
    pub(super) grace: SessionGraceArgs,
    #[command(flatten)]
    pub(super) drain: DrainArgs,
    #[command(flatten)]
    pub(super) health: HealthArgs,
}

#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Manual mode")]
struct ManualServerArgs {
    /// Read the offer from this file, which need not be there yet; - is standard input [default: -]
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_OFFER_FILE")]
    offer_file: Option<PathBuf>,
    /// Write the answer to this file; - is standard output [default: -]
    #[arg(long, value_name = "FILE", env = "TUNNEL_RS_ANSWER_FILE")]
    answer_file: Option<PathBuf>,
    /// Show the answer as a QR code as well
    #[arg(long)]
    qr: bool,
}

#[derive(Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, default)]
struct ManualServerFile {
    allowed_sources: AllowedSources,
    allowed_tcp: OneOrMany<String>,
    allowed_udp: OneOrMany<String>,
    #[serde(alias = "stun_server")]
    stun_servers: Option<OneOrMany<String>>,
    udp_idle_timeout: Option<u64>,
    session_grace: Option<u64>,
    drain_timeout: Option<u64>,
    health_addr: Option<SocketAddr>,
    offer_file: Option<PathBuf>,
    answer_file: Option<PathBuf>,
    qr: bool,
}

type ServerFile = RoleFile<ManualServerFile, NostrServerFile>;

/// Everything that a server runs by.
pub(crate) enum ServerConfig {
    Manual(ManualServerConfig),
    Nostr(NostrServerConfig),
}

/// Everything that a server runs by in manual mode.
pub(crate) struct ManualServerConfig {
    /// What its client may reach.
    pub(crate) allowed: RuleSource,
    pub(crate) limits: Limits,
    /// Whom to ask for this machine's public address; possibly nobody.
    pub(crate) stun: Vec<StunServer>,
    /// Where the offer is read.
    pub(crate) offer: Channel,
    /// Where the answer is written.
    pub(crate) answer: Channel,
    /// Whether the answer is shown as a QR code as well.
    pub(crate) qr: bool,
    /// How long it drains on SIGTERM; zero for not at all.
    pub(crate) drain: Duration,
    /// Where it tells health and metrics.
    pub(crate) health: Option<SocketAddr>,
}

/// Where the rules come from, so that they can be read again.
#[derive(Clone, Debug)]
pub(crate) struct RuleSource {
    flags: AllowArgs,
    settings: Settings,
}

impl ServerArgs {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        self.mode.file.prefer_command_line(matches);
        self.both.stun.prefer_command_line(matches);
        self.nostr.prefer_command_line(matches);
        self.mode.note_flags::<ManualServerArgs>(Mode::Manual, matches);
        self.mode.note_flags::<NostrServerArgs>(Mode::Nostr, matches);
    }

    pub(crate) fn resolve(self) -> Outcome<ServerConfig> {
        let settings = self.mode.settings(RoleName::Server)?;
        let read: ServerFile = settings.read()?;
        match settings.mode {
            Mode::Manual => {
                let config = self.manual.resolve(self.both, read.manual, settings)?;
                Ok(ServerConfig::Manual(config))
            }
            Mode::Nostr => {
                let config = self.nostr.resolve(self.both, read.nostr, settings)?;
                Ok(ServerConfig::Nostr(config))
            }
        }
    }
}

impl ManualServerArgs {
    fn resolve(
        self,
        both: BothArgs,
        read: ManualServerFile,
        settings: Settings,
    ) -> Outcome<ManualServerConfig> {
        let stun = both.stun.resolve(read.stun_servers)?;
        let mut limits = Limits::default();
        if let Some(time) = both.udp_idle.resolve(read.udp_idle_timeout)? {
            limits.udp_idle = time;
        }
        limits.grace = both.grace.resolve(read.session_grace)?;
        let (offer, answer) = Channel::pair(
            self.offer_file.or(read.offer_file),
            self.answer_file.or(read.answer_file),
        )?;
        let allowed = RuleSource::new(both.allowed, settings);
        let qr = self.qr || read.qr;
        let drain = both.drain.resolve(read.drain_timeout)?;
        let health = both.health.resolve(read.health_addr);
        Ok(ManualServerConfig { allowed, limits, stun, offer, answer, qr, drain, health })
    }
}

impl From<ManualServerFile> for AllowFile {
    fn from(read: ManualServerFile) -> Self {
        Self {
            allowed_sources: read.allowed_sources,
            allowed_tcp: read.allowed_tcp,
            allowed_udp: read.allowed_udp,
        }
    }
}

impl RuleSource {
    pub(super) fn new(flags: AllowArgs, settings: Settings) -> Self {
        Self { flags, settings }
    }

    /// The files that the rules come from.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.settings.path.iter().cloned().collect()
    }

    /// Reads the rules as they stand.
    pub(crate) fn load(&self) -> Outcome<Policy> {
        let read: ServerFile = self.settings.read()?;
        let allowed = match self.settings.mode {
            Mode::Manual => read.manual.into(),
            Mode::Nostr => read.nostr.into(),
        };
        Ok(Policy::pinned(self.flags.resolve(allowed)?))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{
        assert_names_every_key, parse, parse_with, usage, with_every_key, with_variables,
    };
    use super::*;

    const EXAMPLE: &str = include_str!("../../../server_ice.toml.example");

    fn manual(args: ServerArgs) -> Outcome<ManualServerConfig> {
        match args.resolve()? {
            ServerConfig::Manual(config) => Ok(config),
            ServerConfig::Nostr(_) => panic!("this is nostr mode"),
        }
    }

    fn resolve(text: &str, words: &[&str]) -> Outcome<ManualServerConfig> {
        let (_folder, args) = parse_with::<ServerArgs>(text, words);
        manual(args)
    }

    #[test]
    fn flags_win_and_lists_replace() {
        let text = "role = \"server\"\n[manual]\nudp_idle_timeout = 7\nstun_servers = \"a:1\"\n\
                    offer_file = \"offer\"\nanswer_file = \"answer\"\n\
                    [manual.allowed_sources]\ntcp = [\"10.0.0.0/8\"]\nudp = [\"10.0.0.0/8\"]\n";
        let words = ["manual", "--allowed-tcp", "127.0.0.0/8", "--offer-file", "-"];
        let (_folder, args) = parse_with::<ServerArgs>(text, &words);
        let config = manual(args).unwrap();
        assert_eq!(config.limits.udp_idle, Duration::from_secs(7));
        assert_eq!(
            (config.offer, config.answer),
            (Channel::Standard, Channel::File("answer".into()))
        );
        let (policy, files) = (config.allowed.load().unwrap(), config.allowed.files());
        assert_eq!(policy.allowed().tcp, ["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(policy.allowed().udp, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(files.len(), 1);
        let config = resolve(text, &["--stun-server", "b:2", "manual", "--udp-idle-timeout", "8"]);
        let config = config.unwrap();
        let host = "b".parse().unwrap();
        assert_eq!(config.stun, [StunServer { host, port: 2 }]);
        assert_eq!(config.limits.udp_idle, Duration::from_secs(8));
    }

    #[test]
    fn rules_are_read_again() {
        let allowed =
            |tcp: &str| format!("mode = \"manual\"\n[manual.allowed_sources]\ntcp = [\"{tcp}\"]\n");
        let (_folder, args) = parse_with::<ServerArgs>(&allowed("10.0.0.0/8"), &[]);
        let rules = manual(args).unwrap().allowed;
        assert_eq!(rules.load().unwrap().allowed().tcp, ["10.0.0.0/8".parse().unwrap()]);
        std::fs::write(&rules.files()[0], allowed("127.0.0.0/8")).unwrap();
        assert_eq!(rules.load().unwrap().allowed().tcp, ["127.0.0.0/8".parse().unwrap()]);
        std::fs::write(&rules.files()[0], allowed("10.0.0.1/8")).unwrap();
        let error = usage(rules.load());
        assert!(error.contains("10.0.0.0/8") && error.contains("allowed_sources"), "{error}");
    }

    #[test]
    fn the_mode_is_a_word_or_in_the_file() {
        let server = |words: &[&str]| parse::<ServerArgs>(words).unwrap().resolve();
        assert!(server(&["manual", "--allowed-tcp", "10.0.0.0/8"]).is_ok());
        assert!(resolve("mode = \"manual\"\n", &["--allowed-tcp", "10.0.0.0/8"]).is_ok());
        assert!(resolve("mode = \"manual\"\n", &["manual"]).is_ok());
        for error in [usage(server(&[])), usage(resolve("[manual]\n", &[]))] {
            assert!(error.contains("tunnel-rs-ice server manual"), "{error}");
            assert!(error.contains("tunnel-rs-ice server nostr"), "{error}");
        }
    }

    #[test]
    fn the_other_mode_may_stand_in_the_file() {
        let text = "[nostr]\nnsec = \"x\"\npeer_npub = \"y\"\nallowed_tcp = [\"10.0.0.0/8\"]\n\
                    [manual.allowed_sources]\ntcp = [\"127.0.0.0/8\"]\n";
        let (_folder, args) = parse_with::<ServerArgs>(text, &["manual"]);
        let rules = manual(args).unwrap().allowed;
        assert_eq!(rules.load().unwrap().allowed().tcp, ["127.0.0.0/8".parse().unwrap()]);
        let error = usage(resolve("[nostr]\nnsecc = \"x\"\n", &["manual"]));
        assert!(error.contains("nsecc") && !error.contains("\"x\""), "{error}");
    }

    #[test]
    fn what_is_for_another_mode_or_command_is_called_that() {
        for (text, words, part) in [
            (
                "role = \"client\"\n[manual]\ntarget = \"x\"\n",
                &["manual"][..],
                "command is 'server'",
            ),
            ("mode = \"iroh\"\n", &[], "is for tunnel-rs"),
            ("mode = \"iroh\"\n", &["manual"], "is for tunnel-rs"),
            ("[iroh]\nauth_tokens = []\n", &["manual"], "[iroh] is for tunnel-rs"),
            ("mode = \"nostr\"\n", &["manual"], "mode = \"nostr\", but this is 'server manual'"),
            ("mode = \"manual\"\n", &["nostr"], "mode = \"manual\", but this is 'server nostr'"),
        ] {
            let error = usage(resolve(text, words));
            assert!(error.contains(part) && error.contains("ice.toml"), "{text}: {error}");
        }
        for (word, part) in [("iroh", "tunnel-rs"), ("manuel", "manual and nostr")] {
            let error = parse::<ServerArgs>(&[word]).unwrap_err();
            let shown = error.to_string();
            assert!(
                error.exit_code() == 2 && shown.contains(word) && shown.contains(part),
                "{shown}"
            );
        }
    }

    #[test]
    fn flags_of_nostr_mode_are_not_for_this_one() {
        let nostr = [
            ["--nsec", "x"],
            ["--nsec-file", "x"],
            ["--peer-npub", "x"],
            ["--relay", "wss://x"],
            ["--max-sessions", "1"],
        ];
        for flag in nostr {
            for (text, words) in [("", &["manual"][..]), ("mode = \"manual\"\n", &[])] {
                let error = usage(resolve(text, &[&flag, words].concat()));
                let wanted = format!("{} is for nostr mode, and this is manual mode", flag[0]);
                assert_eq!(error, wanted);
            }
        }
    }

    #[test]
    fn variables_of_nostr_mode_do_no_harm() {
        let variables = [
            ("TUNNEL_RS_NSEC", "x"),
            ("TUNNEL_RS_NSEC_FILE", "x"),
            ("TUNNEL_RS_PEER_NPUB", "x"),
            ("TUNNEL_RS_RELAY", "x"),
            ("TUNNEL_RS_MAX_SESSIONS", "1"),
        ];
        let name = "config::server::tests::variables_of_nostr_mode_do_no_harm";
        with_variables(name, &variables, || assert!(resolve("", &["manual"]).is_ok()));
    }

    #[test]
    fn wrong_keys_and_values_are_named() {
        for (line, part) in [
            ("udp_idle_timout = 3", "udp_idle_timout"),
            ("udp_idle_timeout = 0", "udp_idle_timeout: 0 is not from 1 to 86400"),
            ("no_stun = true", "no_stun"),
            ("offer_ttl = 60", "offer_ttl"),
            ("stun_servers = [\"stun.example\"]", "stun_servers: 'stun.example' has no port"),
        ] {
            let error = usage(resolve(&format!("[manual]\n{line}\n"), &["manual"]));
            assert!(error.contains(part), "{line}: {error}");
        }
        for words in [["--udp-idle-timeout", "86401"], ["--stun-server", "stun.example"]] {
            let error = parse::<ServerArgs>(&words).unwrap_err().to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{error}");
        }
    }

    #[test]
    fn the_shipped_example_shows_the_defaults() {
        let defaults = manual(parse(&["manual"]).unwrap()).unwrap();
        let every = with_every_key(EXAMPLE);
        assert!(every.contains("\nstun_servers") && every.contains("\nqr"), "{every}");
        for text in [EXAMPLE, &every] {
            let (_folder, args) = parse_with::<ServerArgs>(text, &[]);
            let config = manual(args).unwrap();
            assert_eq!(config.stun, defaults.stun);
            assert_eq!(config.limits.udp_idle, defaults.limits.udp_idle);
            assert_eq!((config.offer, config.answer), (Channel::Standard, Channel::Standard));
            assert!(!config.qr);
            assert_eq!(config.allowed.load().unwrap().allowed().tcp.len(), 1);
        }
        assert_names_every_key(EXAMPLE, "manual", |text| usage(resolve(text, &[])));
    }
}
