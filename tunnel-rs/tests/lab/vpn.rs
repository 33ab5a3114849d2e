//! The VPN between hosts behind NATs: what it carries, on which paths, and what becomes of it when something changes.

use std::{net::Ipv4Addr, time::Duration};

mod full;
mod kills;
mod pairs;
mod programs;
mod roaming;
mod routes;
mod scene;
mod sizes;
mod spoofing;

use scene::{Scene, Setup};

/// The VPN's network.
const NETWORK: &str = "10.99.0.0/24";

/// The server's address in it, and that of its first client.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

/// For a client to carry packets, for a path to be found or found lost, and for a program to end.
const LIMIT: Duration = Duration::from_secs(60);

const SIGKILL: i32 = 9;

const SIGTERM: i32 = 15;
