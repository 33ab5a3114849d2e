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
    /// Bytes that the sender sent.
    pub sent_bytes: u64,
    /// Bytes that the receiver got.
    pub received_bytes: u64,
    /// How many bits of them a second.
    pub bits_per_second: f64,
}

impl Iperf3 {
    /// Options for UDP at 50 Mbit/s in packets of the size that WireGuard sends on a link with an MTU of 1500.
    ///
    /// Its default receive buffer holds 20 ms of them, so it is given a larger one. Not counted are the first two seconds:
    /// a congestion window opens in them, at the pace of a round trip that a busy machine has made long.
    pub const UDP_50M: [&str; 9] = ["-u", "-b", "50M", "-l", "1452", "-w", "2M", "-O", "2"];

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
    /// Whether less than 1 % was lost of a rate that was sent, in bits per second; a tenth of it is iperf3's to leave out.
    pub fn is_nearly_whole(&self, rate: f64) -> bool {
        self.lost_percent() < 1.0 && self.bits_per_second > 0.9 * rate
    }

    fn parse(json: String) -> Result<Self> {
        let report: Value = serde_json::from_str(&json).unwrap_or_default();
        let end = &report["end"];
        let (sent, received) = (&end["sum_sent"], &end["sum_received"]);
        let bytes = (sent["bytes"].as_u64(), received["bytes"].as_u64());
        let rate = received["bits_per_second"].as_f64();
        let ((Some(sent_bytes), Some(received_bytes)), Some(bits_per_second)) = (bytes, rate)
        else {
            return Err(Error::Malformed { what: "the report of iperf3", text: json });
        };
        Ok(Self { sent_bytes, received_bytes, bits_per_second })
    }

    /// How many of a hundred bytes the receiver did not get, counted by itself: iperf3's own figure for UDP takes in what
    /// was lost in the time that `-O` leaves out (seen with 3.12).
    pub fn lost_percent(&self) -> f64 {
        let lost = self.sent_bytes.saturating_sub(self.received_bytes);
        if self.sent_bytes == 0 { 100.0 } else { lost as f64 / self.sent_bytes as f64 * 100.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loss_is_what_was_sent_and_did_not_arrive() -> Result<()> {
        let json = r#"{"end": {
            "sum": {"bytes": 6244800, "lost_percent": 11.1, "sender": true},
            "sum_sent": {"bytes": 6250000, "lost_percent": 0},
            "sum_received": {"bytes": 6187500, "bits_per_second": 49.5e6}}}"#;
        let report = Report::parse(json.to_owned())?;
        let expected =
            Report { sent_bytes: 6_250_000, received_bytes: 6_187_500, bits_per_second: 49.5e6 };
        assert_eq!(report, expected);
        assert!((report.lost_percent() - 1.0).abs() < 1e-9);
        assert_eq!(Report { sent_bytes: 0, ..report }.lost_percent(), 100.0);
        Ok(())
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for text in ["", "{}", r#"{"error": "unable to connect"}"#] {
            assert!(Report::parse(text.to_owned()).is_err(), "{text:?}");
        }
    }
}
