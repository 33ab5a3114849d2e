//! A relay for the lab: TLS with a certificate of its own, address discovery on the usual port.

use std::io::Write;
use std::net::IpAddr;
use std::process::ExitCode;

use tunnel_relay::{Relay, RelayOptions};

/// The TCP port for HTTPS, and the UDP port where iroh looks for address discovery.
const PORTS: (u16, u16) = (443, 7842);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let ip: Option<IpAddr> = match (arguments.next().as_deref(), arguments.next()) {
        (Some("--listen"), Some(ip)) => ip.parse().ok(),
        _ => None,
    };
    let mut out = std::io::stdout();
    let Some(ip) = ip else {
        let _ = writeln!(out, "usage: lab-relay --listen IP");
        return ExitCode::from(2);
    };
    tunnel_iroh::crypto::install();
    let relay =
        match Relay::start(RelayOptions { ip, https_port: PORTS.0, quic_port: PORTS.1 }).await {
            Ok(relay) => relay,
            Err(error) => {
                let _ = writeln!(out, "{error}");
                return ExitCode::FAILURE;
            }
        };
    let _ = writeln!(out, "Relay: {}\nPin: {}", relay.url(), relay.pin());
    let _ = out.flush();
    std::future::pending().await
}
