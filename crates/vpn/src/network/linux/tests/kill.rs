//! What SIGKILL leaves is gone once a VPN has been started again.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use tempfile::tempdir;

use super::*;

/// The role of the process that is killed, and its folder for the journal.
const ROLE: &str = "TUNNEL_VPN_TEST_ROLE";
const STATE: &str = "TUNNEL_VPN_TEST_STATE";

/// Kills of each role.
const KILLS: u32 = 50;

/// A process is killed that long after its start at most: it has done and undone all of it by then.
const LATEST: Duration = Duration::from_millis(120);

/// As long a VPN is up.
const UP: Duration = Duration::from_millis(20);

/// The process that is killed: it does and undoes what a client or a server does, again and again.
#[test]
#[ignore = "it is started, and killed, by another test"]
fn victim() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let state = PathBuf::from(std::env::var(STATE).unwrap());
    println!("started");
    // Others each time, so that what one leaves is not removed by chance by the next one that had the same.
    for number in 1.. {
        once(&role, &state, number);
    }
}

fn once(role: &str, state: &Path, number: u16) {
    let runtime = runtime();
    let _entered = runtime.enter();
    if role == "server" {
        clean_up(state, None).unwrap();
        let device = TunDevice::create(1420).unwrap();
        let addresses = nets(&["10.9.0.1/24", "fd09::1/64"]);
        let plan = ServerPlan { addresses, forward: true, masquerade: true, state: state.into() };
        let _network = ServerNetwork::apply(&device, &plan).unwrap();
        thread::sleep(UP);
    } else {
        let lock = ClientLock::acquire().unwrap();
        clean_up(state, Some(&lock)).unwrap();
        let bypass = Bypass::new().unwrap();
        bypass.set_udp_sockets(&[([0, 0, 0, 0], 4433 + number).into()]).unwrap();
        let [high, low] = number.to_be_bytes();
        bypass.add_servers([[203, 0, high, low].into()]).unwrap();
        let device = TunDevice::create(1420).unwrap();
        let mut network = ClientNetwork::new(&device, bypass);
        let addresses = nets(&["10.7.0.2/24", "fd07::2/64"]);
        let mut routes = nets(&["0.0.0.0/0", "::/0"]);
        let length = 8 + u8::try_from(number % 16).unwrap();
        routes.push(IpNet::new([198, 51, 100, 0].into(), length).unwrap());
        network.apply(&ClientPlan { addresses, routes }).unwrap();
        thread::sleep(UP);
    }
}

fn start(role: &str, state: &Path) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "network::linux::tests::kill::victim", "--ignored", "--nocapture"]);
    command.env(ROLE, role).env(STATE, state).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("started")));
    child
}

#[test]
fn nothing_is_left_once_it_has_been_started_and_ended_again() {
    with_lan();
    let state = tempdir().unwrap();
    sysctl::set("net/ipv4/conf/lan/forwarding", "1").unwrap();
    let before = snapshot();
    let mut random = fastrand::Rng::with_seed(7);
    let mut unclean = 0;
    for _ in 0..KILLS {
        // Both at once, so that each cleans up while the other is at work.
        let mut victims = ["server", "client"].map(|role| start(role, state.path()));
        random.shuffle(&mut victims);
        // The second one at once, or when it may have cleaned up what the first one left.
        let moments = [random.f64(), if random.bool() { random.f64() } else { 0.0 }];
        for (victim, moment) in victims.iter_mut().zip(moments) {
            thread::sleep(LATEST.mul_f64(moment));
            victim.kill().unwrap();
            let status = victim.wait().unwrap();
            assert!(status.code().is_none(), "it ended by itself: {status}");
        }
        unclean += u32::from(snapshot() != before);
        // Either role cleans up what either left.
        once(random.choice(["client", "server"]).unwrap(), state.path(), 0);
        assert_undone(&before);
    }
    assert!(unclean > KILLS / 10, "only {unclean} kills left anything to clean up");
}
