//! In network namespaces of their own, as root, with the programs `ip` and `nft`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::sched::{CloneFlags, unshare};
use tokio::runtime::Runtime;

use super::*;
use crate::device::{Device, TunDevice};
use crate::lock::ClientLock;
use crate::network::DnsForwarder;

mod around;
mod client;
mod kill;
mod rights;
mod server;

/// For whatever takes milliseconds on an idle machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Runs `ip`, and returns what it printed.
pub(crate) fn ip(arguments: &str) -> String {
    program("ip", arguments)
}

fn program(name: &str, arguments: &str) -> String {
    let output = Command::new(name).args(arguments.split_ascii_whitespace()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} {arguments}: {printed}{errors}");
    printed
}

/// Moves this thread, and what it starts, into a fresh network with nothing but loopback.
pub(crate) fn own_network() {
    unshare(CloneFlags::CLONE_NEWNET).expect("these tests run as root");
    // Until duplicate address detection ends, a second or two, an IPv6 address cannot be bound.
    sysctl::set("net/ipv6/conf/default/accept_dad", "0").unwrap();
    ip("link set lo up");
}

/// Runs a closure in a fresh network, and returns what it returns; that keeps the network alive where it holds sockets.
pub(crate) fn in_other_network<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let inside = || {
        own_network();
        run()
    };
    thread::scope(|scope| scope.spawn(inside).join()).expect("the closure does not panic")
}

/// Receives from a socket that has a timeout; with one, a call that is interrupted is not taken up again (signal(7)).
pub(crate) fn recv(socket: &UdpSocket, buffer: &mut [u8]) -> (usize, SocketAddr) {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => return received.unwrap(),
        }
    }
}

/// A network with a LAN on which nobody answers, and default routes through it.
fn with_lan() {
    own_network();
    for line in [
        "link add lan type veth peer name nobody",
        // The kernel would give them addresses of its own some time later.
        "link set lan addrgenmode none",
        "link set nobody addrgenmode none",
        "address add 192.0.2.10/24 dev lan",
        "address add 2001:db8::10/64 dev lan",
        "link set nobody up",
        "link set lan up",
        "route add default via 192.0.2.1",
        "-6 route add default via 2001:db8::1",
    ] {
        ip(line);
    }
    wait_until("the cable is up", || ip("link").matches("state UP").count() == 2);
}

/// A runtime whose tasks run in this thread, and so in its network.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// All that a VPN may change of a network.
fn snapshot() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for arguments in
        ["address", "-4 route show table all", "-6 route show table all", "-4 rule", "-6 rule"]
    {
        found.insert(format!("ip {arguments}"), ip(arguments));
    }
    found.insert("nft".to_owned(), program("nft", "list ruleset"));
    for family in ["ipv4", "ipv6"] {
        let path = format!("/proc/sys/net/{family}/conf");
        for file in fs::read_dir(path).unwrap().flatten().flat_map(|d| fs::read_dir(d.path())) {
            for file in file.flatten() {
                // What has never been set cannot be read (stable_secret).
                let value = fs::read_to_string(file.path()).unwrap_or_default();
                found.insert(file.path().display().to_string(), value);
            }
        }
    }
    found.insert("ip_forward".to_owned(), sysctl::get("net/ipv4/ip_forward").unwrap());
    found
}

/// Fails with what differs from a snapshot.
fn assert_undone(before: &BTreeMap<String, String>) {
    // A program that another test starts, or a killed one, has the device for a moment still.
    wait_until("the device goes", || !ip("link").contains("tun"));
    let after = &snapshot();
    let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    for key in keys {
        assert_eq!(before.get(key), after.get(key), "{key}");
    }
}

/// Waits until something holds.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
