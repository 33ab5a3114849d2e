//! A relay for the lab: TLS with a certificate of its own, address discovery on the usual port.
//!
//! Listening on `::` serves IPv4 as well (ipv6(7), `IPV6_V6ONLY`). The certificate is known by its pin, so a
//! name needs to stand in the URL only.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use tunnel_relay::{Relay, RelayError, RelayOptions};

/// The TCP port for HTTPS, and the UDP port where iroh looks for address discovery.
const PORTS: (u16, u16) = (443, 7842);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let (ip, name) = match arguments.as_slice() {
        ["--listen", ip] => (ip.parse::<IpAddr>().ok(), None),
        ["--listen", ip, "--name", name] => (ip.parse().ok(), Some(*name)),
        _ => (None, None),
    };
    let mut out = std::io::stdout();
    let Some(ip) = ip else {
        let _ = writeln!(out, "usage: lab-relay --listen IP [--name NAME]");
        return ExitCode::from(2);
    };
    tunnel_iroh::crypto::install();
    let relay = match start(SocketAddr::new(ip, PORTS.0)).await {
        Ok(relay) => relay,
        Err(error) => {
            let _ = writeln!(out, "{error}");
            return ExitCode::FAILURE;
        }
    };
    let host = name.map_or_else(|| relay.address().to_string(), str::to_owned);
    let _ = writeln!(out, "Relay: https://{host}\nPin: {}", relay.pin().unwrap_or_default());
    let _ = out.flush();
    std::future::pending().await
}

async fn start(listen: SocketAddr) -> Result<Relay, RelayError> {
    Relay::start(RelayOptions::for_now(listen, PORTS.1)?).await
}
