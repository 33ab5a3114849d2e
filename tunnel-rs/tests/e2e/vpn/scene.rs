//! A server and two clients, each on a network of its own with the server as its only neighbour.

use std::process::Command;
use std::time::{Duration, Instant};

use tunnel_testlab::netns::{Interface, Namespace, connect};
use tunnel_testlab::process::{Proc, run};

use crate::support::{Folder, SOON, TOKEN, TUNNEL_RS, TestResult, text};

/// One of the machines.
#[derive(Clone, Copy)]
pub(super) enum Host {
    Server,
    One,
    Two,
}

pub(super) struct Scene {
    server: Namespace,
    one: Namespace,
    two: Namespace,
    pub(super) folder: Folder,
    ticket: std::cell::RefCell<String>,
}

impl Scene {
    /// The address of the second client's machine outside the VPN.
    pub(super) const TWO: &str = "10.77.2.2";

    pub(super) fn new() -> TestResult<Self> {
        let scene = Self {
            server: Namespace::new("server")?,
            one: Namespace::new("one")?,
            two: Namespace::new("two")?,
            folder: Folder::new()?,
            ticket: std::cell::RefCell::default(),
        };
        for (number, client) in [(1, &scene.one), (2, &scene.two)] {
            let name = format!("eth{number}");
            let near = Interface { namespace: &scene.server, name: &name };
            connect(near, Interface { namespace: client, name: "eth0" })?;
            scene.server.add_address(&name, format!("10.77.{number}.1").parse()?, 24)?;
            client.add_address("eth0", format!("10.77.{number}.2").parse()?, 24)?;
        }
        Ok(scene)
    }

    /// Waits until the kernel has given each interface the address that it gives by itself (RFC 4862 section 5.3).
    pub(super) fn wait_own_addresses(&self) -> TestResult {
        let deadline = Instant::now() + SOON;
        for (host, interfaces) in [(Host::Server, 2), (Host::One, 1), (Host::Two, 1)] {
            let mut list = self.at(host).command("ip");
            list.args(["-6", "-o", "address", "show", "scope", "link"]);
            while run(&mut list, SOON)?.lines().count() < interfaces {
                assert!(Instant::now() < deadline, "an interface has no address of its own");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }

    pub(super) fn at(&self, host: Host) -> &Namespace {
        match host {
            Host::Server => &self.server,
            Host::One => &self.one,
            Host::Two => &self.two,
        }
    }

    /// The program on one of the machines, with nothing of the test's environment that could rule it.
    pub(super) fn program(&self, host: Host, arguments: &[&str]) -> Command {
        let mut command = self.at(host).command(TUNNEL_RS);
        command.args(arguments).env_remove("RUST_LOG").env("NO_COLOR", "1");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TUNNEL_RS_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// A running server.
    pub(super) fn server(&self, arguments: &[&str]) -> TestResult<Proc> {
        let mut command = self.program(Host::Server, &["vpn", "server", "--auth-tokens-file"]);
        let server = Proc::spawn(command.arg(self.folder.path("token")).args(arguments))?;
        server.wait_line(|line| line == "Waiting for clients to connect...", SOON)?;
        let id = server.wait_value("VPN Server Node ID: ", SOON)?;
        assert_eq!(id.len(), 64, "{id}");
        let command = server.wait_value("Client: tunnel-rs vpn client --ticket ", SOON)?;
        let ticket = command.split(' ').next().unwrap_or_default();
        ticket.clone_into(&mut self.ticket.borrow_mut());
        Ok(server)
    }

    fn client_command(&self, host: Host, token: &str, arguments: &[&str]) -> Command {
        let ticket = self.ticket.borrow();
        let mut command = self.program(host, &["vpn", "client", "--ticket", &ticket]);
        command.args(["--auth-token", token]).args(arguments);
        command
    }

    /// A client that has been started.
    pub(super) fn client(&self, host: Host, arguments: &[&str]) -> TestResult<Proc> {
        Ok(Proc::spawn(&mut self.client_command(host, TOKEN, arguments))?)
    }

    /// A client's exit code and everything that it printed.
    pub(super) fn client_exit(
        &self,
        host: Host,
        token: &str,
        arguments: &[&str],
    ) -> TestResult<(i32, String)> {
        let process = Proc::spawn(&mut self.client_command(host, token, arguments))?;
        let code = process.wait_exit(SOON)?.code().unwrap_or(-1);
        Ok((code, process.output()))
    }

    /// The same of a client of another server.
    pub(super) fn client_exit_with(&self, ticket: &str, host: Host) -> TestResult<(i32, String)> {
        ticket.clone_into(&mut self.ticket.borrow_mut());
        self.client_exit(host, TOKEN, &[])
    }

    /// Waits for an answer to a ping; those before may be lost.
    pub(super) fn ping(&self, from: Host, to: &str, arguments: &[&str]) -> TestResult {
        let mut command = self.at(from).command("ping");
        command.args(["-n", "-i", "0.2", "-c", "3", "-w", "20"]).args(arguments).arg(to);
        run(&mut command, SOON).map(drop)?;
        Ok(())
    }

    /// Whether anything at all answers there within a second.
    pub(super) fn answers(&self, from: Host, to: &str) -> bool {
        let mut command = self.at(from).command("ping");
        run(command.args(["-n", "-i", "0.2", "-c", "3", "-w", "1", to]), SOON).is_ok()
    }

    /// Lets others read the folder.
    pub(super) fn open_folder(&self) -> TestResult {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.0.path();
        assert!(!text(path).is_empty());
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}
