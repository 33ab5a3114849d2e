//! A server's addresses, forwarding and masquerading.

use tempfile::tempdir;

use super::*;

fn plan(state: &Path, address: &str, masquerade: bool) -> ServerPlan {
    let addresses = nets(&[address, "fd09::1/64"]);
    ServerPlan { addresses, forward: true, masquerade, state: state.to_owned() }
}

#[test]
fn forwarding_and_masquerading_come_and_go() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let state = tempdir().unwrap();
    // What the kernel would change together with forwarding.
    sysctl::set("net/ipv4/conf/all/accept_redirects", "0").unwrap();
    sysctl::set("net/ipv4/conf/lan/forwarding", "1").unwrap();
    sysctl::set("net/ipv6/conf/nobody/forwarding", "1").unwrap();
    sysctl::set("net/ipv6/conf/nobody/accept_ra", "0").unwrap();
    let before = snapshot();
    let device = TunDevice::create(1420).unwrap();
    let server = ServerNetwork::apply(&device, &plan(state.path(), "10.9.0.1/24", true)).unwrap();
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv6/conf/lan/accept_ra", "2"),
        ("net/ipv6/conf/nobody/accept_ra", "0"),
    ] {
        assert_eq!(sysctl::get(key).unwrap(), value, "{key}");
    }
    let rules = program("nft", "list ruleset");
    assert!(rules.contains("ip saddr 10.9.0.0/24 oifname != \"tun0\" masquerade"), "{rules}");
    assert!(rules.contains("ip6 saddr fd09::/64 oifname != \"tun0\" masquerade"), "{rules}");
    assert!(ip("route get 10.9.0.7").contains("tun0"));
    drop(server);
    drop(device);
    assert_undone(&before);
    // An admin's own forwarding stays.
    sysctl::set("net/ipv4/ip_forward", "1").unwrap();
    let before = snapshot();
    let device = TunDevice::create(1420).unwrap();
    drop(ServerNetwork::apply(&device, &plan(state.path(), "10.9.0.1/24", false)).unwrap());
    drop(device);
    assert_undone(&before);
}

#[test]
fn of_two_servers_the_last_one_puts_forwarding_back() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let state = tempdir().unwrap();
    let before = snapshot();
    let devices = [TunDevice::create(1420).unwrap(), TunDevice::create(1420).unwrap()];
    assert_eq!(devices.each_ref().map(Device::name), ["tun0", "tun1"]);
    let first =
        ServerNetwork::apply(&devices[0], &plan(state.path(), "10.9.0.1/24", true)).unwrap();
    let second =
        ServerNetwork::apply(&devices[1], &plan(state.path(), "10.8.0.1/24", true)).unwrap();
    drop(first);
    assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "1");
    // Nor does somebody who starts meanwhile take it away.
    clean_up(state.path(), None).unwrap();
    assert_eq!(sysctl::get("net/ipv6/conf/all/forwarding").unwrap(), "1");
    assert!(program("nft", "list ruleset").contains("10.8.0.0/24"));
    drop(second);
    drop(devices);
    assert_undone(&before);
}

#[test]
fn what_another_has_set_meanwhile_is_left_alone() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let state = tempdir().unwrap();
    let device = TunDevice::create(1420).unwrap();
    let server = ServerNetwork::apply(&device, &plan(state.path(), "10.9.0.1/24", false)).unwrap();
    sysctl::set("net/ipv6/conf/lan/accept_ra", "0").unwrap();
    drop(server);
    assert_eq!(sysctl::get("net/ipv6/conf/lan/accept_ra").unwrap(), "0");
    assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "0");
}

#[test]
fn a_table_without_an_owner_is_removed_by_the_next_start() {
    own_network();
    let state = tempdir().unwrap();
    program("nft", "add table inet tunnel-rs-4711");
    program("nft", "add table inet tunnel-rs-1");
    program("nft", "add table inet other");
    clean_up(state.path(), None).unwrap();
    let left = program("nft", "list tables");
    // There is an interface of that number, and the other one's name says nothing.
    assert_eq!(left, "table inet tunnel-rs-1\ntable inet other\n");
}

#[test]
fn a_journal_that_cannot_be_written_changes_nothing() {
    with_lan();
    let runtime = runtime();
    let _entered = runtime.enter();
    let device = TunDevice::create(1420).unwrap();
    let state = Path::new("/proc/no-such-folder");
    let refused = ServerNetwork::apply(&device, &plan(state, "10.9.0.1/24", false)).unwrap_err();
    assert!(refused.to_string().contains("/proc/no-such-folder"), "{refused}");
    assert_eq!(sysctl::get("net/ipv4/ip_forward").unwrap(), "0");
    // Nor is it needed where forwarding is on.
    sysctl::set("net/ipv4/ip_forward", "1").unwrap();
    sysctl::set("net/ipv6/conf/all/forwarding", "1").unwrap();
    drop(ServerNetwork::apply(&device, &plan(state, "10.9.0.1/24", false)).unwrap());
}
