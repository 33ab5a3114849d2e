use clap::Parser;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: RelayArgs,
}

fn resolve(text: &str, flags: &[&str]) -> Outcome<RelayConfig> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    std::fs::write(&path, text).unwrap();
    let config = path.to_str().unwrap();
    let line = ["relay", "--config", config].into_iter().chain(flags.iter().copied());
    Line::try_parse_from(line).unwrap().args.resolve()
}

fn refused(text: &str, flags: &[&str]) -> String {
    match resolve(text, flags) {
        Err(Failure::Usage(text)) => text,
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_word_it_makes_its_own_certificate() {
    let config = resolve("", &[]).unwrap();
    assert!(matches!(config.tls, TlsSource::Own));
    assert_eq!(config.listen.port(), 443);
    assert_eq!(config.access, AccessSource::Everybody);
    assert_eq!((config.client_rate, config.address_connections), (None, 1000));
    assert_eq!((config.metrics, config.dns), (None, None));
    let plain = resolve("", &["--http"]).unwrap();
    assert_eq!(plain.listen.port(), 80);
}

#[test]
fn the_file_says_the_same_as_flags_and_flags_win() {
    let text = "role = \"relay\"\n[relay]\nlisten = \"127.0.0.1:1\"\nacme = \"a.example\"\n\
                acme_contact = \"x@y\"\nclient_rate = 5000\naddress_connections = 0\n\
                relay_token_file = \"/t\"\nstate_dir = \"/s\"\n";
    let config = resolve(text, &[]).unwrap();
    let TlsSource::Acme { names, contact, .. } = &config.tls else { panic!("{config:?}") };
    assert_eq!((&names[..], contact.as_deref()), (&["a.example".to_owned()][..], Some("x@y")));
    assert_eq!(config.public_url.unwrap().as_str(), "https://a.example:1/");
    assert_eq!((config.client_rate, config.address_connections), (NonZeroU32::new(5000), 0));
    assert_eq!(config.access, AccessSource::Tokens("/t".into()));
    let flags = ["--http", "--client-rate", "0", "--allowed-ids-file", "/i"];
    let config = resolve(text, &flags).unwrap();
    assert!(matches!(config.tls, TlsSource::Plain(None)));
    assert_eq!(config.client_rate, None);
    assert_eq!(config.access, AccessSource::Ids("/i".into()));
}

/// Every key that the example shows, one at a time where they exclude each other.
#[test]
fn the_example_is_understood_with_every_key() {
    const EXAMPLE: &str = include_str!("../../../../relay.toml.example");
    assert!(resolve(EXAMPLE, &[]).is_ok());
    let mut keys = 0;
    for line in EXAMPLE.lines().filter(|line| line.starts_with('#') && !line.starts_with("# ")) {
        let Some(line) = line.strip_prefix('#').filter(|line| line.contains('=')) else {
            continue;
        };
        let mut text = format!("[relay]\n{line}\n");
        for (key, with) in [
            ("tls_key", "tls_cert = \"/c\""),
            ("tls_cert", "tls_key = \"/k\""),
            ("acme_", "acme = \"a.example\""),
            ("dns_origin", "dns_listen = \"[::]:53\""),
        ] {
            if line.starts_with(key) {
                text.push_str(with);
            }
        }
        assert!(resolve(&text, &[]).is_ok(), "{line}: {:?}", resolve(&text, &[]));
        keys += 1;
    }
    assert_eq!(keys, 17);
}

#[test]
fn a_file_of_another_role_is_called_that() {
    let error = refused("role = \"server\"\n[iroh]\nmax_sessions = 3\n", &[]);
    assert!(error.contains("role = \"server\""), "{error}");
    assert!(refused("[relay]\nlisen = \"x\"\n", &[]).contains("lisen"));
}

#[test]
fn a_token_is_not_asked_for_in_the_clear() {
    let token = ["--http", "--relay-token-file", "/t"];
    let with = |more: &[&'static str]| [&token[..], more].concat();
    for listen in ["[::]:80", "0.0.0.0:80", "203.0.113.1:80"] {
        assert!(refused("", &with(&["--listen", listen])).contains("plain HTTP"), "{listen}");
    }
    let behind = ["--listen", "127.0.0.1:8080", "--public-url", "https://relay.example"];
    assert!(resolve("", &with(&behind)).is_ok());
    assert!(resolve("", &with(&["--listen", "192.168.1.1:80"])).is_ok());
    let open = ["--listen", "10.0.0.1:80", "--public-url", "http://relay.example"];
    assert!(refused("", &with(&open)).contains("plain HTTP"));
    assert!(resolve("", &["--relay-token-file", "/t"]).is_ok(), "TLS");
}

#[test]
fn what_does_not_go_together_is_refused() {
    assert!(refused("", &["--tls-cert", "/c"]).contains("--tls-key"));
    assert!(refused("", &["--tls-key", "/k"]).contains("--tls-cert"));
    assert!(refused("[relay]\ntls_key = \"/k\"\n", &[]).contains("--tls-cert"));
    assert!(refused("[relay]\ntls_cert = \"/c\"\n", &["--acme-ca", "/a"]).contains("--acme NAME"));
    assert!(refused("[relay]\nacme_contact = \"x@y\"\n", &[]).contains("--acme-contact"));
    // What a file says of a certificate goes with it where flags say that there is another one.
    let files = "[relay]\ntls_cert = \"/c\"\ntls_key = \"/k\"\n";
    assert!(matches!(resolve(files, &["--http"]).unwrap().tls, TlsSource::Plain(None)));
    assert!(resolve(files, &["--tls-key", "/other"]).is_ok());
    assert!(refused("", &["--acme", "a.example", "--http"]).contains("--acme"));
    assert!(refused("", &["--dns-origin", "x"]).contains("--dns-listen"));
    let both = ["--allowed-ids-file", "/i", "--relay-token-file", "/t"];
    assert!(refused("", &both).contains("either"));
    assert!(refused("", &["--public-url", "https://h/relay"]).contains("root"));
    assert!(refused("", &["--public-url", "http://h"]).contains("HTTPS"));
    assert!(refused("", &["--public-url", "ftp://h"]).contains("ftp"));
}

#[test]
fn urls_leave_the_usual_port_out() {
    let url = |tls, ip: &str, port| url_of(tls, ip.parse().unwrap(), port).unwrap().to_string();
    assert_eq!(url(&TlsSource::Own, "192.0.2.1", 443), "https://192.0.2.1/");
    assert_eq!(url(&TlsSource::Own, "2001:db8::1", 8443), "https://[2001:db8::1]:8443/");
    assert_eq!(url(&TlsSource::Plain(None), "::ffff:10.0.0.1", 80), "http://10.0.0.1/");
}
