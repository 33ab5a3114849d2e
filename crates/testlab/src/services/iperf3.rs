use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::Value;

use super::{START_LIMIT, free_address};
use crate::{
    Error, Result,
    netns::{Namespace, command_in},
    process::{Proc, run},
};

/// iperf3's server.
#[derive(Debug)]
pub struct Iperf3 {
    /// Where it listens, for both protocols.
    pub address: SocketAddr,
    /// The program.
    pub process: Proc,
    measured: usize,
}

/// What an iperf3 client measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// Bytes that the receiver got.
    pub received_bytes: u64,
    /// How many bits of them a second.
    pub bits_per_second: f64,
    /// For UDP, how many of a hundred packets the receiver did not get.
    pub lost_percent: Option<f64>,
}

impl Iperf3 {
    /// Starts it.
    pub fn start(namespace: Option<&Namespace>, address: IpAddr) -> Result<Self> {
        let address = free_address(namespace, address)?;
        let mut command = command_in(namespace, "iperf3");
        command.args(["-s", "--forceflush", "-B", &address.ip().to_string()]);
        command.args(["-p", &address.port().to_string()]);
        let iperf3 = Self { address, process: Proc::spawn(&mut command)?, measured: 0 };
        iperf3.wait_idle()?;
        Ok(iperf3)
    }

    /// Runs an iperf3 client in a namespace against an address that leads here, for some seconds.
    ///
    /// `options` are iperf3's: `-R` for the direction from the server to the client, `-u -b 50M` for UDP.
    /// Its packets' size (`-l`) is for the caller to say too: iperf3 takes it from the path's MTU, and to a
    /// tunnel's listener that is the loopback's.
    pub fn measure(
        &mut self,
        namespace: Option<&Namespace>,
        target: SocketAddr,
        seconds: u32,
        options: &[&str],
    ) -> Result<Report> {
        self.wait_idle()?;
        self.measured += 1;
        let mut command = command_in(namespace, "iperf3");
        command.args(["-J", "-c", &target.ip().to_string(), "-p", &target.port().to_string()]);
        command.args(["-t", &seconds.to_string()]).args(options);
        let limit = START_LIMIT + Duration::from_secs(u64::from(seconds));
        Report::parse(run(&mut command, limit)?)
    }

    /// It serves one client at a time and refuses others, and says when it is free again.
    fn wait_idle(&self) -> Result<()> {
        self.process.wait_lines(
            |lines| {
                let idle = lines.iter().filter(|line| line.text.starts_with("Server listening"));
                (idle.count() > self.measured).then_some(())
            },
            START_LIMIT,
        )
    }
}

impl Report {
    fn parse(json: String) -> Result<Self> {
        let report: Value = serde_json::from_str(&json).unwrap_or_default();
        let end = &report["end"];
        let received = &end["sum_received"];
        let (bytes, rate) = (received["bytes"].as_u64(), received["bits_per_second"].as_f64());
        let (Some(received_bytes), Some(bits_per_second)) = (bytes, rate) else {
            return Err(Error::Malformed { what: "the report of iperf3", text: json });
        };
        let lost_percent = end["sum"]["lost_percent"].as_f64();
        Ok(Self { received_bytes, bits_per_second, lost_percent })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_udp_names_the_loss() -> Result<()> {
        let json = r#"{"end": {
            "sum": {"bytes": 6244800, "lost_percent": 0.5, "sender": true},
            "sum_received": {"bytes": 6200000, "bits_per_second": 49.5e6}}}"#;
        let expected =
            Report { received_bytes: 6_200_000, bits_per_second: 49.5e6, lost_percent: Some(0.5) };
        assert_eq!(Report::parse(json.to_owned())?, expected);
        Ok(())
    }

    #[test]
    fn the_report_of_tcp_has_no_loss() -> Result<()> {
        let json = r#"{"end": {"sum_received": {"bytes": 7, "bits_per_second": 56}}}"#;
        assert_eq!(Report::parse(json.to_owned())?.lost_percent, None);
        Ok(())
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for text in ["", "{}", r#"{"error": "unable to connect"}"#] {
            assert!(Report::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
