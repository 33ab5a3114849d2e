//! Servers that are found, and infrastructure that is missing.

#[cfg(feature = "test-utils")]
use tunnel_testlab::relay::Relay;

use crate::support::{
    Folder, SOON, TestResult, ask, client, connect, own_network, server, shouting_service,
};

#[test]
fn a_server_on_this_machine_is_found_by_its_id_alone() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &["--allowed-tcp", "127.0.0.0/8"])?;
    let client = client(&folder, &["-n", &server.id], &[shouting_service()?])?.open()?;
    ask(&mut connect(client.targets[0])?, "found")
}

#[test]
fn missing_relays_are_said_once_and_change_nothing_else() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &["--allowed-tcp", "127.0.0.0/8"])?;
    let client = client(&folder, &["--ticket", &server.ticket], &[shouting_service()?])?.open()?;
    ask(&mut connect(client.targets[0])?, "works")?;
    let output = server.process.output();
    assert_eq!(output.matches("relays do not answer").count(), 1, "{output}");
    Ok(())
}

#[test]
fn an_address_that_the_server_cannot_see_is_advertised() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let arguments = ["--external-address", "192.0.2.99:4711", "--bind", "127.0.0.1:0"];
    let server = server(&folder, &arguments)?;
    let ticket: tunnel_iroh::Ticket = server.ticket.parse()?;
    assert!(ticket.addresses.contains(&"192.0.2.99:4711".parse()?), "{ticket:?}");
    Ok(())
}

#[test]
fn own_infrastructure_travels_in_the_ticket() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let pin = format!("sha256:{}", "0a".repeat(32));
    let arguments = [
        "--relay-url",
        "https://127.0.0.1:9",
        "--relay-ca",
        &pin,
        "--dns-server",
        "https://127.0.0.1:9/pkarr",
    ];
    let server = server(&folder, &arguments)?;
    let ticket: tunnel_iroh::Ticket = server.ticket.parse()?;
    assert!(ticket.own_infrastructure);
    assert_eq!(ticket.relays.len(), 1);
    assert_eq!(ticket.relay_pins[0].to_string(), pin);
    assert_eq!(ticket.discovery.unwrap().as_str(), "https://127.0.0.1:9/pkarr");
    server.process.wait_line(|line| line.contains("your relays do not answer"), SOON)?;
    Ok(())
}

#[cfg(feature = "test-utils")]
#[test]
fn a_relay_with_a_pinned_certificate_carries_what_cannot_go_directly() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let relay = Relay::start(None, std::net::Ipv4Addr::LOCALHOST.into())?;
    let arguments = [
        "--relay-only",
        "--relay-url",
        &relay.url,
        "--relay-ca",
        &relay.pin,
        "--allowed-tcp",
        "127.0.0.0/8",
    ];
    let server = server(&folder, &arguments)?;
    server.process.wait_line(|line| line.contains("relay") && line.contains("answers"), SOON)?;
    let source = [shouting_service()?];
    let arguments = ["--ticket", &server.ticket, "--relay-only"];
    let client = client(&folder, &arguments, &source)?.open()?;
    ask(&mut connect(client.targets[0])?, "relayed")?;
    client.process.wait_line(|line| line.contains("through relay"), SOON)?;
    Ok(())
}

#[cfg(feature = "test-utils")]
#[test]
fn a_relay_with_another_certificate_is_not_trusted() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let relay = Relay::start(None, std::net::Ipv4Addr::LOCALHOST.into())?;
    let pin = format!("sha256:{}", "0a".repeat(32));
    let arguments = ["--relay-only", "--relay-url", &relay.url, "--relay-ca", &pin];
    let server = server(&folder, &arguments)?;
    server.process.wait_line(|line| line.contains("your relays do not answer"), SOON)?;
    assert!(!server.process.output().contains("answers"), "{}", server.process.output());
    Ok(())
}
