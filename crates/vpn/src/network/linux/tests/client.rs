//! A client's addresses, routes and rules.

use super::*;

/// The interface that the kernel would send to: `ip route get` with these arguments.
fn way(arguments: &str) -> String {
    let found = ip(&format!("route get {arguments}"));
    let mut words = found.split_ascii_whitespace().skip_while(|word| *word != "dev");
    words.nth(1).unwrap_or_default().to_owned()
}

fn plan(addresses: &[&str], routes: &[&str]) -> ClientPlan {
    ClientPlan { addresses: nets(addresses), routes: nets(routes) }
}

struct Client {
    device: TunDevice,
    network: ClientNetwork,
    bypass: Bypass,
}

fn client() -> Client {
    let device = TunDevice::create(1420).unwrap();
    let bypass = Bypass::new().unwrap();
    let network = ClientNetwork::new(&device, bypass.clone());
    Client { device, network, bypass }
}

#[test]
fn only_its_networks_go_into_the_vpn_and_all_is_undone() {
    with_lan();
    let _runtime = runtime();
    let _entered = _runtime.enter();
    let before = snapshot();
    let mut client = client();
    assert_eq!(
        client.device.index(),
        ip("-o link show tun0").split(':').next().unwrap().parse().unwrap()
    );
    client.network.apply(&plan(&["10.7.0.2/24", "fd07::2/64"], &["198.51.100.0/24"])).unwrap();
    for inside in ["10.7.0.1", "198.51.100.7", "fd07::1"] {
        assert_eq!(way(inside), "tun0", "{inside}");
    }
    for outside in ["192.0.2.20", "8.8.8.8", "2001:db8::20", "2001:4860::8"] {
        assert_eq!(way(outside), "lan", "{outside}");
    }
    assert!(ip("route get 10.7.0.1").contains("src 10.7.0.2"));
    assert!(ip("route get fd07::1").contains("src fd07::2"));
    // The main table is as it was.
    assert_eq!(before["ip -4 rule"].lines().count() + 3, ip("-4 rule").lines().count());
    assert_eq!(ip("route"), ip("route show table main"));
    assert!(!ip("route").contains("tun0") && !ip("-6 route").contains("tun0"));
    drop(client);
    assert_undone(&before);
}

#[test]
fn a_default_route_leaves_the_lan_and_the_transport_alone() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let before = snapshot();
    let mut client = client();
    let transport: [SocketAddr; 2] =
        ["0.0.0.0:4433".parse().unwrap(), "[::]:4434".parse().unwrap()];
    client.bypass.set_udp_sockets(&transport).unwrap();
    client
        .bypass
        .add_servers(["203.0.113.5".parse().unwrap(), "2001:db8:5::5".parse().unwrap()])
        .unwrap();
    client.network.apply(&plan(&["10.7.0.2/24", "fd07::2/64"], &["0.0.0.0/0", "::/0"])).unwrap();
    for inside in [
        "8.8.8.8",
        "2001:4860::8",
        "203.0.113.5",
        "8.8.8.8 ipproto udp sport 4434",
        "8.8.8.8 ipproto tcp sport 4433",
    ] {
        assert_eq!(way(inside), "tun0", "{inside}");
    }
    for outside in [
        "192.0.2.20",
        "2001:db8::20",
        "8.8.8.8 ipproto udp sport 4433",
        "2001:4860::8 ipproto udp sport 4434",
        "203.0.113.5 ipproto tcp dport 443",
        "2001:db8:5::5 ipproto tcp dport 443",
        "224.0.0.251",
        "255.255.255.255",
    ] {
        assert_eq!(way(outside), "lan", "{outside}");
    }
    // Neither inside, where it would carry itself, nor outside, where that is somebody else's address.
    let nowhere = "route get 10.7.0.1 ipproto udp sport 4433";
    let answer = Command::new("ip").args(nowhere.split(' ')).output().unwrap();
    let words = String::from_utf8_lossy(&answer.stderr).into_owned();
    assert!(!answer.status.success() && words.contains("unreachable"), "{words}");
    // Other ports, as after the sockets were bound anew.
    client.bypass.set_udp_sockets(&["0.0.0.0:5544".parse().unwrap()]).unwrap();
    assert_eq!(way("8.8.8.8 ipproto udp sport 5544"), "lan");
    assert_eq!(way("8.8.8.8 ipproto udp sport 4433"), "tun0");
    drop(client);
    assert_undone(&before);
}

#[test]
fn of_two_routes_the_longer_one_counts() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    ip("route add 10.20.30.0/24 via 192.0.2.30");
    let mut client = client();
    let routes = ["10.0.0.0/8", "10.20.0.0/16", "10.20.30.128/25", "192.0.2.0/24"];
    client.network.apply(&plan(&["172.16.0.2/24"], &routes)).unwrap();
    for inside in ["10.1.1.1", "10.20.1.1", "10.20.30.200", "192.0.2.20"] {
        assert_eq!(way(inside), "tun0", "{inside}");
    }
    assert_eq!(way("10.20.30.4"), "lan");
    // The peer is on the very LAN.
    client.bypass.set_udp_sockets(&["0.0.0.0:4433".parse().unwrap()]).unwrap();
    assert_eq!(way("192.0.2.20 ipproto udp sport 4433"), "lan");
}

#[test]
fn another_lease_and_other_routes_replace_the_first() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let before = snapshot();
    let mut client = client();
    client.network.apply(&plan(&["10.7.0.2/24"], &["198.51.100.0/24", "0.0.0.0/0"])).unwrap();
    client.network.apply(&plan(&["10.7.0.3/24", "fd07::3/64"], &["203.0.113.0/24"])).unwrap();
    let addresses = ip("address show tun0");
    assert!(addresses.contains("10.7.0.3/24") && !addresses.contains("10.7.0.2"), "{addresses}");
    assert!(!addresses.contains("fe80"), "{addresses}");
    for inside in ["10.7.0.1", "203.0.113.9", "fd07::1"] {
        assert_eq!(way(inside), "tun0", "{inside}");
    }
    for outside in ["198.51.100.1", "8.8.8.8"] {
        assert_eq!(way(outside), "lan", "{outside}");
    }
    drop(client);
    assert_undone(&before);
}

#[test]
fn what_another_program_removes_comes_back() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let before = snapshot();
    let mut client = client();
    client.bypass.set_udp_sockets(&["0.0.0.0:4433".parse().unwrap()]).unwrap();
    client.bypass.add_servers(["203.0.113.5".parse().unwrap()]).unwrap();
    client.network.apply(&plan(&["10.7.0.2/24"], &["0.0.0.0/0"])).unwrap();
    let complete = snapshot();
    ip("rule flush protocol 116");
    ip("route flush table 29810");
    assert_eq!(way("8.8.8.8"), "lan");
    client.network.refresh().unwrap();
    let sorted = |text: &String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    for (key, value) in snapshot() {
        assert_eq!(sorted(&value), sorted(&complete[&key]), "{key}");
    }
    drop(client);
    assert_undone(&before);
}

#[test]
fn a_route_without_an_address_of_its_family_is_refused() {
    own_network();
    let runtime = runtime();
    let _entered = runtime.enter();
    let mut client = client();
    let refused = client.network.apply(&plan(&["10.7.0.2/24"], &["::/0"])).unwrap_err();
    assert!(refused.to_string().contains("the route ::/0 needs an IPv6 address"), "{refused}");
}

#[test]
fn ipv6_works_where_it_is_off_for_new_devices() {
    own_network();
    let runtime = runtime();
    let _entered = runtime.enter();
    sysctl::set("net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    sysctl::set("net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let mut client = client();
    client.network.apply(&plan(&["fd07::2/64"], &[])).unwrap();
    assert_eq!(way("fd07::1"), "tun0");
}

#[test]
fn networks_of_this_machine_are_found() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    ip("address add 100.64.5.5/32 dev lan");
    ip("route add blackhole 198.18.0.0/15");
    let mut client = client();
    client.network.apply(&plan(&["10.7.0.2/24"], &["10.8.0.0/16"])).unwrap();
    let found = |wanted: &str| {
        let found = overlap(&nets(&[wanted]), Some(&client.device)).unwrap();
        found.map(|found| (found.existing.to_string(), found.device))
    };
    let lan = Some("lan".to_owned());
    assert_eq!(found("192.0.0.0/16"), Some(("192.0.2.0/24".to_owned(), lan.clone())));
    assert_eq!(found("2001:db8::/96"), Some(("2001:db8::/64".to_owned(), lan.clone())));
    assert_eq!(found("100.64.0.0/10"), Some(("100.64.5.5/32".to_owned(), lan)));
    assert_eq!(found("198.18.7.0/24"), Some(("198.18.0.0/15".to_owned(), None)));
    for free in ["10.7.0.0/24", "10.8.0.0/24", "0.0.0.0/0", "::/0", "fd07::/64"] {
        assert_eq!(found(free), None, "{free}");
    }
    // To another VPN of this machine its network is taken.
    let taken = overlap(&nets(&["10.7.0.128/25"]), None).unwrap().unwrap();
    let message = taken.to_string();
    assert!(
        message.contains("10.7.0.128/25")
            && message.contains("10.7.0.0/24")
            && message.contains("tun0"),
        "{message}"
    );
}

#[test]
fn the_second_client_is_told_of_the_first() {
    own_network();
    let first = ClientLock::acquire().unwrap();
    let refused = ClientLock::acquire().unwrap_err().to_string();
    assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
    in_other_network(|| drop(ClientLock::acquire().unwrap()));
    drop(first);
    // A program that another test starts has it for a moment as well.
    wait_until("the lock is free", || ClientLock::acquire().is_ok());
}
