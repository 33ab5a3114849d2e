use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
};

use super::{START_LIMIT, free_address};
use crate::{
    Result,
    netns::{Namespace, command_in},
    process::Proc,
};

/// A web server (Python's) of a folder's files.
#[derive(Debug)]
pub struct Http {
    /// Where it listens.
    pub address: SocketAddr,
    /// The program.
    pub process: Proc,
}

impl Http {
    /// Starts it.
    pub fn start(namespace: Option<&Namespace>, address: IpAddr, folder: &Path) -> Result<Self> {
        let address = free_address(namespace, address)?;
        let mut command = command_in(namespace, "python3");
        // Unbuffered, or the line that says it listens would stay in the buffer.
        command.args(["-u", "-m", "http.server", &address.port().to_string()]);
        command.args(["--bind", &address.ip().to_string(), "--directory"]).arg(folder);
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line.starts_with("Serving HTTP on"), START_LIMIT)?;
        Ok(Self { address, process })
    }
}
