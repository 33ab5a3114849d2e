//! Masquerading by nft(8), in a table of this program's own.
//!
//! The table belongs to a process that holds it (`flags owner`, Linux 5.12): an nft that waits for further commands on its
//! standard input, a pipe from us. The pipe ends with this process, however that ends, nft ends with the pipe, and the kernel
//! removes the table.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::NetworkError;
use super::netlink::Netlink;

/// What the tables' names begin with; the number of the VPN's interface follows, and tells whether somebody uses it.
const PREFIX: &str = "tunnel-rs-";

/// nft takes milliseconds on an idle machine.
const LIMIT: Duration = Duration::from_secs(10);

/// How often it is looked at.
const POLL: Duration = Duration::from_millis(5);

/// The table. It is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Masquerade {
    table: String,
    /// Who holds the table; none where the kernel knows no owners.
    holder: Option<(Child, ChildStdin)>,
}

impl Masquerade {
    /// Gives packets from the networks that leave by any interface but the VPN's an address of this machine.
    pub(super) fn start(
        networks: &[IpNet],
        device: &str,
        index: u32,
    ) -> Result<Self, NetworkError> {
        let table = format!("{PREFIX}{index}");
        if let Some(holder) = hold(&table, &script(&table, networks, device, true))? {
            return Ok(Self { table, holder: Some(holder) });
        }
        nft(&["-f", "-"], &script(&table, networks, device, false))?;
        Ok(Self { table, holder: None })
    }
}

impl Drop for Masquerade {
    fn drop(&mut self) {
        match self.holder.take() {
            Some((child, stdin)) => {
                drop(stdin);
                end(child);
            }
            None => {
                if let Err(error) = delete(&self.table) {
                    tracing::warn!(%error, "the table {} of nft stays", self.table);
                }
            }
        }
    }
}

fn script(table: &str, networks: &[IpNet], device: &str, owner: bool) -> String {
    let mut script = format!("add table inet {table}");
    script += if owner { " { flags owner ; }\n" } else { "\n" };
    let chain = "{ type nat hook postrouting priority srcnat ; policy accept ; }";
    script += &format!("add chain inet {table} postrouting {chain}\n");
    for network in networks {
        let family = if network.addr().is_ipv4() { "ip" } else { "ip6" };
        let network = network.trunc();
        script += &format!(
            "add rule inet {table} postrouting {family} saddr {network} oifname != \"{device}\" masquerade\n"
        );
    }
    script
}

/// Starts the nft that holds the table; none if this nft or this kernel cannot.
fn hold(table: &str, script: &str) -> Result<Option<(Child, ChildStdin)>, NetworkError> {
    let mut command = Command::new("nft");
    command.arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // Ctrl-C in a terminal is for this process, which ends the other one when it has no more use for it.
    command.process_group(0);
    let mut child = command.spawn().map_err(missing)?;
    let Some(mut stdin) = child.stdin.take() else { return Ok(None) };
    // A pipe that is closed says what the check below finds.
    let _ = stdin.write_all(script.as_bytes()).and_then(|()| stdin.flush());
    let deadline = Instant::now() + LIMIT;
    let last = "masquerade";
    loop {
        if nft(&["list", "table", "inet", table], "").is_ok_and(|listed| {
            listed.matches(last).count() == script.matches(last).count() && listed.contains("owner")
        }) {
            return Ok(Some((child, stdin)));
        }
        let ended = child.try_wait().ok().flatten().is_some();
        if ended || is_refused(table, script) || Instant::now() >= deadline {
            drop(stdin);
            end(child);
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// Whether the kernel or nft refuses the commands: they are tried in a transaction that is not carried out.
fn is_refused(table: &str, script: &str) -> bool {
    let other = script.replace(table, &format!("{table}-check"));
    nft(&["-c", "-f", "-"], &other).is_err()
}

fn end(mut child: Child) {
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        match child.try_wait() {
            Ok(None) => thread::sleep(POLL),
            _ => return,
        }
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Removes tables whose interface is gone; no matter whether there is an nft.
pub(super) fn remove_stale(netlink: &mut Netlink) -> Result<(), NetworkError> {
    let listed = match nft(&["list", "tables", "inet"], "") {
        Ok(listed) => listed,
        // Without it no table was made, and without the right to list them none can be removed.
        Err(_) => return Ok(()),
    };
    for table in listed.lines().filter_map(|line| line.strip_prefix("table inet ")) {
        let index = table.strip_prefix(PREFIX).and_then(|index| index.parse().ok());
        if index.is_some_and(|index| netlink.link_name(index).is_none()) {
            remove(table)?;
        }
    }
    Ok(())
}

/// Removes a table that may belong to an nft which is about to end, with the process that held it: nobody else may remove it.
fn remove(table: &str) -> Result<(), NetworkError> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let deleted = delete(table);
        if deleted.is_ok() || nft(&["list", "table", "inet", table], "").is_err() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return deleted;
        }
        thread::sleep(POLL);
    }
}

fn delete(table: &str) -> Result<(), NetworkError> {
    nft(&["delete", "table", "inet", table], "").map(drop)
}

/// Runs nft to its end; what it printed.
fn nft(arguments: &[&str], input: &str) -> Result<String, NetworkError> {
    let mut command = Command::new("nft");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // nft says itself what it did not like.
        let _ = stdin.write_all(input.as_bytes());
    }
    let mut errors = String::new();
    let mut printed = String::new();
    // What goes to standard error is short, so neither pipe fills while the other is read.
    let read = child.stdout.take().map_or(Ok(0), |mut out| out.read_to_string(&mut printed));
    let read =
        read.and(child.stderr.take().map_or(Ok(0), |mut err| err.read_to_string(&mut errors)));
    match read.and(child.wait()) {
        Ok(status) if status.success() => Ok(printed),
        Ok(status) => {
            let first = errors.lines().find(|line| !line.trim().is_empty());
            Err(NetworkError::Nft(first.map_or_else(|| status.to_string(), str::to_owned)))
        }
        Err(error) => Err(NetworkError::Nft(error.to_string())),
    }
}

fn missing(error: io::Error) -> NetworkError {
    match error.kind() {
        io::ErrorKind::NotFound => NetworkError::NoNft,
        _ => NetworkError::Nft(error.to_string()),
    }
}
