//! Services on loopback, and what their users do.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc;
use std::time::Duration;

use crate::support::{SOON, TestResult};

/// A service that does the same with every connection.
pub(crate) fn tcp_service(serve: fn(TcpStream) -> io::Result<()>) -> TestResult<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let source = format!("tcp://{}", listener.local_addr()?);
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            // Whoever asked notices that there is no answer.
            std::thread::spawn(move || serve(tcp));
        }
    });
    Ok(source)
}

/// A service whose connections the test holds.
pub(crate) fn held_service() -> TestResult<(String, mpsc::Receiver<TcpStream>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let source = format!("tcp://{}", listener.local_addr()?);
    let (accepted, connections) = mpsc::channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming().flatten() {
            if patient(&tcp).and_then(|()| accepted.send(tcp).map_err(io::Error::other)).is_err() {
                return;
            }
        }
    });
    Ok((source, connections))
}

/// Answers every piece with itself in capitals.
pub(crate) fn shout(mut tcp: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    while let n @ 1.. = tcp.read(&mut buffer)? {
        buffer[..n].make_ascii_uppercase();
        tcp.write_all(&buffer[..n])?;
    }
    Ok(())
}

/// Answers all that was said in capitals, once it has heard that that was all.
pub(crate) fn answer_at_the_end(mut tcp: TcpStream) -> io::Result<()> {
    let mut all = Vec::new();
    tcp.read_to_end(&mut all)?;
    all.make_ascii_uppercase();
    tcp.write_all(&all)?;
    tcp.shutdown(Shutdown::Write)
}

/// A UDP service that answers every packet with itself.
pub(crate) fn echo_service() -> TestResult<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    let source = format!("udp://{}", socket.local_addr()?);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..n], from);
        }
    });
    Ok(source)
}

/// On such a connection nothing waits for ever.
fn patient(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_read_timeout(Some(SOON))?;
    tcp.set_write_timeout(Some(SOON))
}

/// A connection to a forward.
pub(crate) fn connect(target: SocketAddr) -> TestResult<TcpStream> {
    let tcp = TcpStream::connect_timeout(&target, SOON)?;
    patient(&tcp)?;
    Ok(tcp)
}

/// Asks a shouting service something.
pub(crate) fn ask(tcp: &mut TcpStream, text: &str) -> TestResult {
    tcp.write_all(text.as_bytes())?;
    let mut answer = vec![0; text.len()];
    tcp.read_exact(&mut answer)?;
    assert_eq!(answer, text.to_ascii_uppercase().as_bytes());
    Ok(())
}

/// Sends packets of these sizes to a forward of an echo service, one after the other.
pub(crate) fn echo(target: SocketAddr, sizes: &[usize]) -> TestResult {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    socket.connect(target)?;
    let mut buffer = vec![0; 65_536];
    for &size in sizes {
        let packet: Vec<u8> = (0..size).map(|at| (at * 31 + size) as u8).collect();
        // UDP may lose it, and does where this machine stands still.
        let mut comes_back = || {
            socket.send(&packet).is_ok()
                && matches!(socket.recv(&mut buffer), Ok(n) if buffer[..n] == packet)
        };
        assert!((0..15).any(|_| comes_back()), "{size} bytes never came back as they were");
    }
    Ok(())
}

/// Whether a fresh connection is reset; that may come before the connecting is over.
pub(crate) fn is_turned_away(target: SocketAddr) -> TestResult<bool> {
    match TcpStream::connect_timeout(&target, SOON) {
        Ok(mut tcp) => {
            // Fails where the reset has come already, which the reading tells as well.
            let _ = patient(&tcp);
            Ok(is_reset(&mut tcp))
        }
        Err(error) => Ok(error.kind() == io::ErrorKind::ConnectionReset),
    }
}

/// Whether the connection ends with a reset, however much comes before.
pub(crate) fn is_reset(tcp: &mut TcpStream) -> bool {
    let mut buffer = [0; 4096];
    loop {
        match tcp.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}
