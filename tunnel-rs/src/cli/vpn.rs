//! `tunnel-rs vpn`: networks joined by WireGuard over a session.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use clap::{ArgMatches, Subcommand};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tunnel_cli::{Failure, Outcome};
use tunnel_vpn::device::TunDevice;
use tunnel_vpn::join::Join;
use tunnel_vpn::lock::ClientLock;
use tunnel_vpn::network::{STATE_DIR, clean_up};

use crate::config::vpn::{VpnClientArgs, VpnServerArgs};

mod client;
mod server;

#[derive(Subcommand, Debug)]
pub(crate) enum VpnCommand {
    /// Give clients addresses in a network, and reach them there
    Server(Box<VpnServerArgs>),
    /// Get an address in a server's network
    Client(Box<VpnClientArgs>),
}

impl VpnCommand {
    /// Of settings that stand for one another, those of the command line leave those of the environment out.
    pub(crate) fn prefer_command_line(&mut self, matches: &ArgMatches) {
        match (self, matches.subcommand()) {
            (Self::Server(args), Some((_, matches))) => args.prefer_command_line(matches),
            (Self::Client(args), Some((_, matches))) => args.prefer_command_line(matches),
            _ => {}
        }
    }
}

pub(super) async fn run(command: VpnCommand) -> Outcome {
    match command {
        VpnCommand::Server(args) => server::run(*args).await,
        VpnCommand::Client(args) => client::run(*args).await,
    }
}

/// Removes what a VPN that was killed has left.
fn clear_leftovers(lock: Option<&ClientLock>) -> Outcome {
    clean_up(Path::new(STATE_DIR), lock).map_err(Failure::failed)
}

/// The ports of sockets.
fn ports(sockets: &[SocketAddr]) -> Vec<u16> {
    sockets.iter().map(SocketAddr::port).collect()
}

/// One after another, for people.
fn list(items: impl IntoIterator<Item = impl Display>) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Carries packets until the device is gone, and cancels the token then. In a task of its own: another one would share its
/// turns with all that it waits for.
fn carry(join: Join, device: &TunDevice) -> (JoinHandle<io::Result<()>>, CancellationToken) {
    let over = CancellationToken::new();
    let (device, guard) = (device.clone(), over.clone().drop_guard());
    let carrying = tokio::spawn(async move {
        let _guard = guard;
        join.run(&device).await
    });
    (carrying, over)
}

/// What it means that packets are carried no more.
async fn device_gone(carrying: JoinHandle<io::Result<()>>, name: &str) -> Outcome {
    let why = match carrying.await {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    Err(Failure::Failed(format!("the device {name} is of no use any more: {why}")))
}
