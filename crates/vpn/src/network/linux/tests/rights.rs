//! What is said where this machine's network may not be changed.

use tempfile::tempdir;

use super::*;
use crate::device::DeviceError;

/// Set for tests that are started by others, with something taken away from them.
const STARTED: &str = "TUNNEL_VPN_TEST_STARTED";

/// Runs a test of this file by a program that takes something away from it.
fn assert_passes(wrapper: &[&str], test: &str) {
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap()).env(STARTED, "yes");
    command.args(["--exact", &format!("network::linux::tests::rights::{test}"), "--ignored"]);
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(printed.contains("1 passed"), "{printed}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_the_capability_the_errors_say_so() {
    own_network();
    let wrapper = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    assert_passes(&wrapper, "without_capability");
}

#[test]
#[ignore = "it is started by another test"]
fn without_capability() {
    if std::env::var_os(STARTED).is_none() {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let refused = TunDevice::create(1420).unwrap_err();
    assert!(matches!(refused, DeviceError::Permission), "{refused}");
    let refused = Bypass::new().unwrap_err().to_string();
    assert!(refused.contains("needs root (CAP_NET_ADMIN)"), "{refused}");
    // Where nothing is left over, nothing needs to be removed.
    clean_up(tempdir().unwrap().path(), None).unwrap();
    let _lock = ClientLock::acquire().unwrap();
}

#[test]
fn parameters_that_cannot_be_set_are_named() {
    own_network();
    let script = "mount --make-rprivate / && mount --bind /proc/sys /proc/sys && \
                  mount -o remount,bind,ro /proc/sys && exec \"$0\" \"$@\"";
    assert_passes(&["unshare", "--mount", "sh", "-c", script], "without_parameters");
}

#[test]
#[ignore = "it is started by another test"]
fn without_parameters() {
    if std::env::var_os(STARTED).is_none() {
        return;
    }
    let runtime = runtime();
    let _entered = runtime.enter();
    let state = tempdir().unwrap();
    let device = TunDevice::create(1420).unwrap();
    let addresses = nets(&["10.9.0.1/24"]);
    let plan =
        ServerPlan { addresses, forward: true, masquerade: false, state: state.path().to_owned() };
    let refused = ServerNetwork::apply(&device, &plan).unwrap_err().to_string();
    assert!(refused.contains("--sysctl net.ipv4.ip_forward=1"), "{refused}");
    // What was not changed is not put back.
    clean_up(state.path(), None).unwrap();
}
