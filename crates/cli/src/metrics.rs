//! What Prometheus is told of sessions and flows.
//!
//! No label holds an address, an identity, a name or a token, and each has a few values that are known beforehand.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use tunnel_model::protocol::{Reason, Refusal};
use tunnel_model::{CloseCode, Protocol};
use tunnel_session::Traffic;
use tunnel_session::events::{Event, FlowEnd, Observer, SessionId};
use tunnel_session::transport::{PathKind, PathReport};

/// Labels with their values, of which there are few.
type Labels<const N: usize> = [(&'static str, &'static str); N];

/// What is counted of a process's sessions, from its first one on.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    sessions_opened: Counter,
    sessions_closed: Counter,
    sessions_refused: Family<Labels<1>, Counter>,
    sessions_suspended: Counter,
    sessions_resumed: Counter,
    path_changes: Counter,
    sources_refused: Family<Labels<1>, Counter>,
    flows_opened: Family<Labels<1>, Counter>,
    flows_refused: Family<Labels<2>, Counter>,
    flows_closed: Family<Labels<2>, Counter>,
    attempts_failed: Counter,
    present: Arc<Mutex<Present>>,
    live: Arc<Live>,
}

/// What there is at the moment.
#[derive(Debug, Default)]
struct Present {
    /// Each session, by the path that it takes.
    sessions: HashMap<SessionId, &'static str>,
    /// Each flow, by its protocol.
    flows: HashMap<(SessionId, u64), &'static str>,
}

/// What is looked up when somebody asks.
#[derive(Default)]
struct Live {
    look: std::sync::OnceLock<Look>,
}

type Look = Box<dyn Fn() -> (bool, Traffic) + Send + Sync>;

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Live")
    }
}

/// Paths that a session can take.
const PATHS: [&str; 4] = ["direct", "relay", "other", "none"];

impl Metrics {
    /// Nothing has happened yet.
    pub fn new(version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("tunnel");
        let present = Arc::<Mutex<Present>>::default();
        let live = Arc::<Live>::default();
        registry.register("build", "Which program this is", Info::new([("version", version)]));
        let start: Gauge<f64, AtomicU64> = Gauge::default();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        start.set(since.as_secs_f64());
        let help = "When the process started, since the Unix epoch";
        registry.register_with_unit("start_time", help, Unit::Seconds, start);
        registry.register_collector(Box::new(Now { present: present.clone(), live: live.clone() }));
        let mut all = Registering(&mut registry);
        let sessions_opened = all.counter("sessions_opened", "Sessions that were opened");
        let sessions_closed = all.counter("sessions_closed", "Sessions that ended for good");
        let sessions_refused =
            all.family("sessions_refused", "Clients that were not let in, by the reason");
        let help = "How often a session with open flows was left without a connection";
        let sessions_suspended = all.counter("sessions_suspended", help);
        let help = "How often a session has gone on over another connection";
        let sessions_resumed = all.counter("sessions_resumed", help);
        let help = "How often the path of a session has changed within a connection";
        let path_changes = all.counter("path_changes", help);
        let help = "Sources that a client will ask for and would be refused, by the reason";
        let sources_refused = all.family("sources_refused", help);
        let flows_opened = all.family("flows_opened", "Flows that were opened");
        let flows_refused = all.family("flows_refused", "Flows that were refused, by the reason");
        let flows_closed = all.family("flows_closed", "Flows that have ended, by the reason");
        let help = "Attempts of a client to reach its server that failed";
        let attempts_failed = all.counter("attempts_failed", help);
        Self {
            sessions_opened,
            sessions_closed,
            sessions_refused,
            sessions_suspended,
            sessions_resumed,
            path_changes,
            sources_refused,
            flows_opened,
            flows_refused,
            flows_closed,
            attempts_failed,
            registry,
            present,
            live,
        }
    }

    /// From here on looks up by `look` whether the process is ready, and the payload of all its sessions. Only the first
    /// call has an effect.
    pub fn look_up(&self, look: impl Fn() -> (bool, Traffic) + Send + Sync + 'static) {
        let _ = self.live.look.set(Box::new(look));
    }

    /// A client has failed to reach its server.
    pub fn attempt_failed(&self) {
        self.attempts_failed.inc();
    }

    /// All of it, in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        lock(&self.present)
    }

    fn flow_opened(&self, flow: (SessionId, u64), protocol: &'static str) {
        self.flows_opened.get_or_create(&[("protocol", protocol)]).inc();
        self.present().flows.insert(flow, protocol);
    }

    fn flow_refused(&self, protocol: &'static str, refusal: &Refusal) {
        let labels = [("protocol", protocol), ("reason", reason(refusal.reason))];
        self.flows_refused.get_or_create(&labels).inc();
    }

    fn flow_closed(&self, flow: (SessionId, u64), protocol: &'static str, why: &FlowEnd) {
        let labels = [("protocol", protocol), ("reason", flow_end(why))];
        self.flows_closed.get_or_create(&labels).inc();
        // On a client also one ends that the server has never answered.
        self.present().flows.remove(&flow);
    }
}

fn lock(present: &Mutex<Present>) -> MutexGuard<'_, Present> {
    present.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Registering<'a>(&'a mut Registry);

impl Registering<'_> {
    fn counter(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.0.register(name, help, counter.clone());
        counter
    }

    fn family<const N: usize>(&mut self, name: &str, help: &str) -> Family<Labels<N>, Counter> {
        let family = Family::default();
        self.0.register(name, help, family.clone());
        family
    }
}

impl Observer for Metrics {
    fn see(&self, event: &Event) {
        match event {
            Event::SessionOpened { session, path, .. } => {
                self.sessions_opened.inc();
                self.present().sessions.insert(*session, path_of(path.as_ref()));
            }
            Event::SessionRefused { code, .. } => {
                self.sessions_refused.get_or_create(&[("reason", close_code(*code))]).inc();
            }
            Event::PathChanged { session, path } => {
                self.path_changes.inc();
                if let Some(present) = self.present().sessions.get_mut(session) {
                    *present = path_of(Some(path));
                }
            }
            Event::SessionSuspended { session, .. } => {
                self.sessions_suspended.inc();
                if let Some(present) = self.present().sessions.get_mut(session) {
                    *present = "none";
                }
            }
            Event::SessionResumed { session, path, .. } => {
                self.sessions_resumed.inc();
                if let Some(present) = self.present().sessions.get_mut(session) {
                    *present = path_of(path.as_ref());
                }
            }
            Event::SessionClosed { session, .. } => {
                self.sessions_closed.inc();
                self.present().sessions.remove(session);
            }
            Event::SourceRefused { refusal, .. } => {
                self.sources_refused.get_or_create(&[("reason", reason(refusal.reason))]).inc();
            }
            Event::FlowOpened { session, flow, source, .. } => {
                self.flow_opened((*session, *flow), protocol(source.protocol));
            }
            Event::FlowRefused { source, refusal, .. } => {
                self.flow_refused(protocol(source.protocol), refusal);
            }
            Event::FlowClosed { session, flow, source, why, .. } => {
                self.flow_closed((*session, *flow), protocol(source.protocol), why);
            }
            Event::VpnOpened { session, flow, .. } => self.flow_opened((*session, *flow), VPN),
            Event::VpnRefused { refusal, .. } => self.flow_refused(VPN, refusal),
            Event::VpnClosed { session, flow, why, .. } => {
                self.flow_closed((*session, *flow), VPN, why);
            }
        }
    }
}

/// What is told as it is at the moment.
#[derive(Debug)]
struct Now {
    present: Arc<Mutex<Present>>,
    live: Arc<Live>,
}

impl Collector for Now {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (paths, flows) = {
            let present = lock(&self.present);
            let on = |path| present.sessions.values().filter(|taken| **taken == path).count();
            let of = |protocol| present.flows.values().filter(|flow| **flow == protocol).count();
            (PATHS.map(|path| (path, on(path))), PROTOCOLS.map(|protocol| (protocol, of(protocol))))
        };
        gauges(
            &mut encoder,
            "sessions",
            "Sessions at the moment, by the path that they take; none is without a connection",
            "path",
            &paths,
        )?;
        gauges(&mut encoder, "flows", "Flows at the moment", "protocol", &flows)?;
        let (ready, traffic) = self.live.look.get().map_or_else(Default::default, |look| look());
        let gauge = ConstGauge::new(u64::from(ready));
        let help = "Whether the process is of use: 1 is what /readyz calls ok";
        let ready = encoder.encode_descriptor("ready", help, None, gauge_type())?;
        gauge.encode(ready)?;
        let both = [
            ("sent", "Payload that was sent to the other side", traffic.sent),
            ("received", "Payload that came from the other side", traffic.received),
        ];
        for (name, help, value) in both {
            let counter = ConstCounter::new(value);
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?)?;
        }
        Ok(())
    }
}

fn gauge_type() -> prometheus_client::metrics::MetricType {
    prometheus_client::metrics::MetricType::Gauge
}

/// A gauge for each value of a label.
fn gauges(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    label: &'static str,
    values: &[(&'static str, usize)],
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, gauge_type())?;
    for (value, count) in values {
        let labels = [(label, *value)];
        ConstGauge::new(*count as u64).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn path_of(path: Option<&PathReport>) -> &'static str {
    match path.map(|path| &path.kind) {
        Some(PathKind::Direct(_)) => "direct",
        Some(PathKind::Relay(_)) => "relay",
        Some(PathKind::Other(_)) | None => "other",
    }
}

/// The protocol of a flow that carries a VPN.
const VPN: &str = "vpn";

/// Those that a flow can have.
const PROTOCOLS: [&str; 3] = ["tcp", "udp", VPN];

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}

fn close_code(code: CloseCode) -> &'static str {
    match code {
        CloseCode::ShuttingDown => "shutting_down",
        CloseCode::BadToken => "bad_token",
        CloseCode::AuthenticationTimeout => "authentication_timeout",
        CloseCode::VersionMismatch => "version_mismatch",
        CloseCode::Full => "full",
        CloseCode::ProtocolError => "protocol_error",
        CloseCode::NotPostQuantum => "not_post_quantum",
        CloseCode::Overloaded => "overloaded",
        _ => "other",
    }
}

fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::NotAllowed => "not_allowed",
        Reason::NameNotFound => "name_not_found",
        Reason::ConnectionRefused => "connection_refused",
        Reason::Unreachable => "unreachable",
        Reason::TimedOut => "timed_out",
        Reason::Limit => "limit",
        Reason::NoAddress => "no_address",
        Reason::Other => "other",
    }
}

fn flow_end(end: &FlowEnd) -> &'static str {
    match end {
        FlowEnd::Finished => "finished",
        FlowEnd::Reset => "reset",
        FlowEnd::Idle => "idle",
        FlowEnd::Revoked => "revoked",
        FlowEnd::Replaced => "replaced",
        FlowEnd::SessionLost => "session_ended",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tunnel_model::Source;
    use tunnel_session::transport::{Lost, Role};

    use super::*;

    const SESSION: SessionId = SessionId([7; 16]);

    fn opened(kind: PathKind) -> Event {
        Event::SessionOpened {
            session: SESSION,
            role: Role::Server,
            peer: "somebody".to_owned(),
            identity: None,
            path: Some(PathReport { kind, rtt: Duration::ZERO }),
        }
    }

    fn relay() -> PathKind {
        PathKind::Relay("https://relay.example".to_owned())
    }

    fn flow(source: &str) -> (u64, Source) {
        (3, source.parse().unwrap())
    }

    fn assert_has(metrics: &Metrics, lines: &[&str]) {
        let text = metrics.text();
        for line in lines {
            assert!(text.lines().any(|told| told == *line), "{line}: {text}");
        }
    }

    #[test]
    fn sessions_are_counted_by_their_path() {
        let metrics = Metrics::new("1.2.3");
        assert_has(
            &metrics,
            &[
                "tunnel_build_info{version=\"1.2.3\"} 1",
                "tunnel_sessions{path=\"relay\"} 0",
                "tunnel_ready 0",
            ],
        );
        metrics.see(&opened(relay()));
        assert_has(&metrics, &["tunnel_sessions{path=\"relay\"} 1"]);
        let path =
            PathReport { kind: PathKind::Direct(([192, 0, 2, 1], 9).into()), rtt: Duration::ZERO };
        metrics.see(&Event::PathChanged { session: SESSION, path });
        let direct = "tunnel_sessions{path=\"direct\"} 1";
        assert_has(&metrics, &[direct, "tunnel_sessions{path=\"relay\"} 0"]);
        let (why, grace) = (Lost::TimedOut, Duration::ZERO);
        metrics.see(&Event::SessionSuspended { session: SESSION, why, flows: 1, grace });
        assert_has(&metrics, &["tunnel_sessions{path=\"none\"} 1"]);
        metrics.see(&Event::SessionResumed { session: SESSION, path: None, flows: 1 });
        assert_has(&metrics, &["tunnel_sessions_resumed_total 1"]);
        let why = Lost::Local;
        let (sent, received) = (1, 2);
        metrics.see(&Event::SessionClosed { session: SESSION, why, flows: 1, sent, received });
        assert_has(&metrics, &["tunnel_sessions{path=\"other\"} 0"]);
        assert_has(&metrics, &["tunnel_sessions_opened_total 1", "tunnel_sessions_closed_total 1"]);
    }

    #[test]
    fn flows_end_once_and_those_that_never_opened_are_not_missed() {
        let metrics = Metrics::new("");
        let (flow, source) = flow("udp://name.example:53");
        let closed = Event::FlowClosed {
            session: SESSION,
            flow,
            source: source.clone(),
            why: FlowEnd::Idle,
            sent: 1,
            received: 1,
        };
        metrics.see(&closed);
        assert_has(&metrics, &["tunnel_flows{protocol=\"udp\"} 0"]);
        metrics.see(&Event::FlowOpened {
            session: SESSION,
            flow,
            source: source.clone(),
            request: None,
        });
        let one = "tunnel_flows{protocol=\"udp\"} 1";
        assert_has(&metrics, &[one, "tunnel_flows{protocol=\"tcp\"} 0"]);
        metrics.see(&closed);
        let line = "tunnel_flows_closed_total{protocol=\"udp\",reason=\"idle\"} 2";
        assert_has(&metrics, &["tunnel_flows{protocol=\"udp\"} 0", line]);
        let refusal = Refusal { reason: Reason::NotAllowed, detail: "secret".to_owned() };
        metrics.see(&Event::FlowRefused { session: SESSION, flow, source, refusal });
        let line = "tunnel_flows_refused_total{protocol=\"udp\",reason=\"not_allowed\"} 1";
        assert_has(&metrics, &[line]);
        let text = metrics.text();
        assert!(!text.contains("name.example") && !text.contains("secret"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn every_name_is_in_the_documents() {
        let page = include_str!("../../../docs/MONITORING.md");
        let metrics = Metrics::new("");
        // A family without a member is not told.
        let labels = [("protocol", VPN)];
        let with_reason = [labels[0], ("reason", "x")];
        drop(metrics.sessions_refused.get_or_create(&[with_reason[1]]));
        drop(metrics.sources_refused.get_or_create(&[with_reason[1]]));
        drop(metrics.flows_opened.get_or_create(&labels));
        drop(metrics.flows_refused.get_or_create(&with_reason));
        drop(metrics.flows_closed.get_or_create(&with_reason));
        let text = metrics.text();
        let names = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let names: Vec<_> = names.filter_map(|line| line.split_once(' ')).collect();
        assert!(names.len() > 15, "{text}");
        for (name, kind) in names {
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let written = format!("`{name}{suffix}");
            assert!(page.contains(&written), "{written} is not explained");
        }
    }

    #[test]
    fn what_is_looked_up_is_told_as_it_is() {
        let metrics = Metrics::new("");
        metrics.look_up(|| (true, Traffic { sent: 5, received: 6 }));
        let lines =
            ["tunnel_ready 1", "tunnel_sent_bytes_total 5", "tunnel_received_bytes_total 6"];
        assert_has(&metrics, &lines);
        let text = metrics.text();
        assert!(text.contains("# UNIT tunnel_sent_bytes bytes\n"), "{text}");
        for line in text.lines().filter(|line| line.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} is not explained");
        }
    }
}
