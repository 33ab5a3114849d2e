use std::{fmt::Write, iter, time::Duration};

use super::{
    Kind, Mode, Recovery, Report, SIDES,
    traffic::{RECOVERY_LIMIT, STREAMS},
};

/// What stands where nothing was measured.
const NOTHING: &str = "–";

impl Report {
    /// The whole of it as Markdown, but for what the programs have printed.
    pub fn table(&self) -> String {
        let mut text = format!("{}\n\n", self.title());
        text += &markdown(
            ["traffic", "client to server", "server to client", "lost or failed"],
            self.traffic(),
        );
        let heading = [
            "fault",
            "times",
            "TCP goes on after 50 %",
            "95 %",
            "longest",
            "UDP 50 %",
            "95 %",
            "longest",
        ];
        text += &markdown(heading, self.recoveries());
        let heading = [
            "program",
            "memory at the start",
            "at the end",
            "open files at the start",
            "at the end",
        ];
        text += &markdown(heading, self.resources());
        for violation in &self.violations {
            let _ = writeln!(text, "* {}", violation.replace('\n', " "));
        }
        text
    }

    fn title(&self) -> String {
        let program = match self.mode {
            Mode::Iroh => "tunnel-rs",
            Mode::Nostr => "tunnel-rs-ice, nostr mode",
        };
        format!(
            "{program}, {} s, seed {}: {} faults, the session resumed {} times, {} violations",
            self.length.as_secs(),
            self.seed,
            self.faults.len(),
            self.resumptions,
            self.violations.len(),
        )
    }

    fn traffic(&self) -> Vec<Vec<String>> {
        let (carried, short) = (&self.carried, &self.carried.short);
        let failed: u64 = short.failed.values().sum();
        let why: Vec<_> =
            short.failed.iter().map(|(why, times)| format!("{times} × {why}")).collect();
        let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join(", ")) };
        let packets = carried.packets;
        vec![
            vec![
                format!("{STREAMS} TCP streams, the same connections all the time"),
                mib(carried.streams.up),
                mib(carried.streams.down),
                "0".to_owned(),
            ],
            vec![
                "a TCP connection with 64 bytes a second".to_owned(),
                format!("{} messages", carried.quiet),
                "their echoes".to_owned(),
                "0".to_owned(),
            ],
            vec![
                format!("{} short TCP connections", short.complete + failed),
                mib(short.bytes),
                mib(short.bytes),
                format!("{failed}{why}"),
            ],
            vec![
                "UDP packets".to_owned(),
                packets.up.to_string(),
                format!("{} returned", packets.down),
                format!("{:.1} %", lost(packets.up, packets.down)),
            ],
        ]
    }

    fn recoveries(&self) -> Vec<Vec<String>> {
        let of = |kind: Option<Kind>| {
            let of_kind =
                self.faults.iter().filter(|(fault, _)| kind.is_none_or(|it| fault.kind == it));
            let all: Vec<_> = of_kind.map(|(_, recovery)| *recovery).collect();
            let came: Vec<Recovery> = all.iter().copied().flatten().collect();
            let times = |pick: fn(&Recovery) -> Duration| {
                let mut times: Vec<_> = came.iter().map(pick).collect();
                times.sort_unstable();
                [50, 95, 100].map(|percent| seconds(percentile(&times, percent)))
            };
            let name = kind.map_or_else(|| "all".to_owned(), |kind| kind.to_string());
            let mut number = all.len().to_string();
            if came.len() < all.len() {
                let limit = RECOVERY_LIMIT.as_secs();
                let _ = write!(number, ", {} did not within {limit} s", all.len() - came.len());
            }
            let (tcp, udp) = (times(Recovery::tcp), times(|recovery| recovery.udp));
            [name, number].into_iter().chain(tcp).chain(udp).collect()
        };
        let kinds = Kind::ALL.into_iter().map(Some).chain(iter::once(None));
        kinds.map(of).collect()
    }

    fn resources(&self) -> Vec<Vec<String>> {
        let line = |number: usize| {
            let (start, end) = (self.start[number], self.end.map(|end| end[number]));
            let at_end = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
            vec![
                SIDES[number].to_string(),
                mib(start.memory),
                at_end(end.map(|end| mib(end.memory))),
                start.files.to_string(),
                at_end(end.map(|end| end.files.to_string())),
            ]
        };
        (0..SIDES.len()).map(line).collect()
    }
}

/// The smallest of the sorted values that so many percent of all do not exceed.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let place = (sorted.len() * percent).div_ceil(100);
    sorted.get(place.saturating_sub(1)).copied()
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(|| NOTHING.to_owned(), |time| format!("{:.2} s", time.as_secs_f64()))
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
fn lost(sent: u64, returned: u64) -> f64 {
    sent.saturating_sub(returned) as f64 * 100.0 / sent.max(1) as f64
}

fn markdown<const N: usize>(heading: [&str; N], lines: Vec<Vec<String>>) -> String {
    let heading = heading.map(str::to_owned).to_vec();
    let rule = vec!["---".to_owned(); N];
    let mut text = String::new();
    for cells in [heading, rule].into_iter().chain(lines) {
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let times: Vec<_> = (1..=20).map(Duration::from_secs).collect();
        for (percent, seconds) in [(50, 10), (95, 19), (100, 20), (1, 1)] {
            assert_eq!(percentile(&times, percent), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(percentile(&times[..1], 50), Some(Duration::from_secs(1)));
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn what_did_not_come_back_is_lost() {
        assert_eq!(format!("{:.1} {:.1}", lost(200, 150), lost(0, 0)), "25.0 0.0");
    }
}
