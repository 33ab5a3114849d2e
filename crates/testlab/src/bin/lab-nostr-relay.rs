//! A Nostr relay for the lab, good or bad.
//!
//! The good one is nostr-relay-builder's, which keeps events of the kinds that are to be kept in memory. Listening on
//! `::` serves IPv4 as well (ipv6(7), `IPV6_V6ONLY`).

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener},
    process::{self, ExitCode},
    sync::atomic::{AtomicUsize, Ordering},
};

use nostr_relay_builder::{
    LocalRelay,
    builder::{PolicyResult, RateLimit, RelayBuilder, WritePolicy},
    prelude::{BoxedFuture, Event},
};
use tunnel_testlab::nostr::{Manner, misbehave};

const USAGE: &str = "usage: lab-nostr-relay --listen IP --port PORT [--manner MANNER]

  --manner good      does what it should (the default)
           mortal=N  does so for N events, and is dead with the next one
           silent    accepts WebSockets, and says nothing
           garbage   says what is no message of Nostr
           flood=N   sends N worthless events a second to who subscribes, and passes none on
";

/// More than any test has.
const LIMITS: RateLimit = RateLimit { max_reqs: 1_000, notes_per_minute: 1_000_000 };

struct Options {
    address: SocketAddr,
    manner: Manner,
}

fn main() -> ExitCode {
    let options = match parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(what) => {
            say(&format!("{what}\n{USAGE}"));
            return ExitCode::from(2);
        }
    };
    say(&match options.manner {
        Manner::Good | Manner::Mortal(_) => serve(&options),
        manner => match TcpListener::bind(options.address) {
            Ok(listener) => {
                listening(&options);
                misbehave(&listener, manner).to_string()
            }
            Err(error) => error.to_string(),
        },
    });
    ExitCode::FAILURE
}

/// Returns only what went wrong.
#[tokio::main]
async fn serve(options: &Options) -> String {
    let mut builder = RelayBuilder::default()
        .addr(options.address.ip())
        .port(options.address.port())
        .rate_limit(LIMITS);
    if let Manner::Mortal(events) = options.manner {
        builder = builder.write_policy(Mortal { left: AtomicUsize::new(events) });
    }
    let relay = LocalRelay::new(builder);
    if let Err(error) = relay.run().await {
        return error.to_string();
    }
    listening(options);
    std::future::pending().await
}

/// Ends the process with the first event that is one too many.
#[derive(Debug)]
struct Mortal {
    left: AtomicUsize,
}

impl WritePolicy for Mortal {
    fn admit_event<'a>(&'a self, _: &'a Event, _: &'a SocketAddr) -> BoxedFuture<'a, PolicyResult> {
        Box::pin(async {
            if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
                say("dead");
                process::exit(0);
            }
            PolicyResult::Accept
        })
    }
}

fn listening(options: &Options) {
    say(&format!("Listening: {}", options.address));
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let (mut ip, mut port, mut manner) = (None, None, Manner::Good);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().ok_or_else(|| format!("{flag} needs a value"))?;
        let wrong = || format!("{flag}: '{value}' is none");
        match flag.as_str() {
            "--listen" => ip = Some(value.parse::<IpAddr>().map_err(|_| wrong())?),
            "--port" => port = Some(value.parse::<u16>().map_err(|_| wrong())?),
            "--manner" => manner = value.parse()?,
            _ => return Err(format!("'{flag}' is not known")),
        }
    }
    match (ip, port) {
        (Some(ip), Some(port)) => Ok(Options { address: SocketAddr::new(ip, port), manner }),
        _ => Err("--listen or --port is missing".to_owned()),
    }
}
