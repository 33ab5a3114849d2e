use std::net::{IpAddr, SocketAddr};

use tempfile::TempDir;

use super::{START_LIMIT, folder, free_address};
use crate::{
    Result,
    netns::{Namespace, command_in},
    process::Proc,
};

/// A Redis server that keeps everything in memory.
#[derive(Debug)]
pub struct Redis {
    /// Where it listens.
    pub address: SocketAddr,
    /// The program.
    pub process: Proc,
    _folder: TempDir,
}

impl Redis {
    /// Starts it, empty.
    pub fn start(namespace: Option<&Namespace>, address: IpAddr) -> Result<Self> {
        let address = free_address(namespace, address)?;
        let folder = folder()?;
        let mut command = command_in(namespace, "redis-server");
        command.args(["--bind", &address.ip().to_string()]);
        command.args(["--port", &address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.args(["--protected-mode", "no", "--dir"]).arg(folder.path());
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line.contains("Ready to accept connections"), START_LIMIT)?;
        Ok(Self { address, process, _folder: folder })
    }
}
