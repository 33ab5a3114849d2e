//! The two sides as people use them: what a person pastes is standard input.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use tunnel_ice::signaling::manual::{
    Answer, Block, BlockError, Offer, Scanner, encode_answer, encode_offer,
};
use tunnel_testlab::process::{Line, Proc, Stream};

use crate::support::{
    Folder, LOOPBACK, SOON, TUNNEL_RS_ICE, TestResult, command, exit_code, wait_log,
};

/// A program whose standard input the test writes.
pub(crate) struct Side {
    pub(crate) process: Proc,
    keyboard: File,
    _folder: Folder,
}

impl Side {
    pub(crate) fn start(arguments: &[&str]) -> TestResult<Self> {
        Self::start_with(arguments, |_| ())
    }

    /// With what `set` does to the command, such as a variable.
    pub(crate) fn start_with(
        arguments: &[&str],
        set: impl FnOnce(&mut Command),
    ) -> TestResult<Self> {
        let folder = Folder::new()?;
        let keyboard = folder.fifo("keyboard")?;
        // Open for both, a FIFO waits for nobody (fifo(7)).
        let held = OpenOptions::new().read(true).write(true).open(&keyboard)?;
        let mut shell = command("sh");
        shell.args(["-c", r#"exec "$@" <"$0""#, &keyboard, TUNNEL_RS_ICE]).args(arguments);
        set(&mut shell);
        let process = Proc::spawn(&mut shell)?;
        Ok(Self { process, keyboard: held, _folder: folder })
    }

    /// A client with a forward for each source.
    pub(crate) fn client(sources: &[&str], arguments: &[&str]) -> TestResult<Self> {
        Self::start(&client_line(sources, arguments))
    }

    /// A server that allows the services of the tests.
    pub(crate) fn server(arguments: &[&str]) -> TestResult<Self> {
        Self::start(&server_line(arguments))
    }

    pub(crate) fn paste(&mut self, text: &str) -> TestResult {
        self.type_bytes(text.as_bytes())
    }

    pub(crate) fn type_bytes(&mut self, bytes: &[u8]) -> TestResult {
        Ok(self.keyboard.write_all(bytes)?)
    }

    /// Ends its standard input.
    pub(crate) fn end_input(self) -> TestResult<Proc> {
        // By then it has opened its end.
        wait_log(&self.process, &["paste"], SOON)?;
        Ok(self.process)
    }

    /// Where the client listens, in the order of its forwards.
    pub(crate) fn targets(&self, forwards: usize) -> TestResult<Vec<SocketAddr>> {
        targets(&self.process, forwards)
    }

    /// The block that it has printed last.
    pub(crate) fn block(&self) -> TestResult<String> {
        printed_block(&self.process)
    }

    /// Waits until the session is open, and returns the code.
    pub(crate) fn code(&self) -> TestResult<String> {
        code(&self.process)
    }

    pub(crate) fn exit_code(&self, limit: Duration) -> TestResult<i32> {
        exit_code(&self.process, limit)
    }
}

/// A client's command line; the blocks go through standard input and output unless `arguments` say otherwise.
pub(crate) fn client_line<'a>(sources: &[&'a str], arguments: &[&'a str]) -> Vec<&'a str> {
    let mut line = vec!["client", "manual", "--no-stun"];
    for source in sources {
        line.extend(["--source", source, "--target", "127.0.0.1:0"]);
    }
    line.extend(arguments);
    line
}

/// The same of a server that allows the services of the tests.
pub(crate) fn server_line<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&["server", "manual", "--no-stun"], &LOOPBACK[..], arguments].concat()
}

/// Where a client listens, in the order of its forwards.
pub(crate) fn targets(process: &Proc, forwards: usize) -> TestResult<Vec<SocketAddr>> {
    let target = |line: &Line| -> Option<SocketAddr> {
        let (target, _) = line.text.strip_prefix("Forwarding ")?.split_once(" to ")?;
        target.split_once("://")?.1.parse().ok()
    };
    let all = |lines: &[Line]| {
        let targets: Vec<_> = lines.iter().filter_map(target).collect();
        (targets.len() == forwards).then_some(targets)
    };
    Ok(process.wait_lines(all, SOON)?)
}

/// The block that a program has printed last on standard output.
pub(crate) fn printed_block(process: &Proc) -> TestResult<String> {
    let last = |lines: &[Line]| {
        let printed: Vec<_> = lines.iter().filter(|line| line.stream == Stream::Stdout).collect();
        let at = |word: &str| printed.iter().rposition(|line| line.text.starts_with(word));
        let (begin, end) = (at("-----BEGIN TUNNEL-RS MANUAL")?, at("-----END TUNNEL-RS MANUAL")?);
        let block = printed.get(begin..=end)?.iter().map(|line| line.text.clone() + "\n");
        Some(block.collect::<String>())
    };
    Ok(process.wait_lines(last, SOON)?)
}

/// The code that a side shows once the session is open.
pub(crate) fn code(process: &Proc) -> TestResult<String> {
    let code = process.wait_value("Code: ", SOON)?;
    let digits = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    assert!(code.split_once(' ').is_some_and(|(a, b)| digits(a) && digits(b)), "{code:?}");
    Ok(code)
}

/// Waits until both sides have a session, which is the same one by their code.
pub(crate) fn connected(client: &Proc, server: &Proc) -> TestResult {
    assert_eq!(code(client)?, code(server)?);
    for process in [client, server] {
        wait_log(process, &["session open"], SOON)?;
    }
    Ok(())
}

/// A client and a server with a session.
pub(crate) struct Pair {
    pub(crate) client: Side,
    pub(crate) server: Side,
    pub(crate) targets: Vec<SocketAddr>,
}

impl Pair {
    /// Of a client that asks for these sources, and a server that allows them.
    pub(crate) fn connect(sources: &[&str]) -> TestResult<Self> {
        Self::connect_with(Side::client(sources, &[])?, Side::server(&[])?, sources.len())
    }

    /// Of two sides that wait for their blocks.
    pub(crate) fn connect_with(client: Side, server: Side, forwards: usize) -> TestResult<Self> {
        let pair = Self::answered(client, server)?.hand_over()?;
        pair.wait_connected()?;
        let targets = pair.client.targets(forwards)?;
        Ok(Self { targets, ..pair })
    }

    /// Of which the client does not have the answer yet.
    pub(crate) fn answered(client: Side, mut server: Side) -> TestResult<Self> {
        server.paste(&client.block()?)?;
        server.block()?;
        Ok(Self { client, server, targets: Vec::new() })
    }

    /// Gives the client the answer.
    pub(crate) fn hand_over(mut self) -> TestResult<Self> {
        self.client.paste(&self.server.block()?)?;
        Ok(self)
    }

    pub(crate) fn wait_connected(&self) -> TestResult {
        connected(&self.client.process, &self.server.process)
    }

    /// Both sides, with what to call them.
    pub(crate) fn sides(&self) -> [(&'static str, &Proc); 2] {
        [("client", &self.client.process), ("server", &self.server.process)]
    }
}

fn scan(text: &str) -> Result<Block, BlockError> {
    let mut scanner = Scanner::new();
    scanner.push(text);
    scanner.next().unwrap_or(Err(BlockError::NoBlock))
}

/// The offer in a text.
pub(crate) fn offer(text: &str) -> TestResult<Offer> {
    Ok(scan(text)?.into_offer()?)
}

/// The answer in a text.
pub(crate) fn answer(text: &str) -> TestResult<Answer> {
    Ok(scan(text)?.into_answer()?)
}

/// The offer's text with something else in it.
pub(crate) fn alter_offer(text: &str, alter: impl FnOnce(&mut Offer)) -> TestResult<String> {
    let mut offer = offer(text)?;
    alter(&mut offer);
    Ok(encode_offer(&offer))
}

/// The answer's text with something else in it.
pub(crate) fn alter_answer(text: &str, alter: impl FnOnce(&mut Answer)) -> TestResult<String> {
    let mut answer = answer(text)?;
    alter(&mut answer);
    Ok(encode_answer(&answer))
}
