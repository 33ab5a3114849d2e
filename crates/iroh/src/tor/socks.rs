//! What is asked of Tor's SOCKS5 proxy, and what its answers mean.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use thiserror::Error;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_socks::TargetAddr;
use tokio_socks::tcp::Socks5Stream;
use tokio_util::io::InspectReader;

use super::{SocksProxy, TorError};

/// For the proxy to show that it is Tor, which it does without any network.
const CHECK_LIMIT: Duration = Duration::from_secs(10);

/// For a stream to an onion service to open. The descriptor, the introduction and the rendezvous take several circuits;
/// Tor itself gives up after two minutes (tor(1), `SocksTimeout`).
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(60);

/// What a socket may hold on its way to Tor and back, in bytes. Tor keeps data of its own in flight; more here would
/// only wait, and make iroh take the relay for dead, whose pings stand behind it (iroh-relay 1.4: 5 s).
pub(super) const SOCKET_BUFFER: u32 = 128 * 1024;

/// Of a proxy's answers: the method (2 bytes), the result of the authentication (2), and the head of the reply (2).
const HEARD: usize = 6;

/// The method "username and password" (RFC 1928 section 3).
const PASSWORD: u8 = 2;

/// A stream could not be opened through the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SocksError {
    /// The proxy takes no connection.
    #[error("Tor's proxy does not answer ({0}): is Tor running?")]
    NoProxy(String),
    /// The connection to the proxy broke, or it speaks something else.
    #[error("the connection to Tor's proxy has ended, or it is no SOCKS5 proxy ({0})")]
    Broken(String),
    /// It answered that it could not.
    #[error("{}", words(*.0))]
    Reply(u8),
    /// It has not answered.
    #[error("Tor has not opened a stream within {} s; perhaps it is not connected to its network: see its log", .0.as_secs())]
    TimedOut(Duration),
    /// Too many are waiting already.
    #[error("too many streams are waiting for Tor")]
    Busy,
}

/// What a reply means: RFC 1928 section 6, and Tor's own from 0xF0 on (tor(1), `ExtendedErrors`).
fn words(reply: u8) -> String {
    let text = match reply {
        0x01 => {
            "Tor has failed to reach the onion service: it may be down, its name wrong, or Tor not yet connected to its network"
        }
        0x02 => "Tor's configuration does not allow it",
        0x03 => "Tor says that the network is unreachable",
        0x04 => "Tor finds no such onion service: it is down, or its name is wrong",
        0x05 => "the onion service is up, and nothing answers at this port behind it",
        0x06 => "the onion service does not answer: Tor has given up",
        0xF0 => "Tor finds no such onion service: it is down, or its name is wrong (no descriptor)",
        0xF1 => "what the onion service publishes of itself is broken (descriptor)",
        0xF2 => {
            "the onion service does not take visitors at the moment (introduction failed): it may have just stopped"
        }
        0xF3 => "the onion service did not come to the meeting point (rendezvous failed)",
        0xF4 => {
            "the onion service lets in only whom it knows, and Tor has no key for it (ClientOnionAuthDir)"
        }
        0xF5 => {
            "the onion service lets in only whom it knows, and does not take Tor's key for it (ClientOnionAuthDir)"
        }
        0xF6 => "there is no onion service of this name: it is mistyped",
        0xF7 => "the onion service does not take visitors at the moment (introduction timed out)",
        other => return format!("Tor's proxy refuses with an unknown code, 0x{other:02X}"),
    };
    text.to_owned()
}

/// Streams with the same name and password share circuits, and no others do (tor(1), `IsolateSOCKSAuth`).
#[derive(Clone)]
pub(super) struct Isolation {
    user: String,
    password: String,
}

impl Isolation {
    /// One that no other process has.
    pub(super) fn new() -> Result<Self, getrandom::Error> {
        Ok(Self { user: random()?, password: random()? })
    }
}

/// 128 random bits in hexadecimal.
pub(super) fn random() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(data_encoding::HEXLOWER.encode(&bytes))
}

/// Opens a stream to a port of a host that Tor knows.
pub(super) async fn connect(
    proxy: SocksProxy,
    isolation: &Isolation,
    host: &str,
    port: u16,
) -> Result<TcpStream, SocksError> {
    let tcp = dial(proxy).await.map_err(|error| SocksError::NoProxy(error.to_string()))?;
    let mut heard = Vec::with_capacity(HEARD);
    let listening = InspectReader::new(tcp, |bytes: &[u8]| {
        heard.extend(bytes.iter().take(HEARD.saturating_sub(heard.len())));
    });
    let target = TargetAddr::Domain(host.into(), port);
    let opened = Socks5Stream::connect_with_password_and_socket(
        listening,
        target,
        &isolation.user,
        &isolation.password,
    );
    let opened = opened.await.map(|stream| stream.into_inner().into_inner());
    // The library knows the codes of RFC 1928 only.
    opened.map_err(|error| {
        reply(&heard).map_or_else(|| SocksError::Broken(error.to_string()), SocksError::Reply)
    })
}

/// The code of a reply that is no success, of what was heard from a proxy.
fn reply(heard: &[u8]) -> Option<u8> {
    let authenticated = *heard.get(1)? == PASSWORD;
    let at = if authenticated { 5 } else { 3 };
    heard.get(at).copied().filter(|code| *code != 0)
}

async fn dial(proxy: SocksProxy) -> io::Result<TcpStream> {
    let address = proxy.address();
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    let tcp = socket.connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Makes sure that the proxy is Tor: it alone has the request RESOLVE (Tor's socks-extensions, "Name lookup"). The
/// "name" is an address, which Tor answers by itself; one for documentation (RFC 5737), so that a proxy that takes the
/// request for another one disturbs nobody; and a random one, so that no fixed answer fits.
pub(super) async fn require_tor(proxy: SocksProxy) -> Result<(), TorError> {
    let mut random = [0];
    getrandom::fill(&mut random).map_err(|error| TorError::Local(error.to_string()))?;
    let asked = Ipv4Addr::new(192, 0, 2, random[0]);
    let not_tor = |why: &str| TorError::NotTor(proxy, why.to_owned());
    let late = || not_tor(&format!("no answer within {} s", CHECK_LIMIT.as_secs()));
    let check = async {
        let tcp = dial(proxy).await.map_err(|e| TorError::NoProxy(proxy, e.to_string()))?;
        let name = TargetAddr::Domain(asked.to_string().into(), 0);
        match Socks5Stream::tor_resolve_with_socket(tcp, name).await {
            Ok(TargetAddr::Ip(answer)) if answer.ip() == IpAddr::V4(asked) => Ok(()),
            Ok(_) => Err(not_tor("the answer does not fit")),
            Err(error) => Err(not_tor(&error.to_string())),
        }
    };
    timeout(CHECK_LIMIT, check).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests;
