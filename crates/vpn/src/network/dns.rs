//! A DNS forwarder for the transport: its questions go around the VPN, and so does what it then connects to.
//!
//! It is no resolver: the machine's name servers are asked, as they stand in resolv.conf(5) at that moment. Names in hosts(5)
//! are answered from there, as resolvers of this machine do before they ask.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::Bypass;

/// The machine's name servers.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The machine's own names.
const HOSTS: &str = "/etc/hosts";

/// The name servers behind systemd-resolved, which asks them from a process of its own (systemd-resolved.service(8)).
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// Name servers that are asked, the number that resolv.conf(5) allows.
const MAX_NAMESERVERS: usize = 3;

/// How long a name server has before the next one is asked. iroh gives a question 3 s and asks again.
const ANSWER_LIMIT: Duration = Duration::from_millis(1500);

/// Questions at once; beyond, they are dropped, and asked again by whoever asked.
const MAX_QUESTIONS: usize = 64;

/// The largest message (RFC 6891 section 6.2.3 leaves it to the two ends; UDP sets the bound).
const MESSAGE: usize = 65_535;

/// How long an answer of hosts(5) is good for, in seconds: the file may be edited.
const HOSTS_TTL: u32 = 5;

/// The port of DNS (RFC 1035 section 4.2.1).
const PORT: u16 = 53;

/// The running forwarder. It ends when it is dropped.
#[derive(Debug)]
pub struct DnsForwarder {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl DnsForwarder {
    /// Starts it on any free UDP port of loopback.
    ///
    /// `hosts`: the names of the relays and discovery servers. TCP to the addresses that a name server tells for them goes
    /// around the VPN before the answer is passed on; other names move nothing.
    pub async fn start(bypass: Bypass, hosts: &[String]) -> io::Result<Self> {
        let files = Files { resolv_conf: RESOLV_CONF.into(), hosts: HOSTS.into() };
        Self::start_with(bypass, hosts, files, PORT).await
    }

    /// With other files, and another port of the name servers.
    pub(super) async fn start_with(
        bypass: Bypass,
        hosts: &[String],
        files: Files,
        port: u16,
    ) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let hosts = hosts.iter().map(|host| plain(host)).collect();
        let shared = Arc::new(Shared { socket, bypass, hosts, files, port });
        Ok(Self { address, task: tokio::spawn(run(shared)) })
    }

    /// Where it listens, by UDP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for DnsForwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Shared {
    socket: UdpSocket,
    bypass: Bypass,
    hosts: Vec<String>,
    files: Files,
    port: u16,
}

/// What of this machine is read.
pub(super) struct Files {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
}

async fn run(shared: Arc<Shared>) {
    let places = Arc::new(Semaphore::new(MAX_QUESTIONS));
    // They end with this one.
    let mut questions = JoinSet::new();
    let mut buffer = vec![0; MESSAGE];
    loop {
        while questions.try_join_next().is_some() {}
        // Errors are about answers that could not be delivered (udp(7)).
        let Ok((length, from)) = shared.socket.recv_from(&mut buffer).await else { continue };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let question = buffer.get(..length).unwrap_or_default().to_vec();
        let shared = Arc::clone(&shared);
        questions.spawn(async move {
            if let Some(answer) = shared.ask(&question).await {
                let _ = shared.socket.send_to(&answer, from).await;
            }
            drop(place);
        });
    }
}

impl Shared {
    /// The answer of hosts(5), or the first one that a name server gives.
    async fn ask(&self, question: &[u8]) -> Option<Vec<u8>> {
        if let Some(answer) = from_hosts(&self.files.hosts, question) {
            self.learn(&answer);
            return Some(answer);
        }
        for nameserver in nameservers(&self.files.resolv_conf, self.port) {
            match timeout(ANSWER_LIMIT, self.ask_one(nameserver, question)).await {
                Ok(Ok(answer)) => {
                    self.learn(&answer);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%error, %nameserver, "a name server failed"),
                Err(_) => tracing::debug!(%nameserver, "a name server did not answer"),
            }
        }
        None
    }

    async fn ask_one(&self, nameserver: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let socket = self.bypass.udp(nameserver).await?;
        socket.send(question).await?;
        let mut buffer = vec![0; MESSAGE];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Both begin with the number of the question (RFC 1035 section 4.1.1).
            if length >= 12 && buffer.first_chunk::<2>() == question.first_chunk() {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }

    /// Lets TCP to the addresses of an answer go around, if that is about one of the hosts.
    fn learn(&self, answer: &[u8]) {
        let Ok(packet) = Packet::parse(answer) else { return };
        let asked = packet.questions.iter().map(|question| plain(&question.qname.to_string()));
        if !asked.into_iter().any(|name| self.hosts.contains(&name)) {
            return;
        }
        let addresses = packet.answers.iter().filter_map(|record| match &record.rdata {
            RData::A(a) => Some(IpAddr::from(Ipv4Addr::from(a.address))),
            RData::AAAA(aaaa) => Some(IpAddr::from(Ipv6Addr::from(aaaa.address))),
            _ => None,
        });
        if let Err(error) = self.bypass.add_servers(addresses) {
            tracing::warn!(%error, "a server may be out of reach while the VPN is up");
        }
    }
}

/// A name as names are compared (RFC 4343), without the dot of the root.
fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// What hosts(5) has to answer: none where the name is not there, or something else than addresses is asked for. A name that
/// has addresses of the other family only is answered with none.
fn from_hosts(file: &Path, question: &[u8]) -> Option<Vec<u8>> {
    let asked = Packet::parse(question).ok()?;
    let [question] = asked.questions.as_slice() else { return None };
    let is_v4 = match question.qtype {
        QTYPE::TYPE(TYPE::A) => true,
        QTYPE::TYPE(TYPE::AAAA) => false,
        _ => return None,
    };
    let name = plain(&question.qname.to_string());
    let text = std::fs::read_to_string(file).ok()?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let addresses: Vec<IpAddr> = lines
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let address = words.next()?.parse().ok()?;
            words.any(|word| plain(word) == name).then_some(address)
        })
        .collect();
    if addresses.is_empty() {
        return None;
    }
    let mut answer = Packet::new_reply(asked.id());
    answer.set_flags(asked_flags(&asked) | PacketFlag::RECURSION_AVAILABLE);
    for address in addresses.into_iter().filter(|address| address.is_ipv4() == is_v4) {
        let data = match address {
            IpAddr::V4(v4) => RData::A(v4.into()),
            IpAddr::V6(v6) => RData::AAAA(v6.into()),
        };
        let record = ResourceRecord::new(question.qname.clone(), CLASS::IN, HOSTS_TTL, data);
        answer.answers.push(record);
    }
    answer.questions.push(question.clone());
    answer.build_bytes_vec().ok()
}

/// What an answer repeats (RFC 1035 section 4.1.1).
fn asked_flags(asked: &Packet<'_>) -> PacketFlag {
    if asked.has_flags(PacketFlag::RECURSION_DESIRED) {
        PacketFlag::RECURSION_DESIRED
    } else {
        PacketFlag::empty()
    }
}

/// The name servers of the machine, without the one that only passes questions on, if those behind it can be known.
fn nameservers(file: &Path, port: u16) -> Vec<SocketAddr> {
    let read = |file: &Path| std::fs::read_to_string(file).map(|text| parse(&text, port));
    let mut found = read(file).unwrap_or_default();
    if found.iter().any(|server| server.ip().is_loopback())
        && let Ok(behind) = read(Path::new(BEHIND_RESOLVED))
        && !behind.is_empty()
    {
        found = behind;
    }
    if found.is_empty() {
        // So does the resolver of the C library (resolv.conf(5)).
        found.push((Ipv4Addr::LOCALHOST, port).into());
    }
    found
}

/// The name servers of a resolv.conf(5).
fn parse(text: &str, port: u16) -> Vec<SocketAddr> {
    let words = text.lines().map(|line| line.split_ascii_whitespace());
    let servers = words.filter_map(|mut words| {
        words.next().filter(|word| *word == "nameserver").and(words.next())
    });
    servers.filter_map(|server| address(server, port)).take(MAX_NAMESERVERS).collect()
}

/// An address, that of a router on the link with the interface's name behind it (`fe80::1%eth0`, RFC 4007 section 11).
fn address(text: &str, port: u16) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, port));
    };
    let zone = zone.parse().ok().or_else(|| if_nametoindex(zone).ok())?;
    Some(SocketAddrV6::new(address.parse().ok()?, port, 0, zone).into())
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn name_servers_are_read_as_resolv_conf_has_them() {
        let text = "# nameserver 192.0.2.9\nsearch lan\n nameserver 192.0.2.1 # first\nnameserver fe80::1%lo\n\
                    nameserver\nnameserver fe80::1%none\nnameserver 2001:db8::1\nnameserver 192.0.2.2\n";
        let servers: Vec<_> = parse(text, 53).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1:53", "[fe80::1%1]:53", "[2001:db8::1]:53"]);
    }
}
