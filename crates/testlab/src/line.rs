//! Links with delay, loss and rate, without netem, which many kernels lack.
//!
//! A line sits in a router, on one of its interfaces or on several that share it:
//!
//! ```text
//!          ┌────────────── router ───────────────┐
//!          │     ┌─► TUN up ──► program ──┐      │
//!  near ───┤ from┘                        └─► to ├─── far
//!          │     ┌── program ◄── TUN down ◄┐     │
//!          │ from◄┘                        └─ to │
//!          └─────────────────────────────────────┘
//! ```
//!
//! What comes in by `from` is marked and routed into the TUN device "up". The program `lab-line` reads it
//! there, holds or drops it, and writes it back to the device; then it goes where the router's main table
//! says. What comes in anywhere else, and would leave by `from`, takes the device "down" in the same way.
//! The marks come from nft, which asks the main table for each packet (`fib`), so routes may change while
//! the line is there, and a packet from one line's interface to another's suffers both lines. IPv4 and IPv6
//! are treated alike.
//!
//! Each pass through a device is a hop: the TTL goes down by one more. Packets to and from the router itself
//! pass by the line, as do ARP and neighbour discovery. The router must not be a NAT, because connection
//! tracking would see each packet twice; the nft mark is the line's own there.
//!
//! The rate and the loss are the program's business too, and not that of `tbf` and nft's `numgen`, as the
//! length of the queue and the seed of the draws are then under control.
//!
//! The kernel cuts the segments that TCP and UDP offload to it (GSO) before a TUN device without offload, so
//! the program counts and drops packets of the MTU, as a real link does.

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use crate::{
    Result, bin,
    netns::Namespace,
    process::{Proc, run},
};

mod condition;
mod queue;
mod verify;

pub use condition::Condition;
pub use queue::{Queue, link_bytes};
pub use verify::{End, verify};

/// For the program to make its devices.
const START_LIMIT: Duration = Duration::from_secs(30);

/// For a script of some ten `ip` commands.
const SETUP_LIMIT: Duration = Duration::from_secs(30);

/// From here on, one number for each direction of a line is its mark, its routing table and the preference of
/// its rule: above the tables that have names, and below the preference of the main table, 32766 (ip-rule(8)).
const FIRST_NUMBER: u32 = 10_000;

/// An impairment between some interfaces of a router and all its others.
///
/// Dropping it leaves a router without an impairment. If its program ends before that, packets of the line
/// get no further, so that no test goes on with a better link than it asked for.
#[derive(Debug)]
pub struct Line {
    /// What packets suffer that come from the near side.
    pub up: Condition,
    /// What packets suffer that go to the near side.
    pub down: Condition,
    /// The program.
    pub process: Proc,
    numbers: Numbers,
    router: String,
}

impl Line {
    /// Puts a line on one interface of a router: what enters the router through `from` suffers `up`, what
    /// leaves through it suffers `down`.
    ///
    /// The router must forward already. The program must have been built:
    /// `cargo build --package tunnel-testlab --bin lab-line`.
    pub fn start(router: &Namespace, from: &str, up: Condition, down: Condition) -> Result<Self> {
        Self::shared(router, &[from], up, down)
    }

    /// As `start`, but the interfaces `from` share the line, as if a switch joined their hosts before it.
    pub fn shared(
        router: &Namespace,
        from: &[&str],
        up: Condition,
        down: Condition,
    ) -> Result<Self> {
        let numbers = Numbers::next();
        // A reply need not come from where the main table would send to: a TUN device is in between. New
        // devices inherit `default`, and of `all` and the device's own value the greater one counts.
        for interface in ["all", "default"] {
            router.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
        }
        let mut command = router.command("nice");
        // The program must be on time on a machine that is busy with what is tested.
        command.args(["-n", "-20"]).arg(bin::path("lab-line")?);
        command.args([numbers.up_device(), up.to_string()]);
        // Two directions of one seed would otherwise drop the packets of the same numbers.
        let reseeded = down.with_seed(!down.seed);
        command.args([numbers.down_device(), reseeded.to_string()]);
        let process = Proc::spawn(&mut command)?;
        process.wait_line(|line| line == "Ready", START_LIMIT)?;
        let line = Self { up, down, process, numbers, router: router.name().to_owned() };
        run(router.command("sh").args(["-c", &numbers.routes()]), SETUP_LIMIT)?;
        router.nft(&numbers.marks(from))?;
        Ok(line)
    }

    /// Proves by packets between two hosts that the line is there and as it was asked for.
    ///
    /// `near` is a host behind the line's interface and `far` one behind another interface, with nothing else
    /// between them that delays, limits or drops; use the function `verify` where there is. Takes less than
    /// 3 s for the conditions that it can prove, see there.
    pub fn verify(&self, near: End<'_>, far: End<'_>) -> Result<()> {
        verify(near, far, self.up, self.down)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Where the router's namespace is gone, so is all that this would remove.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.router, "sh", "-c", &self.numbers.removal()]);
        let _ = run(&mut command, SETUP_LIMIT);
    }
}

/// What the two directions of a line are called in their router.
#[derive(Clone, Copy, Debug)]
struct Numbers {
    line: u32,
}

impl Numbers {
    fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self { line: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    fn up(self) -> u32 {
        FIRST_NUMBER + 2 * self.line
    }

    fn down(self) -> u32 {
        self.up() + 1
    }

    fn up_device(self) -> String {
        format!("line{}-up", self.line)
    }

    fn down_device(self) -> String {
        format!("line{}-down", self.line)
    }

    fn table(self) -> String {
        format!("line{}", self.line)
    }

    /// The route of the greater metric is what remains when the program ends and its device with it.
    fn routes(self) -> String {
        let mut script = "set -e\n".to_owned();
        for family in ["-4", "-6"] {
            for (number, device) in
                [(self.up(), self.up_device()), (self.down(), self.down_device())]
            {
                script += &format!(
                    "ip {family} route add default dev {device} metric 1 table {number}\n\
                     ip {family} route add unreachable default metric 2 table {number}\n\
                     ip {family} rule add pref {number} fwmark {number} lookup {number}\n"
                );
            }
        }
        script
    }

    /// A mark for "up" wins over one for another line's "down", in whichever order the two lines' chains run:
    /// that packet comes back from its first line without a mark.
    fn marks(self, from: &[&str]) -> String {
        let (table, device, up, down) = (self.table(), self.down_device(), self.up(), self.down());
        let from = from.join(", ");
        format!(
            "table inet {table} {{\n\
             chain prerouting {{ type filter hook prerouting priority filter;\n\
             iifname {{ {from} }} meta mark set {up} return\n\
             iifname != {device} meta mark 0 fib daddr oifname {{ {from} }} meta mark set {down}\n\
             }}\n\
             }}\n"
        )
    }

    fn removal(self) -> String {
        let mut script = format!("nft delete table inet {}\n", self.table());
        for family in ["-4", "-6"] {
            for number in [self.up(), self.down()] {
                script += &format!(
                    "ip {family} rule del pref {number}\n\
                     ip {family} route flush table {number}\n"
                );
            }
        }
        script
    }
}
