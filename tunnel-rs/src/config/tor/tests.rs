use clap::Parser;
use tunnel_iroh::{RelayServer, SecretKey};

use super::*;

const ONION: &str = "http://2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion";
const PROXY: &str = "socks5h://127.0.0.1:9050";

/// What flags and a file of the server's come to.
fn resolve(file: &str, flags: &[&str]) -> Outcome<EndpointConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.toml");
    std::fs::write(&path, file).unwrap();
    let line =
        ["server", "--config", path.to_str().unwrap()].into_iter().chain(flags.iter().copied());
    Server::try_parse_from(line).unwrap().args.resolve().map(|config| config.host.endpoint)
}

#[derive(Parser)]
struct Server {
    #[command(flatten)]
    args: crate::config::server::ServerArgs,
}

fn refusal(outcome: Outcome<EndpointConfig>) -> String {
    match outcome {
        Err(Failure::Usage(text)) => text,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("accepted"),
    }
}

#[test]
fn flags_and_keys_mean_the_same_and_flags_win() {
    let tor = |file: &str, flags: &[&str]| resolve(file, flags).unwrap().tor;
    let flags = ["--socks5-proxy", PROXY, "--relay-url", ONION, "--tor-only"];
    let given = tor("", &flags).unwrap();
    assert!(given.only && given.proxy.to_string() == PROXY);
    let file = format!(
        "[iroh]\nsocks5_proxy = \"{PROXY}\"\nrelay_urls = [\"{ONION}\"]\ntor_only = true\n"
    );
    assert_eq!(tor(&file, &[]), Some(given));
    assert!(!tor(&file, &["--tor-only=false"]).unwrap().only);
    let other = tor(&file, &["--socks5-proxy", "socks5h://127.0.0.1:9150"]).unwrap();
    assert_eq!(other.proxy.address().port(), 9150);
    assert_eq!(tor("", &[]), None);
}

#[test]
fn what_does_not_go_with_tor_is_refused() {
    let with = |more: &[&str]| {
        let flags = [&["--socks5-proxy", PROXY][..], more].concat();
        refusal(resolve("", &flags))
    };
    assert!(with(&[]).contains("--relay-url http://NAME.onion"));
    assert!(with(&["--relay-url", "https://relay.example"]).contains("not an onion service"));
    assert!(with(&["--relay-url", &ONION.replace("http:", "https:")]).contains("must be http"));
    let two = ["--relay-url", ONION, "--relay-url", "http://192.0.2.1"];
    assert!(with(&two).contains("192.0.2.1"));
    let dns = ["--relay-url", ONION, "--dns-server", "https://dns.example"];
    assert!(with(&dns).contains("excludes --dns-server"));
    for direct in [["--bind", "0.0.0.0:1"], ["--external-address", "192.0.2.1:1"]] {
        let flags = [&["--relay-url", ONION, "--tor-only"][..], &direct].concat();
        assert!(with(&flags).contains(direct[0]));
    }
}

#[test]
fn tor_is_needed_for_what_only_tor_reaches() {
    assert!(refusal(resolve("", &["--relay-url", ONION])).contains("give --socks5-proxy"));
    assert!(refusal(resolve("", &["--tor-only"])).contains("--socks5-proxy"));
    let file = "[iroh]\ntor_only = true\n";
    assert!(refusal(resolve(file, &[])).contains("--socks5-proxy"));
    // A host that merely looks like one would be asked of DNS too.
    let flags = ["--relay-url", "https://relay.onion"];
    assert!(refusal(resolve("", &flags)).contains("give --socks5-proxy"));
}

#[test]
fn a_bad_proxy_is_named_by_its_flag_or_key_and_not_repeated() {
    let bad = "socks5h://user:secret@127.0.0.1:9050";
    let text = refusal(resolve("", &["--socks5-proxy", bad]));
    assert!(text.starts_with("--socks5-proxy: ") && !text.contains("secret"), "{text}");
    let text = refusal(resolve(&format!("[iroh]\nsocks5_proxy = \"{bad}\"\n"), &[]));
    assert!(text.starts_with("socks5_proxy: ") && !text.contains("secret"), "{text}");
}

#[test]
fn the_relays_of_a_ticket_count_too() {
    let ticket = |relay: &str| Ticket {
        id: SecretKey::generate().id(),
        addresses: Vec::new(),
        relays: vec![relay.parse().unwrap()],
        quic_ports: vec![None],
        discovery: None,
        relay_pins: Vec::new(),
        own_infrastructure: true,
    };
    let onion = RelayServer { url: ONION.parse().unwrap(), quic_port: None };
    let mut config = EndpointConfig { relays: Relays::Own(vec![onion]), ..Default::default() };
    config.tor = Some(Tor { proxy: PROXY.parse().unwrap(), only: false });
    assert!(require_agreement(&config, Some(&ticket(ONION))).is_ok());
    let other = require_agreement(&config, Some(&ticket("https://relay.example")));
    assert!(matches!(other, Err(Failure::Usage(text)) if text.contains("relay.example")));
    let without = EndpointConfig::default();
    let other = require_agreement(&without, Some(&ticket(ONION)));
    assert!(matches!(other, Err(Failure::Usage(text)) if text.contains("give --socks5-proxy")));
}
