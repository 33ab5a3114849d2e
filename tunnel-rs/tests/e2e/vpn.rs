//! The VPN: machines joined by it, and what it leaves of them.

mod health;
mod scene;

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::process::Command;

use tunnel_testlab::enter::{bind_udp, connect_tcp, listen_tcp};
use tunnel_testlab::process::{Proc, run};

use self::scene::{Host, Scene};
use crate::support::{OTHER_TOKEN, SIGHUP, SIGKILL, SIGTERM, SOON, TOKEN, TestResult, text};

const SIGINT: i32 = 2;

#[test]
fn both_ends_and_two_clients_reach_each_other() -> TestResult {
    let scene = Scene::new()?;
    // By this route the server's address inside is reached outside, too.
    scene.at(Host::One).add_route("default", "10.77.1.1".parse()?)?;
    let _server = scene.server(&[])?;
    let one = scene.client(Host::One, &[])?;
    let up = one.wait_line(|line| line.contains("VPN up on tun0"), SOON)?;
    let two = scene.client(Host::Two, &[])?;
    for part in ["address 10.0.0.2/24", "routes 10.0.0.0/24", "MTU 1420", "path direct to "] {
        assert!(up.contains(part), "{up}");
    }
    two.wait_line(|line| line.contains("VPN up on tun0: address 10.0.0.3/24"), SOON)?;
    for (from, to) in [
        (Host::One, "10.0.0.1"),
        (Host::Server, "10.0.0.2"),
        (Host::One, "10.0.0.3"),
        (Host::Two, "10.0.0.2"),
    ] {
        scene.ping(from, to, &[])?;
    }
    // The largest that is not split inside, and one that is.
    scene.ping(Host::One, "10.0.0.1", &["-M", "do", "-s", "1392"])?;
    scene.ping(Host::Server, "10.0.0.2", &["-s", "20000"])?;
    // No path leads through what it carries: one to the server's address in there, which works before, is left.
    let output = one.output();
    let (_, last) = output.rsplit_once("direct to ").unwrap_or_default();
    assert!(last.starts_with("10.77."), "{output}");
    Ok(())
}

#[test]
fn tcp_and_udp_pass_whole() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&[])?;
    let client = scene.client(Host::One, &[])?;
    client.wait_line(|line| line.contains("VPN up"), SOON)?;
    let listener = listen_tcp(scene.at(Host::Server), "10.0.0.1:0".parse()?)?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<u64> {
        let (tcp, _) = listener.accept()?;
        std::io::copy(&mut tcp.try_clone()?, &mut &tcp)
    });
    let tcp = connect_tcp(scene.at(Host::One), address, SOON)?;
    tcp.set_read_timeout(Some(SOON))?;
    let sent: Vec<u8> =
        (0..8_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut writing, all) = (tcp.try_clone()?, sent.clone());
    let writer = std::thread::spawn(move || {
        writing.write_all(&all)?;
        writing.shutdown(std::net::Shutdown::Write)
    });
    let mut came = Vec::new();
    (&tcp).read_to_end(&mut came)?;
    assert!(came == sent, "{} of {} bytes came back, or others", came.len(), sent.len());
    assert_eq!(echo.join().unwrap()?, 8_000_000);
    writer.join().unwrap()?;

    let there = bind_udp(scene.at(Host::Server), "10.0.0.1:0".parse()?)?;
    let here = bind_udp(scene.at(Host::One), "10.0.0.2:0".parse()?)?;
    for size in [0, 1, 500, 1100, 1200, 1392, 1393, 9000, 60_000] {
        let packet = vec![size as u8; size];
        passes(&here, &there, &packet)?;
        passes(&there, &here, &packet)?;
    }
    Ok(())
}

/// Sends a packet until it arrives: one may be lost, as on any network.
fn passes(from: &UdpSocket, to: &UdpSocket, packet: &[u8]) -> TestResult {
    to.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
    let mut buffer = vec![0; 65_536];
    let mut last = None;
    for _ in 0..30 {
        from.send_to(packet, to.local_addr()?)?;
        match to.recv(&mut buffer) {
            Ok(length) if buffer[..length] == *packet => return Ok(()),
            // Of an earlier attempt that was late.
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    panic!("a packet of {} bytes never came: {last:?}", packet.len());
}

#[test]
fn clients_are_kept_apart_where_the_server_says_so() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&["--no-client-to-client"])?;
    let mut clients = Vec::new();
    for host in [Host::One, Host::Two] {
        let client = scene.client(host, &[])?;
        client.wait_line(|line| line.contains("VPN up"), SOON)?;
        clients.push(client);
    }
    scene.ping(Host::One, "10.0.0.1", &[])?;
    scene.ping(Host::Two, "10.0.0.1", &[])?;
    assert!(!scene.answers(Host::One, "10.0.0.3"), "a client reached another one");
    Ok(())
}

#[test]
fn both_families_at_once() -> TestResult {
    let scene = Scene::new()?;
    let networks =
        ["--network", "10.9.0.0/16", "--network", "fd99::/64", "--server-ip", "10.9.9.9"];
    let _server = scene.server(&networks)?;
    let client = scene.client(Host::One, &["--mtu", "1300"])?;
    let up = client.wait_line(|line| line.contains("VPN up"), SOON)?;
    assert!(up.contains("server 10.9.9.9, fd99::1") && up.contains("MTU 1300"), "{up}");
    scene.ping(Host::One, "10.9.9.9", &[])?;
    scene.ping(Host::One, "fd99::1", &["-s", "5000"])?;
    Ok(())
}

#[test]
fn routes_are_given_where_the_server_allows_them_and_masquerading_answers() -> TestResult {
    let scene = Scene::new()?;
    // A network behind the server that knows no way back.
    let _server = scene.server(&["--allow-route", "10.77.2.0/24", "--masquerade"])?;
    let client = scene.client(Host::One, &["--route", "10.77.2.0/24"])?;
    let up = client.wait_line(|line| line.contains("VPN up"), SOON)?;
    assert!(up.contains("routes 10.0.0.0/24, 10.77.2.0/24"), "{up}");
    scene.ping(Host::One, Scene::TWO, &[])?;

    let (code, output) = scene.client_exit(Host::Two, TOKEN, &["--route", "10.99.0.0/16"])?;
    assert_eq!(code, 4, "{output}");
    assert!(output.contains("--allow-route") && output.contains("10.99.0.0/16"), "{output}");
    Ok(())
}

#[test]
fn a_default_route_leaves_the_tunnels_own_packets_alone() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&["--allow-route", "0.0.0.0/0", "--masquerade"])?;
    let routes = ["--route", "0.0.0.0/0", "--route", "10.77.1.0/24", "--force-routes"];
    let client = scene.client(Host::One, &routes)?;
    client.wait_line(|line| line.contains("VPN up"), SOON)?;
    scene.ping(Host::One, "10.0.0.1", &["-c", "5"])?;
    // Reached by nobody but the server.
    scene.ping(Host::One, Scene::TWO, &[])?;
    assert!(!client.output().contains("connection lost"), "{}", client.output());
    Ok(())
}

#[test]
fn a_second_client_learns_who_is_the_first() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&[])?;
    let first = scene.client(Host::One, &[])?;
    first.wait_line(|line| line.contains("VPN up"), SOON)?;
    let (code, output) = scene.client_exit(Host::One, TOKEN, &[])?;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains(&format!("process {}", first.pid())), "{output}");
    Ok(())
}

#[test]
fn whoever_is_not_let_in_is_told_why() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&["--network", "10.0.0.0/30"])?;
    let (code, output) = scene.client_exit(Host::One, OTHER_TOKEN, &[])?;
    assert_eq!(code, 3, "{output}");
    let first = scene.client(Host::One, &[])?;
    first.wait_line(|line| line.contains("VPN up"), SOON)?;
    let (code, output) = scene.client_exit(Host::Two, TOKEN, &[])?;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("all 1 addresses of the VPN are taken"), "{output}");
    Ok(())
}

#[test]
fn a_network_that_the_machine_has_is_refused_unless_forced() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&[])?;
    scene.at(Host::One).add_address("eth0", "10.0.0.200".parse()?, 25)?;
    let (code, output) = scene.client_exit(Host::One, TOKEN, &[])?;
    assert_eq!(code, 1, "{output}");
    for part in ["10.0.0.0/24", "10.0.0.128/25", "eth0", "--force-routes"] {
        assert!(output.contains(part), "{part}: {output}");
    }
    let client = scene.client(Host::One, &["--force-routes"])?;
    client.wait_line(|line| line.contains("VPN up"), SOON)?;
    scene.ping(Host::One, "10.0.0.1", &[])
}

#[test]
fn a_token_taken_back_ends_its_vpn() -> TestResult {
    let scene = Scene::new()?;
    let server = scene.server(&[])?;
    let client = scene.client(Host::One, &[])?;
    client.wait_line(|line| line.contains("VPN up"), SOON)?;
    scene.folder.write("token", &format!("{OTHER_TOKEN}\n"))?;
    server.signal(SIGHUP)?;
    assert_eq!(client.wait_exit(SOON)?.code(), Some(3), "{}", client.output());
    Ok(())
}

#[test]
fn the_device_and_the_address_stay_when_the_server_is_restarted() -> TestResult {
    let scene = Scene::new()?;
    let key = scene.folder.path("key");
    run(scene.program(Host::Server, &["generate-server-key", "--output"]).arg(&key), SOON)?;
    let lasting = ["--secret-file", text(&key), "--bind", "0.0.0.0:4433"];
    let server = scene.server(&lasting)?;
    let client = scene.client(Host::One, &[])?;
    client.wait_line(|line| line.contains("VPN up"), SOON)?;
    let index = || -> TestResult<String> {
        let path = ["/sys/class/net/tun0/ifindex"];
        Ok(run(scene.at(Host::One).command("cat").args(path), SOON)?)
    };
    let up_again = || {
        client.wait_lines(
            |lines| {
                let up = |text: &str| text.contains("VPN up on tun0: address 10.0.0.2");
                (lines.iter().filter(|line| up(&line.text)).count() == 2).then_some(())
            },
            SOON,
        )
    };
    let before = index()?;
    server.signal(SIGKILL)?;
    server.wait_exit(SOON)?;
    // The machine has come to a network with the same addresses, and leaves it later.
    scene.at(Host::One).add_address("eth0", "10.0.0.200".parse()?, 25)?;
    let _server = scene.server(&lasting)?;
    client.wait_line(|line| line.contains("overlaps") && line.contains("asking again"), SOON)?;
    scene.at(Host::One).ip(&["address", "delete", "10.0.0.200/25", "dev", "eth0"])?;
    up_again()?;
    assert_eq!(index()?, before, "another device");
    scene.ping(Host::One, "10.0.0.1", &[])
}

#[test]
fn a_key_has_its_address_again_and_one_client() -> TestResult {
    let scene = Scene::new()?;
    let _server = scene.server(&[])?;
    let keyed = |host| -> TestResult<Proc> {
        let key = scene.folder.path("client-key");
        if !key.exists() {
            run(scene.program(host, &["generate-server-key", "--output"]).arg(&key), SOON)?;
        }
        let client = scene.client(host, &["--secret-file", text(&key)])?;
        client.wait_line(|line| line.contains("VPN up on tun0: address 10.0.0.2/24"), SOON)?;
        Ok(client)
    };
    let first = keyed(Host::One)?;
    first.signal(SIGTERM)?;
    first.wait_exit(SOON)?;
    // Another one does not get the address that has just been left.
    let other = scene.client(Host::Two, &[])?;
    other.wait_line(|line| line.contains("VPN up on tun0: address 10.0.0.3/24"), SOON)?;
    let again = keyed(Host::One)?;
    scene.ping(Host::Two, "10.0.0.2", &[])?;
    other.signal(SIGTERM)?;
    other.wait_exit(SOON)?;
    // Whoever comes with the key of one that is in takes its place.
    let _thief = keyed(Host::Two)?;
    assert_eq!(again.wait_exit(SOON)?.code(), Some(1), "{}", again.output());
    assert!(again.output().contains("--secret-file"), "{}", again.output());
    scene.ping(Host::Two, "10.0.0.1", &[])
}

#[test]
fn a_device_that_is_taken_away_ends_the_program() -> TestResult {
    let scene = Scene::new()?;
    let server = scene.server(&[])?;
    let client = scene.client(Host::One, &[])?;
    client.wait_line(|line| line.contains("VPN up"), SOON)?;
    for (host, process) in [(Host::One, client), (Host::Server, server)] {
        scene.at(host).ip(&["link", "delete", "tun0"])?;
        assert_eq!(process.wait_exit(SOON)?.code(), Some(1), "{}", process.output());
        assert!(process.output().contains("the device tun0"), "{}", process.output());
    }
    Ok(())
}

#[test]
fn a_server_without_a_vpn_is_told_from_one_that_has_it() -> TestResult {
    let scene = Scene::new()?;
    let mut command = scene.program(Host::Server, &["server", "--auth-tokens", TOKEN]);
    let server = Proc::spawn(&mut command)?;
    let ticket = server.wait_value("Ticket: ", SOON)?;
    let (code, output) = scene.client_exit_with(&ticket, Host::One)?;
    assert_eq!(code, 1, "{output}");
    assert!(output.contains("tunnel-rs vpn server"), "{output}");
    Ok(())
}

#[test]
#[cfg(all(feature = "relay", feature = "test-utils"))]
fn a_relay_carries_it_whatever_is_routed_into_it() -> TestResult {
    let scene = Scene::new()?;
    let url = "http://10.77.1.1:8080";
    let state = scene.folder.path("relay");
    let mut relay = scene.program(Host::Server, &["relay", "--http", "--listen", "10.77.1.1:8080"]);
    let relay = Proc::spawn(relay.arg("--state-dir").arg(&state))?;
    relay.wait_value("Relay: ", SOON)?;
    let relayed = ["--relay-url", url, "--relay-only"];
    let routes = ["--allow-route", "0.0.0.0/0", "--masquerade"];
    let _server = scene.server(&[&relayed[..], &routes].concat())?;
    // The network of the relay, too.
    let routes = ["--route", "0.0.0.0/0", "--route", "10.77.1.0/24", "--force-routes"];
    let client = scene.client(Host::One, &[&relayed[..], &routes].concat())?;
    let up = client.wait_line(|line| line.contains("VPN up"), SOON)?;
    assert!(up.contains("path through relay"), "{up}");
    scene.ping(Host::One, "10.0.0.1", &["-s", "1392"])?;
    scene.ping(Host::One, "10.0.0.1", &["-s", "20000"])?;
    scene.ping(Host::One, Scene::TWO, &[])
}

fn leaves_nothing(signal: i32) -> TestResult {
    let scene = Scene::new()?;
    scene.wait_own_addresses()?;
    let state = |host| scene.at(host).network_state();
    let before = [state(Host::Server)?, state(Host::One)?];
    let server =
        ["--network", "10.0.0.0/24,fd99::/64", "--allow-route", "10.77.2.0/24", "--masquerade"];
    let client = ["--route", "10.77.2.0/24"];
    // Whatever the first two have left is gone when the next two have ended.
    let last = if signal == SIGKILL { SIGINT } else { signal };
    for signal in [signal, last] {
        let server = scene.server(&server)?;
        let client = scene.client(Host::One, &client)?;
        client.wait_line(|line| line.contains("VPN up"), SOON)?;
        scene.ping(Host::One, Scene::TWO, &[])?;
        assert_ne!(state(Host::One)?, before[1]);
        for process in [client, server] {
            process.signal(signal)?;
            let code = process.wait_exit(SOON)?.code();
            assert!(signal == SIGKILL || code == Some(0), "{}", process.output());
        }
    }
    assert_eq!(state(Host::Server)?, before[0]);
    assert_eq!(state(Host::One)?, before[1]);
    Ok(())
}

#[test]
fn an_interrupted_vpn_leaves_nothing() -> TestResult {
    leaves_nothing(SIGINT)
}

#[test]
fn a_terminated_vpn_leaves_nothing() -> TestResult {
    leaves_nothing(SIGTERM)
}

#[test]
fn what_a_killed_vpn_leaves_is_gone_after_the_next_one() -> TestResult {
    leaves_nothing(SIGKILL)
}

#[test]
fn without_root_it_says_what_is_missing() -> TestResult {
    let scene = Scene::new()?;
    let mut command: Command = scene.at(Host::One).command("setpriv");
    command.args(["--reuid", "65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]);
    let program = scene.folder.path("tunnel-rs");
    // Where the program was built others may not look.
    std::fs::copy(crate::support::TUNNEL_RS, &program)?;
    scene.open_folder()?;
    command.arg(&program).args(["vpn", "server", "--auth-tokens", TOKEN]);
    let process = Proc::spawn(&mut command)?;
    assert_eq!(process.wait_exit(SOON)?.code(), Some(1), "{}", process.output());
    assert!(process.output().contains("root"), "{}", process.output());
    Ok(())
}
