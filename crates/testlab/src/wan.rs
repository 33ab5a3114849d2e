//! A network over which throughput is measured: two pairs of hosts that share one long link; and what is
//! measured there.

use std::net::Ipv4Addr;

use crate::{
    Result,
    line::{Condition, End, Line},
    netns::{Interface, Namespace, connect},
};

mod kind;
mod link;
mod measure;
mod table;

pub use kind::{Carrier, Item, Kernel, Kind};
pub use link::Link;
pub use measure::{Figures, Plan, Row, measure};
pub use table::table;

/// The interface of each host.
const HOST: &str = "eth0";

/// What hosts have set (ip-sysctl of the kernel's documentation), so that TCP over the link is limited by the
/// link: buffers of up to 16 MiB, which hold twice what is under way and waits where the buffer is 4 times the
/// bandwidth-delay product of 1.25 MB; and nothing remembered of the connection before.
const SETTINGS: [(&str, &str); 3] = [
    ("net.ipv4.tcp_rmem", "4096 131072 16777216"),
    ("net.ipv4.tcp_wmem", "4096 16384 16777216"),
    ("net.ipv4.tcp_no_metrics_save", "1"),
];

/// Two hosts on each side of a link (IPv4, MTU 1500) that is the same in both directions.
///
/// ```text
///  a ──┐          ┌── b
///      ├── line ──┤
///  c ──┘          └── d
/// ```
///
/// What goes from the left to the right shares one direction of the link, whoever sends it, and what comes
/// back the other.
#[derive(Debug)]
pub struct WanLab {
    /// The link, between `a` and `c` and the others.
    pub line: Line,
    /// A host on the left; the client's, where there is one.
    pub a: Namespace,
    /// A host on the right.
    pub b: Namespace,
    /// The host beside `a`, for a second flow.
    pub c: Namespace,
    /// The host beside `b`.
    pub d: Namespace,
    /// What is between them.
    pub router: Namespace,
}

impl WanLab {
    /// The address of `a`.
    pub const A4: Ipv4Addr = Ipv4Addr::new(10, 78, 1, 2);
    /// The address of `b`.
    pub const B4: Ipv4Addr = Ipv4Addr::new(10, 78, 2, 2);
    /// The address of `c`.
    pub const C4: Ipv4Addr = Ipv4Addr::new(10, 78, 3, 2);
    /// The address of `d`.
    pub const D4: Ipv4Addr = Ipv4Addr::new(10, 78, 4, 2);

    /// Creates the hosts and a link of this condition in each direction, and proves that it is there.
    pub fn new(condition: Condition) -> Result<Self> {
        let router = Namespace::new("wan")?;
        router.forward_ipv4()?;
        let a = host(&router, "a", Self::A4)?;
        let b = host(&router, "b", Self::B4)?;
        let c = host(&router, "c", Self::C4)?;
        let d = host(&router, "d", Self::D4)?;
        let line = Line::shared(&router, &["to-a", "to-c"], condition, condition)?;
        let lab = Self { line, a, b, c, d, router };
        lab.line.verify(
            End { namespace: &lab.a, address: Self::A4.into() },
            End { namespace: &lab.b, address: Self::B4.into() },
        )?;
        Ok(lab)
    }
}

/// A host of the router, in a network of its own, where the router has the first address.
fn host(router: &Namespace, name: &str, address: Ipv4Addr) -> Result<Namespace> {
    let host = Namespace::new(name)?;
    for (key, value) in SETTINGS {
        host.sysctl(key, value)?;
    }
    let port = format!("to-{name}");
    connect(
        Interface { namespace: router, name: &port },
        Interface { namespace: &host, name: HOST },
    )?;
    let [x, y, z, _] = address.octets();
    let gateway = Ipv4Addr::new(x, y, z, 1);
    router.add_address(&port, gateway.into(), 24)?;
    host.add_address(HOST, address.into(), 24)?;
    host.add_route("default", gateway.into())?;
    Ok(host)
}
