use tempfile::TempDir;

use super::super::client::{ClientArgs, ClientConfig};
use super::super::server::{ServerArgs, ServerConfig};
use super::super::tests::{
    assert_names_every_key, command, parse, parse_with, usage, with_every_key, with_mode,
    with_variables,
};
use super::*;

// The examples of NIP-19, which belong together.
const NSEC: &str = "nsec1vl029mgpspedva04g90vltkh6fvh240zqtv9k0t9af8935ke9laqsnlfe5";
const NSEC_HEX: &str = "67dea2ed018072d675f5415ecfaed7d2597555e202d85b3d65ea4e58d2d92ffa";
const NPUB: &str = "npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg";
const NPUB_HEX: &str = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
/// Of the generator of secp256k1, and so the public key of the secret key 1.
const PEER: &str = "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798";
/// Twice that.
const OTHER_PEER: &str = "c6047f9441ed7d6d3045406e95c07cd85c778e4b8cef3ca7abac09b95c709ee5";

const CLIENT_EXAMPLE: &str = include_str!("../../../../client_ice.toml.example");
const SERVER_EXAMPLE: &str = include_str!("../../../../server_ice.toml.example");

fn of_server(args: ServerArgs) -> Outcome<NostrServerConfig> {
    match args.resolve()? {
        ServerConfig::Nostr(config) => Ok(config),
        ServerConfig::Manual(_) => panic!("this is manual mode"),
    }
}

fn of_client(args: ClientArgs) -> Outcome<NostrClientConfig> {
    match args.resolve()? {
        ClientConfig::Nostr(config) => Ok(config),
        ClientConfig::Manual(_) => panic!("this is manual mode"),
    }
}

/// A server from a file and a command line.
fn server(text: &str, words: &[&str]) -> Outcome<NostrServerConfig> {
    let (_folder, args) = parse_with(text, words);
    of_server(args)
}

/// A client from a file and a command line.
fn client(text: &str, words: &[&str]) -> Outcome<NostrClientConfig> {
    let (_folder, args) = parse_with(text, words);
    of_client(args)
}

/// A server's command line with all that it needs, and more.
fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["nostr", "--nsec", NSEC, "--peer-npub", PEER], more].concat()
}

fn npub(text: &str) -> Npub {
    text.parse().unwrap()
}

/// A file with a key that is not [`NSEC`], and its public key.
fn key_file() -> (TempDir, String, Npub) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let key = NostrKey::generate().unwrap();
    secret::write(&path, &key.to_nsec(), false).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path, key.npub())
}

fn shown(relays: &[RelayUrl]) -> Vec<String> {
    relays.iter().map(ToString::to_string).collect()
}

#[test]
fn flags_alone_are_enough() {
    let config = of_server(parse(&with(&[])).unwrap()).unwrap();
    assert_eq!((config.key.npub(), config.peers), (npub(NPUB), vec![npub(PEER)]));
    assert_eq!((config.limits.max_sessions, config.stun.len()), (10, 2));
    assert_eq!(shown(&config.relays), DEFAULT_RELAYS);
    assert!(config.rules.files().is_empty() && config.rules.load().is_ok());
    let config = of_client(parse(&with(&["-L", "1:h:1"])).unwrap()).unwrap();
    assert_eq!((config.key.npub(), config.peer), (npub(NPUB), npub(PEER)));
    assert_eq!((config.forwards.len(), config.stun.len(), config.relays.len()), (1, 2, 4));
}

#[test]
fn a_file_alone_is_enough() {
    let text = format!(
        "role = \"server\"\nmode = \"nostr\"\n[nostr]\nnsec = \"{NSEC_HEX}\"\n\
         peer_npub = [\"{PEER}\", \"{OTHER_PEER}\"]\nrelay = \"ws://127.0.0.1:1\"\nstun_server = \"a:1\"\n\
         max_sessions = 0\nudp_idle_timeout = 7\nallowed_tcp = [\"10.0.0.0/8\"]\n\
         [nostr.allowed_sources]\ntcp = [\"127.0.0.0/8\"]\n"
    );
    let config = server(&text, &[]).unwrap();
    assert_eq!(config.key.npub(), npub(NPUB));
    assert_eq!(config.peers, [npub(PEER), npub(OTHER_PEER)]);
    assert_eq!(shown(&config.relays), ["ws://127.0.0.1:1"]);
    assert_eq!((config.stun.len(), config.limits.max_sessions), (1, 0));
    assert_eq!(config.limits.udp_idle.as_secs(), 7);
    let text = format!(
        "role = \"client\"\nmode = \"nostr\"\n[nostr]\nnsec = \"{NSEC}\"\n\
         peer_npub = \"{PEER}\"\nsource = \"tcp://a:1\"\ntarget = \"127.0.0.1:1\"\n\
         local_forward = [\"3:c:3\"]\nrelays = [\"wss://a\", \"wss://b/c\"]\n\
         [[nostr.tunnels]]\nsource = \"udp://b:2\"\ntarget = \"127.0.0.1:2\"\n"
    );
    let config = client(&text, &[]).unwrap();
    assert_eq!((config.peer, config.forwards.len()), (npub(PEER), 3));
    assert_eq!(shown(&config.relays), ["wss://a", "wss://b/c"]);
}

#[test]
fn flags_win_and_lists_replace() {
    let both = format!(
        "[nostr]\nnsec = \"{NSEC}\"\npeer_npub = \"{PEER}\"\n\
         relays = [\"wss://a\", \"wss://b\"]\n"
    );
    let peers = format!("[\"{OTHER_PEER}\", \"{PEER}\"]");
    let text = both.replace(&format!("\"{PEER}\""), &peers) + "max_sessions = 3\n";
    let config = server(&text, &["nostr"]).unwrap();
    assert_eq!((config.peers.len(), config.limits.max_sessions), (2, 3));
    let flags = ["--relay", "wss://c", "--peer-npub", PEER];
    let config = server(&text, &[&["nostr", "--max-sessions", "0"][..], &flags].concat()).unwrap();
    assert_eq!((config.peers, config.limits.max_sessions), (vec![npub(PEER)], 0));
    assert_eq!(shown(&config.relays), ["wss://c"]);
    let flags = ["nostr", "--peer-npub", OTHER_PEER, "-L", "1:c:1", "-L", "2:c:2"];
    let text = both + "request_source = \"tcp://x:1\"\ntarget = \"h:1\"\n";
    let config = client(&text, &flags).unwrap();
    assert_eq!((config.peer, config.forwards.len()), (npub(OTHER_PEER), 2));
    assert_eq!(shown(&config.relays), ["wss://a", "wss://b"]);
}

#[test]
fn rules_are_those_of_the_mode_and_read_again() {
    let allowed = |tcp: &str| {
        format!(
            "mode = \"nostr\"\n[manual.allowed_sources]\ntcp = [\"0.0.0.0/0\"]\n\
             [nostr.allowed_sources]\ntcp = [\"{tcp}\"]\n"
        )
    };
    let (_folder, args) = parse_with(&allowed("10.0.0.0/8"), &with(&[]));
    let rules = of_server(args).unwrap().rules;
    assert_eq!(rules.load().unwrap().allowed().tcp, ["10.0.0.0/8".parse().unwrap()]);
    std::fs::write(&rules.files()[0], allowed("127.0.0.0/8")).unwrap();
    assert_eq!(rules.load().unwrap().allowed().tcp, ["127.0.0.0/8".parse().unwrap()]);
    let other = allowed("127.0.0.0/8").replace("mode = \"nostr\"", "mode = \"manual\"");
    std::fs::write(&rules.files()[0], other).unwrap();
    assert!(usage(rules.load()).contains("mode = \"manual\""));
}

#[test]
fn a_key_by_hand_is_not_half_overruled_by_one_in_the_file() {
    let (_folder, path, of_file) = key_file();
    let by_hand = npub(NPUB);
    let (key, file) = (format!("nsec = \"{NSEC}\"\n"), format!("nsec_file = \"{path}\"\n"));
    for (keys, words, wanted) in [
        (key.clone(), &[][..], by_hand),
        (file.clone(), &[], of_file),
        (format!("{key}{file}"), &[], by_hand),
        (key, &["--nsec-file", &path], of_file),
        (file, &["--nsec", NSEC], by_hand),
    ] {
        let words = [&["nostr", "--peer-npub", PEER], words].concat();
        let config = server(&format!("[nostr]\n{keys}"), &words).unwrap();
        assert_eq!(config.key.npub(), wanted, "{words:?}");
    }
}

#[test]
fn the_command_line_wins_over_variables() {
    let name = "config::nostr::tests::the_command_line_wins_over_variables";
    let peers = format!("{PEER},{OTHER_PEER}");
    let variables = [
        ("TUNNEL_RS_NSEC", NSEC),
        ("TUNNEL_RS_PEER_NPUB", peers.as_str()),
        ("TUNNEL_RS_RELAY", "wss://a,ws://b"),
        ("TUNNEL_RS_MAX_SESSIONS", "2"),
        ("TUNNEL_RS_OFFER_FILE", "x"),
        ("TUNNEL_RS_ANSWER_FILE", "x"),
        ("TUNNEL_RS_OFFER_TTL", "60"),
    ];
    with_variables(name, &variables, || {
        let (_folder, path, of_file) = key_file();
        let config = server("[nostr]\nmax_sessions = 5\nrelays = \"wss://c\"\n", &["nostr"]);
        let config = config.unwrap();
        assert_eq!((config.key.npub(), config.peers.len()), (npub(NPUB), 2));
        assert_eq!(shown(&config.relays), ["wss://a", "ws://b"]);
        assert_eq!(config.limits.max_sessions, 2);
        let config = server("", &["nostr", "--nsec-file", &path, "--peer-npub", PEER]).unwrap();
        assert_eq!((config.key.npub(), config.peers.len()), (of_file, 1));
    });
}

#[test]
fn flags_of_manual_mode_are_not_for_this_one() {
    let mut flags = vec![&["--offer-file", "x"][..], &["--answer-file", "x"], &["--qr"]];
    let nostr = "mode = \"nostr\"\n";
    for flag in &flags {
        for error in [usage(server("", &with(flag))), usage(server(nostr, &with(flag)[1..]))] {
            assert_eq!(error, format!("{} is for manual mode, and this is nostr mode", flag[0]));
        }
    }
    flags.push(&["--offer-ttl", "60"]);
    for flag in flags {
        let error = usage(client("", &[&with(flag)[..], &["-L", "1:h:1"]].concat()));
        assert_eq!(error, format!("{} is for manual mode, and this is nostr mode", flag[0]));
    }
}

#[test]
fn what_is_missing_is_named() {
    let error = usage(server("", &["nostr", "--peer-npub", PEER]));
    assert!(error.contains("--nsec-file") && error.contains("generate-nostr-key"), "{error}");
    for text in ["", "[nostr]\npeer_npub = []\n"] {
        let error = usage(server(text, &["nostr", "--nsec", NSEC]));
        assert!(error.contains("--peer-npub"), "{error}");
    }
    assert!(usage(client("", &with(&[]))).contains("--source"));
    let error = usage(client("", &["nostr", "--nsec", NSEC, "-L", "1:h:1"]));
    assert!(error.contains("--peer-npub"), "{error}");
    let error = usage(server("", &["nostr", "--nsec-file", "/no/such", "--peer-npub", PEER]));
    assert!(error.contains("/no/such"), "{error}");
}

#[test]
fn no_error_shows_a_key() {
    let typo = &NSEC.replace("nlfe5", "nlfe6");
    let check = |error: &str, parts: &[&str]| {
        assert!(parts.iter().all(|part| error.contains(part)), "{parts:?}: {error}");
        for key in [&NSEC[5..30], &NSEC_HEX[5..30], &NPUB[5..30]] {
            assert!(!error.contains(key), "{error}");
        }
    };
    for (flags, parts) in [
        (["--nsec", NSEC, "--peer-npub", NSEC], ["--peer-npub", "nsec"]),
        (["--nsec", NSEC, "--peer-npub", typo], ["--peer-npub", "nsec"]),
        (["--nsec", typo, "--peer-npub", PEER], ["--nsec", "secret key"]),
        (["--nsec", NPUB, "--peer-npub", PEER], ["--nsec", "npub"]),
        (["--nsec-file", NSEC, "--peer-npub", PEER], ["--nsec-file", "key"]),
        (["--nsec-file", typo, "--peer-npub", PEER], ["--nsec-file", "key"]),
        (["--nsec-file", NSEC_HEX, "--peer-npub", PEER], ["--nsec-file", "key"]),
    ] {
        check(&usage(server("", &[&["nostr"], &flags[..]].concat())), &parts);
    }
    for (key, value, flag, parts) in [
        ("peer_npub", NSEC, ["--nsec", NSEC], ["peer_npub", "nsec"]),
        ("nsec", typo, ["--peer-npub", PEER], ["nsec", "secret key"]),
        ("nsec_file", NSEC, ["--peer-npub", PEER], ["nsec_file", "key"]),
        ("max_sessions", NSEC, ["--peer-npub", PEER], ["line 2", "kind"]),
        ("allowed_sources", NSEC, ["--peer-npub", PEER], ["line 2", "kind"]),
    ] {
        let text = format!("[nostr]\n{key} = \"{value}\"\n");
        check(&usage(server(&text, &[&["nostr"], &flag[..]].concat())), &parts);
    }
    let list = format!("[nostr]\npeer_npub = [\"{PEER}\", \"{NSEC}\"]\n");
    let error = usage(server(&list, &["nostr", "--nsec", NSEC]));
    check(&error, &["peer_npub, number 2", "nsec"]);
    let twice = ["nostr", "--peer-npub", NSEC, "--peer-npub", NSEC];
    check(&parse::<ClientArgs>(&twice).unwrap_err().to_string(), &["--peer-npub"]);
}

#[test]
fn help_shows_no_key_and_the_flags_by_mode() {
    let name = "config::nostr::tests::help_shows_no_key_and_the_flags_by_mode";
    let variables = [("TUNNEL_RS_NSEC", NSEC), ("TUNNEL_RS_PEER_NPUB", NSEC)];
    with_variables(name, &variables, || {
        for mut command in [command::<ServerArgs>(), command::<ClientArgs>()] {
            let help = command.render_long_help().to_string();
            assert!(!help.contains(NSEC), "{help}");
            let (options, modes) = help.split_once("\nManual mode:\n").unwrap();
            let (manual, nostr) = modes.split_once("\nNostr mode:\n").unwrap();
            for (part, flags) in [
                (options, &["--config", "--stun-server", "--no-stun"][..]),
                (manual, &["--offer-file", "--answer-file", "--qr"]),
                (nostr, &["--nsec ", "--nsec-file", "--peer-npub", "--relay"]),
            ] {
                assert!(flags.iter().all(|flag| part.contains(flag)), "{flags:?}: {help}");
            }
        }
    });
}

#[test]
fn the_peer_is_somebody_else() {
    for own in [NPUB, NPUB_HEX] {
        let words = ["nostr", "--nsec", NSEC, "--peer-npub", own];
        let error = usage(server("", &words));
        assert!(error.contains("--peer-npub") && error.contains("this side itself"), "{error}");
        let error = usage(client("", &[&words[..], &["-L", "1:h:1"]].concat()));
        assert!(error.contains("--peer-npub") && error.contains("this side itself"), "{error}");
    }
    let error = usage(server("", &with(&["--peer-npub", NPUB])));
    assert!(error.contains("--peer-npub, number 2"), "{error}");
}

#[test]
fn a_server_has_peers_and_a_client_one() {
    let config = server("", &with(&["--peer-npub", &format!("{OTHER_PEER},{PEER}")])).unwrap();
    assert_eq!(config.peers, [npub(PEER), npub(OTHER_PEER)]);
    let words = ["nostr", "--nsec", NSEC, "-L", "1:h:1"];
    let listed = |peers: &[&str]| format!("[nostr]\npeer_npub = {peers:?}\n");
    assert_eq!(client(&listed(&[PEER, PEER]), &words).unwrap().peer, npub(PEER));
    let error = usage(client(&listed(&[PEER, OTHER_PEER]), &words));
    assert!(error.contains("peer_npub: 2 keys"), "{error}");
    assert!(parse::<ClientArgs>(&with(&["--peer-npub", OTHER_PEER])).is_err());
}

#[test]
fn relays_are_web_sockets_each_once_and_not_too_many() {
    let relays = |urls: &[&str]| {
        let flags: Vec<_> = urls.iter().flat_map(|url| ["--relay", url]).collect();
        server("", &with(&flags)).map(|config| shown(&config.relays))
    };
    let urls = ["wss://a", "wss://a/", "ws://a", "WSS://A:443", "ws://[::1]:7777/x"];
    assert_eq!(relays(&urls).unwrap(), ["wss://a", "ws://a", "ws://[::1]:7777/x"]);
    for bad in ["", "relay.example", "https://a", "wss://", "wss://a:66666", "relay.example:1"] {
        let error = usage(relays(&["wss://a", bad]));
        assert!(error.contains("--relay") && error.contains(&format!("'{bad}'")), "{error}");
        let error = usage(server(&format!("[nostr]\nrelays = [\"{bad}\"]\n"), &with(&[])));
        assert!(error.contains("relays") && error.contains("wss://"), "{error}");
    }
    let many: Vec<_> = (0..17).map(|n| format!("wss://relay-{n}.example")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    assert_eq!(relays(&many[..16]).unwrap().len(), 16);
    let error = usage(relays(&many));
    assert!(error.contains("17") && error.contains("16"), "{error}");
    assert!(usage(server("[nostr]\nrelays = []\n", &with(&[]))).contains("relays"));
}

#[test]
fn wrong_keys_and_values_are_named() {
    for (line, part) in [
        ("max_session = 3", "max_session"),
        ("request_source = \"tcp://h:1\"", "request_source"),
        ("offer_file = \"x\"", "offer_file"),
        ("udp_idle_timeout = 0", "udp_idle_timeout: 0 is not from 1 to 86400"),
        ("stun_servers = []", "--no-stun"),
    ] {
        let error = usage(server(&format!("[nostr]\n{line}\n"), &with(&[])));
        assert!(error.contains(part), "{line}: {error}");
    }
    for line in ["max_sessions = 3", "allowed_tcp = []", "offer_ttl = 60"] {
        let error = usage(client(&format!("[nostr]\n{line}\n"), &with(&["-L", "1:h:1"])));
        let (key, _) = line.split_once(' ').unwrap();
        assert!(error.contains("line 2") && error.contains(key), "{line}: {error}");
    }
    let error = parse::<ServerArgs>(&["nostr", "--max-sessions=-1"]).err().unwrap();
    assert!(error.to_string().contains("--max-sessions"), "{error}");
}

#[test]
fn the_shipped_examples_show_the_defaults() {
    let flags = &with(&[])[1..];
    let defaults = server("", &with(&[])).unwrap();
    let example = with_mode(SERVER_EXAMPLE, "nostr");
    for text in [&example, &with_every_key(&example)] {
        let (_folder, args) = parse_with(text, flags);
        let config = of_server(args).unwrap();
        assert_eq!((config.stun, config.relays), (defaults.stun.clone(), defaults.relays.clone()));
        assert_eq!(config.limits.max_sessions, defaults.limits.max_sessions);
        assert_eq!(config.limits.udp_idle, defaults.limits.udp_idle);
        assert_eq!(config.rules.load().unwrap().allowed().tcp.len(), 1);
    }
    assert_names_every_key(SERVER_EXAMPLE, "nostr", |text| usage(server(text, flags)));
    let example = with_mode(CLIENT_EXAMPLE, "nostr");
    for (text, forwards) in [(&example, 1), (&with_every_key(&example), 2)] {
        let config = client(text, flags).unwrap();
        assert_eq!((config.stun, config.relays), (defaults.stun.clone(), defaults.relays.clone()));
        assert_eq!(config.forwards.len(), forwards);
    }
    assert_names_every_key(CLIENT_EXAMPLE, "nostr", |text| usage(client(text, flags)));
}
