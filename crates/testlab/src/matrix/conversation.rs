use std::{
    io::{self, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use super::{Tunnel, service::GREETING};
use crate::{Error, Result, enter::connect_tcp, netns::Namespace};

/// For the client's own listener, which is there before anything is measured.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// For any bytes to come through the tunnel. A client lets a local connection wait 10 s for a session, so what
/// takes longer is a hang.
const BYTE_LIMIT: Duration = Duration::from_secs(20);

/// Between two bytes of a trickle.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection through a tunnel to the echo service.
pub(super) struct Conversation<'a> {
    stream: TcpStream,
    tunnel: &'a dyn Tunnel,
}

impl<'a> Conversation<'a> {
    /// Connects from the client's host, and returns when the first byte of the service has come.
    pub(super) fn open(host: &Namespace, tunnel: &'a dyn Tunnel) -> Result<Self> {
        let stream = connect_tcp(host, tunnel.entrance(), CONNECT_LIMIT)?;
        let mut conversation = Self { stream, tunnel };
        let greeted = conversation.greeted();
        conversation.carried("read the first byte", greeted)?;
        Ok(conversation)
    }

    /// Sends one byte at a time and waits for its echo, until `done` or until the deadline.
    pub(super) fn trickle(&mut self, deadline: Instant, done: impl Fn() -> bool) -> Result<()> {
        while !done() && Instant::now() < deadline {
            let echoed = exchange(&self.stream, b"x");
            self.carried("echo one byte", echoed)?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Sends so many bytes at once and compares their echo.
    pub(super) fn echo(&mut self, size: usize) -> Result<()> {
        let multiplied = (0..size).map(|place| place.wrapping_mul(2_654_435_761) >> 13);
        let bytes: Vec<u8> = multiplied.map(|mixed| mixed.to_le_bytes()[0]).collect();
        let echoed = exchange(&self.stream, &bytes);
        self.carried("echo 256 KiB", echoed)
    }

    fn greeted(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.set_read_timeout(Some(BYTE_LIMIT))?;
        self.stream.set_write_timeout(Some(BYTE_LIMIT))?;
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        same(&byte, &[GREETING])
    }

    fn carried(&self, action: &'static str, result: io::Result<()>) -> Result<()> {
        result.map_err(|source| Error::NotCarried { action, source, output: self.tunnel.output() })
    }
}

fn exchange(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    let (mut input, mut output) = (stream, stream);
    let mut echo = vec![0; bytes.len()];
    thread::scope(|scope| {
        // Both at once, as neither the tunnel nor the service holds any number of bytes.
        let writing = scope.spawn(move || output.write_all(bytes));
        let read = input.read_exact(&mut echo);
        let written = writing.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        written.and(read)
    })?;
    same(&echo, bytes)
}

fn same(got: &[u8], sent: &[u8]) -> io::Result<()> {
    match got.iter().zip(sent).position(|(got, sent)| got != sent) {
        None => Ok(()),
        Some(place) => Err(io::Error::other(format!("byte {place} is not what was sent"))),
    }
}
