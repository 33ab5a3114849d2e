//! Programs that people use, run on one host against an address that leads to a service of another one.

use std::{
    ffi::OsStr,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Error, Result, files,
    netns::Namespace,
    process::run,
    services::{Dns, Sshd},
};

/// For a program that asks one question.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// For a program that carries up to a gibibyte, in an unoptimised build.
const TRANSFER_LIMIT: Duration = Duration::from_secs(600);

/// A mebibyte.
pub const MIB: u64 = 1 << 20;

/// A folder with one file of pseudo-random bytes in it, to be transferred. As hosts of the lab share the
/// machine's files, both ends see it.
#[derive(Debug)]
pub struct Payload {
    /// The folder; copies of the file go there too.
    pub folder: TempDir,
    /// The file's SHA-256.
    pub hash: String,
}

/// Which way a file is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From the host where the program runs to the other one.
    There,
    /// From the other host.
    Here,
}

impl Payload {
    /// The file's name in its folder.
    pub const NAME: &str = "payload";

    /// Makes so many bytes.
    pub fn new(size: u64) -> Result<Self> {
        let folder = TempDir::new().map_err(Error::io("create a folder for a file to transfer"))?;
        let path = folder.path().join(Self::NAME);
        files::write_pseudo_random(&path, size, size)?;
        let hash = files::sha256(&path)?;
        Ok(Self { folder, hash })
    }

    /// Where a program that gets the file is to put it.
    pub fn copy(&self) -> PathBuf {
        self.folder.path().join("copy")
    }

    /// The SHA-256 of what was put there.
    pub fn hash_of_copy(&self) -> Result<String> {
        files::sha256(&self.copy())
    }
}

/// Pings an address until one packet is answered, for `ANSWER_LIMIT` at the most. `options` are ping's.
pub fn ping(host: &Namespace, to: IpAddr, options: &[&str]) -> Result<()> {
    let mut ping = host.command("ping");
    // With a deadline ping goes on until so many are answered.
    ping.args(["-n", "-i", "0.2", "-c", "1", "-w", "20"]).args(options).arg(to.to_string());
    run(&mut ping, ANSWER_LIMIT).map(drop)
}

/// What a command prints that ssh runs at the far end.
pub fn ssh(host: &Namespace, sshd: &Sshd, target: SocketAddr, command: &str) -> Result<String> {
    let mut ssh = host.command("ssh");
    ssh.args(sshd.client_options(target.port())).arg(target.ip().to_string());
    run(ssh.arg(command), ANSWER_LIMIT)
}

/// Copies the payload with scp.
pub fn scp(
    host: &Namespace,
    sshd: &Sshd,
    target: SocketAddr,
    payload: &Payload,
    direction: Transfer,
) -> Result<()> {
    let here = |path: &Path| path.as_os_str().to_owned();
    let there = |path: &Path| format!("{}:{}", target.ip(), path.display()).into();
    let (original, copy) = (payload.folder.path().join(Payload::NAME), payload.copy());
    let mut scp = host.command("scp");
    scp.arg("-q").args(sshd.client_options(target.port()));
    match direction {
        Transfer::There => scp.args([here(&original), there(&copy)]),
        Transfer::Here => scp.args([there(&original), here(&copy)]),
    };
    run(&mut scp, TRANSFER_LIMIT).map(drop)
}

/// Gets the payload from a web server of its folder with curl.
pub fn curl(host: &Namespace, target: SocketAddr, payload: &Payload) -> Result<()> {
    let mut curl = host.command("curl");
    curl.args(["-q", "--globoff", "--fail", "--silent", "--show-error", "--noproxy", "*"]);
    curl.args([OsStr::new("--output"), payload.copy().as_os_str()]);
    curl.arg(format!("http://{target}/{}", Payload::NAME));
    run(&mut curl, TRANSFER_LIMIT).map(drop)
}

/// Asks for the one name that the lab's DNS server knows with dig, over UDP (`+notcp`) or TCP (`+tcp`), and returns
/// what it prints. There is one try: on an idle cable nothing may be lost.
pub fn dig(host: &Namespace, target: SocketAddr, transport: &str) -> Result<String> {
    let mut dig = host.command("dig");
    dig.args(["-r", &format!("@{}", target.ip()), "-p", &target.port().to_string()]);
    dig.args(["+short", "+tries=1", "+time=10", transport, Dns::NAME, "A"]);
    run(&mut dig, ANSWER_LIMIT)
}
