//! What iperf3 measures over a link, without a tunnel and through one.

use std::{fs, io, net::SocketAddr, path::PathBuf, thread, time::Duration};

use super::{Carrier, Item, Kernel, Kind, Link, WanLab};
use crate::{
    Error, Result,
    netns::Namespace,
    services::{Iperf3, Report},
    stream::Direction,
    tunnel::{Client, ClientConfig, PathKind, Server, ServerConfig},
};

/// For a session to open, and for it to be direct.
const SESSION_LIMIT: Duration = Duration::from_secs(30);

/// 20 Mbit/s of packets that fit into one datagram of a path that has just opened.
const UDP: [&str; 5] = ["-u", "-b", "20M", "-l", "1200"];

/// What iperf3 says where the one packet is lost that it sends before a measurement of UDP, or its answer.
const HELLO_LOST: &str = "unable to read from stream socket";

/// How often a measurement of UDP is begun at the most, as a lossy link takes that packet too.
const HELLOS: usize = 5;

/// The discovery server that a tunnel is given. Nobody listens there: an own one turns all public ones off,
/// and with no relay there are direct paths only.
const NO_DISCOVERY: &str = "http://127.0.0.1:9/";

/// The clients' ports on `a`, where no other program listens.
const PORTS: [u16; 2] = [5201, 5202];

/// How long two streams that share a link are measured, in times of one alone: they take long to settle.
const SHARED_FACTOR: u32 = 2;

/// The kernel's congestion controls that can be had now.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

/// What is measured, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program `tunnel-rs`.
    pub binary: PathBuf,
    /// What `--congestion` is given; `None` leaves it out.
    pub congestions: Vec<Option<String>>,
    /// The length of a measurement; two streams that share a link have twice as long.
    pub seconds: u32,
    /// How often everything is measured, each time with other packets lost.
    pub runs: u32,
    /// What the name of an item must contain to be measured.
    pub only: String,
}

/// What came of one measurement; rates are what the receiver got, in bit/s.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Of the stream or of the datagrams.
    pub rate: f64,
    /// Of the stream beside it, where there is one.
    pub beside: Option<f64>,
    /// How many of a hundred datagrams did not arrive.
    pub loss: Option<f64>,
}

/// An item and what came of it, once for each run; nothing where the kernel cannot do it.
#[derive(Debug)]
pub struct Row {
    /// What was measured.
    pub item: Item,
    /// What came of it.
    pub runs: Vec<Result<Figures>>,
}

impl Plan {
    /// What it measures.
    pub fn items(&self) -> Vec<Item> {
        let mut items = Item::all(&self.congestions);
        items.retain(|item| item.to_string().contains(&self.only));
        items
    }
}

/// Measures everything that is planned, one after the other, and returns a row for each item in their order.
///
/// All items of a link have the same lab in a run. Nothing is measured again because of how it came out.
/// `progress` is told every result as it comes.
pub fn measure(plan: &Plan, progress: &dyn Fn(&Item, &Result<Figures>)) -> Vec<Row> {
    let rows = plan.items().into_iter().map(|item| Row { item, runs: Vec::new() });
    let mut rows: Vec<_> = rows.collect();
    for run in 0..plan.runs {
        for link in Link::ALL {
            let on_link =
                rows.iter_mut().filter(|row| row.item.link == link && possible(&row.item));
            let on_link: Vec<_> = on_link.collect();
            if on_link.is_empty() {
                continue;
            }
            let lab = WanLab::new(link.condition(run.into())).map_err(|error| error.to_string());
            for row in on_link {
                let figures = match &lab {
                    Ok(lab) => Bench { lab, plan }.measure(&row.item.kind),
                    Err(why) => Err(Error::Io {
                        action: format!("measure without the link {}", link.name),
                        source: io::Error::other(why.clone()),
                    }),
                };
                progress(&row.item, &figures);
                row.runs.push(figures);
            }
        }
    }
    rows
}

/// Whether the kernel has the congestion control.
fn possible(item: &Item) -> bool {
    let (Kind::Alone(carrier, _) | Kind::Shared(carrier)) = &item.kind else { return true };
    let Carrier::Raw(kernel) = carrier else { return true };
    let available = fs::read_to_string(AVAILABLE).unwrap_or_default();
    *kernel == Kernel::Cubic || available.split_whitespace().any(|name| name == kernel.name())
}

/// A lab to measure in. Each measurement has servers and a tunnel of its own.
struct Bench<'a> {
    lab: &'a WanLab,
    plan: &'a Plan,
}

/// Two iperf3 servers on `b`, as a server has one client at a time, and what leads to them from `a`.
///
/// Fields are dropped in this order, so that no program is surprised by another one's end.
struct Way {
    _tunnel: Option<(Client, Server)>,
    kernel: Option<Kernel>,
    servers: [Iperf3; 2],
    targets: [SocketAddr; 2],
}

impl Bench<'_> {
    fn measure(&self, kind: &Kind) -> Result<Figures> {
        let seconds = self.plan.seconds;
        match kind {
            Kind::Alone(carrier, direction) => {
                let mut way = self.way(carrier)?;
                let options = [way.stream_options(), reverse(*direction)].concat();
                let report = way.run(&self.lab.a, seconds, &options)?;
                Ok(Figures { rate: report.bits_per_second, ..Figures::default() })
            }
            Kind::Shared(carrier) => {
                let mut way = self.way(carrier)?;
                let options = way.stream_options();
                let mut other = Iperf3::start(Some(&self.lab.d), WanLab::D4.into())?;
                let (target, seconds) = (other.address, seconds * SHARED_FACTOR);
                let cubic = ["-C", Kernel::Cubic.name()];
                let (report, beside) = both(
                    || way.run(&self.lab.a, seconds, &options),
                    || other.measure(Some(&self.lab.c), target, seconds, &cubic),
                )?;
                Ok(Figures {
                    rate: report.bits_per_second,
                    beside: Some(beside.bits_per_second),
                    loss: None,
                })
            }
            Kind::Datagrams(carrier, direction) => {
                let mut way = self.way(carrier)?;
                let options = [&UDP[..], &reverse(*direction)].concat();
                let ([packets, _], [target, _]) = (&mut way.servers, way.targets);
                let report = measure_udp(packets, &self.lab.a, target, seconds, &options)?;
                Ok(datagrams(report, None))
            }
            Kind::Mixed(carrier) => {
                let mut way = self.way(carrier)?;
                let options = way.stream_options();
                let [packets, stream] = &mut way.servers;
                let [to_packets, to_stream] = way.targets;
                let (report, beside) = both(
                    || measure_udp(packets, &self.lab.a, to_packets, seconds, &UDP),
                    || stream.measure(Some(&self.lab.a), to_stream, seconds, &options),
                )?;
                Ok(datagrams(report, Some(beside.bits_per_second)))
            }
        }
    }

    fn way(&self, carrier: &Carrier) -> Result<Way> {
        let start = || Iperf3::start(Some(&self.lab.b), WanLab::B4.into());
        let servers = [start()?, start()?];
        let targets = servers.each_ref().map(|server| server.address);
        match carrier {
            Carrier::Raw(kernel) => {
                Ok(Way { _tunnel: None, kernel: Some(*kernel), servers, targets })
            }
            Carrier::Tunnel(congestion) => {
                let tunnel = self.tunnel(congestion.as_deref(), targets)?;
                let targets = PORTS.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
                Ok(Way { _tunnel: Some(tunnel), kernel: None, servers, targets })
            }
        }
    }

    /// A tunnel whose client listens on `PORTS` for both protocols, once it has a direct path.
    fn tunnel(
        &self,
        congestion: Option<&str>,
        services: [SocketAddr; 2],
    ) -> Result<(Client, Server)> {
        let mut arguments = vec!["--dns-server", NO_DISCOVERY];
        if let Some(congestion) = congestion {
            arguments.extend(["--congestion", congestion]);
        }
        let network = format!("{}/32", WanLab::B4);
        let server = ServerConfig::new(&self.plan.binary)
            .allow_tcp(&network)
            .allow_udp(&network)
            .arguments(arguments.iter().copied())
            .start(Some(&self.lab.b))?;
        let mut client = ClientConfig::with_ticket(&self.plan.binary, &server.ticket);
        // The ticket says where its discovery is; what is left is how this end sends.
        client = client.arguments(arguments.into_iter().skip(2));
        for (port, service) in PORTS.into_iter().zip(services) {
            client = client.local(&format!("{port}:{service}"));
            client = client.local(&format!("{port}:{service}/udp"));
        }
        let client = client.start(Some(&self.lab.a))?;
        client.wait_session_open(SESSION_LIMIT)?;
        client.wait_path(PathKind::Direct, SESSION_LIMIT)?;
        Ok((client, server))
    }
}

impl Way {
    /// Measures with the first server.
    fn run(&mut self, from: &Namespace, seconds: u32, options: &[&str]) -> Result<Report> {
        self.servers[0].measure(Some(from), self.targets[0], seconds, options)
    }

    /// The kernel's control is that of the socket on the link; those to and from a tunnel are on loopback.
    fn stream_options(&self) -> Vec<&'static str> {
        self.kernel.map_or_else(Vec::new, |kernel| vec!["-C", kernel.name()])
    }
}

fn reverse(direction: Direction) -> Vec<&'static str> {
    match direction {
        Direction::Up => Vec::new(),
        Direction::Down => vec!["-R"],
    }
}

fn datagrams(report: Report, beside: Option<f64>) -> Figures {
    Figures { rate: report.bits_per_second, beside, loss: Some(report.lost_percent()) }
}

/// As `Iperf3::measure`, but it begins again where nothing was measured because its first packet was lost.
fn measure_udp(
    server: &mut Iperf3,
    from: &Namespace,
    target: SocketAddr,
    seconds: u32,
    options: &[&str],
) -> Result<Report> {
    let mut begun = 1;
    loop {
        match server.measure(Some(from), target, seconds, options) {
            Err(Error::Failed { output, .. }) if begun < HELLOS && output.contains(HELLO_LOST) => {
                begun += 1
            }
            ended => return ended,
        }
    }
}

/// Runs both at the same time.
fn both(
    one: impl FnOnce() -> Result<Report>,
    other: impl FnOnce() -> Result<Report> + Send,
) -> Result<(Report, Report)> {
    thread::scope(|scope| {
        let other = thread::Builder::new().spawn_scoped(scope, other);
        let other = other.map_err(Error::io("start a second measurement"))?;
        let one = one();
        let other = other.join().unwrap_or_else(|panicked| std::panic::resume_unwind(panicked));
        Ok((one?, other?))
    })
}
