//! On a stand-in for the system, which has a routing table, parameters and a packet filter as far as they matter here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use tempfile::{TempDir, tempdir};

use super::bypass::Bypass;
use super::client::ClientNetwork;
use super::overlap::overlap_on;
use super::server::ServerNetwork;
use super::system::{Look, System, Watch};
use super::table::Route;
use super::*;

const DEVICE: &str = "utun4";

/// What the system has. Routes: destination, gateway, flags, device, as netstat(1) prints them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct State {
    routes: BTreeSet<[String; 4]>,
    addresses: BTreeSet<String>,
    parameters: BTreeMap<String, String>,
    anchors: BTreeMap<String, String>,
    tokens: BTreeSet<u32>,
    /// Where sockets are bound to.
    bound: BTreeMap<u16, String>,
}

#[derive(Default)]
struct Fake {
    state: Mutex<State>,
    /// A destination that route(8) does not route, and says nothing.
    stubborn: Mutex<Option<String>>,
    /// The address of the interface of the default route.
    lease: Mutex<u8>,
    /// How many routes to servers were made.
    made: Mutex<usize>,
    /// Routes that have taken a new address.
    renewed: Mutex<Vec<String>>,
    look: Mutex<Option<Look>>,
}

impl Fake {
    /// A machine on Wi-Fi, with IPv4 and IPv6.
    fn new() -> Arc<Self> {
        let fake = Self::default();
        {
            let mut state = fake.state.lock().unwrap();
            for key in ["net.inet.ip.forwarding", "net.inet6.ip6.forwarding"] {
                state.parameters.insert(key.to_owned(), "0".to_owned());
            }
        }
        for route in [
            ["default", "192.168.1.1", "UGScg", "en0"],
            ["default", "192.168.7.1", "UGScIg", "en1"],
            ["192.168.1", "link#6", "UCS", "en0"],
            ["192.168.7", "link#7", "UCS", "en1"],
            ["127.0.0.1", "127.0.0.1", "UH", "lo0"],
            ["default", "fe80::1%en0", "UGcg", "en0"],
            ["2001:db8:1::/64", "link#6", "UC", "en0"],
        ] {
            fake.add(route);
        }
        Arc::new(fake)
    }

    fn add(&self, route: [&str; 4]) {
        self.state.lock().unwrap().routes.insert(route.map(str::to_owned));
    }

    fn remove(&self, route: [&str; 4]) {
        assert!(self.state.lock().unwrap().routes.remove(&route.map(str::to_owned)), "{route:?}");
    }

    fn has(&self, route: [&str; 4]) -> bool {
        self.state.lock().unwrap().routes.contains(&route.map(str::to_owned))
    }

    fn state(&self) -> State {
        self.state.lock().unwrap().clone()
    }

    /// What the system tells whoever watches: a change, or that time has passed.
    fn tell(&self, changed: bool) {
        let look = self.look.lock().unwrap().take().expect("somebody watches");
        look(changed);
        *self.look.lock().unwrap() = Some(look);
    }

    /// route(8), which says nothing where it was asked for what it cannot do, and ends in order.
    fn route(&self, words: &[&str]) -> String {
        let ["-q", "-n", verb, family, rest @ ..] = words else { panic!("{words:?}") };
        let (kind, rest) = match rest {
            [kind @ ("-host" | "-net"), rest @ ..] => (*kind, rest),
            rest => ("-net", rest),
        };
        let [to, by @ ..] = rest else { panic!("{words:?}") };
        let network: IpNet = to.parse().unwrap_or_else(|_| to.parse::<IpAddr>().unwrap().into());
        assert_eq!(*family, if network.addr().is_ipv4() { "-inet" } else { "-inet6" });
        assert!(!network.addr().is_unspecified(), "it is taken for the default route: {words:?}");
        let shown = if kind == "-host" { network.addr().to_string() } else { network.to_string() };
        let mut state = self.state.lock().unwrap();
        let same = |route: &[String; 4]| route[0] == shown && !route[2].contains('I');
        let row = match by {
            ["-gateway", gateway] => {
                assert_eq!(kind, "-host");
                let second = gateway.ends_with("%en1") || gateway.starts_with("192.168.7.");
                [&*shown, gateway, "UGHS", if second { "en1" } else { "en0" }]
            }
            ["-interface", device, "-cloning"] => [&*shown, "link#6", "UCS", device],
            ["-interface", device] => [&*shown, device, "UcS", device],
            [] => ["", "", "", ""],
            other => panic!("{other:?}"),
        }
        .map(str::to_owned);
        match *verb {
            "add" if state.routes.iter().any(same) => "add: File exists".to_owned(),
            "add" if self.stubborn.lock().unwrap().as_deref() == Some(&*shown) => String::new(),
            "add" => {
                *self.made.lock().unwrap() += 1;
                state.routes.insert(row);
                String::new()
            }
            "change" => {
                assert!(state.routes.contains(&row), "{row:?}");
                self.renewed.lock().unwrap().push(shown);
                String::new()
            }
            "delete" => {
                assert!(by.is_empty());
                assert!(state.routes.iter().filter(|route| same(route)).count() < 2);
                state.routes.retain(|route| !same(route));
                String::new()
            }
            other => panic!("{other}"),
        }
    }
}

impl System for Fake {
    fn run_with(&self, program: &str, arguments: &[&str], input: &str) -> io::Result<String> {
        let state = || self.state.lock().unwrap();
        match (program, arguments) {
            ("/usr/sbin/netstat", ["-rn", "-f", family]) => {
                let mut printed = "Destination Gateway Flags Netif Expire\n".to_owned();
                for [to, gateway, flags, device] in &state().routes {
                    let v6 = to.contains(':') || gateway.contains("fe80::");
                    if v6 == (*family == "inet6") {
                        printed += &format!("{to} {gateway} {flags} {device}\n");
                    }
                }
                Ok(printed)
            }
            ("/sbin/route", words) => Ok(self.route(words)),
            ("/sbin/ifconfig", [device, "inet"]) => {
                Ok(format!("{device}: flags=8863<UP>\n\tinet {}\n", *self.lease.lock().unwrap()))
            }
            ("/sbin/ifconfig", ["-l"]) => Ok("lo0 en0 en1 utun4\n".to_owned()),
            ("/sbin/ifconfig", [DEVICE, _, address, .., "alias"]) => {
                state().addresses.insert((*address).to_owned());
                Ok(String::new())
            }
            ("/sbin/ifconfig", [DEVICE, _, address, "-alias"]) => {
                let start = format!("{address}/");
                state().addresses.retain(|address| !address.starts_with(&start));
                Ok(String::new())
            }
            ("/usr/sbin/sysctl", ["-n", key]) => Ok(format!("{}\n", state().parameters[*key])),
            ("/usr/sbin/sysctl", ["-w", set]) => {
                let (key, value) = set.split_once('=').unwrap();
                state().parameters.insert(key.to_owned(), value.to_owned()).unwrap();
                Ok(String::new())
            }
            ("/sbin/pfctl", ["-a", anchor, "-f", "-"]) => {
                state().anchors.insert((*anchor).to_owned(), input.to_owned());
                Ok(String::new())
            }
            ("/sbin/pfctl", ["-a", anchor, "-F", "all"]) => {
                state().anchors.remove(*anchor);
                Ok("rules cleared\n".to_owned())
            }
            ("/sbin/pfctl", ["-s", "nat"]) => Ok("nat-anchor \"com.apple/*\" all\n".to_owned()),
            ("/sbin/pfctl", ["-E"]) => {
                let token = 7 + state().tokens.last().copied().unwrap_or_default();
                state().tokens.insert(token);
                Ok(format!("pf enabled\nToken : {token}\n"))
            }
            ("/sbin/pfctl", ["-X", token]) => {
                assert!(state().tokens.remove(&token.parse().unwrap()));
                Ok(String::new())
            }
            other => panic!("{other:?}"),
        }
    }

    fn bind_udp(&self, port: SocketAddr, device: Option<&str>) -> io::Result<()> {
        let mut state = self.state.lock().unwrap();
        match device {
            Some(device) => state.bound.insert(port.port(), device.to_owned()),
            None => state.bound.remove(&port.port()),
        };
        Ok(())
    }

    fn watch(&self, look: Look) -> io::Result<Watch> {
        *self.look.lock().unwrap() = Some(look);
        Ok(Watch::default())
    }
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn plan(addresses: &[&str], routes: &[&str]) -> ClientPlan {
    ClientPlan { addresses: nets(addresses), routes: nets(routes) }
}

/// A client whose transport has a socket of each family, port 1 and 2, and uses two servers.
fn client(fake: &Arc<Fake>, folder: &Path) -> (ClientNetwork, Bypass) {
    let bypass = Bypass::over(fake.clone(), folder).unwrap();
    let sockets = ["0.0.0.0:1", "[::]:2"].map(|socket| socket.parse().unwrap());
    bypass.set_udp_sockets(&sockets).unwrap();
    let servers = ["198.51.100.7", "2001:db8:2::7", "127.0.0.1"];
    bypass.add_servers(servers.map(|server| server.parse().unwrap())).unwrap();
    (ClientNetwork::over(fake.clone(), DEVICE, bypass.clone()), bypass)
}

const AROUND_V4: [&str; 4] = ["198.51.100.7", "192.168.1.1", "UGHS", "en0"];
const AROUND_V6: [&str; 4] = ["2001:db8:2::7", "fe80::1%en0", "UGHS", "en0"];

fn setup() -> (Arc<Fake>, State, TempDir) {
    let fake = Fake::new();
    let before = fake.state();
    (fake, before, tempdir().unwrap())
}

#[test]
fn its_own_networks_alone_lead_nothing_around() {
    let (fake, before, folder) = setup();
    let (mut client, bypass) = client(&fake, folder.path());
    assert_eq!(fake.state(), before);
    client.apply(&plan(&["10.0.0.2/24", "fd00::2/64"], &[])).unwrap();
    let state = fake.state();
    assert!(fake.has(["10.0.0.0/24", DEVICE, "UcS", DEVICE]));
    assert!(fake.has(["fd00::/64", DEVICE, "UcS", DEVICE]));
    assert_eq!(state.routes.len(), before.routes.len() + 2);
    assert_eq!(state.addresses.iter().collect::<Vec<_>>(), ["10.0.0.2/24", "fd00::2/64"]);
    assert!(state.bound.is_empty());
    // Another address in another network, and nothing of the first one.
    client.apply(&plan(&["10.7.0.2/24"], &[])).unwrap();
    assert_eq!(fake.state().addresses.iter().collect::<Vec<_>>(), ["10.7.0.2/24"]);
    assert_eq!(fake.state().routes.len(), before.routes.len() + 1);
    assert_eq!(fake.renewed.lock().unwrap().concat(), "10.0.0.0/24");
    drop((client, bypass));
    assert_eq!(fake.state(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "the lock alone");
}

#[test]
fn a_default_route_leaves_the_transport_outside_on_every_network() {
    let (fake, before, folder) = setup();
    let (mut client, bypass) = client(&fake, folder.path());
    client.apply(&plan(&["10.0.0.2/24", "fd00::2/64"], &["0.0.0.0/0", "::/0"])).unwrap();
    for part in ["1.0.0.0/8", "2.0.0.0/7", "64.0.0.0/2", "128.0.0.0/1", "1::/16", "8000::/1"] {
        assert!(fake.has([part, DEVICE, "UcS", DEVICE]), "{part}");
    }
    assert!(fake.has(["default", "192.168.1.1", "UGScg", "en0"]));
    assert!(fake.has(AROUND_V4) && fake.has(AROUND_V6));
    let bound = |v4: &str, v6: &str| BTreeMap::from([(1, v4.to_owned()), (2, v6.to_owned())]);
    assert_eq!(fake.state().bound, bound("en0", "en0"));

    // The machine goes to another network.
    fake.remove(["default", "192.168.1.1", "UGScg", "en0"]);
    fake.remove(["default", "192.168.7.1", "UGScIg", "en1"]);
    fake.add(["default", "192.168.7.1", "UGScg", "en1"]);
    fake.tell(true);
    assert!(!fake.has(AROUND_V4) && fake.has(AROUND_V6));
    assert!(fake.has(["198.51.100.7", "192.168.7.1", "UGHS", "en1"]));
    assert_eq!(fake.state().bound, bound("en1", "en0"));

    // To none, and back.
    fake.remove(["default", "192.168.7.1", "UGScg", "en1"]);
    fake.remove(["198.51.100.7", "192.168.7.1", "UGHS", "en1"]);
    fake.tell(true);
    assert_eq!(fake.state().bound, BTreeMap::from([(2, "en0".to_owned())]));
    fake.add(["default", "192.168.1.1", "UGScg", "en0"]);
    fake.add(["default", "192.168.7.1", "UGScIg", "en1"]);
    fake.tell(true);
    assert!(fake.has(AROUND_V4));
    // The interface was away for a moment, with its routes.
    fake.remove(AROUND_V4);
    client.refresh().unwrap();
    assert!(fake.has(AROUND_V4));

    // The transport has replaced a socket by another one of the same port.
    fake.state.lock().unwrap().bound.remove(&1);
    fake.tell(false);
    assert_eq!(fake.state().bound, bound("en0", "en0"));
    // The same network has given this machine another address.
    let made = *fake.made.lock().unwrap();
    fake.tell(true);
    assert_eq!(*fake.made.lock().unwrap(), made);
    *fake.lease.lock().unwrap() = 9;
    fake.tell(true);
    assert!(fake.has(AROUND_V4));
    assert_eq!(*fake.made.lock().unwrap(), made + 1);
    // Another VPN has taken the server's route over; it is not this one's to remove.
    let theirs = ["198.51.100.7", "utun9", "UHS", "utun9"];
    fake.remove(AROUND_V4);
    fake.add(theirs);
    bypass.set_udp_sockets(&["0.0.0.0:1".parse().unwrap()]).unwrap();
    assert!(fake.has(theirs));
    fake.remove(theirs);
    // Sockets that are bound anew.
    bypass.set_udp_sockets(&["0.0.0.0:3".parse().unwrap()]).unwrap();
    assert_eq!(fake.state().bound.get(&3).map(String::as_str), Some("en0"));
    // Without further routes nothing has to go around.
    client.apply(&plan(&["10.0.0.2/24"], &[])).unwrap();
    assert!(!fake.state().bound.contains_key(&3) && !fake.has(AROUND_V4));
    bypass.remove();
    drop(client);
    let mut after = fake.state();
    // Of sockets that are gone nobody frees anything.
    after.bound.clear();
    assert_eq!(after, before);
}

#[test]
fn a_route_over_ones_own_lan_leaves_that_as_it_is() {
    let (fake, before, folder) = setup();
    let (mut client, bypass) = client(&fake, folder.path());
    bypass.add_servers(["192.168.1.77".parse().unwrap()]).unwrap();
    client.apply(&plan(&["10.0.0.2/24"], &["192.168.1.0/24"])).unwrap();
    for half in ["192.168.1.0/25", "192.168.1.128/25"] {
        assert!(fake.has([half, DEVICE, "UcS", DEVICE]), "{half}");
    }
    assert!(fake.has(["192.168.1", "link#6", "UCS", "en0"]));
    assert!(fake.has(["192.168.1.77/32", "link#6", "UCS", "en0"]));
    // Again, with nothing to do.
    let state = fake.state();
    client.refresh().unwrap();
    assert_eq!(fake.state(), state);
    drop((client, bypass));
    assert_eq!(fake.state(), before);
}

#[test]
fn servers_that_need_no_route_or_can_have_none_get_none() {
    let (fake, before, folder) = setup();
    // The system's own, to the router.
    fake.add(["192.168.1.1/32", "link#6", "UCS", "en0"]);
    let with_router = fake.state();
    *fake.stubborn.lock().unwrap() = Some("198.51.100.9".to_owned());
    let (mut client, bypass) = client(&fake, folder.path());
    let none = ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "169.254.1.1", "fe80::9"];
    // Inside, a neighbour by IPv6, the router, and one that route(8) refuses.
    let more = ["10.0.0.1", "2001:db8:1::9", "192.168.1.1", "198.51.100.9"];
    bypass.add_servers(none.iter().chain(&more).map(|server| server.parse().unwrap())).unwrap();
    client.apply(&plan(&["10.0.0.2/24"], &["203.0.113.0/24", "198.51.100.0/24"])).unwrap();
    let added = fake.state().routes.len() - with_router.routes.len();
    assert_eq!(added, 3 + 2, "{:#?}", fake.state().routes);
    assert!(fake.has(AROUND_V4) && fake.has(AROUND_V6));
    // What was refused is not tried with each change, but some time later.
    *fake.stubborn.lock().unwrap() = None;
    fake.tell(true);
    assert!(!fake.has(["198.51.100.9", "192.168.1.1", "UGHS", "en0"]));
    for _ in 0..15 {
        client.refresh().unwrap();
    }
    assert!(fake.has(["198.51.100.9", "192.168.1.1", "UGHS", "en0"]));
    // One's own routes to servers are no networks of others.
    assert_eq!(client.overlap(&nets(&["198.51.100.0/24"])).unwrap(), None);
    assert!(client.overlap(&nets(&["192.168.1.0/24"])).unwrap().is_some());
    drop((client, bypass));
    assert_eq!(fake.state(), with_router);
    fake.remove(["192.168.1.1/32", "link#6", "UCS", "en0"]);
    assert_eq!(fake.state(), before);
}

#[test]
fn what_others_may_have_written_is_not_carried_out() {
    let (fake, before, folder) = setup();
    fake.add(AROUND_V4);
    let file = folder.path().join("undo-1");
    let write = |line: &str, mode| {
        std::fs::write(&file, line).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
    };
    let delete = "+\t/sbin/route\t-q\t-n\tdelete\t-inet\t-host\t198.51.100.7\n";
    write(delete, 0o620);
    let error = undo::recover(folder.path(), &*fake).unwrap_err().to_string();
    assert!(error.contains("undo-1") && error.contains("others may write to it"), "{error}");
    write("+\t/bin/sh\t-c\ttrue\n", 0o600);
    undo::recover(folder.path(), &*fake).unwrap();
    assert!(fake.has(AROUND_V4) && !file.exists());
    write(delete, 0o600);
    undo::recover(folder.path(), &*fake).unwrap();
    assert_eq!(fake.state(), before);
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(Bypass::over(fake, folder.path()).is_err());
}

#[test]
fn the_first_servers_are_forgotten() {
    let (fake, before, folder) = setup();
    let (mut client, bypass) = client(&fake, folder.path());
    client.apply(&plan(&["10.0.0.2/24"], &["203.0.113.0/24"])).unwrap();
    let many = (0..=255).map(|last| IpAddr::from([198, 18, 0, last]));
    bypass.add_servers(many).unwrap();
    let around = fake.state().routes.iter().filter(|route| route[2] == "UGHS").count();
    assert_eq!(around, 256);
    assert!(!fake.has(AROUND_V4));
    drop((client, bypass));
    assert_eq!(fake.state(), before);
}

#[test]
fn a_route_that_is_not_made_is_an_error() {
    let (fake, before, folder) = setup();
    *fake.stubborn.lock().unwrap() = Some("203.0.113.0/24".to_owned());
    let (mut client, bypass) = client(&fake, folder.path());
    let error = client.apply(&plan(&["10.0.0.2/24"], &["203.0.113.0/24"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot route 203.0.113.0/24 to utun4: it is not there afterwards"
    );
    drop((client, bypass));
    assert_eq!(fake.state(), before);
    let error = plan(&["10.0.0.2/24"], &["::/0"]).networks().unwrap_err();
    assert!(error.to_string().starts_with("the route ::/0 needs an IPv6 address"), "{error}");
}

#[test]
fn what_a_killed_process_left_is_undone_by_the_next_start() {
    let (fake, before, folder) = setup();
    let (mut client, bypass) = client(&fake, folder.path());
    client.apply(&plan(&["10.0.0.2/24"], &["0.0.0.0/0"])).unwrap();
    assert!(fake.has(AROUND_V4));
    // Of a living process nothing is.
    let state = fake.state();
    undo::recover(folder.path(), &*fake).unwrap();
    assert_eq!(fake.state(), state);
    // As it is on the disk then, with the beginning of a line that was never ended.
    let of_a_dead_one = folder.path().join("undo-dead");
    for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
        if file.file_name().to_string_lossy().starts_with("undo-") {
            let mut text = std::fs::read_to_string(file.path()).unwrap();
            text += "+\t/sbin/route\t-q\t-n\tdelete\t-inet\t19";
            std::fs::write(&of_a_dead_one, text).unwrap();
        }
    }
    drop((client, bypass));
    fake.add(AROUND_V4);
    undo::recover(folder.path(), &*fake).unwrap();
    assert_eq!(fake.state(), before);
    assert!(!of_a_dead_one.exists());
}

#[test]
fn servers_forward_as_long_as_one_is_left() {
    let (fake, before, folder) = setup();
    let server = |masquerade| {
        let plan = ServerPlan {
            addresses: nets(&["10.0.0.1/24"]),
            forward: true,
            masquerade,
            state: folder.path().to_owned(),
        };
        ServerNetwork::over(fake.clone(), DEVICE, &plan).unwrap()
    };
    let first = server(true);
    let state = fake.state();
    assert_eq!(state.parameters["net.inet.ip.forwarding"], "1");
    assert_eq!(state.parameters["net.inet6.ip6.forwarding"], "0");
    let rules = &state.anchors["com.apple/tunnel-rs-utun4"];
    assert_eq!(rules.lines().count(), 2, "{rules}");
    assert_eq!(state.tokens.len(), 1);
    assert!(fake.has(["10.0.0.0/24", DEVICE, "UcS", DEVICE]));
    let second = server(false);
    drop(first);
    assert_eq!(fake.state().parameters["net.inet.ip.forwarding"], "1");
    assert!(fake.state().anchors.is_empty() && fake.state().tokens.is_empty());
    drop(second);
    assert_eq!(fake.state(), before);
    // What was on before stays on.
    fake.state.lock().unwrap().parameters.insert("net.inet.ip.forwarding".into(), "1".into());
    drop(server(false));
    assert_eq!(fake.state().parameters["net.inet.ip.forwarding"], "1");
}

#[test]
fn networks_that_are_there_are_found() {
    let (fake, ..) = setup();
    let found = |wanted: &str| {
        let is_own = |route: &Route| route.device == DEVICE;
        overlap_on(&*fake, &nets(&[wanted]), is_own).unwrap().map(|found| found.to_string())
    };
    let said = found("192.168.0.0/16").unwrap();
    assert!(said.contains("192.168.1.0/24, which this machine has already (en0)"), "{said}");
    fake.add(["10.0.0.0/24", DEVICE, "UcS", DEVICE]);
    fake.add(["10.0.0.9", "0:11:22:33:44:55", "UHLWI", "en0"]);
    assert_eq!(found("10.0.0.0/24"), None);
    assert_eq!(found("0.0.0.0/0"), None);
}
