//! Network namespaces: hosts and routers that share the machine's file system and nothing of its network.

use std::{
    ffi::OsStr,
    fs,
    net::IpAddr,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{self, Command},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Error, Result, process::run};

/// For `ip`, `nft` and their kind, which take milliseconds on an idle machine.
const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// What every namespace's name begins with; the process id follows.
const PREFIX: &str = "testlab-";

/// Where `ip netns exec` looks for files that replace those of /etc (ip-netns(8)), in a folder for each name.
const FILES: &str = "/etc/netns";

/// How often the state of an interface is looked at.
const POLL: Duration = Duration::from_millis(10);

/// A killed process may be forking, so the list of those inside is read again, though not forever.
const KILL_ROUNDS: usize = 20;

/// A network namespace with its loopback up and nothing else in it.
///
/// Dropping it kills every process inside and removes it, with all its interfaces and files.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// One end of a link: an interface that does not exist yet, and the namespace that it is to be in.
#[derive(Clone, Copy, Debug)]
pub struct Interface<'a> {
    /// Where the interface is to be.
    pub namespace: &'a Namespace,
    /// Its name, of up to 15 characters.
    pub name: &'a str,
}

impl Namespace {
    /// Creates a namespace; the label shows up in its name, for whoever looks on.
    pub fn new(label: &str) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        static STALE: Once = Once::new();
        require_root()?;
        STALE.call_once(remove_stale);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{label}", process::id());
        run(Command::new("ip").args(["netns", "add", &name]), SETUP_LIMIT)?;
        let namespace = Self { name };
        // Until duplicate address detection ends, a second or two, an IPv6 address cannot be bound.
        namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        namespace.ip(&["link", "set", "dev", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name for `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs in this namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs `ip` on this namespace.
    pub fn ip(&self, arguments: &[&str]) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments);
        run(&mut command, SETUP_LIMIT).map(drop)
    }

    /// Runs commands of `ip`, without the word `ip`, in one process: next to nothing lies between them.
    ///
    /// It ends at the first command that fails.
    pub fn ip_batch(&self, commands: &[String]) -> Result<()> {
        let script = r#"printf '%s\n' "$@" | exec ip -n "$0" -batch -"#;
        let mut command = Command::new("sh");
        command.args(["-c", script, &self.name]).args(commands);
        run(&mut command, SETUP_LIMIT).map(drop)
    }

    /// Names that programs started in this namespace from now on find in /etc/hosts, in place of all others
    /// but `localhost`.
    pub fn set_hosts(&self, hosts: &[(IpAddr, &str)]) -> Result<()> {
        let mut lines = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        lines.extend(hosts.iter().map(|(address, name)| format!("{address} {name}\n")));
        self.write("hosts", &lines)
    }

    /// The DNS server that programs started in this namespace from now on find in /etc/resolv.conf.
    pub fn set_resolver(&self, address: IpAddr) -> Result<()> {
        self.write("resolv.conf", &format!("nameserver {address}\n"))
    }

    /// Writes a file that programs in this namespace see in /etc (ip-netns(8)).
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let folder = Path::new(FILES).join(&self.name);
        let file = folder.join(name);
        fs::create_dir_all(&folder)
            .and_then(|()| fs::write(&file, text))
            .map_err(Error::io(format!("write {}", file.display())))
    }

    /// Gives an interface an address with its prefix length.
    pub fn add_address(&self, interface: &str, address: IpAddr, prefix: u8) -> Result<()> {
        let address = format!("{address}/{prefix}");
        self.ip(&["address", "add", &address, "dev", interface])
    }

    /// Routes a network (`default`, or as CIDR) through a neighbour.
    pub fn add_route(&self, network: &str, via: IpAddr) -> Result<()> {
        self.ip(&["route", "add", network, "via", &via.to_string()])
    }

    /// Sets a kernel parameter; those below `net.` are the namespace's own.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let mut command = self.command("sysctl");
        command.args(["-q", "-w", &format!("{key}={value}")]);
        run(&mut command, SETUP_LIMIT).map(drop)
    }

    /// Makes it a router for IPv4.
    pub fn forward_ipv4(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")
    }

    /// Makes it a router for IPv4 and IPv6.
    pub fn forward(&self) -> Result<()> {
        self.forward_ipv4()?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Waits until an interface has a carrier: a cable whose other end is up, or a program for a TUN device.
    pub fn wait_carrier(&self, interface: &str, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let mut command = Command::new("ip");
            command.args(["-n", &self.name, "-oneline", "link", "show", "dev", interface]);
            let output = run(&mut command, SETUP_LIMIT)?;
            if output.contains(",LOWER_UP") {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::TimedOut { command: format!("{command:?}"), limit, output });
            }
            thread::sleep(POLL);
        }
    }

    /// What programs can change about its network and are to leave as it was: addresses, routes of all tables, rules,
    /// nft's rules, and the kernel parameters of all interfaces.
    pub fn network_state(&self) -> Result<String> {
        let script = "ip -o address; ip route show table all; ip -6 route show table all; ip rule; ip -6 rule; \
                      nft list ruleset; sysctl -a -r '^net.ipv[46].(ip_forward$|conf.)'; cat /etc/resolv.conf";
        run(self.command("sh").args(["-c", script]), SETUP_LIMIT)
    }

    /// Runs a script of nft in this namespace: all of it takes effect or nothing.
    pub fn nft(&self, script: &str) -> Result<()> {
        run(self.command("nft").arg(script), SETUP_LIMIT).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// A command in the namespace, or on the machine itself where there is none.
pub fn command_in(namespace: Option<&Namespace>, program: impl AsRef<OsStr>) -> Command {
    match namespace {
        Some(namespace) => namespace.command(program),
        None => Command::new(program),
    }
}

/// Joins two namespaces by a cable: a veth pair of MTU 1500, both ends up.
pub fn connect(one: Interface<'_>, other: Interface<'_>) -> Result<()> {
    // `name` and `dev` are spelt out, as `ip` takes an interface called `a` for the word `address`.
    let (name, peer, peer_namespace) = (one.name, other.name, other.namespace.name());
    let link = ["link", "add", "name", name, "mtu", "1500", "type", "veth"];
    let peer = ["peer", "name", peer, "mtu", "1500", "netns", peer_namespace];
    one.namespace.ip(&[&link[..], &peer[..]].concat())?;
    for end in [one, other] {
        end.namespace.ip(&["link", "set", "dev", end.name, "up"])?;
    }
    Ok(())
}

fn require_root() -> Result<()> {
    let this = fs::metadata("/proc/self").map_err(Error::io("read /proc/self"))?;
    if this.uid() == 0 { Ok(()) } else { Err(Error::NotRoot) }
}

/// Removes what test runs left that were killed before they could.
fn remove_stale() {
    let listed = run(Command::new("ip").args(["netns", "list"]), SETUP_LIMIT).unwrap_or_default();
    let listed = listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned);
    let folders = fs::read_dir(FILES).into_iter().flatten().flatten();
    let folders = folders.filter_map(|folder| folder.file_name().into_string().ok());
    for name in listed.chain(folders) {
        let pid = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            remove(&name);
        }
    }
}

/// Errors are of no use here: this runs where a test has its result already.
fn remove(name: &str) {
    for _ in 0..KILL_ROUNDS {
        let pids = run(Command::new("ip").args(["netns", "pids", name]), SETUP_LIMIT);
        let pids = pids.unwrap_or_default();
        if pids.is_empty() {
            break;
        }
        let _ = run(Command::new("kill").arg("-9").args(pids.lines()), SETUP_LIMIT);
    }
    let _ = run(Command::new("ip").args(["netns", "delete", name]), SETUP_LIMIT);
    let _ = fs::remove_dir_all(Path::new(FILES).join(name));
}
