//! One or more directions of a link: what the kernel routes into a TUN device comes back out of the same
//! device late, limited or not at all.
//!
//! Each direction is a device with a condition (see `Condition` for its text). The program makes the
//! devices, says `Ready`, and runs until it is killed.

use std::{
    env,
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr},
    process::ExitCode,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use tun_rs::{DeviceBuilder, SyncDevice};
use tunnel_testlab::line::{Condition, Queue};

/// That of the lab's cables.
const MTU: u16 = 1_500;

/// How many packets may wait for this program, which is to decide itself what is dropped. The kernel's default
/// is 500; this is 40 ms of 250,000 packets a second.
const DEVICE_QUEUE: u32 = 10_000;

/// An IP packet cannot be longer.
const LARGEST_PACKET: usize = 65_535;

/// After a wake-up, how long the next is put off at least: packets that became due in between go together.
/// So a busy line wakes up at most 5000 times a second, and a packet is late by no more than this.
const REST: Duration = Duration::from_micros(200);

/// A packet, and when it leaves.
type Due = (Instant, Box<[u8]>);

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let directions: Option<Vec<_>> = arguments
        .chunks(2)
        .map(|pair| match pair {
            [name, condition] => Some((name.as_str(), condition.parse::<Condition>().ok()?)),
            _ => None,
        })
        .collect();
    let Some(directions) = directions.filter(|directions| !directions.is_empty()) else {
        let usage = "usage: lab-line DEVICE DELAY_NS,BITS_PER_SECOND|-,BUFFER_BYTES,LOSS,SEED ...";
        let _ = writeln!(io::stderr(), "{usage}");
        return ExitCode::from(2);
    };
    let _ = writeln!(io::stderr(), "lab-line: {}", run(&directions));
    ExitCode::FAILURE
}

/// Returns only what went wrong.
fn run(directions: &[(&str, Condition)]) -> String {
    let (failures, failed) = mpsc::channel();
    for &(name, condition) in directions {
        let device = DeviceBuilder::new().name(name).mtu(MTU).tx_queue_len(DEVICE_QUEUE);
        let started = device
            .build_sync()
            .and_then(|device| start(name, Arc::new(device), condition, &failures));
        if let Err(error) = started {
            return format!("cannot create the TUN device {name}: {error}");
        }
    }
    let mut out = io::stdout();
    let _ = writeln!(out, "Ready");
    let _ = out.flush();
    failed.recv().unwrap_or_else(|_| "all devices are gone".to_owned())
}

/// Starts the threads of one direction: one that reads, and, where packets have to wait, one that writes.
fn start(
    name: &str,
    device: Arc<SyncDevice>,
    condition: Condition,
    failures: &Sender<String>,
) -> io::Result<()> {
    let spawn = |task: &str, run: Box<dyn FnOnce() -> io::Result<()> + Send>| {
        let (task, failures) = (format!("{task} {name}"), failures.clone());
        let thread = thread::Builder::new().name(task.clone());
        thread.spawn(move || {
            if let Err(error) = run() {
                // Nobody listens any more when another thread has failed first.
                let _ = failures.send(format!("cannot {task}: {error}"));
            }
        })
    };
    let queue = Queue::new(condition);
    if !condition.takes_time() {
        spawn(
            "read and write",
            Box::new(move || read(&device, queue, |(_, packet)| device.send(&packet).map(drop))),
        )?;
        return Ok(());
    }
    let (packets, due) = mpsc::channel();
    let writer = Arc::clone(&device);
    spawn("write", Box::new(move || write(&writer, &due)))?;
    // The writer is gone only where it has reported its error.
    let forward = move |packet| packets.send(packet).map_err(io::Error::other);
    spawn("read", Box::new(move || read(&device, queue, forward)))?;
    Ok(())
}

/// Gives every packet that is not dropped to `forward`, with the time when it leaves.
fn read(
    device: &SyncDevice,
    mut queue: Queue,
    forward: impl Fn(Due) -> io::Result<()>,
) -> io::Result<()> {
    let start = Instant::now();
    let mut buffer = [0; LARGEST_PACKET];
    loop {
        let size = device.recv(&mut buffer)?;
        let packet = &buffer[..size];
        if is_multicast(packet) {
            continue;
        }
        if let Some(out) = queue.arrive(start.elapsed(), size) {
            forward((start + out, packet.into()))?;
        }
    }
}

/// Writes each packet when it is due.
fn write(device: &SyncDevice, packets: &Receiver<Due>) -> io::Result<()> {
    let mut woke = Instant::now();
    for (due, packet) in packets {
        let now = Instant::now();
        if due > now {
            thread::sleep(due.max(woke + REST) - now);
            woke = Instant::now();
        }
        device.send(&packet)?;
    }
    Ok(())
}

/// Whether the kernel sent it for the sake of the device itself, as it does for multicast listener discovery
/// (RFC 3810). Such packets were not forwarded, and would count for the rate and move the draws.
fn is_multicast(packet: &[u8]) -> bool {
    match packet.first().map(|first| first >> 4) {
        Some(4) => packet
            .get(16..)
            .and_then(|rest| rest.first_chunk())
            .is_some_and(|to: &[u8; 4]| Ipv4Addr::from(*to).is_multicast()),
        Some(6) => packet
            .get(24..)
            .and_then(|rest| rest.first_chunk())
            .is_some_and(|to: &[u8; 16]| Ipv6Addr::from(*to).is_multicast()),
        _ => false,
    }
}
