//! Messages for tests.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tunnel_model::{Host, Protocol, Source};

use super::{Answer, Candidates, Message, Nonce, NostrKey, Offer, Reason, Refused, Request};
use super::{MAX_TEXT, SessionId};
use crate::signaling::manual::{MAX_CANDIDATES, MAX_SOURCES};
use crate::{Candidate, CandidateKind, Credentials, Description, Fingerprint, Mapping};

pub(super) const SESSION: SessionId = SessionId([7; 16]);
pub(super) const CLIENT: Nonce = Nonce([1; 16]);
pub(super) const SERVER: Nonce = Nonce([2; 16]);

pub(super) fn key() -> NostrKey {
    NostrKey::generate().unwrap()
}

pub(super) fn description() -> Description {
    let candidate = |kind, addr: &str| Candidate { kind, addr: addr.parse().unwrap() };
    Description {
        credentials: Credentials::from_bytes(&std::array::from_fn(|i| (i * 37) as u8)),
        fingerprint: Fingerprint([9; 32]),
        candidates: vec![
            candidate(CandidateKind::Host, "192.168.178.23:54321"),
            candidate(CandidateKind::Host, "[2001:db8::1]:54321"),
            candidate(CandidateKind::ServerReflexive, "198.51.100.77:54321"),
        ],
        mapping_v4: Mapping::Independent,
        mapping_v6: Mapping::NoNat,
    }
}

/// The same side with other candidates.
pub(super) fn moved(port: u16) -> Description {
    let addr = SocketAddr::from(([203, 0, 113, 5], port));
    let candidates = vec![Candidate { kind: CandidateKind::Host, addr }];
    Description { candidates, ..description() }
}

pub(super) fn request_body() -> Request {
    Request {
        session: SESSION,
        nonce: CLIENT,
        description: description(),
        sources: vec!["tcp://127.0.0.1:22".parse().unwrap()],
    }
}

pub(super) fn request() -> Message {
    Message::Request(request_body())
}

fn addresses() -> impl Strategy<Value = SocketAddr> {
    // Neither multicast nor of no machine nor of the link, by what they begin with.
    let v4 = (1..160_u8, any::<[u8; 3]>()).prop_map(|(a, [b, c, d])| IpAddr::from([a, b, c, d]));
    let v6 = (1..0xff00_u16, any::<[u16; 7]>())
        .prop_map(|(a, [b, c, d, e, f, g, h])| IpAddr::from([a, b, c, d, e, f, g, h]));
    (prop_oneof![v4, v6], 1..=u16::MAX).prop_map(SocketAddr::from)
}

fn descriptions() -> impl Strategy<Value = Description> {
    let mapping = || {
        select(vec![
            Mapping::NotAsked,
            Mapping::NoAnswer,
            Mapping::Unknown,
            Mapping::NoNat,
            Mapping::Independent,
            Mapping::Dependent,
        ])
    };
    let kind = select(vec![CandidateKind::Host, CandidateKind::ServerReflexive]);
    let candidates = (kind, addresses()).prop_map(|(kind, addr)| Candidate { kind, addr });
    let candidates = vec(candidates, 0..=MAX_CANDIDATES);
    (any::<[u8; 20]>(), any::<[u8; 32]>(), candidates, mapping(), mapping()).prop_map(
        |(credentials, fingerprint, candidates, mapping_v4, mapping_v6)| Description {
            credentials: Credentials::from_bytes(&credentials),
            fingerprint: Fingerprint(fingerprint),
            candidates,
            mapping_v4,
            mapping_v6,
        },
    )
}

fn sources() -> impl Strategy<Value = Source> {
    let ip = any::<IpAddr>().prop_map(|ip| Host::Ip(ip.to_canonical()));
    let name = "[a-z0-9_-]{1,63}(\\.[a-z0-9_-]{1,40}){0,3}\\.[a-z]{1,20}".prop_map(Host::Name);
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp]);
    (protocol, prop_oneof![ip, name], 1..=u16::MAX).prop_map(|(protocol, host, port)| Source {
        protocol,
        host,
        port,
    })
}

pub(super) fn messages() -> impl Strategy<Value = Message> {
    let session = || any::<[u8; 16]>().prop_map(SessionId);
    let nonce = || any::<[u8; 16]>().prop_map(Nonce);
    let text = || "\\PC{0,100}".prop_filter("too long", |text| text.len() <= MAX_TEXT);
    let request = (session(), nonce(), descriptions(), vec(sources(), 1..=MAX_SOURCES)).prop_map(
        |(session, nonce, description, sources)| {
            Message::Request(Request { session, nonce, description, sources })
        },
    );
    let offer = (session(), nonce(), nonce(), descriptions()).prop_map(
        |(session, nonce, echo, description)| {
            Message::Offer(Offer { session, nonce, echo, description })
        },
    );
    let answer =
        (session(), nonce()).prop_map(|(session, echo)| Message::Answer(Answer { session, echo }));
    let reason = prop_oneof![
        select(vec![Reason::Full, Reason::Busy, Reason::Failed, Reason::Withdrawn]),
        vec(text(), 0..=MAX_SOURCES).prop_map(Reason::SourcesRefused),
    ];
    let refused = (session(), reason, text())
        .prop_map(|(session, reason, words)| Message::Refused(Refused { session, reason, words }));
    let candidates =
        (session(), 1..=u32::MAX, descriptions()).prop_map(|(session, revision, description)| {
            Message::Candidates(Candidates { session, revision, description })
        });
    prop_oneof![request, offer, answer, refused, candidates]
}
