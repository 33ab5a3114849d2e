use std::{
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    Error, Result,
    enter::{connect_tcp, listen_tcp},
    netns::Namespace,
};

/// What the service says first.
pub(super) const GREETING: u8 = b'!';

/// For a connection over loopback.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A TCP service in a namespace that greets with one byte and then echoes.
///
/// Dropping it ends it, with all its connections.
#[derive(Debug)]
pub(super) struct Service<'a> {
    /// The port, of every address of the host.
    pub(super) port: u16,
    namespace: &'a Namespace,
    connections: Arc<Mutex<Connections>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Connections {
    ended: bool,
    open: Vec<TcpStream>,
}

impl<'a> Service<'a> {
    pub(super) fn start(namespace: &'a Namespace) -> Result<Self> {
        let failed = || Error::io("start the echo service of the matrix");
        // On Linux `::` takes IPv4 as well.
        let listener = listen_tcp(namespace, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        let port = listener.local_addr().map_err(failed())?.port();
        let connections = Arc::<Mutex<Connections>>::default();
        let served = Arc::clone(&connections);
        let thread = thread::Builder::new().spawn(move || serve(&listener, &served));
        let thread = Some(thread.map_err(failed())?);
        Ok(Self { port, namespace, connections, thread })
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.ended = true;
        for connection in connections.open.drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        drop(connections);
        // The thread looks whether it has ended when somebody connects.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let woken = connect_tcp(self.namespace, address, CONNECT_LIMIT);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Accepts until the service has ended, and returns after the last connection.
fn serve(listener: &TcpListener, connections: &Mutex<Connections>) {
    thread::scope(|scope| {
        while let Ok((stream, _)) = listener.accept() {
            let Ok(connection) = stream.try_clone() else { continue };
            let mut connections = connections.lock().unwrap_or_else(PoisonError::into_inner);
            if connections.ended {
                break;
            }
            connections.open.push(connection);
            scope.spawn(move || echo(&stream));
        }
    });
}

/// An error is the connection's end, which its other end notices too.
fn echo(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut input, mut output) = (stream, stream);
    let _ = output.write_all(&[GREETING]).and_then(|()| io::copy(&mut input, &mut output));
    let _ = stream.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn it_greets_and_echoes_and_ends() -> Result<()> {
        let namespace = Namespace::new("echo")?;
        let service = Service::start(&namespace)?;
        let address = SocketAddr::from(([127, 0, 0, 1], service.port));
        let mut stream = connect_tcp(&namespace, address, CONNECT_LIMIT)?;
        let mut said = [0; 4];
        stream.write_all(b"abc").map_err(Error::io("write"))?;
        stream.read_exact(&mut said).map_err(Error::io("read"))?;
        assert_eq!(&said, b"!abc");
        drop(service);
        assert_eq!(stream.read(&mut said).map_err(Error::io("read the end"))?, 0);
        Ok(())
    }
}
