//! Real packets around the VPN, with strict reverse path filtering.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use simple_dns::rdata::{A, RData};
use simple_dns::{CLASS, Name, Packet, Question, ResourceRecord, TYPE};
use tempfile::tempdir;

use super::*;
use crate::device::{Device, Reader};
use crate::network::dns::Files;

/// The host behind the LAN, whose addresses only the default route leads to.
struct Far {
    udp: UdpSocket,
    tcp: TcpListener,
    dns: UdpSocket,
}

const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const NAME: &str = "relay.lab.test";

/// This thread's network, joined with another one by a cable.
fn far() -> Far {
    own_network();
    let (process, thread) = (std::process::id(), nix::unistd::gettid());
    let here = format!("/proc/{process}/task/{thread}/ns/net");
    let far = in_other_network(|| {
        ip("link add far type veth peer name lan");
        ip(&format!("link set lan netns {here}"));
        ip("address add 192.0.2.1/24 dev far");
        ip("address add 203.0.113.5/32 dev far");
        ip("link set far up");
        Far {
            udp: UdpSocket::bind((FAR, 7000)).unwrap(),
            tcp: TcpListener::bind((FAR, 443)).unwrap(),
            dns: UdpSocket::bind((FAR, 0)).unwrap(),
        }
    });
    ip("address add 192.0.2.10/24 dev lan");
    ip("link set lan up");
    ip("route add default via 192.0.2.1");
    sysctl::set("net/ipv4/conf/all/rp_filter", "1").unwrap();
    sysctl::set("net/ipv4/conf/lan/rp_filter", "1").unwrap();
    far.udp.set_read_timeout(Some(SOON)).unwrap();
    far.dns.set_read_timeout(Some(SOON)).unwrap();
    far
}

fn answer(question: &[u8]) -> Vec<u8> {
    let asked = Packet::parse(question).unwrap();
    let mut answer = Packet::new_reply(asked.id());
    let name = asked.questions[0].qname.clone();
    answer.questions = asked.questions;
    let address = RData::A(A { address: u32::from(FAR) });
    answer.answers.push(ResourceRecord::new(name, CLASS::IN, 60, address));
    answer.build_bytes_vec().unwrap()
}

fn question(name: &str) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    let name = Name::new(name).unwrap();
    packet.questions.push(Question::new(name, TYPE::A.into(), CLASS::IN.into(), false));
    packet.build_bytes_vec().unwrap()
}

#[test]
fn the_transport_reaches_its_peer_and_its_relay_while_all_else_goes_into_the_vpn() {
    let far = far();
    let runtime = runtime();
    let _entered = runtime.enter();
    let folder = tempdir().unwrap();
    let (resolv_conf, hosts) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
    fs::write(&resolv_conf, "nameserver 203.0.113.5\n").unwrap();
    fs::write(
        &hosts,
        "127.0.0.1 localhost\n2001:db8::9 noted.lab.test # v6\n203.0.113.9 x Noted.lab.test\n",
    )
    .unwrap();
    let files = Files { resolv_conf, hosts };
    let bypass = Bypass::new().unwrap();
    let hosts = [format!("{}.", NAME.to_uppercase()), "noted.lab.test".to_owned()];
    let port = far.dns.local_addr().unwrap().port();
    let dns = runtime.block_on(DnsForwarder::start_with(bypass.clone(), &hosts, files, port));
    let dns = dns.unwrap();
    let transport = UdpSocket::bind("0.0.0.0:0").unwrap();
    transport.set_read_timeout(Some(SOON)).unwrap();
    bypass.set_udp_sockets(&[transport.local_addr().unwrap()]).unwrap();
    let device = TunDevice::create(1420).unwrap();
    let mut network = ClientNetwork::new(&device, bypass);
    let plan = ClientPlan {
        addresses: nets(&["10.7.0.2/24"]),
        routes: nets(&["0.0.0.0/0", "192.0.2.0/24"]),
    };
    network.apply(&plan).unwrap();

    // UDP of the transport, there and back.
    transport.send_to(b"there", (FAR, 7000)).unwrap();
    let mut buffer = [0; 2000];
    let (length, from) = recv(&far.udp, &mut buffer);
    assert_eq!((&buffer[..length], from.ip()), (&b"there"[..], [192, 0, 2, 10].into()));
    far.udp.send_to(b"back", from).unwrap();
    let (length, _) = recv(&transport, &mut buffer);
    assert_eq!(&buffer[..length], b"back");

    // Of another socket: into the VPN.
    let other = UdpSocket::bind("0.0.0.0:0").unwrap();
    other.send_to(b"inner", (FAR, 7000)).unwrap();
    let (mut reader, _writer) = device.split();
    let found = runtime.block_on(async {
        loop {
            tokio::time::timeout(SOON, reader.recv()).await.unwrap().unwrap();
            if let Some(packet) = reader.packets().find(|packet| packet.ends_with(b"inner")) {
                return packet.to_vec();
            }
        }
    });
    assert_eq!(&found[12..16], [10, 7, 0, 2]);

    // A name that is none of the hosts' moves nothing; the relay's does, before the answer comes.
    let ask = |name: &'static str| {
        let asked = runtime.block_on(async {
            let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&question(name), dns.address()).await.unwrap();
            let mut buffer = [0; 2000];
            let received = tokio::time::timeout(SOON, socket.recv(&mut buffer)).await;
            buffer[..received.unwrap().unwrap()].to_vec()
        });
        let answer = Packet::parse(&asked).unwrap();
        assert_eq!(answer.id(), 77);
        format!("{:?}", answer.answers[0].rdata)
    };
    let server = far.dns;
    thread::spawn(move || {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            server.send_to(&answer(&buffer[..length]), from).unwrap();
        }
    });
    ask("other.lab.test");
    assert!(ip("route get 203.0.113.5 ipproto tcp dport 443").contains("tun0"));
    ask(NAME);
    assert_eq!(
        ask("noted.lab.test"),
        format!("{:?}", RData::A(Ipv4Addr::new(203, 0, 113, 9).into()))
    );
    for around in ["203.0.113.5", "203.0.113.9"] {
        assert!(ip(&format!("route get {around} ipproto tcp dport 443")).contains("lan"));
    }
    let serving = thread::spawn(move || {
        let (mut stream, from) = far.tcp.accept().unwrap();
        stream.write_all(b"welcome").unwrap();
        from
    });
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(FAR.into(), 443), SOON).unwrap();
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "welcome");
    assert_eq!(serving.join().unwrap().ip(), Ipv4Addr::new(192, 0, 2, 10));
    // The forwarder's own ports are forgotten with its questions.
    let ports = |rules: &str| rules.lines().filter(|rule| rule.contains("sport")).count();
    // What is left leads the transport around the VPN, and keeps it out of the VPN's network.
    assert_eq!(ports(&ip("rule")), 2, "{}", ip("rule"));
}
