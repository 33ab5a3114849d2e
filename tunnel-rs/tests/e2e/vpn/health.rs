//! What a client of the VPN tells of itself.

use std::net::SocketAddr;

use tunnel_testlab::enter::connect_tcp;
use tunnel_testlab::process::{Proc, run};

use super::scene::{Host, Scene};
use crate::support::{SIGTERM, SOON, TestResult, get_over, text};

const SIGCONT: i32 = 18;
const SIGSTOP: i32 = 19;

#[test]
fn a_client_is_ready_while_its_vpn_is_open() -> TestResult {
    let scene = Scene::new()?;
    let key = scene.folder.path("key");
    run(scene.program(Host::Server, &["generate-server-key", "--output"]).arg(&key), SOON)?;
    let lasting =
        ["--secret-file", text(&key), "--bind", "0.0.0.0:4433", "--network", "10.0.0.0/30"];
    let server = scene.server(&lasting)?;
    let client = scene.client(Host::One, &["--health-addr", "127.0.0.1:0"])?;
    wait_answer(&scene, &client, "ok\n")?;

    // When the server comes back, another client takes the only address while this one stands still.
    server.signal(SIGTERM)?;
    server.wait_exit(SOON)?;
    wait_answer(&scene, &client, "no session with the server\n")?;
    client.signal(SIGSTOP)?;
    let _server = scene.server(&lasting)?;
    let other = scene.client(Host::Two, &[])?;
    other.wait_line(|line| line.contains("VPN up"), SOON)?;
    client.signal(SIGCONT)?;
    wait_answer(&scene, &client, "the VPN is not open\n")
}

fn wait_answer(scene: &Scene, client: &Proc, answer: &str) -> TestResult {
    let address: SocketAddr = client.wait_value("Health: http://", SOON)?.parse()?;
    let answers = || {
        let mut tcp = connect_tcp(scene.at(Host::One), address, SOON).ok()?;
        let told = get_over(&mut tcp, "/readyz").ok()?;
        told.ends_with(answer).then_some(())
    };
    Ok(client.wait_for(answers, SOON)?)
}
