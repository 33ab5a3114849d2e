//! Settings from files that variables name.

#[cfg(feature = "vpn")]
use std::process::Command;

use tunnel_testlab::process::Proc;
#[cfg(feature = "vpn")]
use tunnel_testlab::process::run;

use crate::support::{
    Folder, SOON, TestResult, ask, connect, own_network, server, shouting_service, started,
    tunnel_rs,
};

#[test]
fn values_come_from_files_that_variables_name() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let networks = folder.write("networks", "10.0.0.0/8\n127.0.0.0/8\n")?;
    let mut command = tunnel_rs(&["server"]);
    command.env("TUNNEL_RS_AUTH_TOKENS_FILE", folder.path("token"));
    command.env("TUNNEL_RS_ALLOWED_TCP_FILE", &networks);
    let process = Proc::spawn(&mut command)?;
    let ticket = process.wait_value("Ticket: ", SOON)?;

    let ticket = folder.write("ticket", &format!("{ticket}\n"))?;
    let source = folder.write("source", &shouting_service()?)?;
    let target = folder.write("target", "127.0.0.1:0\n")?;
    let mut command = tunnel_rs(&["client"]);
    command.env("TUNNEL_RS_AUTH_TOKEN_FILE", folder.path("token"));
    command.env("TUNNEL_RS_TICKET_FILE", &ticket).env("TUNNEL_RS_SOURCE_FILE", &source);
    command.env("TUNNEL_RS_TARGET_FILE", &target);
    let client = started(&mut command, 1)?;
    ask(&mut connect(client.targets[0])?, "hello")
}

#[cfg(feature = "vpn")]
#[test]
fn the_vpn_takes_values_from_such_files_too() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let network = folder.write("network", "10.55.0.0/24\n")?;
    let mut command = tunnel_rs(&["vpn", "server"]);
    command.env("TUNNEL_RS_AUTH_TOKENS_FILE", folder.path("token"));
    command.env("TUNNEL_RS_NETWORK_FILE", &network);
    let server = Proc::spawn(&mut command)?;
    server.wait_line(|line| line == "Waiting for clients to connect...", SOON)?;
    let addresses = run(Command::new("ip").args(["address", "show", "dev", "tun0"]), SOON)?;
    assert!(addresses.contains("10.55.0.1/24"), "{addresses}");

    let mut command = tunnel_rs(&["vpn", "client"]);
    command.env("TUNNEL_RS_MTU_FILE", folder.path("missing"));
    let client = Proc::spawn(&mut command)?;
    assert_eq!(client.wait_exit(SOON)?.code(), Some(2));
    let output = client.output();
    assert!(output.contains("TUNNEL_RS_MTU_FILE: cannot read"), "{output}");
    Ok(())
}

#[test]
fn a_value_and_its_file_at_once_are_an_error_that_names_both() -> TestResult {
    own_network()?;
    let folder = Folder::new()?;
    let server = server(&folder, &[])?;
    let ticket = folder.write("ticket", &server.ticket)?;
    let missing = folder.path("missing");
    for (value, file, parts) in [
        (Some(&*server.ticket), &ticket, ["TUNNEL_RS_TICKET and", "TUNNEL_RS_TICKET_FILE"]),
        (None, &missing, ["TUNNEL_RS_TICKET_FILE: cannot read", "missing"]),
    ] {
        let mut command = tunnel_rs(&["client", "-L", "0:127.0.0.1:1"]);
        command.env("TUNNEL_RS_TICKET_FILE", file);
        command.envs(value.map(|value| ("TUNNEL_RS_TICKET", value)));
        let process = Proc::spawn(&mut command)?;
        assert_eq!(process.wait_exit(SOON)?.code(), Some(2));
        let output = process.output();
        assert!(parts.iter().all(|part| output.contains(part)), "{output}");
    }
    Ok(())
}

#[test]
fn a_flag_leaves_the_file_of_the_variable_out() -> TestResult {
    let folder = Folder::new()?;
    let missing = folder.path("missing.toml");
    let run = |flags: &[&str]| -> TestResult<String> {
        let mut command = tunnel_rs(&["client"]);
        command.args(flags).env("TUNNEL_RS_CONFIG", &missing).env("HOME", folder.0.path());
        let process = Proc::spawn(&mut command)?;
        assert_eq!(process.wait_exit(SOON)?.code(), Some(2), "{}", process.output());
        Ok(process.output())
    };
    assert!(run(&[])?.contains("missing.toml"));
    let output = run(&["--default-config"])?;
    assert!(output.contains(".config/tunnel-rs/client.toml"), "{output}");
    let output = run(&["--default-config", "-c", "x"])?;
    assert!(output.contains("--config") && output.contains("--default-config"), "{output}");
    Ok(())
}
